//! `start` in every dialect, and how it fails.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::shim::launch::{Output, understand};
use harness::shim::ttrpc::Code;
use harness::shim::{Bundle, Dialect, Invocation, Reply, Task, task};
use protos::ttrpc::bootstrap_api::BootstrapParams;
use protos::ttrpc::protobuf::{EnumOrUnknown, Message};

use crate::fixture::{Fixture, SOON, Shim};
use crate::row::{Row, row};
use crate::verdict::not_offered;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(
            "start-1.6",
            "containerd 1.6 gives no options and reads one address",
            "§1.1, pain 10",
            |fixture| speak(fixture, Dialect::V1_6, None),
        ),
        row(
            "start-1.6-options",
            "options as a bare Any do not make the reply something newer",
            "§1.1, pain 10",
            |fixture| speak(fixture, Dialect::V1_6, Some(OPTIONS)),
        ),
        row(
            "start-1.7",
            "containerd 1.7 reads an address or JSON of version 2",
            "§1.1, pain 10",
            |fixture| speak(fixture, Dialect::V1_7, Some(OPTIONS)),
        ),
        row(
            "start-2.0",
            "containerd 2.0 to 2.2 read an address or JSON of version 3",
            "§1.1, pain 10",
            |fixture| speak(fixture, Dialect::V2_0, Some(OPTIONS)),
        ),
        row(
            "start-2.3",
            "containerd 2.3 sends BootstrapParams and gets a BootstrapResult",
            "§1.1, pain 10",
            params,
        ),
        row(
            "start-golden-params",
            "the same parameters as literal bytes are understood",
            "§1.1, pain 10",
            golden,
        ),
        row(
            "start-any-is-not-params",
            "an Any whose fields parse as parameters is taken for what it is",
            "§1.1, pain 10",
            |fixture| speak(fixture, Dialect::V1_7, Some(LIKE_PARAMS)),
        ),
        row("start-log-levels", "unknown log levels are mapped, not refused", "§1.1", levels),
        row(
            "start-unknown-fields",
            "fields and extensions from the future are ignored",
            "§1.1",
            unknown,
        ),
        row(
            "start-quiet",
            "nothing but the reply reaches stdout or stderr, with -debug either",
            "§1.1",
            quiet,
        ),
        row("start-lets-go", "no process that start leaves holds its output open", "§1.1", lets_go),
        row(
            "start-garbage",
            "input that is no message at all is refused or ignored, at once",
            "§1.1, pain 10",
            garbage,
        ),
        row(
            "start-endless-input",
            "more input than the cap of 10 MiB neither hangs nor is swallowed",
            "§1.1",
            endless,
        ),
        row("start-without-events", "no event endpoint is needed to start", "§2", without_events),
        row("start-without-log", "no log fifo is needed to start", "pain 6", without_log),
        row(
            "start-log-unread",
            "a log fifo without a reader does not hang the start",
            "pain 6",
            log_unread,
        ),
        row(
            "start-fails",
            "a start that cannot work says why, ends with an error and leaves nothing",
            "§1.1",
            fails,
        ),
        row(
            "start-bad-id",
            "an id that is no identifier cannot name a place elsewhere",
            "§1.1",
            bad_id,
        ),
        row(
            "start-twice",
            "a second start for the same id joins or is refused; the first lives on",
            "§1.2",
            twice,
        ),
    ]
}

/// `containerd.runc.v1.Options { shim_cgroup: "", binary_name: "" }` with `systemd_cgroup` unset,
/// as containerd 1.6 packs it: the type's bare name and no bytes.
const OPTIONS: &[u8] = b"\x0a\x1acontainerd.runc.v1.Options";

/// An Any whose two fields would be an instance id and a namespace.
const LIKE_PARAMS: &[u8] = b"\x0a\x1acontainerd.runc.v1.Options\x12\x02\x08\x00";

fn speak(fixture: &Fixture, dialect: Dialect, input: Option<&[u8]>) -> Result<()> {
    let bundle = opened(fixture)?;
    let invocation = Invocation { dialect, ..fixture.invocation(&bundle) };
    let output = invocation.start_raw(input.unwrap_or_default())?;
    let reply = accepted(dialect, &output)?;
    serves(fixture, &reply, &bundle)
}

