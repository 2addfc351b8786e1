//! Where a shim lives: its socket, its process, its group, its answers to `-v` and `-info`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::shim::ttrpc::Code;
use harness::shim::{Dialect, Invocation, launch, task, until};
use harness::wait::{self, QUIET};
use nix::sys::signal::Signal;
use protos::ttrpc::protobuf::Message;
use protos::ttrpc::types::introspection::RuntimeInfo;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::bootstrap::{modern, served};
use crate::fixture::{Fixture, SOON, finish, refused, timed, unless_unimplemented};
use crate::row::{Row, row};
use crate::verdict::not_offered;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "version",
            "-v names the program and its version and ends with 0",
            "§1.1, point 27",
            version,
        ),
        row("info", "-info answers with a RuntimeInfo, with options or without", "§1.3", info),
        row("info-quick", "-info answers at once, since it taxes every Create", "§1.3", info_quick),
        row("task-v2-and-v3", "one server serves both names of the task service", "§1.1", both),
        row(
            "unknown-service",
            "what is not served is UNIMPLEMENTED, never NOT_FOUND",
            "§2",
            unknown_service,
        ),
        row(
            "socket-name",
            "the socket is the digest of address, namespace and id",
            "§1.1",
            socket_name,
        ),
        row("socket-modes", "only the owner gets at the socket", "§1.1", socket_modes),
        row("socket-peer", "another user cannot connect", "§1.1", socket_peer),
        row(
            "socket-dir",
            "socket_dir is honoured, and `s` in the bundle points there",
            "§1.1",
            socket_dir,
        ),
        row(
            "socket-dir-long",
            "a socket_dir that leaves no room for a name is refused in words, at once",
            "§1.1",
            socket_dir_long,
        ),
        row(
            "socket-removed",
            "a shim that leaves takes its socket along",
            "point 25",
            socket_removed,
        ),
        row("socket-stale", "a socket without a server is replaced", "§1.2", socket_stale),
        row(
            "group-label",
            "containers with one group label share a shim",
            "§1.2, pain 15",
            |fixture| grouped(fixture, "io.containerd.runc.v2.group"),
        ),
        row(
            "group-sandbox",
            "containers of one sandbox share a shim",
            "§1.2, pain 15",
            |fixture| grouped(fixture, "io.kubernetes.cri.sandbox-id"),
        ),
        row("group-precedence", "the group label counts before the sandbox's", "§1.2", precedence),
        row(
            "group-member-gone",
            "one member's delete leaves the others and the shim",
            "§1.4, pain 15",
            member,
        ),
        row(
            "sigterm-empty",
            "SIGTERM or SIGINT ends a shim without tasks, and its socket with it",
            "§1.5, pain 11",
            sigterm,
        ),
        row(
            "bundle-gone",
            "a shim without tasks whose bundle was removed leaves by itself",
            "pain 16",
            bundle_gone,
        ),
        row(
            "sigusr1",
            "SIGUSR1 does not hurt and leaves something in the log",
            "point 25",
            sigusr1,
        ),
        row(
            "leaves-when-told",
            "Shutdown after the last delete ends the shim within its 3 s",
            "§1.4",
            leaves,
        ),
        row(
            "connections",
            "a client that comes and goes, or speaks badly, leaves no trace",
            "pain 14",
            connections,
        ),
    ]
}

fn version(fixture: &Fixture) -> Result<()> {
    let output = launch::run(Command::new(&fixture.options.shim).arg("-v"), &[], SOON)?;
    ensure!(output.status.success(), "-v: {}: {}", output.status, output.complaint());
    let text = String::from_utf8_lossy(&output.out).into_owned();
    let name = fixture.options.shim.file_name().unwrap_or_default().to_string_lossy();
    ensure!(text.contains(name.as_ref()), "-v does not name {name}: {text:?}");
    ensure!(text.to_lowercase().contains("version"), "-v tells no version: {text:?}");
    Ok(())
}

fn runtime_info(fixture: &Fixture, input: &[u8]) -> Result<RuntimeInfo> {
    let mut command = Command::new(&fixture.options.shim);
    command.arg("-info").current_dir(&fixture.dir);
    let output = launch::run(&mut command, input, SOON)?;
    if !output.status.success() {
        let complaint = output.complaint();
        if complaint.contains("-info") && complaint.contains("not defined") {
            return not_offered("the shim is too old to know -info");
        }
        anyhow::bail!("-info: {}: {complaint}", output.status);
    }
    RuntimeInfo::parse_from_bytes(&output.out).context("read the RuntimeInfo")
}

