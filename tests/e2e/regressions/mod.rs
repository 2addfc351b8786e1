//! The defects that users of shims reported most, by the table in `RUNC.md`: one test for each, which
//! opens with the reports and with what the user lost.

use std::fs;
use std::time::Duration;

use harness::fake_daemon::FakeDaemon;
use harness::programs;
use harness::shim::bundle::{process, shell};
use harness::shim::{Dialect, Stream, Task, until};
use harness::wait;
use harness::wait::SOON;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protos::ttrpc::api::{CreateTaskResponse, StartRequest, StartResponse, Status};
use serde_json::json;

/// What containerd gives a State before it takes the task for unknown. How quick it is on a quiet
/// machine, `shimcheck` tells.
const QUICK: Duration = Duration::from_secs(2);

fn exec(task: &Task, name: &str, script: &str) {
    task.exec(&task.exec_request(name, &process(&shell(script)))).expect("Exec");
    task.start(name).expect("Start of an exec");
}

// 1: containerd#7496 #8931 #9309 #11392 #8981 #12344. Delete took longer than the daemon waits; the
// user was left with a task that could neither be deleted nor used again, and with its shim.
#[test]
fn a_task_deleted_slowly_is_not_leaked() {
    let daemon = FakeDaemon::new();
    let mut bundle = daemon.bundle("exit 9");
    let runtime = daemon.runtime(&mut bundle);
    let (shim, task) = daemon.run(&bundle);
    task.wait("").expect("Wait");
    runtime.before("delete", "sleep 1.5");
    let hasty = task.with_deadline(Duration::from_millis(200)).within(Duration::from_millis(400));
    hasty.delete("").expect_err("the runtime takes longer");
    let answer = task.delete("").expect("the same again, and with time");
    assert_eq!(answer.exit_status, 9);
    daemon.leave(&shim, &task);
}

// 2: containerd#10589 #10651 #10603 #13849. The process ended before anybody looked; the user's
// container was running for ever, with no process in it.
#[test]
fn an_exit_before_start_is_answered_is_not_lost() {
    let daemon = FakeDaemon::new();
    let mut bundle = daemon.bundle("exit 7");
    // Init has long ended when `start` comes back.
    daemon.runtime(&mut bundle).before("start", "\"$real\" \"$@\"; sleep 0.5; exit 0");
    let shim = daemon.start(&bundle);
    let task = shim.task(&bundle.id);
    task.create(&bundle.create_request()).expect("Create");
    let waiting = task.send("Wait", &task.wait_request("")).expect("Wait");
    task.start("").expect("Start");
    let exit: protos::ttrpc::api::WaitResponse = waiting.wait(SOON).expect("Wait");
    assert_eq!(exit.exit_status, 7);
    assert_eq!(task.wait("").expect("Wait, later").exit_status, 7);
    daemon.end(&shim, &task);
    assert!(daemon.events.wait_for(SOON, &bundle.id, "delete"));
    assert_eq!(daemon.events.words(&bundle.id), ["create", "start", "exit", "delete"]);
}

/// Many execs at once, each with an exit status of its own.
fn execs_at_once(daemon: &FakeDaemon) {
    let bundle = daemon.bundle("exec sleep 600");
    let (shim, task) = daemon.run(&bundle);
    let names: Vec<String> = (0..24).map(|number| format!("e{number}")).collect();
    for (name, code) in names.iter().zip(0..) {
        let process = process(&shell(&format!("exit {code}")));
        task.exec(&task.exec_request(name, &process)).expect("Exec");
    }
    let started: Vec<_> = names
        .iter()
        .map(|name| {
            let (id, exec_id) = (bundle.id.clone(), name.clone());
            task.send("Start", &StartRequest { id, exec_id, ..Default::default() }).expect("Start")
        })
        .collect();
    for pending in started {
        pending.wait::<StartResponse>(SOON).expect("Start of an exec beside others");
    }
    for (name, code) in names.iter().zip(0..) {
        assert_eq!(task.wait(name).expect("Wait").exit_status, code);
        task.delete(name).expect("Delete of an exec");
    }
    daemon.end(&shim, &task);
}

// 3: containerd#2709 #9999 #9828. Two probes ran at the same time, and from then on every exec of the
// container hung.
#[test]
fn execs_at_the_same_time_do_not_hang() {
    execs_at_once(&FakeDaemon::new());
}

