//! The mounts of a container, without its root file system.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::SpecError;

/// containerd's defaults, in the order they are mounted.
const DEFAULT: &[(&str, &str, &str, &str)] = &[
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/run", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
];

/// On hosts with cgroup v2 only. With cgroup v1 there would be a mount for each hierarchy; containerd
/// has none there.
const CGROUP: (&str, &str, &str, &str) =
    ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro");

/// Files that containers on the host's network read.
const HOST_NETWORK: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// The mounts of a container. The caller's are last, so that they can cover the others.
pub(super) fn all(unified: bool, host_network: bool, more: &[Mount]) -> Vec<Mount> {
    let cgroup = unified.then_some(&CGROUP);
    let mut mounts: Vec<Mount> = DEFAULT
        .iter()
        .chain(cgroup)
        .map(|(destination, kind, source, options)| {
            mount(Path::new(destination), kind, Path::new(source), options.split(','))
        })
        .collect();
    if host_network {
        let present = HOST_NETWORK.map(Path::new).into_iter().filter(|path| path.exists());
        mounts.extend(present.map(|path| mount(path, "bind", path, ["rbind", "ro"].into_iter())));
    }
    mounts.extend_from_slice(more);
    mounts
}

fn mount<'a>(
    destination: &Path,
    kind: &str,
    source: &Path,
    options: impl Iterator<Item = &'a str>,
) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.to_owned())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options.map(str::to_owned).collect()));
    mount
}

/// Parses `SOURCE:DESTINATION[:OPTION,...]`.
pub(crate) fn parse_volume(text: &str) -> Result<Mount, SpecError> {
    let bad = |why| SpecError::BadMount { text: text.to_owned(), why };
    let mut parts = text.splitn(3, ':');
    let (Some(source), Some(destination)) = (parts.next(), parts.next()) else {
        return Err(bad("it must be SOURCE:DESTINATION[:OPTIONS]"));
    };
    let options = parts.next().unwrap_or("").split(',').filter(|option| !option.is_empty());
    bind(text, source, destination, options.map(str::to_owned).collect())
}

/// Parses `type=bind,src=SOURCE,dst=DESTINATION,options=rbind:ro`, in containerd's form with
/// `options` or docker's with `readonly`.
pub(crate) fn parse_mount(text: &str) -> Result<Mount, SpecError> {
    let bad = |why| SpecError::BadMount { text: text.to_owned(), why };
    let (mut kind, mut source, mut destination) = ("bind", "", "");
    let mut options: Vec<String> = Vec::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "type" => kind = value,
            "src" | "source" => source = value,
            "dst" | "destination" | "target" => destination = value,
            "options" => options.extend(value.split(':').map(str::to_owned)),
            "ro" | "readonly" if matches!(value, "" | "1" | "true") => options.push("ro".into()),
            "rw" => options.push("rw".into()),
            _ => return Err(bad("it has a key other than type, src, dst, options and readonly")),
        }
    }
    if kind == "bind" {
        return bind(text, source, destination, options);
    }
    if !Path::new(destination).is_absolute() {
        return Err(bad("its destination must be an absolute path"));
    }
    let source = if source.is_empty() { kind } else { source };
    let options = options.iter().map(String::as_str);
    Ok(mount(Path::new(destination), kind, Path::new(source), options))
}

fn bind(
    text: &str,
    source: &str,
    destination: &str,
    mut options: Vec<String>,
) -> Result<Mount, SpecError> {
    let bad = |why| SpecError::BadMount { text: text.to_owned(), why };
    if source.is_empty() || !Path::new(destination).is_absolute() {
        return Err(bad("it needs a source, and an absolute path as destination"));
    }
    let source: PathBuf = std::path::absolute(source).map_err(|_| bad("its source is no path"))?;
    if !source.exists() {
        return Err(bad("its source does not exist"));
    }
    if !options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind")) {
        options.insert(0, "rbind".into());
    }
    let propagation = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
    if !options.iter().any(|option| propagation.contains(&option.as_str())) {
        options.push("rprivate".into());
    }
    Ok(mount(Path::new(destination), "bind", &source, options.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mount: &Mount) -> String {
        mount.options().as_ref().unwrap().join(",")
    }

    #[test]
    fn volumes_bind_recursively_and_privately_unless_told_otherwise() {
        let mount = parse_volume("/tmp:/data").unwrap();
        assert_eq!(mount.destination(), Path::new("/data"));
        assert_eq!(options(&mount), "rbind,rprivate");
        assert_eq!(options(&parse_volume("/tmp:/data:ro").unwrap()), "rbind,ro,rprivate");
        assert_eq!(options(&parse_volume("/tmp:/data:bind,rshared").unwrap()), "bind,rshared");
    }

    #[test]
    fn mounts_are_read_in_both_dialects() {
        let ctr = parse_mount("type=bind,src=/tmp,dst=/data,options=rbind:ro").unwrap();
        let docker = parse_mount("type=bind,source=/tmp,target=/data,readonly").unwrap();
        assert_eq!(ctr, docker);
        let tmpfs = parse_mount("type=tmpfs,dst=/t,options=size=1m:mode=700").unwrap();
        assert_eq!(tmpfs.typ().as_deref(), Some("tmpfs"));
        assert_eq!(options(&tmpfs), "size=1m,mode=700");
    }

    #[test]
    fn mounts_that_cannot_be_are_refused_with_the_text_and_the_reason() {
        for text in ["/tmp", "/tmp:relative", "/absent/x:/data", ":/data"] {
            let error = parse_volume(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
        assert!(parse_mount("type=bind,src=/tmp,dst=/d,colour=red").is_err());
        assert!(parse_mount("type=tmpfs,dst=t").is_err());
    }
}