fn info(fixture: &Fixture) -> Result<()> {
    let plain = runtime_info(fixture, &[])?;
    ensure!(!plain.name.is_empty(), "the RuntimeInfo has no name: {plain}");
    let bundle = fixture.shell("exit 0")?;
    let options = match bundle.options_any() {
        Some(any) => any.write_to_bytes()?,
        None => b"\x0a\x1acontainerd.runc.v1.Options".to_vec(),
    };
    let told = runtime_info(fixture, &options).context("with options")?;
    for info in [&plain, &told] {
        let Some(features) = info.features.as_ref() else { continue };
        let json: serde_json::Value =
            serde_json::from_slice(&features.value).context("the features as JSON")?;
        ensure!(json.is_object(), "the features are {json}");
        ensure!(
            features.type_url.contains("Features") || features.type_url.contains("features"),
            "the features' type is {:?}",
            features.type_url
        );
    }
    Ok(())
}

fn info_quick(fixture: &Fixture) -> Result<()> {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let (info, took) = timed(|| runtime_info(fixture, &[]));
        info?;
        best = best.min(took);
    }
    ensure!(best < Duration::from_millis(150), "the quickest of 5 took {best:?}");
    Ok(())
}

fn both(fixture: &Fixture) -> Result<()> {
    let life = fixture.create(fixture.shell("exec sleep 100")?)?;
    let served = served(&life.shim, life.task.id())?;
    if served == [task::V2] {
        return not_offered("task v2 alone is served");
    }
    ensure!(served == [task::V2, task::V3], "served: {served:?}");
    // One life over both, in turns.
    let (v2, v3) = (life.task.speaking(task::V2), life.task.speaking(task::V3));
    let started = v3.start("")?;
    ensure!([started, 0].contains(&life.pid), "Start through v3 gave another process");
    ensure!(v2.state("")? == v3.state("")?, "v2 and v3 tell different states");
    v2.kill("", 9)?;
    ensure!(v3.wait("")?.exit_status == 137);
    ensure!(v2.delete("")?.exit_status == 137);
    refused(v3.state(""), Code::NOT_FOUND, "State through v3 after Delete through v2")?;
    life.shim.leave(&life.bundle.id)?;
    fixture.nothing_left()
}