// 4: containerd#8557 #13483, rust-extensions#340. One slow create, and the pod's other containers
// were reported as unknown.
#[test]
fn a_slow_create_does_not_hold_up_the_other_containers() {
    let daemon = FakeDaemon::new();
    let mut first = daemon.member("exec sleep 600");
    let runtime = daemon.runtime(&mut first);
    let (shim, task) = daemon.run(&first);
    let mut second = daemon.member("exec sleep 600");
    daemon.runtime(&mut second);
    runtime.hold("create");
    let other = shim.task(&second.id);
    let creating = other.send("Create", &second.create_request()).expect("Create");
    runtime.holds();
    for _ in 0..10 {
        let state = task.within(QUICK).state("").expect("State");
        assert_eq!(state.status, Status::RUNNING.into());
    }
    assert!(creating.is_silent_for(Duration::from_millis(1)), "Create still goes on");
    runtime.let_go();
    creating.wait::<CreateTaskResponse>(SOON).expect("Create");
    other.delete("").expect("Delete of the second");
    daemon.end(&shim, &task);
}

// 5: containerd#4905, rust-extensions#346, kata-runtime#1659. The client died before it opened its
// end of a fifo; Create never came back, and neither did anything after it.
#[test]
fn a_fifo_that_nobody_opens_does_not_hang_a_create() {
    let daemon = FakeDaemon::new();
    let bundle = daemon.bundle("echo unread; exit 3");
    let unread = Stream::make(&daemon.root.path().join("unread")).expect("make a fifo");
    let mut request = bundle.create_request();
    request.stdout = unread.path();
    let (shim, task) = daemon.run_with(&bundle, &request);
    assert_eq!(task.wait("").expect("Wait").exit_status, 3);
    daemon.end(&shim, &task);
}

// 6: rust-extensions#240. Nobody read the shim's log; when its pipe was full the shim stopped
// answering, and the container could not be stopped any more.
#[test]
fn a_log_that_nobody_reads_does_not_wedge_the_shim() {
    let daemon = FakeDaemon::new();
    let bundle = daemon.bundle("exec sleep 600");
    let log = bundle.log.as_ref().expect("it has one").path();
    // Open, so that it fills instead of failing, and unread.
    let held = fs::OpenOptions::new().read(true).write(true).open(log).expect("open");
    rustix::pipe::fcntl_setpipe_size(&held, 4096).expect("a page is enough");
    let mut invocation = daemon.invocation(&bundle, Dialect::V1_6);
    invocation.debug = true;
    let shim = daemon.start_with(&invocation);
    let task = shim.task(&bundle.id);
    task.create(&bundle.create_request()).expect("Create");
    task.start("").expect("Start");
    for _ in 0..300 {
        task.within(SOON).kill("nobody", 9).expect_err("there is no such exec");
    }
    task.state("").expect("State");
    daemon.end(&shim, &task);
}

// 7: containerd#2624 #10094, rust-extensions#235. What an exec had started in the background held
// its output open; deleting the exec waited for it for ever.
#[test]
fn what_an_exec_leaves_running_does_not_hold_up_its_delete() {
    let daemon = FakeDaemon::new();
    let bundle = daemon.bundle("exec sleep 600");
    let (shim, task) = daemon.run(&bundle);
    let out = Stream::read(&daemon.root.path().join("out")).expect("make a fifo");
    let mut request = task.exec_request("e", &process(&shell("echo said; sleep 600 & exit 4")));
    request.stdout = out.path();
    task.exec(&request).expect("Exec");
    task.start("e").expect("Start");
    assert_eq!(task.wait("e").expect("Wait").exit_status, 4);
    let answer = task.within(Duration::from_secs(14)).delete("e").expect("Delete of the exec");
    assert_eq!(answer.exit_status, 4);
    assert_eq!(out.text(), "said\n");
    daemon.end(&shim, &task);
}

// 8: containerd#12289 #12364 #4107. The last of what a process wrote before it ended was missing.
#[test]
fn the_last_bytes_before_an_exit_are_not_cut_off() {
    let daemon = FakeDaemon::new();
    let bundle = daemon.bundle("yes 0123456789abcde | head -c 8388608; exit 0");
    let out = Stream::read(&daemon.root.path().join("out")).expect("make a fifo");
    let mut request = bundle.create_request();
    request.stdout = out.path();
    let (shim, task) = daemon.run_with(&bundle, &request);
    task.wait("").expect("Wait");
    task.delete("").expect("Delete");
    assert!(out.wait_end(SOON), "the output ends");
    assert_eq!(out.bytes().len(), 8 << 20);
    daemon.leave(&shim, &task);
}

// 9: containerd#4769 #6429, moby#46212. A job had ended well; then its shim died, and the job was
// reported as killed, a second time, and run again.
#[test]
fn an_exit_that_was_told_does_not_become_137_when_the_shim_dies() {
    let daemon = FakeDaemon::new();
    let bundle = daemon.bundle("exit 5");
    let (shim, task) = daemon.run(&bundle);
    assert_eq!(task.wait("").expect("Wait").exit_status, 5);
    assert!(daemon.events.wait_for(SOON, &bundle.id, "exit"));
    shim.kill();
    let answer = daemon.invocation(&bundle, Dialect::V1_6).delete().expect("delete");
    assert_eq!(answer.exit_status, 5);
    let exits = daemon.events.words(&bundle.id).iter().filter(|word| *word == "exit").count();
    assert_eq!(exits, 1);
    daemon.forget();
}

