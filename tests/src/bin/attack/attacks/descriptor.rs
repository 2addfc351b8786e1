//! Ways to the host through descriptors, roots and directories that a container's processes hold.

use std::fs;

use harness::shim::bundle;
use harness::wait;
use serde_json::json;

use crate::attack::{Attack, on_both, within};
use crate::fixture::{Fixture, SOON, UP};

/// The descriptors that an init or a joining exec may hold.
const DESCRIPTORS: std::ops::Range<u32> = 3..24;

pub(crate) fn attacks() -> Vec<Attack> {
    [
        on_both(
            "A.1",
            "command-by-descriptor",
            "no command of an image is found through a descriptor of the runtime",
            command,
        ),
        on_both(
            "A.1",
            "directory-by-descriptor",
            "no working directory of an image is found through a descriptor of the runtime",
            directory,
        ),
        on_both(
            "A.1",
            "exec-by-descriptor",
            "no link of a container leads an operator's exec through a descriptor",
            exec,
        ),
        on_both(
            "A.1",
            "exec-is-watched",
            "a container with CAP_SYS_PTRACE finds no way out in a joining process",
            watched,
        ),
        on_both(
            "A.1",
            "created-is-watched",
            "a second container in its pid namespace finds no way out in a created one",
            created,
        ),
    ]
    .into_iter()
    .flat_map(|attacks| within(120, attacks))
    .collect()
}

/// A program of the host that does nothing and succeeds, since it goes by the name `true`.
fn tool(fixture: &Fixture) -> String {
    let tool = fixture.root().path().join("true");
    fs::copy(harness::programs::system("busybox"), &tool).expect("a program of the host");
    tool.display().to_string()
}

fn command(fixture: &Fixture) {
    let tool = tool(fixture);
    for number in DESCRIPTORS {
        let path = format!("/proc/self/fd/{number}/{UP}{tool}");
        let bundle = fixture.daemon.shaped("", |spec| {
            spec["process"]["args"] = json!([path]);
        });
        let outcome = fixture.outcome(&bundle);
        assert!(outcome != Ok(0), "{path} was executed");
    }
}

fn directory(fixture: &Fixture) {
    let secret = fixture.secret();
    for number in DESCRIPTORS {
        for tail in ["", "/..", "/rootfs/tmp"] {
            let cwd = format!("/proc/self/fd/{number}{tail}");
            let script = format!("cat ./{UP}{} && exit 7; exit 0", secret.display());
            let bundle = fixture.daemon.shaped(&script, |spec| {
                spec["process"]["cwd"] = json!(cwd);
            });
            let (outcome, said) = fixture.said(&bundle);
            let out = outcome == Ok(7) || said.contains("the host's");
            assert!(!out, "from {cwd} the host's files were read");
        }
    }
}

fn exec(fixture: &Fixture) {
    let secret = fixture.secret();
    let tool = tool(fixture);
    let script = format!(
        "for n in $(seq {} {}); do\n\
           mkdir /tmp/bin$n\n\
           busybox ln -s /proc/self/fd/$n/{UP}{tool} /tmp/bin$n/true\n\
           busybox ln -s /proc/self/fd/$n /tmp/dir$n\n\
         done; : >/tmp/ready; sleep 1000",
        DESCRIPTORS.start,
        DESCRIPTORS.end - 1
    );
    let bundle = fixture.daemon.bundle(&script);
    let (shim, task) = fixture.daemon.run(&bundle);
    let outcome = |name: String, process: &serde_json::Value| -> Result<u32, String> {
        let said = task.exec(&task.exec_request(&name, process)).and_then(|()| task.start(&name));
        let ended = said.and_then(|_| task.within(SOON).wait(&name)).map(|exit| exit.exit_status);
        // One that was refused may be known all the same.
        let _ = task.delete(&name);
        ended.map_err(|why| why.to_string())
    };
    let ready = bundle::process(&bundle::shell("until [ -e /tmp/ready ]; do sleep 0.01; done"));
    assert_eq!(outcome("ready".to_owned(), &ready), Ok(0), "the container makes its links");
    for number in DESCRIPTORS {
        let process = bundle::process(&[format!("/tmp/bin{number}/true")]);
        let name = format!("command{number}");
        assert!(outcome(name, &process) != Ok(0), "the link through {number} was executed");
        for cwd in [format!("/tmp/dir{number}"), format!("/tmp/dir{number}/..")] {
            let script = format!("cat ./{UP}{} >/dev/null && exit 7; exit 0", secret.display());
            let mut process = bundle::process(&bundle::shell(&script));
            process["cwd"] = json!(cwd);
            let name = format!("cwd{number}-{}", cwd.len());
            assert!(outcome(name, &process) != Ok(7), "from {cwd} the host's files were read");
        }
    }
    fixture.daemon.end(&shim, &task);
}

/// A container that may look at its processes, and looks.
fn watcher(fixture: &Fixture, spec: &mut serde_json::Value) {
    let secret = fixture.secret();
    fixture.equip(spec);
    let process = &mut spec["process"];
    process["args"] = json!(["/attack", "--in-container", "watch", secret]);
    for set in ["bounding", "effective", "permitted"] {
        let capabilities = process["capabilities"][set].as_array_mut().expect("a list");
        capabilities.push(json!("CAP_SYS_PTRACE"));
    }
}

fn nothing_got_out(fixture: &Fixture) {
    let how = fs::read_to_string(fixture.shared().join("got-out"));
    assert!(how.is_err(), "the host's files were read by {}", how.unwrap_or_default());
}

fn watched(fixture: &Fixture) {
    let bundle = fixture.daemon.shaped("", |spec| watcher(fixture, spec));
    let (shim, task) = fixture.daemon.run(&bundle);
    fixture.waits_for("ready");
    for number in 0..60 {
        let name = format!("e{number}");
        let process = bundle::process(&bundle::shell("exit 0"));
        let ran = task.exec(&task.exec_request(&name, &process)).and_then(|()| task.start(&name));
        if let Err(why) = ran.and_then(|_| task.within(SOON).wait(&name)) {
            // It ends with what it is after.
            nothing_got_out(fixture);
            panic!("an exec in a container that watches: {why}");
        }
        task.delete(&name).expect("Delete of an exec");
    }
    fs::write(fixture.shared().join("stop"), "").expect("stop it");
    fixture.daemon.end(&shim, &task);
    nothing_got_out(fixture);
}

fn created(fixture: &Fixture) {
    let first = fixture.daemon.bundle("sleep 1000");
    let shim = fixture.daemon.start(&first);
    let task = shim.task(&first.id);
    let pid = task.create(&first.create_request()).expect("Create");
    let second = fixture.daemon.shaped("", |spec| {
        watcher(fixture, spec);
        let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != "pid");
        namespaces.push(json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") }));
    });
    let (watching, watch) = fixture.daemon.run(&second);
    fixture.waits_for("ready");
    // It looks once at everything in far less than this.
    wait::pass(std::time::Duration::from_secs(1));
    fs::write(fixture.shared().join("stop"), "").expect("stop it");
    watch.within(SOON).wait("").expect("Wait");
    watch.delete("").expect("Delete");
    let _ = watch.shutdown();
    watching.gone(SOON);
    task.kill("", 9).expect("Kill");
    task.within(SOON).wait("").expect("Wait");
    task.delete("").expect("Delete");
    fixture.daemon.leave(&shim, &task);
    nothing_got_out(fixture);
}
