//! `run`: a container of /bin/true, from the command's start to its exit.
//!
//! Ours: `supervisor run --rm` with the youki runtime, the default seccomp profile on. The peer:
//! `ctr run --rm` on Debian's containerd with its own shim and runc. Both daemons are warm, the
//! image is the same, both unpack into overlayfs on the same file system, and both containers get
//! the same new namespaces; the last two are looked at, not assumed.

use std::process::Command;

use anyhow::{Result, ensure};
use harness::image::Image;
use harness::{Containerd, Root, Supervisor, programs, run};

use crate::build;
use crate::sample::{Pair, time};

const IMAGE: &str = "example.test/bench:1";
const YOUKI: &str = "io.containerd.youki.v1";
const RUNC: &str = "io.containerd.runc.v2";

/// What a container can say of its own surroundings.
const PROBE: &str = "for ns in cgroup ipc mnt net pid user uts; do \
    echo $ns $(busybox readlink /proc/self/ns/$ns); done; \
    busybox awk '$2 == \"/\" { print \"rootfs\", $3 }' /proc/mounts; \
    busybox awk '/^Seccomp:/ { print \"seccomp\", $2 }' /proc/self/status";

/// Measures and prints.
pub(crate) fn bench(rounds: usize) -> Result<()> {
    let binaries = build::binaries()?;
    let root = Root::new();
    let archive = Image::busybox(IMAGE).write(&root.path().join("image.tar"));
    let containerd = Containerd::start(&root, None);
    containerd.import(&archive);
    let mut supervisor = Supervisor::new(&root);
    supervisor.serve();
    supervisor.import(&archive);

    let ours = |words: &[&str]| {
        let mut command = supervisor.cli(&["run", "--rm", "--runtime", YOUKI, IMAGE]);
        command.args(words);
        command
    };
    let peer = |words: &[&str]| containerd.ctr_run(RUNC, &["--rm"], IMAGE, words).0;

    println!("# ours: {} in {}", version(&programs::ours("supervisor")), binaries.display());
    println!("# peer: {}", version(&programs::system("containerd")));
    println!("# peer: {}", version(&programs::system("runc")));
    println!("# kernel: {}", std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
    same_surroundings(
        &probe(ours(&["/bin/sh", "-c", PROBE]))?,
        &probe(peer(&["/bin/sh", "-c", PROBE]))?,
    )?;

    let pair =
        Pair::interleaved(rounds, || time(ours(&["/bin/true"])), || time(peer(&["/bin/true"])))?;
    pair.print("run");
    Ok(())
}

fn version(program: &std::path::Path) -> String {
    let done = run(Command::new(program).arg("--version"));
    done.out().lines().next().unwrap_or_default().to_owned()
}

/// One word pair per line: the namespaces that are not the host's, the root file system, seccomp.
struct Surroundings {
    namespaces: Vec<String>,
    rootfs: String,
    seccomp: String,
}

fn probe(mut command: Command) -> Result<Surroundings> {
    let done = run(&mut command);
    ensure!(done.code() == 0, "{done:?}");
    let text = done.out();
    let said: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    let one = |key: &str| {
        said.iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| (*value).to_owned())
            .unwrap_or_default()
    };
    let namespaces = said
        .iter()
        .filter(|(name, value)| {
            std::fs::read_link(format!("/proc/self/ns/{name}"))
                .is_ok_and(|host| host.as_os_str() != *value)
        })
        .map(|(name, _)| (*name).to_owned())
        .collect();
    Ok(Surroundings { namespaces, rootfs: one("rootfs"), seccomp: one("seccomp") })
}

fn same_surroundings(ours: &Surroundings, peer: &Surroundings) -> Result<()> {
    println!("# new namespaces: {}; root file system: {}", ours.namespaces.join(" "), ours.rootfs);
    println!("# seccomp (2 is a filter): ours {}, peer {}", ours.seccomp, peer.seccomp);
    ensure!(
        ours.namespaces == peer.namespaces,
        "the namespaces differ: ours {:?}, peer {:?}",
        ours.namespaces,
        peer.namespaces
    );
    ensure!(ours.rootfs == "overlay" && peer.rootfs == "overlay", "both are to be on overlayfs");
    ensure!(ours.seccomp == "2", "our containers are to have a seccomp filter");
    Ok(())
}
