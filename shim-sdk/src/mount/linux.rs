//! Mounting on Linux.
//!
//! mount(2) takes one page of options. An overlay of many layers may need more. Then the lower
//! directories are written relative to their common parent, and a separate thread with its own
//! working directory (unshare(2), CLONE_FS) mounts. That works on every kernel and for paths of any
//! length; fsconfig(2) needs Linux 6.5 for it and takes at most 255 bytes per path.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::options::MountOptions;
use super::overlay::{join_lowerdir, split_lowerdir};
use super::{Mount, MountError, mount_point};

/// The limit of mount(2) for options, less some reserve.
const MAX_DATA_BYTES: usize = 4096 - 512;

/// Makes the directory of a root file system. Other users may enter it and not list it.
#[cfg(feature = "serve")]
pub(crate) fn make_root(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o711).create(path)
}

/// Makes a list of mounts on a root, in order. After an error, those already made are undone.
///
/// A target is resolved inside the root, so that none of its links leads out. Missing directories
/// are made.
pub fn mount_all(mounts: &[Mount], root: &Path) -> Result<(), MountError> {
    let mut made = Vec::with_capacity(mounts.len());
    for entry in mounts {
        match mount_one(entry, root) {
            Ok(mounted) => made.push(mounted),
            Err(error) => {
                for mounted in made.into_iter().rev() {
                    if let Err(error) = mounted.undo() {
                        // The first error is returned.
                        log::debug!("undo mounts on {}: {error}", root.display());
                    }
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// A mount that was made.
enum Mounted {
    /// On the root itself.
    Root(PathBuf),
    /// Inside: the mount's own root, and its path.
    Inside(OwnedFd, PathBuf),
}

impl Mounted {
    /// A path that leads to this mount and cannot lead to another.
    fn path(&self) -> PathBuf {
        match self {
            Self::Root(path) => path.clone(),
            Self::Inside(mount, _) => mount_point::path_of(mount),
        }
    }

    fn undo(&self) -> Result<(), MountError> {
        match self {
            Self::Root(path) => unmount(path),
            // MNT_DETACH, because our own descriptor keeps the mount busy.
            Self::Inside(mount, target) => {
                umount2(&mount_point::path_of(mount), MntFlags::MNT_DETACH).map_err(|cause| {
                    MountError::Unmount { target: target.clone(), cause: cause.into() }
                })
            }
        }
    }
}

/// Unmounts everything on a directory. A directory that is no mount point, or missing, is no error.
///
/// A busy mount is detached: it leaves the tree now; its file system is released with its last
/// user.
pub fn unmount(target: &Path) -> Result<(), MountError> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    loop {
        match umount2(target, flags) {
            Ok(()) => {}
            // EINVAL: it is no mount point any more.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(Errno::EBUSY) if !flags.contains(MntFlags::MNT_DETACH) => {
                flags |= MntFlags::MNT_DETACH;
            }
            Err(cause) => {
                return Err(MountError::Unmount { target: target.to_owned(), cause: cause.into() });
            }
        }
    }
}

/// Unmounts everything on and below a directory, the deepest first.
pub fn unmount_recursive(root: &Path) -> Result<(), MountError> {
    let table = fs::read("/proc/self/mountinfo").map_err(MountError::Table)?;
    // The table has real paths.
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let mut points: Vec<PathBuf> =
        mount_points(&table).filter(|point| point.starts_with(&root)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points.iter().try_for_each(|point| unmount(point))
}

/// The mount points in a mount table: the fifth field, with spaces and the like in octal.
pub(super) fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        let mut path = Vec::with_capacity(field.len());
        let mut rest = field;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            let octal = (byte == b'\\')
                .then(|| tail.get(..3))
                .flatten()
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| u8::from_str_radix(digits, 8).ok());
            match octal {
                Some(octal) => {
                    path.push(octal);
                    rest = &tail[3..];
                }
                None => path.push(byte),
            }
        }
        Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
    })
}

fn mount_one(entry: &Mount, root: &Path) -> Result<Mounted, MountError> {
    let target = target(entry, root)?;
    let options = MountOptions::parse(&entry.options);
    let unsupported = |data: &&String| {
        *data == "loop" || data.starts_with("uidmap=") || data.starts_with("gidmap=")
    };
    if let Some(option) = options.data.iter().find(unsupported) {
        return Err(MountError::Unsupported { option: option.clone() });
    }
    let failed = |cause: io::Error| MountError::Mount {
        kind: entry.kind.clone(),
        source_name: entry.source.clone(),
        target: target.clone(),
        options: entry.options.join(","),
        cause,
    };
    let mounted = if target == *root {
        mount_at(entry, &target, &options).map_err(failed)?;
        Mounted::Root(target.clone())
    } else if options.flags.contains(MsFlags::MS_BIND)
        && !options.flags.contains(MsFlags::MS_REMOUNT)
    {
        let source = bound(entry, &options).map_err(failed)?;
        let point = find(entry, root, mount_point::is_directory(&source).map_err(failed)?)?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&source, "", &point, "", flags).map_err(|cause| failed(cause.into()))?;
        Mounted::Inside(source, target.clone())
    } else {
        let point = find(entry, root, true)?;
        mount_at(entry, &mount_point::path_of(&point), &options).map_err(failed)?;
        // `point` is below the new mount, so the mount point is opened again. If it was exchanged
        // in between, the flags below change another mount of this root, never one of the host.
        Mounted::Inside(find(entry, root, true)?, target.clone())
    };
    let after = || -> Result<(), Errno> {
        if let Some(flags) = options.bind_remount() {
            call("", &mounted.path(), "", flags, "")?;
        }
        if !options.propagation.is_empty() {
            call("", &mounted.path(), "", options.propagation, "")?;
        }
        Ok(())
    };
    if let Err(cause) = after() {
        // The mount without its flags must not stay. The first error is returned.
        let _ = mounted.undo();
        return Err(failed(cause.into()));
    }
    Ok(mounted)
}

