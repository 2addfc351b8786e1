//! What a container uses and may use: freezing, statistics, limits, memory that runs out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::programs;
use harness::shim::bundle::{process, shell};
use harness::shim::ttrpc::{CallError, Code};
use harness::shim::{launch, until};
use harness::wait::{self, QUIET};
use protos::ttrpc::api::Status;
use protos::ttrpc::cgroups::metrics::Metrics;
use protos::ttrpc::protobuf::Message;
use serde_json::json;

use crate::fixture::{Fixture, Life, SOON, refused, timed, unless_unimplemented};
use crate::metrics_v2::same_as_runc;
use crate::row::{Row, row};
use crate::verdict::not_offered;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row("pause", "a paused container stands still and goes on when resumed", "§1.4", pause),
        row(
            "pause-state",
            "Pause and Resume are refused where they make no sense",
            "§1.4",
            pause_state,
        ),
        row(
            "pause-kill",
            "a paused container can be killed, and its exit is published",
            "point 18",
            pause_kill,
        ),
        row(
            "stats",
            "Stats is the host's kind of metrics, with the container's own figures",
            "§1.4",
            stats,
        ),
        row("stats-as-runc", "Stats says what runc's own events say", "§1.4", stats_as_runc),
        row(
            "stats-stopped",
            "Stats without a cgroup is an error, and not a hang",
            "§1.4",
            stats_stopped,
        ),
        row("update", "Update changes the limits that it names", "§1.4", update),
        row(
            "update-bad",
            "resources that make no sense are refused, and nothing changes",
            "§1.4",
            update_bad,
        ),
        row(
            "oom",
            "a container over its memory limit is reported before its exit",
            "§1.5, pain 12",
            oom,
        ),
        row(
            "cgroup-controllers",
            "on cgroup v2, every controller of the host reaches the container's group",
            "point 22",
            controllers,
        ),
        row("cgroup-path", "the container is where cgroupsPath says", "§1.4", cgroup_path),
    ]
}

/// The container's cgroup in a hierarchy of version 1, or the one of version 2.
pub(crate) fn cgroup(life: &Life<'_>, controller: &str) -> Result<PathBuf> {
    if life.pid == 0 {
        return not_offered("a created container of this shim has no process yet");
    }
    let text = fs::read_to_string(format!("/proc/{}/cgroup", life.pid))?;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next(), parts.next(), parts.next());
        let (Some(names), Some(path)) = (names, path) else { continue };
        if !path.contains(&life.shim.fixture.token) {
            continue;
        }
        let top = if names.is_empty() && Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            PathBuf::from("/sys/fs/cgroup")
        } else if names.split(',').any(|name| name == controller) {
            Path::new("/sys/fs/cgroup").join(controller)
        } else {
            continue;
        };
        return Ok(top.join(path.trim_start_matches('/')));
    }
    not_offered(format!("the container is in no {controller} cgroup of its own"))
}

/// What the container has counted so far.
fn counted(path: &Path) -> usize {
    fs::metadata(path).map_or(0, |metadata| usize::try_from(metadata.len()).unwrap_or(0))
}

fn counting(fixture: &Fixture) -> Result<(Life<'_>, PathBuf)> {
    let file = fixture.path("count");
    let bundle = fixture.shell("while :; do echo; usleep 10000; done")?;
    let mut request = bundle.create_request();
    request.stdout = format!("file://{}", file.display());
    request.stderr = request.stdout.clone();
    let mut life = fixture.create_with(bundle, &request)?;
    life.start()?;
    until(SOON, || (counted(&file) > 2).then_some(())).context("the container counts nothing")?;
    Ok((life, file))
}