fn params(fixture: &Fixture) -> Result<()> {
    let bundle = opened(fixture)?;
    let invocation = Invocation { dialect: Dialect::V2_3, ..fixture.invocation(&bundle) };
    let output = invocation.start_raw(&invocation.input())?;
    if !output.status.success() && serves_legacy(fixture, &bundle)? {
        return not_offered(format!("start takes no BootstrapParams: {}", output.complaint()));
    }
    let reply = accepted(Dialect::V2_3, &output)?;
    ensure!(reply.form == "protobuf", "asked in protobuf, it answered in {}", reply.form);
    serves(fixture, &reply, &bundle)
}

fn golden(fixture: &Fixture) -> Result<()> {
    modern(fixture)?;
    let bundle = opened(fixture)?;
    let invocation = Invocation { dialect: Dialect::V2_3, ..fixture.invocation(&bundle) };
    // Field by field: a tag, a length, the bytes.
    let mut bytes = Vec::new();
    for (tag, text) in [
        (0x0a, invocation.id.as_str()),
        (0x12, invocation.namespace.as_str()),
        (0x22, "v2.3.0"),
        (0x2a, invocation.ttrpc.as_str()),
        (0x32, invocation.address.as_str()),
        (0x3a, "/usr/bin/containerd"),
    ] {
        bytes.push(tag);
        bytes.push(u8::try_from(text.len())?);
        bytes.extend_from_slice(text.as_bytes());
        if tag == 0x12 {
            // LOG_LEVEL_DEBUG is -4: ten bytes as a varint.
            bytes.extend_from_slice(b"\x18\xfc\xff\xff\xff\xff\xff\xff\xff\xff\x01");
        }
    }
    let output = invocation.start_raw(&bytes)?;
    let reply = accepted(Dialect::V2_3, &output)?;
    // version, address, protocol: in this order, and nothing that a reader of 2.3 would not know.
    let mut expected = vec![0x08, u8::try_from(reply.version)?, 0x12];
    expected.push(u8::try_from(reply.address.len())?);
    expected.extend_from_slice(reply.address.as_bytes());
    expected.extend_from_slice(b"\x1a\x05ttrpc");
    ensure!(
        output.out.starts_with(&expected),
        "the result is {:?}, expected to begin with {:?}",
        String::from_utf8_lossy(&output.out),
        String::from_utf8_lossy(&expected)
    );
    serves(fixture, &reply, &bundle)
}

fn levels(fixture: &Fixture) -> Result<()> {
    modern(fixture)?;
    for level in [-9, -8, -4, -2, 0, 1, 4, 7, 8, 12, 99] {
        let bundle = opened(fixture)?;
        let invocation = Invocation { dialect: Dialect::V2_3, ..fixture.invocation(&bundle) };
        let params =
            BootstrapParams { log_level: EnumOrUnknown::from_i32(level), ..invocation.params() };
        with_params(fixture, &bundle, &invocation, &params)
            .with_context(|| format!("log level {level}"))?;
    }
    Ok(())
}

fn unknown(fixture: &Fixture) -> Result<()> {
    modern(fixture)?;
    let bundle = opened(fixture)?;
    let invocation = Invocation { dialect: Dialect::V2_3, ..fixture.invocation(&bundle) };
    let mut params = invocation.params();
    let mut extension = protos::ttrpc::bootstrap_api::Extension::new();
    extension.value = Some(protos::ttrpc::protobuf::well_known_types::any::Any {
        type_url: "example.test/of.the.Future".to_owned(),
        value: vec![0xff; 16],
        ..Default::default()
    })
    .into();
    params.extensions.push(extension);
    let mut bytes = params.write_to_bytes()?;
    // Field 99 as a string, and field 98 as a varint.
    bytes.extend_from_slice(b"\x9a\x06\x03new\x90\x06\x2a");
    let output = invocation.start_raw(&bytes)?;
    let reply = accepted(Dialect::V2_3, &output)?;
    serves(fixture, &reply, &bundle)
}

fn quiet(fixture: &Fixture) -> Result<()> {
    for debug in [false, true] {
        let bundle = opened(fixture)?;
        let invocation = Invocation { debug, ..fixture.invocation(&bundle) };
        let output = invocation.start_raw(&invocation.input())?;
        ensure!(
            output.err.is_empty(),
            "with debug {debug}, start wrote to stderr: {:?}",
            String::from_utf8_lossy(&output.err)
        );
        let reply = accepted(invocation.dialect, &output)?;
        if reply.form == "plain" {
            let text = String::from_utf8_lossy(&output.out).into_owned();
            ensure!(
                text.trim_end_matches('\n') == reply.address,
                "start wrote more than an address: {text:?}"
            );
        }
        serves(fixture, &reply, &bundle)?;
    }
    Ok(())
}

