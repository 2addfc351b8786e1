//! What is killed during a container's life: containerd, the shim, or containerd in the middle of a create.

use std::fs;
use std::time::Duration;

use harness::shim::{Stream, bundle};
use harness::{Root, containerd, eventually, run, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::{Busybox, Client, Streams};
use super::{StockContainerd, with_engines};
use crate::engine::Engine;
use crate::grpc::wait_for;

with_engines! {
    runc: Runc {
        output_goes_on_through_restarts_of_containerd_and_loses_no_byte
        exits_while_containerd_is_away_are_told_when_it_is_back
        a_task_whose_shim_was_killed_is_told_as_137_once_and_can_be_run_again
        containerd_killed_during_creates_leaves_nothing_that_cannot_be_removed
    }
    crun: Crun {
        a_task_whose_shim_was_killed_is_told_as_137_once_and_can_be_run_again
    }
    youki: Youki {
        output_goes_on_through_restarts_of_containerd_and_loses_no_byte
        containerd_killed_during_creates_leaves_nothing_that_cannot_be_removed
    }
}

fn output_goes_on_through_restarts_of_containerd_and_loses_no_byte(engine: Engine) {
    let root = Root::new();
    let mut stock = StockContainerd::start(&root, engine);
    // Its streams are the test's own, as those of dockerd are: `ctr` would go with containerd.
    let (out, err) = (root.path().join("out"), root.path().join("err"));
    let out = Stream::read(&out).expect("make a fifo and read it");
    let err = Stream::read(&err).expect("make a fifo and read it");
    let id = root.id("c");
    stock.containerd.expect_shim(&id);
    let script = "trap told=1 TERM; echo from init >&2; i=0; while [ -z $told ]; do i=$((i+1)); \
                  echo $i; [ $((i % 10)) = 0 ] && sleep 0.01; done; echo end; exit 21";
    let busybox = Busybox::make(&root.dir("busybox"));
    let cgroup = format!("/{}/{id}", root.namespace());
    wait_for(async {
        let client = Client::connect(&stock.containerd, root.namespace()).await;
        client
            .record_for(&id, &bundle::spec(&bundle::shell(script), &cgroup), engine.runtime())
            .await;
        let streams = Streams { stdout: &out.path(), stderr: &err.path() };
        client.create(&id, busybox.mount(&id), streams).await.expect("Create");
        client.start(&id, "").await.expect("Start");
    });
    let shim = stock.containerd.shim(&id);
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGKILL] {
        let seen = out.bytes().len();
        assert!(out.wait(wait::SOON, |bytes, _| bytes.len() > seen + 200), "it goes on");
        stock.containerd.stop(signal);
        // The reader goes too, and is back before containerd is.
        out.leave();
        wait::pass(Duration::from_millis(100));
        out.resume().expect("the fifo is there");
        let seen = out.bytes().len();
        assert!(out.wait(wait::SOON, |bytes, _| bytes.len() > seen + 100), "it goes on");
        stock.containerd.restart();
        assert_eq!(stock.containerd.shim(&id), shim, "the shim is the one that was");
        assert_eq!(stock.status(&id), "RUNNING", "it must outlast the restarts");
    }
    wait_for(async {
        let client = Client::connect(&stock.containerd, root.namespace()).await;
        client.kill(&id, "", 15).await.expect("Kill");
        assert_eq!(client.wait(&id, "").await.expect("Wait"), 21);
        assert!(out.wait_end(wait::SOON), "the output ends");
        assert_eq!(client.delete(&id).await.expect("Delete"), 21);
        client.forget(&id).await;
        busybox.discard(&id);
    });
    assert!(err.wait_end(wait::SOON), "the errors end");
    assert_eq!(err.text(), "from init\n");
    let text = out.text();
    let lines = text.strip_suffix("end\n").expect("it ends with its last line");
    let wrong = lines.lines().zip(1..).find(|(line, number)| *line != number.to_string());
    assert_eq!(wrong, None, "of {} bytes", text.len());
}