fn unknown_service(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let shim = fixture.start(&bundle)?;
    for (service, method) in [
        ("containerd.runtime.sandbox.v1.Sandbox", "SandboxStatus"),
        ("containerd.services.transfer.v1.Transfer", "Transfer"),
        ("containerd.services.streaming.v1.TTRPCStreaming", "Stream"),
        ("example.test.Nothing", "Nothing"),
        (shim.reply.service(), "NoSuchMethod"),
    ] {
        let pending = shim.client.send(service, method, Vec::new(), Duration::ZERO)?;
        let answer: std::result::Result<protos::ttrpc::api::Empty, _> = pending.wait(SOON);
        match answer {
            Err(why)
                if matches!(why.code(), Some(Code::UNIMPLEMENTED | Code::INVALID_ARGUMENT)) => {}
            // A sandbox service that is there may refuse a request without an id in its own words.
            Err(why)
                if service.contains("Sandbox")
                    && why.code().is_some_and(|code| code != Code::NOT_FOUND) => {}
            other => anyhow::bail!("{service}.{method} answered {other:?}"),
        }
    }
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn socket_name(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let shim = fixture.start(&bundle)?;
    let invocation = fixture.invocation(&bundle);
    let joined = format!("{}/{}/{}", invocation.address, invocation.namespace, invocation.id);
    let digest: String =
        Sha256::digest(joined.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = format!("unix:///run/containerd/s/{digest}");
    let got = shim.reply.address.clone();
    shim.leave(&bundle.id)?;
    ensure!(got == expected, "the address is {got}, expected {expected}");
    fixture.nothing_left()
}

fn socket_modes(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let shim = fixture.start(&bundle)?;
    let socket = shim.socket();
    if !socket.is_absolute() {
        shim.leave(&bundle.id)?;
        return not_offered(format!("the address {} is no file", shim.reply.address));
    }
    let mode = fs::metadata(&socket)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{} has mode {mode:o}", socket.display());
    let parent = socket.parent().context("a socket has a directory")?;
    let mode = fs::metadata(parent)?.permissions().mode() & 0o777;
    // Other shims on this host may have made the directory first.
    ensure!(mode & 0o066 == 0, "{} has mode {mode:o}", parent.display());
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn socket_peer(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let shim = fixture.start(&bundle)?;
    let socket = shim.socket();
    // Even where the file lets everybody in: the peer is looked at as well.
    let before = fs::metadata(&socket)?.permissions();
    let parent = socket.parent().context("a socket has a directory")?.to_owned();
    let reachable = fs::metadata(&parent)?.permissions().mode() & 0o005 != 0;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    let mut command = Command::new("/bin/busybox");
    command
        .args(["nc", "-w", "2"])
        .arg(format!("local:{}", socket.display()))
        .uid(65534)
        .gid(65534);
    let output = launch::run(&mut command, b"hello, who are you?", SOON);
    fs::set_permissions(&socket, before)?;
    let output = output?;
    ensure!(
        output.out.is_empty(),
        "another user was answered (directory reachable: {reachable}): {:?}",
        String::from_utf8_lossy(&output.out)
    );
    ensure!(shim.alive(), "the shim died of it");
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn socket_dir(fixture: &Fixture) -> Result<()> {
    modern(fixture)?;
    let bundle = fixture.shell("exit 0")?;
    let place = fixture.dir.join("s");
    let invocation = Invocation {
        dialect: Dialect::V2_3,
        socket_dir: Some(place.display().to_string()),
        ..fixture.invocation(&bundle)
    };
    let shim = fixture.start_with(&invocation)?;
    let socket = shim.socket();
    ensure!(socket.starts_with(&place), "the socket is {}", socket.display());
    ensure!(
        fs::read_link(bundle.path.join("s")).is_ok_and(|link| link == place),
        "`s` in the bundle is {:?}",
        fs::read_link(bundle.path.join("s"))
    );
    shim.leave(&bundle.id)?;
    ensure!(!socket.exists(), "{} is still there", socket.display());
    fixture.nothing_left()
}

fn socket_dir_long(fixture: &Fixture) -> Result<()> {
    modern(fixture)?;
    let bundle = fixture.shell("exit 0")?;
    let place = fixture.dir.join("x".repeat(90));
    let invocation = Invocation {
        dialect: Dialect::V2_3,
        socket_dir: Some(place.display().to_string()),
        ..fixture.invocation(&bundle)
    };
    let output = invocation.start_raw(&invocation.input())?;
    if output.status.success() {
        // What it did instead has to work.
        let reply = launch::understand(Dialect::V2_3, &output.combined())?;
        fixture.note_socket(&reply.address)?;
        return fixture.connect(&reply, &bundle.id)?.leave(&bundle.id);
    }
    ensure!(!output.combined().is_empty(), "it failed without a word");
    fixture.nothing_left()
}

fn socket_removed(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 0")?;
    let socket = life.shim.socket();
    finish(&life.task)?;
    life.shim.leave(&life.bundle.id)?;
    ensure!(!socket.exists(), "{} is still there", socket.display());
    Ok(())
}

fn socket_stale(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let shim = fixture.start(&bundle)?;
    let first = shim.reply.address.clone();
    shim.signal(Signal::SIGKILL)?;
    shim.gone(SOON)?;
    ensure!(shim.socket().exists(), "the killed shim's socket went by itself");
    let second = fixture.start(&bundle).context("start over a stale socket")?;
    ensure!(second.reply.address == first, "the address became {}", second.reply.address);
    second.leave(&bundle.id)?;
    fixture.nothing_left()
}

/// The addresses of two shims whose bundles bear these labels.
fn grouped(fixture: &Fixture, label: &str) -> Result<()> {
    let group = fixture.token.clone();
    let labelled =
        |script: &str| fixture.shaped(script, |spec| spec["annotations"] = json!({ label: group }));
    let (first, second) = (labelled("exec sleep 100")?, labelled("exit 3")?);
    let shim = fixture.start(&first)?;
    let joined = fixture.start(&second)?;
    if joined.reply.address != shim.reply.address {
        joined.leave(&second.id)?;
        shim.leave(&first.id)?;
        return not_offered(format!("the shim does not group by {label}"));
    }
    ensure!(joined.pid == shim.pid, "two processes serve one address");
    let (one, two) = (shim.task(&first.id), shim.task(&second.id));
    one.create(&first.create_request())?;
    one.start("")?;
    two.create(&second.create_request())?;
    two.start("")?;
    ensure!(two.within(SOON).wait("")?.exit_status == 3);
    finish(&two)?;
    two.shutdown()?;
    ensure!(
        until(Duration::from_millis(500), || (!shim.alive()).then_some(())).is_none(),
        "the shim left while a member runs"
    );
    ensure!(one.state("")?.pid > 0);
    finish(&one)?;
    shim.leave(&first.id)?;
    fixture.nothing_left()
}

fn precedence(fixture: &Fixture) -> Result<()> {
    let bundles = [("g1", "s1"), ("g1", "s2"), ("g2", "s1")].map(|(group, sandbox)| {
        let name = |part: &str| format!("{}{part}", fixture.token);
        fixture.shaped("exit 0", |spec| {
            spec["annotations"] = json!({
                "io.containerd.runc.v2.group": name(group),
                "io.kubernetes.cri.sandbox-id": name(sandbox),
            });
        })
    });
    let [a, b, c] = bundles;
    let (a, b, c) = (a?, b?, c?);
    let shims = [fixture.start(&a)?, fixture.start(&b)?, fixture.start(&c)?];
    let addresses: Vec<&str> = shims.iter().map(|shim| shim.reply.address.as_str()).collect();
    let distinct: BTreeSet<&str> = addresses.iter().copied().collect();
    let verdict = match (distinct.len(), addresses[0] == addresses[1]) {
        (2, true) => Ok(()),
        (3, false) => not_offered("the shim does not group"),
        _ => Err(anyhow::anyhow!("same group, same group, other group: {addresses:?}")),
    };
    for (shim, bundle) in shims.iter().zip([&a, &b, &c]) {
        if shim.alive() {
            shim.leave(&bundle.id)?;
        }
    }
    verdict
}

fn member(fixture: &Fixture) -> Result<()> {
    let labelled = || {
        fixture.shaped("exec sleep 100", |spec| {
            spec["annotations"] = json!({ "io.containerd.runc.v2.group": fixture.token });
        })
    };
    let (first, second) = (labelled()?, labelled()?);
    let shim = fixture.start(&first)?;
    if fixture.start(&second)?.reply.address != shim.reply.address {
        return not_offered("the shim does not group");
    }
    let (one, two) = (shim.task(&first.id), shim.task(&second.id));
    for (task, bundle) in [(&one, &first), (&two, &second)] {
        task.create(&bundle.create_request())?;
        task.start("")?;
    }
    // The first is the one that the shim was started for.
    finish(&one)?;
    let removed = fixture.invocation(&first).delete_raw()?;
    ensure!(removed.status.success(), "delete of a member: {}", removed.complaint());
    one.shutdown()?;
    ensure!(wait::holds(QUIET, || shim.alive()), "the shim left with one member");
    refused(one.state(""), Code::NOT_FOUND, "State of the member that is gone")?;
    unless_unimplemented(two.pids(), "Pids")?;
    ensure!(two.state("")?.pid > 0);
    finish(&two)?;
    shim.leave(&second.id)?;
    fixture.nothing_left()
}

fn sigterm(fixture: &Fixture) -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let bundle = fixture.shell("exit 0")?;
        let shim = fixture.start(&bundle)?;
        let socket = shim.socket();
        shim.signal(signal)?;
        shim.gone(Duration::from_secs(5)).with_context(|| signal.to_string())?;
        ensure!(!socket.exists(), "{signal}: {} is still there", socket.display());
    }
    fixture.nothing_left()
}

fn bundle_gone(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let shim = fixture.start(&bundle)?;
    shim.client.close();
    fs::remove_dir_all(&bundle.path)?;
    shim.gone(SOON)?;
    fixture.nothing_left()
}

fn sigusr1(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let log = life.bundle.log.as_ref().context("the bundle has a log")?;
    let before = log.bytes().len();
    life.shim.signal(Signal::SIGUSR1)?;
    let grew = log.wait(SOON, |bytes, _| bytes.len() > before);
    ensure!(life.task.state("")?.pid == life.pid, "the container is not the one that was");
    ensure!(grew, "nothing was added to the log");
    life.end()
}

fn leaves(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exit 0")?;
    finish(&life.task)?;
    let (left, took) = timed(|| life.shim.leave(&life.bundle.id));
    left?;
    ensure!(took < Duration::from_secs(3), "it took {took:?}");
    fixture.nothing_left()
}

fn connections(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    for _ in 0..20 {
        life.task.state("")?;
    }
    let (threads, descriptors) = wait::steady(|| (life.shim.threads(), life.shim.descriptors()));
    for round in 0..100_u32 {
        let client = life.shim.reconnect()?;
        // Good clients, half frames, frames that are too long, and frames that hold nothing.
        let bytes: &[u8] = match round % 5 {
            0 => &[],
            1 => b"\0\0",
            2 => b"\xff\xff\xff\xff\0\0\0\x01\x01\0",
            3 => b"\0\0\0\x04\0\0\0\x01\x01\0\xff\xff\xff\xff",
            _ => b"GET / HTTP/1.1\r\n\r\n",
        };
        client.send_raw(bytes)?;
        if round % 5 == 0 {
            harness::shim::Task::new(&client, life.shim.reply.service(), life.task.id())
                .state("")?;
        }
        client.close();
    }
    ensure!(life.shim.alive(), "the shim died of it");
    let (answer, took) = timed(|| life.task.state(""));
    answer.context("State, for the client that behaves")?;
    ensure!(took < Duration::from_secs(2), "State took {took:?}");
    let after = until(Duration::from_secs(5), || {
        let now = (life.shim.threads(), life.shim.descriptors());
        (now.0 <= threads + 2 && now.1 <= descriptors + 1).then_some(())
    });
    ensure!(
        after.is_some(),
        "threads {threads} -> {}, descriptors {descriptors} -> {}",
        life.shim.threads(),
        life.shim.descriptors()
    );
    life.end()
}
