//! A shim's server as a process: detached, scored, where it was asked to run, or not there at all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::proc;
use harness::shim::{Bundle, launch};

use crate::fixture::Fixture;
use crate::row::{Row, row};
use crate::verdict::not_offered;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "server-detached",
            "the server is its own process group in the bundle, stdin at null",
            "§1.2",
            detached,
        ),
        row(
            "server-oom-score",
            "the server's oom_score_adj is its starter's plus one",
            "§1.2",
            oom_score,
        ),
        row("server-cgroup", "ShimCgroup is where the server runs", "§1.2", shim_cgroup),
        row(
            "server-cgroup-outside",
            "a ShimCgroup that leads out of the hierarchy is refused, and leaves nothing",
            "§1.2",
            shim_cgroup_outside,
        ),
        row(
            "server-sched-core",
            "SCHED_CORE is honoured, or refused clearly by the kernel",
            "§1.2",
            sched_core,
        ),
    ]
}

fn detached(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let shim = fixture.start(&bundle)?;
    let group = proc::stat(shim.pid, 5);
    ensure!(group == Some(shim.pid), "its process group is {group:?}, not {}", shim.pid);
    let link = |name: &str| fs::read_link(format!("/proc/{}/{name}", shim.pid));
    let cwd = link("cwd")?;
    ensure!(cwd == bundle.path, "its working directory is {}", cwd.display());
    let stdin = link("fd/0").context("it has no descriptor 0")?;
    ensure!(stdin == Path::new("/dev/null"), "its standard input is {}", stdin.display());
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn oom_score(fixture: &Fixture) -> Result<()> {
    let score = |pid: &str| -> Result<i32> {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
        Ok(text.trim().parse()?)
    };
    let own = score("self")?;
    let bundle = fixture.shell("exit 0")?;
    let shim = fixture.start(&bundle)?;
    let its = score(&shim.pid.to_string())?;
    shim.leave(&bundle.id)?;
    ensure!(its == (own + 1).min(1000), "ours is {own}, the shim's {its}");
    Ok(())
}

/// The hierarchies of version 1, or the one of version 2.
fn hierarchies() -> Vec<PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return vec![top];
    }
    fs::read_dir(&top)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("tasks").exists() && !path.is_symlink())
        .collect()
}

fn shim_cgroup(fixture: &Fixture) -> Result<()> {
    let name = format!("{}/shim", fixture.token);
    for hierarchy in hierarchies() {
        let path = hierarchy.join(&name);
        fs::create_dir_all(&path)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let Ok(value) = fs::read_to_string(hierarchy.join(file)) else { continue };
            fs::write(hierarchy.join(&fixture.token).join(file), &value)?;
            fs::write(path.join(file), &value)?;
        }
    }
    let mut bundle = fixture.shell("exit 0")?;
    bundle.options.get_or_insert_default().shim_cgroup = format!("/{name}");
    let shim = fixture.start(&bundle)?;
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", shim.pid))?;
    let inside = groups.lines().filter(|line| line.ends_with(&format!("/{name}"))).count();
    shim.leave(&bundle.id)?;
    ensure!(inside > 0, "the server is in none of them:\n{groups}");
    Ok(())
}

fn shim_cgroup_outside(fixture: &Fixture) -> Result<()> {
    let mut bundle = fixture.shell("exit 0")?;
    let socket = usual_socket(fixture, &bundle)?;
    bundle.options.get_or_insert_default().shim_cgroup = format!("/../{}", fixture.token);
    match refused(fixture, &bundle, &socket, None)? {
        Some(_) => Ok(()),
        None => not_offered("the shim takes any path"),
    }
}

fn sched_core(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let socket = usual_socket(fixture, &bundle)?;
    let Some(complaint) = refused(fixture, &bundle, &socket, Some(("SCHED_CORE", "1")))? else {
        return Ok(());
    };
    ensure!(complaint.contains("sched") || complaint.contains("core"), "{complaint}");
    not_offered(format!("the kernel has no core scheduling here: {complaint}"))
}

/// Where a shim of this bundle listens.
fn usual_socket(fixture: &Fixture, bundle: &Bundle) -> Result<PathBuf> {
    let shim = fixture.start(bundle)?;
    let socket = shim.socket();
    shim.leave(&bundle.id)?;
    Ok(socket)
}

/// Starts a shim that may refuse to; what it complains of then, once it is seen to leave nothing.
fn refused(
    fixture: &Fixture,
    bundle: &Bundle,
    socket: &Path,
    variable: Option<(&str, &str)>,
) -> Result<Option<String>> {
    let mut invocation = fixture.invocation(bundle);
    let variable = variable.map(|(name, value)| (name.to_owned(), value.to_owned()));
    invocation.environment.extend(variable);
    let output = invocation.start_raw(&invocation.input())?;
    if output.status.success() {
        let reply = launch::understand(fixture.dialect, &output.combined())?;
        fixture.note_socket(&reply.address)?;
        fixture.connect(&reply, &bundle.id)?.leave(&bundle.id)?;
        return Ok(None);
    }
    ensure!(!socket.exists(), "{} is left of a start that failed", socket.display());
    fixture.nothing_left()?;
    Ok(Some(output.complaint().to_lowercase()))
}