fn pause(fixture: &Fixture) -> Result<()> {
    let (life, file) = counting(fixture)?;
    unless_unimplemented(life.task.pause(), "Pause")?;
    ensure!(life.status()? == Status::PAUSED, "the status is {:?}", life.status()?);
    // What it wrote before the freeze may still arrive.
    let before = wait::steady(|| counted(&file));
    ensure!(wait::holds(QUIET, || counted(&file) == before), "it went on counting");
    life.task.resume().context("Resume")?;
    ensure!(life.status()? == Status::RUNNING, "the status is {:?}", life.status()?);
    until(SOON, || (counted(&file) > before).then_some(())).context("it never went on")?;
    let events = fixture.events.borrow();
    for word in ["paused", "resumed"] {
        ensure!(events.wait_for(SOON, life.task.id(), word), "no event: {word}");
    }
    drop(events);
    life.end()
}

fn pause_state(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    ensure!(life.task.resume().is_err(), "a running container was resumed");
    unless_unimplemented(life.task.pause(), "Pause")?;
    ensure!(life.task.pause().is_err(), "a paused container was paused");
    match life.task.exec(&life.task.exec_request("e1", &process(&shell("exit 0")))) {
        Err(CallError::Refused { code, .. }) if code != Code::NOT_FOUND => {}
        other => bail!("Exec in a paused container answered {other:?}"),
    }
    ensure!(life.task.delete("").is_err(), "a paused container was deleted");
    ensure!(life.status()? == Status::PAUSED);
    life.task.resume()?;
    life.task.kill("", 9)?;
    life.exit_status()?;
    ensure!(life.task.pause().is_err(), "an ended container was paused");
    life.end()
}

fn pause_kill(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    unless_unimplemented(life.task.pause(), "Pause")?;
    life.task.kill("", 9).context("Kill of a paused container")?;
    let exit = life.task.within(Duration::from_secs(3)).wait("");
    if exit.is_err() {
        // On version 1 a frozen task dies when it is thawed. One that was only slow to die cannot be.
        let resumed = life.task.resume();
        let exit = life.exit_status().with_context(|| format!("after Resume: {resumed:?}"))?;
        ensure!(exit == 137, "the exit status is {exit}");
    }
    life.end()
}

pub(crate) fn limited(fixture: &Fixture) -> Result<Life<'_>> {
    let bundle = fixture.shaped("exec sleep 100", |spec| {
        spec["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
        spec["linux"]["resources"]["pids"] = json!({ "limit": 77 });
    })?;
    fixture.run_bundle(bundle)
}

pub(crate) fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn stats(fixture: &Fixture) -> Result<()> {
    let life = limited(fixture)?;
    let any = unless_unimplemented(life.task.stats(), "Stats")?;
    let kind = any.type_url.rsplit('/').next().unwrap_or_default().to_owned();
    if unified() {
        ensure!(kind == "io.containerd.cgroups.v2.Metrics", "the type is {}", any.type_url);
        let metrics = protos::ttrpc::cgroups_v2::metrics::Metrics::parse_from_bytes(&any.value)?;
        ensure!(metrics.pids.limit == 77, "pids.limit {}", metrics.pids.limit);
        ensure!(metrics.pids.current >= 1, "pids.current {}", metrics.pids.current);
        ensure!(metrics.memory.usage_limit == 64 << 20, "limit {}", metrics.memory.usage_limit);
        ensure!(metrics.memory.usage > 0, "no memory is used");
        ensure!(metrics.cpu.usage_usec > 0, "no time is used");
    } else {
        ensure!(kind == "io.containerd.cgroups.v1.Metrics", "the type is {}", any.type_url);
        let metrics = Metrics::parse_from_bytes(&any.value)?;
        ensure!(metrics.pids.limit == 77, "pids.limit {}", metrics.pids.limit);
        ensure!(metrics.pids.current >= 1, "pids.current {}", metrics.pids.current);
        let memory = &metrics.memory.usage;
        ensure!(memory.limit == 64 << 20, "memory.usage.limit {}", memory.limit);
        ensure!(memory.usage > 0, "no memory is used");
        ensure!(metrics.cpu.usage.total > 0, "no time is used");
        let file = cgroup(&life, "cpuacct")?.join("cpuacct.usage");
        let kernel: u64 = fs::read_to_string(&file)?.trim().parse()?;
        ensure!(metrics.cpu.usage.total <= kernel, "{} > {kernel}", metrics.cpu.usage.total);
    }
    life.end()
}