/// Opens the mount point inside a root.
fn find(entry: &Mount, root: &Path, is_directory: bool) -> Result<OwnedFd, MountError> {
    let found = mount_point::root(root)
        .and_then(|root| mount_point::inside(root, Path::new(&entry.target), is_directory));
    found.map_err(|cause| MountError::MountPoint {
        root: root.to_owned(),
        target: entry.target.clone(),
        cause,
    })
}

/// A copy of the source of a bind mount, not attached to any directory yet.
fn bound(entry: &Mount, options: &MountOptions) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.flags.contains(MsFlags::MS_REC) {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(CWD, &entry.source, flags)?)
}

/// Mounts by mount(2).
fn mount_at(entry: &Mount, target: &Path, options: &MountOptions) -> io::Result<()> {
    let bare = options.flags & (MsFlags::MS_BIND | MsFlags::MS_REMOUNT);
    let flags =
        if bare.is_empty() { options.flags } else { bare | (options.flags & MsFlags::MS_REC) };
    let data = options.data.join(",");
    if entry.kind == "overlay" && data.len() > MAX_DATA_BYTES {
        return mount_long_overlay(entry, target, flags, &options.data);
    }
    Ok(call(&entry.source, target, &entry.kind, flags, &data)?)
}

fn call(source: &str, target: &Path, kind: &str, flags: MsFlags, data: &str) -> Result<(), Errno> {
    let given = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
    mount(given(source).as_deref(), target, given(kind).as_deref(), flags, given(data).as_deref())
}

/// The path of a mount point. A target with `..` is refused.
fn target(entry: &Mount, root: &Path) -> Result<PathBuf, MountError> {
    let mut target = root.to_owned();
    for part in Path::new(&entry.target).components() {
        match part {
            Component::Normal(name) => target.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(MountError::Escapes { target: entry.target.clone() });
            }
        }
    }
    Ok(target)
}

/// Mounts an overlay whose options are longer than a page.
fn mount_long_overlay(
    entry: &Mount,
    target: &Path,
    flags: MsFlags,
    data: &[String],
) -> Result<(), io::Error> {
    let (parent, data) = shortened(data).ok_or(Errno::E2BIG)?;
    if data.len() > 4095 {
        return Err(Errno::E2BIG.into());
    }
    // The target must be absolute, because the thread has another working directory.
    let target = std::path::absolute(target)?;
    let source = entry.source.clone();
    let work = move || -> Result<(), Errno> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        nix::unistd::chdir(&parent)?;
        call(&source, &target, "overlay", flags, &data)
    };
    let thread = thread::Builder::new().name("mount".to_owned()).spawn(work)?;
    match thread.join() {
        Ok(result) => Ok(result?),
        Err(_) => Err(io::Error::other("the mounting thread panicked")),
    }
}

