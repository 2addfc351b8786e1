//! What every container shares with the host: the runtime's binary, keys, signals.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use harness::image::hex;
use harness::programs;
use harness::shim::bundle;
use harness::wait;
use serde_json::json;

use crate::attack::{Attack, on_both, within};
use crate::engine::Engine;
use crate::fixture::{Fixture, SOON};
use crate::sys;

pub(crate) fn attacks() -> Vec<Attack> {
    [
        within(
            120,
            on_both(
                "A.2",
                "overwrite-the-runtime",
                "the runtime's binary cannot be written from a container, nor after a kill of the shim",
                overwrite,
            ),
        ),
        on_both(
            "A.5",
            "key-of-the-daemon",
            "a container, and an exec in it, has a session keyring of its own",
            key,
        ),
        on_both("A.8", "signals", "no signal is left ignored in a container", signals),
    ]
    .concat()
}

/// With copies of the binaries, since a success would hit every container of this machine.
fn overwrite(fixture: &Fixture) {
    let home = fixture.root().dir("bin");
    let copy = |from: &std::path::Path| {
        let to = home.join(from.file_name().expect("a file"));
        fs::copy(from, &to).expect("copy a binary");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("make it executable");
        to
    };
    let shim_path = copy(&programs::ours(fixture.engine.shim()));
    let runc = (fixture.engine == Engine::Runc).then(|| copy(&programs::system("runc")));
    let digests = || -> Vec<String> {
        [Some(&shim_path), runc.as_ref()]
            .into_iter()
            .flatten()
            .map(|path| hex(&fs::read(path).expect("read a binary")))
            .collect()
    };
    let before = digests();
    let daemon = &fixture.daemon;
    let lower = fixture.lower("lower-o");
    let script = lower.join("bin/evil");
    fs::write(&script, "#!/proc/self/exe\n").expect("write a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("make it executable");
    let mut bundle = daemon.over(&lower, "", |spec| {
        fixture.equip(spec);
        spec["process"]["args"] = json!(["/attack", "--in-container", "overwrite"]);
        spec["process"]["noNewPrivileges"] = json!(false);
    });
    if let Some(runc) = &runc {
        bundle.options.get_or_insert_default().binary_name = runc.display().to_string();
    }
    let mut invocation = daemon.invocation(&bundle, harness::shim::Dialect::V1_6);
    invocation.binary.clone_from(&shim_path);
    bundle.log.as_ref().expect("it has one").follow().expect("read the log");
    let shim = daemon.start_with(&invocation);
    let task = shim.task(&bundle.id);
    task.create(&bundle.create_request()).expect("Create");
    task.start("").expect("Start");
    fixture.waits_for("ready");
    for number in 0..40 {
        let name = format!("e{number}");
        let process = bundle::process(&["/bin/evil".to_owned()]);
        // Its result does not matter.
        let started =
            task.exec(&task.exec_request(&name, &process)).and_then(|()| task.start(&name));
        if started.is_ok() {
            let _ = task.within(SOON).wait(&name);
        }
        let _ = task.delete(&name);
        if fixture.shared().join("caught").exists() {
            break;
        }
    }
    wait::pass(Duration::from_millis(300));
    let alive = digests();
    shim.kill();
    // No process executes the file now, and the container goes on for a moment.
    wait::pass(Duration::from_secs(1));
    let killed = digests();
    fs::write(fixture.shared().join("stop"), "").expect("stop it");
    // By the binary that nothing was tried on.
    let own = daemon.invocation(&bundle, harness::shim::Dialect::V1_6);
    own.delete().expect("what a daemon does after a shim was killed");
    daemon.forget();
    let how = fs::read_to_string(fixture.shared().join("wrote")).unwrap_or_default();
    assert_eq!(alive, before, "a binary of the host was overwritten: {how}");
    assert_eq!(killed, before, "a binary of the host was overwritten after a kill: {how}");
}

fn key(fixture: &Fixture) {
    let description = format!("attack-{}", fixture.root().namespace());
    sys::join_session_keyring(&description).expect("a session keyring");
    sys::add_key(&description).expect("a key in it");
    assert!(sys::finds_key(&description), "the host finds its key");
    let args = ["/attack", "--in-container", "key", &description].map(str::to_owned);
    let bundle = fixture.daemon.shaped("", |spec| {
        fixture.equip(spec);
        spec["process"]["args"] = json!(args);
    });
    let outcome = fixture.outcome(&bundle);
    let got_out = fixture.shared().join("got-out");
    assert!(!got_out.exists(), "a container found a key of its daemon's session");
    assert_eq!(outcome, Ok(0));
    let bundle = fixture.daemon.shaped("sleep 1000", |spec| fixture.equip(spec));
    let (shim, task) = fixture.daemon.run(&bundle);
    task.exec(&task.exec_request("e", &bundle::process(&args))).expect("Exec");
    task.start("e").expect("Start of an exec");
    task.within(SOON).wait("e").expect("Wait");
    task.delete("e").expect("Delete of an exec");
    fixture.daemon.end(&shim, &task);
    assert!(!got_out.exists(), "an exec found a key of its daemon's session");
}

fn signals(fixture: &Fixture) {
    let bundle = fixture.daemon.shaped("", |spec| {
        // Without a shell, which ignores signals of its own.
        spec["process"]["args"] = json!(["/bin/grep", "Sig[IB]", "/proc/self/status"]);
    });
    let (outcome, said) = fixture.said(&bundle);
    assert_eq!(outcome, Ok(0));
    assert!(said.contains("SigIgn"), "{said}");
    for line in said.lines() {
        let mask = line.rsplit('\t').next().and_then(|mask| u64::from_str_radix(mask, 16).ok());
        assert_eq!(mask, Some(0), "{line}");
    }
}