// 10: containerd#13763, smolvm#889, hcsshim#2780. After an upgrade of containerd, or of the shim, no
// container could be started.
#[test]
fn every_release_of_containerd_can_start_the_shim() {
    for dialect in [Dialect::V1_6, Dialect::V1_7, Dialect::V2_0, Dialect::V2_3] {
        let daemon = FakeDaemon::new();
        let bundle = daemon.bundle("exit 6");
        bundle.log.as_ref().expect("it has one").follow().expect("read the log");
        let shim = daemon.start_with(&daemon.invocation(&bundle, dialect));
        let task = shim.task(&bundle.id);
        task.create(&bundle.create_request()).expect("Create");
        task.start("").expect("Start");
        assert_eq!(task.wait("").expect("Wait").exit_status, 6, "{dialect:?}");
        daemon.end(&shim, &task);
    }
}

// 11: containerd#13848 #13954 #11409 #5597. One shim was busy when containerd started again, which
// then did not come up, for any container.
#[test]
fn a_busy_shim_answers_a_daemon_that_comes_back() {
    let daemon = FakeDaemon::new();
    let mut bundle = daemon.bundle("exec sleep 600");
    let runtime = daemon.runtime(&mut bundle);
    let (shim, task) = daemon.run(&bundle);
    runtime.hold("exec");
    task.exec(&task.exec_request("e", &process(&shell("exit 0")))).expect("Exec");
    let (id, exec_id) = (bundle.id.clone(), "e".to_owned());
    let request = StartRequest { id, exec_id, ..Default::default() };
    let busy = task.send("Start", &request).expect("Start");
    let again = harness::shim::Client::connect(&shim.reply.address).expect("connect again");
    let again = Task::new(&again, shim.reply.service(), &bundle.id).within(QUICK);
    runtime.holds();
    again.connect().expect("Connect");
    again.pids().expect("Pids");
    again.state("").expect("State");
    assert!(busy.is_silent_for(Duration::from_millis(1)), "the exec still starts");
    runtime.let_go();
    busy.wait::<StartResponse>(SOON).expect("Start of the exec");
    runtime.mend("exec");
    daemon.end(&shim, &task);
}

