//! What only some hosts have: one tree of control groups, AppArmor, systemd or its absence.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use harness::programs;
use harness::shim::bundle::{process, shell};
use harness::shim::ttrpc::{CallError, Code};
use harness::shim::{launch, until};
use protos::ttrpc::cgroups_v2::metrics::Metrics;
use protos::ttrpc::protobuf::Message;

use super::resources::{cgroup, limited, unified};
use super::task::contained;
use crate::fixture::{Fixture, SOON, unless_unimplemented};
use crate::metrics_v2::{memory_counts, near};
use crate::row::{Row, row};
use crate::verdict::not_offered;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "controllers",
            "on version 2 every controller of the host reaches the container's group",
            "point 22",
            controllers,
        ),
        row(
            "stats-as-files",
            "on version 2 Stats says what the container's control files say",
            "§1.4",
            stats_as_files,
        ),
        row(
            "systemd-absent",
            "SystemdCgroup where no systemd runs fails Create in words, and leaves nothing",
            "point 8",
            systemd_absent,
        ),
        row(
            "apparmor",
            "init and execs are confined by the AppArmor profile that the spec names",
            "section 4",
            apparmor,
        ),
        row(
            "apparmor-missing",
            "an AppArmor profile that is not loaded is refused in words, and leaves nothing",
            "section 4",
            apparmor_missing,
        ),
    ]
}

/// The top of the one tree.
const TREE: &str = "/sys/fs/cgroup";

fn controllers(fixture: &Fixture) -> Result<()> {
    if !unified() {
        return not_offered("the host has control groups of version 1");
    }
    let life = fixture.create(fixture.shell("exec sleep 100")?)?;
    let group = cgroup(&life, "pids")?;
    let all = fs::read_to_string(Path::new(TREE).join("cgroup.controllers"))?;
    ensure!(all.split_whitespace().count() >= 4, "the host has few controllers: {all}");
    let given = fs::read_to_string(group.join("cgroup.controllers"))?;
    for controller in all.split_whitespace() {
        ensure!(
            given.split_whitespace().any(|one| one == controller),
            "{controller} is not among the container's: {given}"
        );
    }
    life.end()
}

/// A control file of `key value` lines.
fn keyed(path: &Path) -> Result<HashMap<String, u64>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let pairs = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    });
    Ok(pairs.collect())
}

/// A control file of one number, or `max`.
fn number(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    match text.trim() {
        "max" => Ok(u64::MAX),
        text => text.parse().with_context(|| format!("{}: {text:?}", path.display())),
    }
}

fn stats_as_files(fixture: &Fixture) -> Result<()> {
    if !unified() {
        return not_offered("the host has control groups of version 1");
    }
    let life = limited(fixture)?;
    unless_unimplemented(life.task.pause(), "Pause")?;
    let any = unless_unimplemented(life.task.stats(), "Stats")?;
    let metrics = Metrics::parse_from_bytes(&any.value)?;
    let group = cgroup(&life, "memory")?;
    let file = |name: &str| group.join(name);

    let cpu = keyed(&file("cpu.stat"))?;
    for (key, ours) in [
        ("usage_usec", metrics.cpu.usage_usec),
        ("user_usec", metrics.cpu.user_usec),
        ("system_usec", metrics.cpu.system_usec),
        ("nr_periods", metrics.cpu.nr_periods),
        ("nr_throttled", metrics.cpu.nr_throttled),
        ("throttled_usec", metrics.cpu.throttled_usec),
    ] {
        ensure!(cpu.get(key) == Some(&ours), "cpu.stat {key}: Stats {ours}, {:?}", cpu.get(key));
    }
    let stat = keyed(&file("memory.stat"))?;
    for (key, ours) in memory_counts(&metrics) {
        let theirs = stat.get(key).copied().unwrap_or_default();
        ensure!(near(ours, theirs), "memory.stat {key}: Stats {ours}, the file {theirs}");
    }
    for (name, ours) in [
        ("memory.current", metrics.memory.usage),
        ("memory.max", metrics.memory.usage_limit),
        ("memory.swap.max", metrics.memory.swap_limit),
        ("pids.current", metrics.pids.current),
        ("pids.max", metrics.pids.limit),
    ] {
        // A kernel without swap accounting has no such file.
        if file(name).exists() {
            let theirs = number(&file(name))?;
            ensure!(near(ours, theirs), "{name}: Stats {ours}, the file {theirs}");
        }
    }
    let told = keyed(&file("memory.events"))?;
    ensure!(told.get("oom_kill") == Some(&metrics.memory_events.oom_kill), "{told:?}");
    ensure!(told.get("max") == Some(&metrics.memory_events.max), "{told:?}");
    let sizes = huge_pages(&group)?;
    ensure!(metrics.hugetlb.len() == sizes, "{} of {sizes} page sizes", metrics.hugetlb.len());
    ensure!(sizes > 0, "the container has no hugetlb controller");
    life.end()
}

/// How many sizes of huge pages the group counts.
fn huge_pages(group: &Path) -> Result<usize> {
    let names =
        fs::read_dir(group)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names
        .filter(|name| {
            let size = name.strip_prefix("hugetlb.").and_then(|rest| rest.strip_suffix(".current"));
            size.is_some_and(|size| !size.contains('.'))
        })
        .count())
}