fn stats_as_runc(fixture: &Fixture) -> Result<()> {
    let runc = fixture.options.runtime.clone().or_else(|| programs::find("runc"));
    let runc = runc.context("runc is missing")?;
    let life = limited(fixture)?;
    if unified() {
        // Figures that stand still can be compared to the last digit.
        unless_unimplemented(life.task.pause(), "Pause")?;
    }
    let root = format!("/run/containerd/runc/{}", fixture.token);
    if !Path::new(&root).join(life.task.id()).exists() {
        return not_offered(format!("no runtime keeps state in {root}"));
    }
    let mut command = Command::new(&runc);
    command.args(["--root", &root, "events", "--stats", life.task.id()]);
    let output = launch::run(&mut command, &[], SOON)?;
    let said: serde_json::Value = match serde_json::from_slice(&output.out) {
        Ok(said) if output.status.success() => said,
        _ => {
            return not_offered(format!(
                "{} has no events: {}",
                runc.display(),
                output.complaint()
            ));
        }
    };
    if unified() {
        same_as_runc(&unless_unimplemented(life.task.stats(), "Stats")?, &said["data"])?;
        return life.end();
    }
    let any = unless_unimplemented(life.task.stats(), "Stats")?;
    let metrics = Metrics::parse_from_bytes(&any.value)?;
    let data = &said["data"];
    let (memory, runcs) = (&metrics.memory, &data["memory"]);
    let raw = &runcs["raw"];
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    for (what, ours, theirs) in [
        ("pids.current", metrics.pids.current, number(&data["pids"]["current"])),
        ("pids.limit", metrics.pids.limit, number(&data["pids"]["limit"])),
        ("memory.usage.limit", memory.usage.limit, number(&runcs["usage"]["limit"])),
        ("memory.usage.failcnt", memory.usage.failcnt, number(&runcs["usage"]["failcnt"])),
        ("memory.usage.max", memory.usage.max, number(&runcs["usage"]["max"])),
        ("memory.cache", memory.cache, number(&runcs["cache"])),
        ("memory.rss", memory.rss, number(&raw["rss"])),
        ("memory.mapped_file", memory.mapped_file, number(&raw["mapped_file"])),
        ("memory.pg_fault", memory.pg_fault, number(&raw["pgfault"])),
        ("memory.total_rss", memory.total_rss, number(&raw["total_rss"])),
        (
            "memory.limit",
            memory.hierarchical_memory_limit,
            number(&raw["hierarchical_memory_limit"]),
        ),
        (
            "cpu.throttling.periods",
            metrics.cpu.throttling.periods,
            number(&data["cpu"]["throttling"]["periods"]),
        ),
    ] {
        // Pages come and go in between.
        let near = ours.abs_diff(theirs) <= theirs.max(ours) / 5 + (256 << 10);
        let exact = what.contains("limit") || what.starts_with("pids") || what.contains("failcnt");
        ensure!(if exact { ours == theirs } else { near }, "{what}: Stats {ours}, runc {theirs}");
    }
    let total = number(&data["cpu"]["usage"]["total"]);
    let ours = metrics.cpu.usage.total;
    ensure!(ours.abs_diff(total) < total / 2 + 20_000_000, "cpu: Stats {ours}, runc {total}");
    let per_cpu = data["cpu"]["usage"]["percpu"].as_array().map_or(0, Vec::len);
    ensure!(
        metrics.cpu.usage.per_cpu.len() == per_cpu,
        "per_cpu: Stats {:?}, runc {per_cpu} of them",
        metrics.cpu.usage.per_cpu
    );
    let sizes = data["hugetlb"].as_object().map_or(0, serde_json::Map::len);
    ensure!(metrics.hugetlb.len() == sizes, "hugetlb: {} and {sizes} sizes", metrics.hugetlb.len());
    life.end()
}

