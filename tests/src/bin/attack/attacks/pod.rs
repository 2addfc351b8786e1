//! Containers that delay processes that join them, and so other containers of the pod.

use std::fs;
use std::time::{Duration, Instant};

use harness::shim::{Bundle, bundle};
use harness::wait;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::attack::{Attack, on_both, within};
use crate::fixture::{Fixture, SOON};

/// What a neighbour may wait at most, on a busy machine.
const DELAY: Duration = Duration::from_secs(4);

/// What a call of a runtime may take before it is given up, and more.
const DEADLINE: Duration = Duration::from_secs(150);

pub(crate) fn attacks() -> Vec<Attack> {
    [
        within(
            200,
            on_both("A.9", "fifo-as-passwd", "a fifo among the image's files delays nothing", fifo),
        ),
        within(
            120,
            on_both(
                "A.9",
                "joiners-are-stopped",
                "a container that stops what joins it delays no neighbour",
                stopped,
            ),
        ),
    ]
    .concat()
}

/// As [`harness::fake_daemon::FakeDaemon::member`] makes it: in the one shim of this root.
fn member(fixture: &Fixture, spec: &mut serde_json::Value) {
    spec["annotations"] = json!({ "io.containerd.runc.v2.group": fixture.root().namespace() });
}

fn timed(what: impl FnOnce()) -> Duration {
    let began = Instant::now();
    what();
    began.elapsed()
}

fn fifo(fixture: &Fixture) {
    let lower = fixture.lower("lower-f");
    for file in ["etc/passwd", "etc/group"] {
        fs::remove_file(lower.join(file)).expect("remove the image's own");
        mknodat(CWD, lower.join(file), FileType::Fifo, Mode::from_raw_mode(0o644), 0)
            .expect("make a fifo");
    }
    let hostile = fixture.daemon.over(&lower, "exit 0", |spec| {
        member(fixture, spec);
        spec["process"]["env"] = json!(["PATH=/bin"]);
    });
    let neighbour = fixture.daemon.member("exit 3");
    let shim = fixture.daemon.start(&neighbour);
    let other = fixture.daemon.start(&hostile);
    let attacker = other.task(&hostile.id);
    let task = shim.task(&neighbour.id);
    let took = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Refused or run; where a runtime waits for the fifo, until its deadline.
            if attacker.within(DEADLINE).create(&hostile.create_request()).is_ok()
                && attacker.within(SOON).start("").is_ok()
            {
                let _ = attacker.within(SOON).wait("");
            }
        });
        wait::pass(Duration::from_millis(300));
        timed(|| {
            let answer = task.create(&neighbour.create_request()).and_then(|_| task.start(""));
            answer.expect("Create and Start of a neighbour");
        })
    });
    task.within(SOON).wait("").expect("Wait");
    task.delete("").expect("Delete");
    let _ = attacker.kill("", 9);
    let _ = attacker.delete("");
    fixture.daemon.leave(&shim, &task);
    // The fifos in it are its own, and not what a shim left.
    fs::remove_dir_all(&lower).expect("remove the image");
    assert!(took < DELAY, "a neighbour waited {took:?} for its create and start");
}

fn stopped(fixture: &Fixture) {
    let hostile: Bundle = fixture.daemon.shaped("", |spec| {
        member(fixture, spec);
        fixture.equip(spec);
        spec["process"]["args"] = json!(["/attack", "--in-container", "stop-joiners"]);
    });
    let neighbour = fixture.daemon.member("sleep 1000");
    let shim = fixture.daemon.start(&neighbour);
    let other = fixture.daemon.start(&hostile);
    let (attacker, task) = (other.task(&hostile.id), shim.task(&neighbour.id));
    for (task, bundle) in [(&task, &neighbour), (&attacker, &hostile)] {
        task.create(&bundle.create_request()).expect("Create");
        task.start("").expect("Start");
    }
    fixture.waits_for("ready");
    let worst = std::thread::scope(|scope| {
        let attacker = &attacker;
        let joining = scope.spawn(move || {
            for number in 0..4 {
                let name = format!("joins{number}");
                let process = bundle::process(&bundle::shell("exit 0"));
                // Held for as long as the container likes; its own loss.
                if attacker.exec(&attacker.exec_request(&name, &process)).is_ok() {
                    let _ = attacker.within(Duration::from_secs(3)).start(&name);
                }
            }
        });
        wait::pass(Duration::from_millis(100));
        let mut worst = Duration::ZERO;
        for number in 0..8 {
            let name = format!("e{number}");
            let took = timed(|| {
                let process = bundle::process(&bundle::shell("exit 0"));
                task.exec(&task.exec_request(&name, &process)).expect("Exec in a neighbour");
                task.start(&name).expect("Start of an exec in a neighbour");
                task.within(SOON).wait(&name).expect("Wait");
                task.delete(&name).expect("Delete");
            });
            worst = worst.max(took);
        }
        joining.join().expect("it does not panic");
        worst
    });
    fs::write(fixture.shared().join("stop"), "").expect("stop it");
    for task in [&attacker, &task] {
        let _ = task.kill("", 9);
        task.within(SOON).wait("").expect("Wait");
        task.within(SOON).delete("").expect("Delete");
    }
    fixture.daemon.leave(&shim, &task);
    assert!(worst < DELAY, "an exec in a neighbour took {worst:?}");
}