/// MountOptions with the lower directories relative to their common parent, and that parent.
fn shortened(data: &[String]) -> Option<(PathBuf, String)> {
    let lower = data.iter().find_map(|option| option.strip_prefix("lowerdir="))?;
    let layers = split_lowerdir(lower);
    let mut parent = layers.first()?.parent()?.to_owned();
    while !layers.iter().all(|layer| layer.starts_with(&parent)) {
        parent = parent.parent()?.to_owned();
    }
    let mut relative = Vec::with_capacity(layers.len());
    for layer in &layers {
        let layer = layer.strip_prefix(&parent).ok()?;
        relative.push(if layer.as_os_str().is_empty() { Path::new(".") } else { layer });
    }
    let lower = join_lowerdir(relative).into_string().ok()?;
    let data = data.iter().map(|option| {
        if option.starts_with("lowerdir=") { format!("lowerdir={lower}") } else { option.clone() }
    });
    Some((parent, data.collect::<Vec<_>>().join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_stays_below_the_root() {
        let entry = |target: &str| Mount { target: target.to_owned(), ..Mount::default() };
        assert_eq!(target(&entry("/a/./b"), Path::new("/r")).expect("inside"), Path::new("/r/a/b"));
        assert_eq!(target(&entry(""), Path::new("/r")).expect("itself"), Path::new("/r"));
        assert!(target(&entry("a/../../b"), Path::new("/r")).is_err());
    }

    #[test]
    fn long_options_are_made_relative_to_the_common_parent() {
        let data = ["lowerdir=/s/1/fs:/s/22/fs:/s/3/fs".to_owned(), "upperdir=/s/4/fs".to_owned()];
        let (parent, data) = shortened(&data).expect("has lower directories");
        assert_eq!(parent, Path::new("/s"));
        assert_eq!(data, "lowerdir=1/fs:22/fs:3/fs,upperdir=/s/4/fs");
    }

    #[test]
    fn a_colon_in_a_layers_name_does_not_make_two_layers_of_it() {
        let (parent, data) =
            shortened(&["lowerdir=/s/a\\:b/fs:/s/c/fs".to_owned()]).expect("two layers");
        assert_eq!(parent, Path::new("/s"));
        assert_eq!(data, "lowerdir=a\\:b/fs:c/fs");
    }

    #[test]
    fn mount_points_are_unescaped() {
        let table = b"36 35 98:0 /mnt1 /mnt\\0402/x rw,noatime master:1 - ext3 /dev/root rw\n";
        assert_eq!(mount_points(table).collect::<Vec<_>>(), [Path::new("/mnt 2/x")]);
    }

    #[test]
    fn unmounting_what_is_not_mounted_is_no_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        unmount(folder.path()).expect("not mounted");
        unmount(&folder.path().join("missing")).expect("not there");
        unmount_recursive(folder.path()).expect("nothing below");
    }

    #[test]
    fn an_overlay_of_more_layers_than_a_page_holds_is_mounted_and_unmounted() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let name = "l".repeat(60);
        let mut layers = Vec::new();
        for number in 0..60 {
            let layer = folder.path().join(format!("{name}{number}/fs"));
            fs::create_dir_all(&layer).expect("create");
            fs::write(layer.join(format!("file{number}")), b"x").expect("write");
            layers.push(layer.display().to_string());
        }
        let merged = folder.path().join("merged");
        fs::create_dir(&merged).expect("create");
        let overlay = Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: vec![format!("lowerdir={}", layers.join(":"))],
        };
        assert!(overlay.options[0].len() > MAX_DATA_BYTES);
        mount_all(std::slice::from_ref(&overlay), &merged).expect("mounted");
        assert!(merged.join("file0").exists() && merged.join("file59").exists());
        unmount_recursive(folder.path()).expect("unmounted");
        assert!(!merged.join("file0").exists());
    }

    fn entry(kind: &str, source: &Path, target: &str, options: &[&str]) -> Mount {
        Mount {
            kind: kind.to_owned(),
            source: source.display().to_string(),
            target: target.to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        }
    }

    #[test]
    fn a_link_in_the_root_does_not_lead_a_mount_to_the_host() {
        // A link of the image took a mount to a directory of the host.
        let folder = tempfile::tempdir().expect("temporary folder");
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        let source = folder.path().join("source");
        for directory in [&root, &outside, &source] {
            fs::create_dir(directory).expect("create");
        }
        fs::write(source.join("file"), "bound").expect("write");
        std::os::unix::fs::symlink(&outside, root.join("data")).expect("symlink");
        let inner = root.join(outside.strip_prefix("/").expect("absolute"));
        fs::create_dir_all(&inner).expect("create");
        let mounts = [
            entry("bind", &source, "data", &["rbind", "ro"]),
            entry("tmpfs", Path::new("tmpfs"), "made/on/demand", &["mode=700"]),
            entry("bind", &source.join("file"), "made/file", &["bind"]),
        ];
        mount_all(&mounts, &root).expect("mounted");
        assert!(!outside.join("file").exists(), "on the host");
        assert!(inner.join("file").exists(), "inside");
        let refused = fs::write(inner.join("other"), "x").expect_err("read-only");
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        fs::write(root.join("made/on/demand/x"), "x").expect("a tmpfs");
        assert_eq!(fs::read_to_string(root.join("made/file")).expect("bound"), "bound");
        unmount_recursive(folder.path()).expect("unmounted");
        assert!(!inner.join("file").exists() && !root.join("made/on/demand/x").exists());
        // And undone the same way.
        let bad = entry("no-such-type", Path::new("x"), "data", &[]);
        let error = mount_all(&[mounts[0].clone(), bad], &root).expect_err("no such type");
        let error = crate::Error::from(error).report();
        assert!(error.contains("os error 19"), "{error}");
        assert!(!inner.join("file").exists(), "the first mount is undone");
    }

    #[test]
    fn a_failing_list_leaves_nothing_mounted() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let tmpfs = Mount { kind: "tmpfs".into(), source: "tmpfs".into(), ..Mount::default() };
        let bad = Mount { kind: "no-such-type".into(), source: "x".into(), ..Mount::default() };
        fs::write(folder.path().join("below"), b"").expect("write");
        let error = mount_all(&[tmpfs, bad], folder.path()).expect_err("no such type");
        assert!(error.to_string().starts_with("mount(\"no-such-type\""), "{error}");
        assert!(folder.path().join("below").exists(), "the first mount is undone");
    }
}