fn stats_stopped(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 0")?;
    unless_unimplemented(
        match life.task.stats() {
            Err(why) if why.code() == Some(Code::UNIMPLEMENTED) => Err(why),
            _ => Ok(()),
        },
        "Stats",
    )?;
    life.exit_status()?;
    let (answer, took) = timed(|| life.task.within(SOON).stats());
    ensure!(!matches!(answer, Err(CallError::Silent(_))), "Stats: no answer in {took:?}");
    life.task.delete("")?;
    refused(life.task.stats(), Code::NOT_FOUND, "Stats after Delete")?;
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn update(fixture: &Fixture) -> Result<()> {
    let life = limited(fixture)?;
    unless_unimplemented(
        life.task.update(&json!({
            "pids": { "limit": 55 },
            "memory": { "limit": 48 << 20 },
            "cpu": { "shares": 512 },
        })),
        "Update",
    )?;
    let (pids, memory) = (cgroup(&life, "pids")?, cgroup(&life, "memory")?);
    let limit = fs::read_to_string(pids.join("pids.max"))?;
    ensure!(limit.trim() == "55", "pids.max is {limit}");
    let file = if unified() { "memory.max" } else { "memory.limit_in_bytes" };
    let limit = fs::read_to_string(memory.join(file))?;
    ensure!(limit.trim() == (48_u32 << 20).to_string(), "{file} is {limit}");
    if !unified() {
        let shares = fs::read_to_string(cgroup(&life, "cpu")?.join("cpu.shares"))?;
        ensure!(shares.trim() == "512", "cpu.shares is {shares}");
    }
    life.end()
}

fn update_bad(fixture: &Fixture) -> Result<()> {
    let life = limited(fixture)?;
    unless_unimplemented(life.task.update(&json!({})), "Update")?;
    for (what, resources) in [
        ("a string for a limit", json!({ "pids": { "limit": "many" } })),
        ("no object", json!("nonsense")),
        ("a processor that is not there", json!({ "cpu": { "cpus": "4000-4001" } })),
    ] {
        match life.task.update(&resources) {
            Err(CallError::Refused { .. }) => {}
            other => bail!("Update with {what} answered {other:?}"),
        }
    }
    let limit = fs::read_to_string(cgroup(&life, "pids")?.join("pids.max"))?;
    ensure!(limit.trim() == "77", "pids.max became {limit}");
    ensure!(life.status()? == Status::RUNNING);
    life.end()
}

fn oom(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shaped("exec tail /dev/zero", |spec| {
        spec["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20, "swap": 16 << 20 });
    })?;
    let mut life = fixture.create(bundle)?;
    cgroup(&life, "memory")?;
    life.start()?;
    let status = life.task.within(Duration::from_secs(20)).wait("").context("Wait")?.exit_status;
    ensure!(status == 137, "the exit status is {status}");
    let id = life.task.id().to_owned();
    let events = fixture.events.borrow();
    ensure!(events.wait_for(SOON, &id, "exit"), "no exit event");
    events.wait_for(Duration::from_secs(2), &id, "oom");
    let words = events.words(&id);
    drop(events);
    let at = |word: &str| words.iter().position(|seen| seen == word);
    let told = at("oom").with_context(|| format!("no oom event: {words:?}"))?;
    ensure!(at("exit").is_some_and(|exit| told < exit), "the order is {words:?}");
    life.end()
}

fn cgroup_path(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let path = cgroup(&life, "pids")?;
    let expected = format!("{}/{}", fixture.token, life.task.id());
    ensure!(path.ends_with(&expected), "it is in {}", path.display());
    life.end()
}

fn controllers(fixture: &Fixture) -> Result<()> {
    let top = Path::new("/sys/fs/cgroup");
    let Ok(all) = fs::read_to_string(top.join("cgroup.controllers")) else {
        return not_offered("this host has cgroup v1");
    };
    let life = fixture.run("exec sleep 100")?;
    let own = fs::read_to_string(cgroup(&life, "")?.join("cgroup.controllers"))?;
    let missing: Vec<&str> =
        all.split_whitespace().filter(|name| !own.split_whitespace().any(|o| o == *name)).collect();
    ensure!(missing.is_empty(), "the container's group lacks {missing:?}");
    life.end()
}