fn exits_while_containerd_is_away_are_told_when_it_is_back(engine: Engine) {
    let root = Root::new();
    let mut stock = StockContainerd::start(&root, engine);
    let ids: Vec<String> = (0..4)
        .map(|number| {
            let script = format!("until [ -e /go ]; do sleep 0.05; done; exit {}", 30 + number);
            stock.detached(&[], &script)
        })
        .collect();
    let go: Vec<_> = ids.iter().map(|id| stock.containerd.bundle(id).join("rootfs/go")).collect();
    stock.containerd.stop(Signal::SIGKILL);
    for file in &go {
        fs::write(file, "").expect("the root file system stays mounted");
    }
    wait::pass(Duration::from_millis(500));
    stock.containerd.restart();
    for (id, number) in ids.iter().zip(30..) {
        stock.becomes(id, "STOPPED");
        let words = format!("exit code {number}");
        stock.ctr(&["task", "rm", id]).success().complains_of(&[&words]);
        let _ = stock.ctr(&["containers", "rm", id]).success();
    }
}

fn a_task_whose_shim_was_killed_is_told_as_137_once_and_can_be_run_again(engine: Engine) {
    let root = Root::new();
    let stock = StockContainerd::start(&root, engine);
    let watch = stock.watch();
    let id = stock.detached(&[], "sleep 600 & exec sleep 601");
    kill(Pid::from_raw(stock.containerd.shim(&id)), Signal::SIGKILL).expect("the shim runs");
    let bundle = stock.containerd.bundle(&id);
    eventually(wait::SOON, "containerd removes the bundle", || (!bundle.exists()).then_some(()));
    // It forgets the task only after that, and after it has told of the end.
    stock.becomes(&id, "");
    watch.wait_for(&id, "delete");
    let exits: Vec<_> = watch.of(&id).into_iter().filter(|(topic, _)| topic == "exit").collect();
    assert_eq!(exits.len(), 1, "{exits:?}");
    assert_eq!(exits[0].1["exit_status"], 137, "{exits:?}");
    // The container is as it was, and takes another task.
    let mut again = stock.containerd.ctr(&["task", "start", "--detach", "--null-io", &id]);
    let _ = run(&mut again).success();
    assert_eq!(stock.status(&id), "RUNNING");
    let _ = run(&mut stock.exec(&id, "e", "exit 8")).ended_with(8);
    stock.remove(&id);
}

fn containerd_killed_during_creates_leaves_nothing_that_cannot_be_removed(engine: Engine) {
    let root = Root::new();
    let mut stock = StockContainerd::start(&root, engine);
    // From before the shim is started until after its container runs.
    for pause in [5, 15, 25, 35, 45, 60, 80] {
        let (mut command, id) = stock.run(&["--detach", "--null-io"], "exec sleep 600");
        std::thread::scope(|scope| {
            let running = scope.spawn(move || run(&mut command));
            wait::pass(Duration::from_millis(pause));
            stock.containerd.stop(Signal::SIGKILL);
            // It may have been quick enough.
            let _ = running.join().expect("ctr ends");
        });
        stock.containerd.restart();
        if !stock.status(&id).is_empty() {
            let _ = stock.ctr(&["task", "kill", "--signal", "SIGKILL", &id]);
            eventually(wait::SOON, "the task can be removed", || {
                let _ = stock.ctr(&["task", "rm", "--force", &id]);
                stock.status(&id).is_empty().then_some(())
            });
        }
        let listed = stock.ctr(&["containers", "ls", "-q"]).success().out();
        if listed.contains(&id) {
            let _ = stock.ctr(&["containers", "rm", &id]).success();
        }
        eventually(
            wait::SOON,
            &format!("no shim stays of a create killed after {pause} ms"),
            || containerd::shim_of(&id).is_none().then_some(()),
        );
        // Removed when the shim has gone, which containerd may have noticed only now.
        let bundle = stock.containerd.bundle(&id);
        eventually(wait::SOON, &format!("{} goes", bundle.display()), || {
            (!bundle.exists()).then_some(())
        });
    }
}