// 12: containerd#8893 #6323 #12714, gvisor#9723. A container ran out of memory, and the user was told
// of a 137 that nobody could explain.
#[test]
fn running_out_of_memory_is_told_before_the_exit() {
    let daemon = FakeDaemon::new();
    let bundle = daemon.shaped("exec tail -c 200000000 /dev/zero", |spec| {
        spec["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20 });
    });
    let (shim, task) = daemon.run(&bundle);
    assert_eq!(task.wait("").expect("Wait").exit_status, 137);
    daemon.end(&shim, &task);
    assert!(daemon.events.wait_for(SOON, &bundle.id, "delete"));
    assert_eq!(daemon.events.words(&bundle.id), ["create", "start", "oom", "exit", "delete"]);
}

// 13: containerd#13290 #7878 #13561, moby#21737. Each container cost the host 12 MB for its shim
// alone.
#[test]
fn a_shim_has_little_memory_of_its_own() {
    let daemon = FakeDaemon::new();
    let bundle = daemon.bundle("exec sleep 600");
    let (shim, task) = daemon.run(&bundle);
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", shim.pid)).expect("it lives");
    let anonymous: u32 = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:")?.split_whitespace().next()?.parse().ok())
        .expect("smaps_rollup has it");
    assert!(anonymous <= 420, "{anonymous} kB");
    daemon.end(&shim, &task);
}

// 14: containerd#9404, rust-extensions#112. A probe every few seconds; after some hundreds of them
// the shim had no thread left for another.
#[test]
fn an_exec_leaves_no_thread_and_no_descriptor() {
    let daemon = FakeDaemon::new();
    let bundle = daemon.bundle("exec sleep 600");
    let (shim, task) = daemon.run(&bundle);
    let held = || {
        let count = |what: &str| {
            fs::read_dir(format!("/proc/{}/{what}", shim.pid)).expect("it lives").count()
        };
        (count("task"), count("fd"))
    };
    let one = |name: String| {
        exec(&task, &name, "exit 0");
        task.wait(&name).expect("Wait");
        task.delete(&name).expect("Delete");
    };
    (0..10).for_each(|number| one(format!("w{number}")));
    let before = wait::steady(held);
    (0..50).for_each(|number| one(format!("e{number}")));
    let regained = until(SOON, || (held().0 <= before.0 && held().1 <= before.1).then_some(()));
    assert!(regained.is_some(), "{before:?} became {:?}", held());
    daemon.end(&shim, &task);
}

// 15: containerd#11708 #11916 #9727. A pod's containers each got a shim, or the pod's shim went with
// the first of them.
#[test]
fn a_pod_has_one_shim_which_stays_until_its_last_container_goes() {
    let daemon = FakeDaemon::new();
    let (first, second) = (daemon.member("exec sleep 600"), daemon.member("exec sleep 600"));
    let (shim, one) = daemon.run(&first);
    let (joined, two) = daemon.run(&second);
    assert_eq!((&joined.reply.address, joined.pid), (&shim.reply.address, shim.pid));
    one.kill("", 9).expect("Kill");
    one.wait("").expect("Wait");
    one.delete("").expect("Delete");
    // containerd says this after every delete.
    let _ = one.shutdown();
    assert_eq!(two.state("").expect("State").status, Status::RUNNING.into());
    daemon.end(&shim, &two);
}

// 16: containerd#6860 #10437. containerd died between the start of a shim and its Create; the shim
// stayed until the host was started again.
#[test]
fn a_shim_whose_daemon_died_before_create_does_not_stay() {
    let daemon = FakeDaemon::new();
    let bundle = daemon.bundle("exit 0");
    let shim = daemon.start(&bundle);
    // What the next daemon does with a bundle that it has no use for.
    daemon.invocation(&bundle, Dialect::V1_6).delete().expect("delete");
    daemon.forget();
    shim.gone(Duration::from_secs(30));
}

// 17: containerd#12490, shim-loggers-for-containerd#253. The program that took the logs died, and the
// container stood still at its next line.
#[test]
fn a_logger_that_dies_does_not_stop_its_container() {
    let daemon = FakeDaemon::new();
    let logger = daemon.root.path().join("logger");
    // Ready, as loggers say by closing descriptor 5, and gone.
    programs::script(&logger, "#!/bin/sh\nexec 5>&-\nexit 1\n");
    let bundle = daemon.bundle("yes | head -c 2000000; exit 8");
    let mut request = bundle.create_request();
    request.stdout = format!("binary://{}", logger.display());
    request.stderr.clone_from(&request.stdout);
    let (shim, task) = daemon.run_with(&bundle, &request);
    let exit = task.within(SOON).wait("").expect("the container comes to its end");
    assert_eq!(exit.exit_status, 8);
    daemon.end(&shim, &task);
}

// 18: containerd#6737. The shim died, and its container ran on where nobody could reach it. Taking it
// over comes later; until then it is ended, and said to have been.
#[test]
fn a_container_whose_shim_died_does_not_run_on_unseen() {
    let daemon = FakeDaemon::new();
    let bundle = daemon.bundle("sleep 600 & exec sleep 600");
    let (shim, task) = daemon.run(&bundle);
    exec(&task, "e", "exec sleep 600");
    let init = i32::try_from(task.state("").expect("State").pid).expect("pids are small");
    shim.kill();
    let answer = daemon.invocation(&bundle, Dialect::V1_6).delete().expect("delete");
    assert_eq!(answer.exit_status, 137);
    let gone = until(SOON, || kill(Pid::from_raw(init), None::<Signal>).is_err().then_some(()));
    assert!(gone.is_some() || harness::leak::state(init) == Some('Z'), "init runs on");
    daemon.forget();
}

// 19: containerd#6771 #3177. containerd was restarted while containers ended; it never learned of
// it, and went on calling them running.
#[test]
fn events_while_containerd_is_down_arrive_in_order_when_it_is_back() {
    let mut daemon = FakeDaemon::new();
    let bundle = daemon.bundle("exec sleep 600");
    let (shim, task) = daemon.run(&bundle);
    assert!(daemon.events.wait_for(SOON, &bundle.id, "start"));
    daemon.events.down();
    exec(&task, "e", "exit 3");
    task.wait("e").expect("Wait");
    task.kill("", 9).expect("Kill");
    task.wait("").expect("Wait");
    task.delete("").expect("Delete");
    wait::pass(Duration::from_millis(1500));
    daemon.events.up().expect("listen again");
    assert!(daemon.events.wait_for(SOON, &bundle.id, "delete"), "they are told");
    let mut told = daemon.events.words(&bundle.id);
    // One whose answer was lost as the endpoint went is told again.
    told.dedup();
    let expected =
        ["create", "start", "exec-added:e", "exec-started:e", "exit:e", "exit", "delete"];
    assert_eq!(told, expected);
    daemon.leave(&shim, &task);
}

// 20: youki#3027 #3011 #2144, runwasi#357. A fork of a process with threads came upon a lock that
// nobody would release, and now and then a container hung before its first instruction.
#[test]
fn a_fork_in_a_busy_shim_does_not_hang_a_container() {
    let daemon = FakeDaemon::with("containerd-shim-youki-v1");
    execs_at_once(&daemon);
}