fn systemd_absent(fixture: &Fixture) -> Result<()> {
    // As sd_booted(3) finds out.
    if Path::new("/run/systemd/system").exists() {
        return not_offered("systemd runs here");
    }
    let token = fixture.token.clone();
    let mut bundle = fixture.shaped("exec sleep 100", |spec| {
        spec["linux"]["cgroupsPath"] = format!("system.slice:{token}:c").into();
    })?;
    bundle.options.get_or_insert_default().systemd_cgroup = true;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let message = match task.create(&bundle.create_request()) {
        Err(CallError::Refused { code, message }) if code != Code::NOT_FOUND => message,
        Ok(0) => return not_offered("a created container of this shim has no process yet"),
        other => bail!("Create answered {other:?}"),
    };
    let words = message.to_lowercase();
    ensure!(
        ["systemd", "sd-bus", "dbus"].iter().any(|word| words.contains(word)),
        "the message does not say what is missing: {message}"
    );
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn unless_no_apparmor() -> Result<()> {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|text| text.starts_with('Y')) {
        return not_offered("the kernel runs without AppArmor");
    }
    Ok(())
}

/// A profile that is loaded, until it is dropped.
struct Profile {
    name: String,
    file: PathBuf,
}

impl Profile {
    fn load(fixture: &Fixture) -> Result<Self> {
        let profile =
            Self { name: format!("{}-profile", fixture.token), file: fixture.path("profile") };
        let text = format!(
            "profile {} flags=(attach_disconnected,mediate_deleted) {{\n  file,\n  capability,\n  \
             network,\n  mount,\n  signal,\n  ptrace,\n  unix,\n  deny /etc/group r,\n}}\n",
            profile.name
        );
        fs::write(&profile.file, text)?;
        profile.parse("--replace")?;
        Ok(profile)
    }

    fn parse(&self, action: &str) -> Result<()> {
        let parser = programs::find("apparmor_parser").context("apparmor_parser is missing")?;
        let mut command = Command::new(parser);
        command.args([action, "--skip-cache"]).arg(&self.file);
        let output = launch::run(&mut command, &[], SOON)?;
        ensure!(output.status.success(), "apparmor_parser {action}: {}", output.complaint());
        Ok(())
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // No other test has a profile of this name.
        let _ = self.parse("--remove");
    }
}

/// Writes its own label and what it can read of two files to a directory.
const LOOK: &str = "mkdir /tmp/$0; cat /proc/self/attr/current > /tmp/$0/label; \
                    cat /etc/passwd > /tmp/$0/allowed; cat /etc/group > /tmp/$0/denied; \
                    touch /tmp/$0/done";

fn apparmor(fixture: &Fixture) -> Result<()> {
    unless_no_apparmor()?;
    let profile = Profile::load(fixture)?;
    let looking = |who: &str| {
        let mut words = shell(LOOK);
        words.push(who.to_owned());
        words
    };
    let bundle = fixture.shaped("", |spec| {
        let mut words = looking("init");
        words[2].push_str("; exec sleep 100");
        spec["process"]["args"] = words.into();
        spec["process"]["apparmorProfile"] = profile.name.clone().into();
    })?;
    let files = fixture.dir.join("snap").join(&bundle.id).join("fs/tmp");
    let life = fixture.run_bundle(bundle)?;
    contained(&life)?;
    let mut exec = process(&looking("exec"));
    exec["apparmorProfile"] = profile.name.clone().into();
    life.task.exec(&life.task.exec_request("e1", &exec)).context("Exec")?;
    life.task.start("e1").context("Start of an exec")?;
    for who in ["init", "exec"] {
        let seen = files.join(who);
        until(SOON, || seen.join("done").exists().then_some(()))
            .with_context(|| format!("{who} never came to an end"))?;
        let read = |name: &str| fs::read_to_string(seen.join(name)).unwrap_or_default();
        let label = read("label");
        ensure!(label.trim() == format!("{} (enforce)", profile.name), "{who} is {label:?}");
        ensure!(read("allowed").contains("root"), "{who} may not read what the profile allows");
        ensure!(read("denied").is_empty(), "{who} read what the profile denies");
    }
    life.end()
}

fn apparmor_missing(fixture: &Fixture) -> Result<()> {
    unless_no_apparmor()?;
    let name = format!("{}-missing", fixture.token);
    let bundle = fixture.shaped("exec sleep 100", |spec| {
        spec["process"]["apparmorProfile"] = name.clone().into();
    })?;
    let shim = fixture.start(&bundle)?;
    let task = shim.task(&bundle.id);
    let created = task.create(&bundle.create_request());
    let refused = match created {
        Ok(0) => return not_offered("a created container of this shim has no process yet"),
        Ok(_) => {
            let started = task.start("").map(drop);
            task.delete("").context("Delete after a Start that failed")?;
            started
        }
        Err(why) => Err(why),
    };
    match refused {
        Err(CallError::Refused { code, message }) if code != Code::NOT_FOUND => {
            // crun names no profile and no module, but the file that sets it.
            let words = message.to_lowercase();
            ensure!(
                words.contains("apparmor") || words.contains("/attr/"),
                "the message is {message:?}"
            );
        }
        other => bail!("a profile that is not loaded answered {other:?}"),
    }
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}
