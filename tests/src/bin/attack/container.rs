//! What runs inside a container: this program, bound at `/attack` and called with `--in-container WORD`.
//!
//! It reports by files in `/shared`, which the host reads: `ready` once it has begun, `got-out` with the
//! details when the attack succeeded; it ends when `stop` is there.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sched::{CloneFlags, unshare};

use crate::fixture::UP;
use crate::sys;

/// The longest that any of it goes on.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run(words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["watch", secret] => watch(secret),
        ["overwrite"] => overwrite(),
        ["key", description] => {
            if sys::finds_key(description) {
                won("found the host's key");
            }
        }
        ["deep", count] => deep(count.parse().expect("a number")),
        ["stop-joiners"] => stop_joiners(),
        _ => panic!("nothing inside is called {words:?}"),
    }
}

fn won(how: &str) {
    fs::write("/shared/got-out", how).expect("say so");
}

/// Until the file `stop` is there, or its time is over.
fn goes_on(since: Instant) -> bool {
    since.elapsed() < LIMIT && !Path::new("/shared/stop").exists()
}

/// Every process that can be seen, but this one.
fn others() -> Vec<u32> {
    let own = std::process::id();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .collect()
}

/// Tries every descriptor, root and directory of every process it sees, for a way to the secret.
fn watch(secret: &str) {
    let began = Instant::now();
    fs::write("/shared/ready", "").expect("say so");
    while goes_on(began) {
        for pid in others() {
            let mut ways = vec![format!("/proc/{pid}/cwd"), format!("/proc/{pid}/root")];
            let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            ways.extend(open.map(|entry| entry.path().display().to_string()));
            for way in ways {
                for path in [format!("{way}/{UP}{secret}"), format!("{way}{secret}")] {
                    if fs::read(&path).is_ok_and(|text| text == b"the host's") {
                        let link = fs::read_link(&way).unwrap_or_default();
                        return won(&format!("{path}, through a link to {}", link.display()));
                    }
                }
            }
        }
    }
}

/// Waits for a process that executes a file which is none of the container's, and writes to it.
fn overwrite() {
    let began = Instant::now();
    let own = fs::metadata("/proc/self/exe").expect("it has a file");
    let tools = fs::metadata("/bin/busybox").expect("the image has busybox");
    let known = [own, tools].map(|about| (about.dev(), about.ino()));
    fs::write("/shared/ready", "").expect("say so");
    let caught = loop {
        if !goes_on(began) {
            return;
        }
        let caught = others().into_iter().find_map(|pid| {
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_PATH)
                .open(format!("/proc/{pid}/exe"))
                .ok()?;
            let about = file.metadata().ok()?;
            (!known.contains(&(about.dev(), about.ino()))).then(|| OwnedFd::from(file))
        });
        if let Some(caught) = caught {
            break caught;
        }
    };
    fs::write("/shared/caught", "").expect("say so");
    // As the root of a user namespace of its own it may change mounts.
    let unshared = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
    let mut attributes = None;
    while goes_on(began) {
        if unshared.is_ok() {
            attributes = Some(sys::make_writable(caught.as_fd()));
        }
        let path = format!("/proc/self/fd/{}", caught.as_raw_fd());
        if let Ok(mut file) = OpenOptions::new().write(true).open(&path) {
            let wrote = file.write_all(b"#!overwritten");
            // In the memory of a copy it does no harm; the host looks at its own file.
            let _ = fs::write("/shared/wrote", format!("{wrote:?}, {attributes:?}"));
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Directories within directories, by descriptors: no path is that long.
fn deep(count: usize) {
    let mut here = File::open("/deep").expect("the directory to begin in");
    for _ in 0..count {
        rustix::fs::mkdirat(&here, "d", rustix::fs::Mode::RWXU).expect("make a directory");
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        here = rustix::fs::openat(&here, "d", flags, rustix::fs::Mode::empty())
            .expect("open a directory")
            .into();
    }
}

/// Stops every process that it sees, again and again.
fn stop_joiners() {
    let began = Instant::now();
    fs::write("/shared/ready", "").expect("say so");
    while goes_on(began) {
        for pid in others().into_iter().filter(|pid| *pid != 1) {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            // It may be gone already.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP);
        }
    }
}