fn lets_go(fixture: &Fixture) -> Result<()> {
    let bundle = opened(fixture)?;
    let invocation = fixture.invocation(&bundle);
    // Fails when the output does not end together with the process.
    let output = invocation.start_raw(&invocation.input())?;
    let reply = accepted(invocation.dialect, &output)?;
    let shim = noted(fixture, &reply, &bundle)?;
    for descriptor in 0..=1 {
        let target = fs::read_link(format!("/proc/{}/fd/{descriptor}", shim.pid))
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        ensure!(
            !target.starts_with("pipe:"),
            "descriptor {descriptor} of the server is still {target}"
        );
    }
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn garbage(fixture: &Fixture) -> Result<()> {
    for input in [&b"\x00\xff\xff\xff\xff\xff"[..], b"{\"json\":true}", b"\x0a\xff\xff\xff\xff\x0f"]
    {
        let bundle = opened(fixture)?;
        let invocation = fixture.invocation(&bundle);
        let output = invocation.start_raw(input)?;
        if output.status.success() {
            let reply = accepted(Dialect::V1_6, &output)?;
            serves(fixture, &reply, &bundle)?;
        } else {
            ensure!(!output.combined().is_empty(), "{input:?}: it failed without a word");
        }
        fixture.nothing_left().with_context(|| format!("after {input:?}"))?;
    }
    Ok(())
}

fn endless(fixture: &Fixture) -> Result<()> {
    let bundle = opened(fixture)?;
    let invocation = fixture.invocation(&bundle);
    let output = invocation.start_raw(&vec![0x0a; 12 << 20])?;
    if output.status.success() {
        let reply = accepted(Dialect::V1_6, &output)?;
        serves(fixture, &reply, &bundle)?;
    }
    fixture.nothing_left()
}

fn without_events(fixture: &Fixture) -> Result<()> {
    fixture.events.borrow_mut().down();
    let bundle = opened(fixture)?;
    let shim = fixture.start_with(&fixture.invocation(&bundle))?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn without_log(fixture: &Fixture) -> Result<()> {
    let mut bundle = fixture.shell("exit 0")?;
    // Dropping it removes the fifo.
    bundle.log = None;
    let shim = fixture.start_with(&fixture.invocation(&bundle))?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn log_unread(fixture: &Fixture) -> Result<()> {
    let bundle = fixture.shell("exit 0")?;
    let mut invocation = fixture.invocation(&bundle);
    invocation.limit = Duration::from_secs(5);
    let shim = fixture.start_with(&invocation)?;
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn fails(fixture: &Fixture) -> Result<()> {
    let bundle = opened(fixture)?;
    let nowhere = fixture.dir.join("b/empty");
    fs::create_dir_all(&nowhere)?;
    let broken = fixture.shell("exit 0")?;
    fs::write(broken.path.join("config.json"), "{\"annotations\": 7")?;
    for (what, bundle_path, id) in [
        ("a bundle without config.json", &nowhere, "empty"),
        ("half a config.json", &broken.path, broken.id.as_str()),
    ] {
        let invocation = Invocation {
            id: id.to_owned(),
            bundle: bundle_path.clone(),
            ..fixture.invocation(&bundle)
        };
        let output = invocation.start_raw(&invocation.input())?;
        if output.status.success() {
            // Reading the spec can wait until Create; then there is a shim to end.
            let reply = accepted(invocation.dialect, &output)?;
            let path = reply.address.trim_start_matches("unix://").to_owned();
            let shim = fixture.connect(&reply, id)?;
            shim.leave(id).with_context(|| format!("{what}, {path}"))?;
        } else {
            ensure!(!output.combined().is_empty(), "{what}: it failed without a word");
        }
        fixture.nothing_left().with_context(|| format!("after {what}"))?;
    }
    Ok(())
}

fn bad_id(fixture: &Fixture) -> Result<()> {
    let bundle = opened(fixture)?;
    for id in ["../../../etc", "", "a/b"] {
        let invocation = Invocation { id: id.to_owned(), ..fixture.invocation(&bundle) };
        let output = invocation.start_raw(&invocation.input())?;
        if output.status.success() {
            let reply = accepted(invocation.dialect, &output)?;
            let shim = fixture.connect(&reply, id)?;
            // Where the id only enters a digest, nothing of it names a place.
            let socket = shim.socket();
            shim.leave(id)?;
            ensure!(
                !socket.display().to_string().contains("etc"),
                "the id {id:?} made the socket {}",
                socket.display()
            );
        }
    }
    fixture.nothing_left()
}

fn twice(fixture: &Fixture) -> Result<()> {
    let life = fixture.run("exec sleep 100")?;
    let invocation = fixture.invocation(&life.bundle);
    let output = invocation.start_raw(&invocation.input())?;
    if output.status.success() {
        let reply = accepted(invocation.dialect, &output)?;
        ensure!(
            reply.address == life.shim.reply.address,
            "the second start answered {}, the first {}",
            reply.address,
            life.shim.reply.address
        );
    }
    let again =
        fixture.connect(&life.shim.reply, life.task.id()).context("the first one, after it")?;
    ensure!(again.pid == life.shim.pid, "another process serves {}", life.shim.reply.address);
    ensure!(life.task.state("")?.pid == life.pid, "the container is not the one that was");
    life.end()
}

/// A bundle whose log is read.
fn opened(fixture: &Fixture) -> Result<Bundle> {
    let bundle = fixture.shell("exit 0")?;
    if let Some(log) = &bundle.log {
        log.follow()?;
    }
    Ok(bundle)
}

fn accepted(dialect: Dialect, output: &Output) -> Result<Reply> {
    ensure!(output.status.success(), "start: {}: {}", output.status, output.complaint());
    understand(dialect, &output.combined()).with_context(|| {
        format!("{dialect:?} was answered {:?}", String::from_utf8_lossy(&output.combined()))
    })
}

fn noted<'s>(fixture: &'s Fixture, reply: &Reply, bundle: &Bundle) -> Result<Shim<'s>> {
    fixture.note_socket(&reply.address)?;
    fixture.connect(reply, &bundle.id)
}

/// The announced version is served, and the shim leaves when asked.
fn serves(fixture: &Fixture, reply: &Reply, bundle: &Bundle) -> Result<()> {
    let shim = noted(fixture, reply, bundle)?;
    match shim.task(&bundle.id).state("") {
        Err(why) if why.code() == Some(Code::NOT_FOUND) => {}
        other => bail!("State before Create answered {other:?}"),
    }
    shim.leave(&bundle.id)?;
    fixture.nothing_left()
}

fn with_params(
    fixture: &Fixture,
    bundle: &Bundle,
    invocation: &Invocation,
    params: &BootstrapParams,
) -> Result<()> {
    let output = invocation.start_raw(&params.write_to_bytes()?)?;
    let reply = accepted(Dialect::V2_3, &output)?;
    let shim = noted(fixture, &reply, bundle)?;
    shim.leave(&bundle.id)
}

/// Whether it starts for containerd 1.6.
fn serves_legacy(fixture: &Fixture, bundle: &Bundle) -> Result<bool> {
    let invocation = Invocation { dialect: Dialect::V1_6, ..fixture.invocation(bundle) };
    let output = invocation.start_raw(&[])?;
    if !output.status.success() {
        return Ok(false);
    }
    let reply = accepted(Dialect::V1_6, &output)?;
    let shim = noted(fixture, &reply, bundle)?;
    shim.leave(&bundle.id)?;
    Ok(true)
}

/// Ends the row as not offered when the shim is too old for BootstrapParams.
pub(crate) fn modern(fixture: &Fixture) -> Result<()> {
    if fixture.dialect == Dialect::V2_3 {
        return Ok(());
    }
    let bundle = opened(fixture)?;
    let invocation = Invocation { dialect: Dialect::V2_3, ..fixture.invocation(&bundle) };
    let output = invocation.start_raw(&invocation.input())?;
    if !output.status.success() {
        return not_offered(format!("start takes no BootstrapParams: {}", output.complaint()));
    }
    let reply = accepted(Dialect::V2_3, &output)?;
    let shim = noted(fixture, &reply, &bundle)?;
    shim.leave(&bundle.id)
}

/// Which of the two names of the task service are served.
pub(crate) fn served(shim: &Shim<'_>, id: &str) -> Result<Vec<&'static str>> {
    let mut served = Vec::new();
    for service in [task::V2, task::V3] {
        match Task::new(&shim.client, service, id).within(SOON).connect() {
            Ok(_) => served.push(service),
            Err(why)
                if matches!(
                    why.code(),
                    Some(Code::UNIMPLEMENTED | Code::INVALID_ARGUMENT | Code::NOT_FOUND)
                ) => {}
            Err(why) => bail!("Connect of {service}: {why}"),
        }
    }
    Ok(served)
}
