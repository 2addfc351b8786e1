//! The shim with a runtime of plain processes, whose answers each test sets.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::init::CreateRequest;
use super::shim::ShimState;
use crate::event::{Event, EventQueue};
use crate::journal::Stage;
use crate::stdio::Stdio;
use crate::{
    Bundle, Capabilities, ContainerId, Create, Created, Description, Error, Exec, ExecId, Io,
    Journal, Kind, Mount, Pid, ProcessHandle, Program, Result, Runtime, Signal, spawn_process,
};

/// Runs shell scripts; the script of the init is the spec's first argument.
#[derive(Default)]
struct Shell {
    init: RefCell<String>,
    exec: RefCell<String>,
    /// How often deleting fails before it works.
    failing_deletes: Cell<u32>,
    deletes: Cell<u32>,
    /// A file of the root, which a delete either finds or waits to see gone.
    in_root: RefCell<Option<PathBuf>>,
    without_root: Cell<bool>,
    slow_create: Cell<Duration>,
    /// Makes the process in create, where a shell waits to be started.
    early: Cell<bool>,
    /// Ends the process that create made and makes another one in start.
    replaces_init: Cell<bool>,
    /// Fails after it has ended the process that create made.
    fails_to_replace: Cell<bool>,
}

impl Runtime for Shell {
    type Container = Option<Pid>;

    fn describe(&self) -> Description {
        let capabilities = Capabilities { pause: true, ..Capabilities::default() };
        Description { name: "shell", version: "", revision: "", capabilities, features: None }
    }

    async fn create(&self, _: Create, io: Io) -> Result<Created<Option<Pid>>> {
        tokio::time::sleep(self.slow_create.get()).await;
        if !self.early.get() {
            return Ok(Created { container: None, pid: None });
        }
        let script = self.init.borrow().clone();
        let pid = run(&script, io).await?;
        Ok(Created { container: Some(pid), pid: Some(pid) })
    }

    async fn start(&self, container: &Option<Pid>) -> Result<Pid> {
        match container {
            Some(pid) if self.replaces_init.get() => {
                let first = ProcessHandle::open(*pid)?;
                first.signal(Signal::TERM)?;
                // The shim's own watcher is older, and gets the exit before this one.
                crate::reaper::watch(&first).await;
                if self.fails_to_replace.get() {
                    return Err(Error::new(Kind::Unknown, "no second process"));
                }
                let script = self.init.borrow().clone();
                run(&script, Io::null()).await
            }
            Some(pid) => {
                // Long enough for a short-lived init to be gone before the start is answered.
                tokio::time::sleep(Duration::from_millis(60)).await;
                Ok(*pid)
            }
            None => {
                let script = self.init.borrow().clone();
                run(&script, Io::null()).await
            }
        }
    }

    async fn exec(&self, _: &Option<Pid>, _: Exec, io: Io) -> Result<Pid> {
        let script = self.exec.borrow().clone();
        run(&script, io).await
    }

    async fn delete(&self, _: &Option<Pid>) -> Result<()> {
        self.deletes.set(self.deletes.get() + 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let in_root = self.in_root.borrow().clone();
        if let Some(file) = in_root {
            let begun = tokio::time::Instant::now();
            while self.without_root.get() && file.exists() && begun.elapsed().as_secs() < 10 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(file.exists(), !self.without_root.get());
        }
        if self.failing_deletes.get() == 0 {
            return Ok(());
        }
        self.failing_deletes.set(self.failing_deletes.get() - 1);
        Err(Error::new(Kind::Unknown, "busy"))
    }

    fn deletes_without_rootfs(&self, _: &Option<Pid>) -> bool {
        self.without_root.get()
    }

    async fn clean_up(&self, _: &ContainerId, _: &Bundle) -> Result<()> {
        Ok(())
    }

    async fn pause(&self, _: &Option<Pid>) -> Result<()> {
        Ok(())
    }

    async fn resume(&self, _: &Option<Pid>) -> Result<()> {
        Ok(())
    }
}

async fn run(script: &str, io: Io) -> Result<Pid> {
    let program = Program::new("sh").args(["-c", script]);
    spawn_process(match io {
        Io::Streams(streams) => program.streams(streams),
        Io::Terminal(_) => program,
    })
    .await
}

struct Fixture {
    shim: Rc<ShimState<Shell>>,
    events: EventQueue,
    bundle: tempfile::TempDir,
}

impl Fixture {
    fn new(init: &str) -> Self {
        let events = EventQueue::default();
        let (notes, _) = mpsc::unbounded_channel();
        let shell = Shell { init: RefCell::new(init.to_owned()), ..Shell::default() };
        let stop = Rc::new(Notify::new());
        let shim = ShimState::new(shell, "default".to_owned(), events.clone(), notes, stop);
        let bundle = tempfile::tempdir().expect("temporary folder");
        Self { shim: Rc::new(shim), events, bundle }
    }

    async fn create(&self) -> Result<Option<Pid>> {
        self.create_with(Stdio::default()).await
    }

    async fn create_with(&self, stdio: Stdio) -> Result<Option<Pid>> {
        self.create_on(Vec::new(), stdio).await
    }

    async fn create_on(&self, rootfs: Vec<Mount>, stdio: Stdio) -> Result<Option<Pid>> {
        let request = CreateRequest {
            id: ContainerId::new("c").expect("valid"),
            bundle: Bundle::new(self.bundle.path()),
            rootfs,
            stdio,
            checkpoint: String::new(),
            options: None,
        };
        Rc::clone(&self.shim).create(request).await
    }

    async fn start(&self) -> Result<Pid> {
        Rc::clone(&self.shim).start_init("c").await
    }

    async fn exec(&self, id: &str) -> Result<Pid> {
        let exec = ExecId::new(id).expect("valid");
        self.shim.add_exec("c", exec, Default::default(), Stdio::default()).await?;
        Rc::clone(&self.shim).start_exec("c", id).await
    }

    async fn delete(&self) -> Result<super::container::Deleted> {
        Rc::clone(&self.shim).delete_container("c").await
    }

    /// Every event so far, by its name and whom it concerns.
    async fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        while !self.events.is_empty() {
            let next = self.events.first().await;
            self.events.pop(&next);
            told.push(match next.event {
                Event::Created { .. } => "create".to_owned(),
                Event::Started { .. } => "start".to_owned(),
                Event::ExecAdded { exec, .. } => format!("exec-added {exec}"),
                Event::ExecStarted { exec, .. } => format!("exec-started {exec}"),
                Event::Exited { exec: None, exit, .. } => format!("exit {}", exit.status),
                Event::Exited { exec: Some(exec), exit, .. } => {
                    format!("exec-exit {exec} {}", exit.status)
                }
                Event::Deleted { .. } => "delete".to_owned(),
                Event::OutOfMemory { .. } => "oom".to_owned(),
                Event::Paused { .. } => "paused".to_owned(),
                Event::Resumed { .. } => "resumed".to_owned(),
            });
        }
        told
    }
}

fn test(init: &str, test: impl AsyncFnOnce(Fixture)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let limited = async {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, test(Fixture::new(init))).await.expect("in time");
    };
    tokio::task::LocalSet::new().block_on(&runtime, limited);
}

#[test]
fn the_life_of_a_container_is_told_in_order() {
    test("exit 42", async |fixture| {
        fixture.create().await.expect("create");
        fixture.start().await.expect("start");
        assert_eq!(fixture.shim.wait("c", None).await.expect("wait").status, 42);
        assert_eq!(fixture.delete().await.expect("delete").exit.expect("it ran").status, 42);
        assert_eq!(fixture.told().await, ["create", "start", "exit 42", "delete"]);
        assert_eq!(fixture.shim.process_state("c", None).expect_err("gone").kind(), Kind::NotFound);
    });
}

#[test]
fn an_init_that_ends_before_its_start_is_answered_is_told_after_the_start() {
    test("exit 3", async |fixture| {
        fixture.shim.runtime.early.set(true);
        fixture.create().await.expect("create");
        // Starting is entered before the exit can be seen.
        fixture.start().await.expect("start");
        assert_eq!(fixture.shim.wait("c", None).await.expect("wait").status, 3);
        assert_eq!(fixture.told().await, ["create", "start", "exit 3"]);
    });
}

/// A user of such a runtime saw the container as ended, with its second process still running.
#[test]
fn the_exit_of_a_process_that_start_replaced_is_not_inits() {
    test("exec sleep 100", async |fixture| {
        fixture.shim.runtime.early.set(true);
        fixture.shim.runtime.replaces_init.set(true);
        let first = fixture.create().await.expect("create").expect("made in create");
        let second = fixture.start().await.expect("start");
        assert_ne!(first, second);
        fixture.shim.kill("c", None, Signal::KILL, false).await.expect("the second runs");
        assert_eq!(fixture.shim.wait("c", None).await.expect("wait").status, 137);
        assert_eq!(fixture.told().await, ["create", "start", "exit 137"]);
        let journal = Journal::read(&Bundle::new(fixture.bundle.path())).expect("readable");
        let init = journal.expect("written").init;
        assert_eq!((init.pid, init.exit.expect("known").status), (Some(second), 137));
        fixture.delete().await.expect("delete");
    });
}

#[test]
fn the_exit_of_a_process_that_start_could_not_replace_is_inits() {
    test("exec sleep 100", async |fixture| {
        fixture.shim.runtime.early.set(true);
        fixture.shim.runtime.replaces_init.set(true);
        fixture.shim.runtime.fails_to_replace.set(true);
        fixture.create().await.expect("create");
        fixture.start().await.expect_err("no second process");
        assert_eq!(fixture.shim.wait("c", None).await.expect("wait").status, 143);
        assert_eq!(fixture.told().await, ["create", "exit 143"]);
        fixture.delete().await.expect("delete");
    });
}

#[test]
fn an_inits_exit_is_told_after_those_of_its_execs() {
    test("sleep 0.2; exit 1", async |fixture| {
        fixture.shim.runtime.exec.replace("exec sleep 100".to_owned());
        fixture.create().await.expect("create");
        fixture.start().await.expect("start");
        fixture.exec("e").await.expect("exec");
        fixture.shim.wait("c", None).await.expect("wait");
        let told = fixture.told().await;
        let last = ["exec-started e", "exec-exit e 137", "exit 1"];
        assert_eq!(told[told.len() - 3..], last, "{told:?}");
        let late = fixture.exec("late").await.expect_err("init has ended");
        assert_eq!(late.message(), "cannot exec in a stopped state");
    });
}

#[test]
fn an_execs_exit_is_told_after_its_start_however_short_it_is() {
    test("exec sleep 100", async |fixture| {
        fixture.shim.runtime.exec.replace("exit 5".to_owned());
        fixture.create().await.expect("create");
        fixture.start().await.expect("start");
        for round in 0..20 {
            let id = format!("e{round}");
            fixture.exec(&id).await.expect("exec");
            assert_eq!(fixture.shim.wait("c", Some(&id)).await.expect("wait").status, 5);
            Rc::clone(&fixture.shim).delete_exec("c", &id).await.expect("delete");
            let again = Rc::clone(&fixture.shim).delete_exec("c", &id).await.expect("from memory");
            assert_eq!(again.exit.expect("it ran").status, 5);
        }
        fixture.shim.kill("c", None, Signal::KILL, false).await.expect("kill");
        fixture.shim.wait("c", None).await.expect("wait");
        let told = fixture.told().await;
        for round in 0..20 {
            let at = |what: &str| {
                told.iter().position(|told| {
                    *told
                        == format!("{what} e{round}{}", if what == "exec-exit" { " 5" } else { "" })
                })
            };
            assert!(at("exec-added") < at("exec-started") && at("exec-started") < at("exec-exit"));
        }
    });
}

#[test]
fn a_running_container_is_not_deleted_and_runs_on() {
    test("exec sleep 100", async |fixture| {
        fixture.create().await.expect("create");
        fixture.start().await.expect("start");
        let refused = fixture.delete().await.expect_err("it runs");
        assert_eq!(refused.message(), "cannot delete a running process");
        fixture.shim.kill("c", None, Signal::TERM, false).await.expect("it runs on");
        assert_eq!(fixture.shim.wait("c", None).await.expect("wait").status, 143);
        let finished =
            fixture.shim.kill("c", None, Signal::TERM, false).await.expect_err("it ended");
        assert_eq!(finished.kind(), Kind::NotFound);
    });
}

#[test]
fn a_delete_whose_answer_was_lost_is_answered_again() {
    test("exit 9", async |fixture| {
        fixture.create().await.expect("create");
        fixture.start().await.expect("start");
        fixture.shim.wait("c", None).await.expect("wait");
        let (first, second) = tokio::join!(fixture.delete(), fixture.delete());
        let third = fixture.delete().await.expect("from memory");
        assert_eq!(first.expect("deleted"), third);
        assert_eq!(second.expect("the same deletion"), third);
        assert_eq!(fixture.shim.runtime.deletes.get(), 1);
    });
}

#[test]
fn a_delete_that_fails_can_be_repeated() {
    test("exit 0", async |fixture| {
        fixture.shim.runtime.failing_deletes.set(1);
        fixture.create().await.expect("create");
        fixture.start().await.expect("start");
        fixture.shim.wait("c", None).await.expect("wait");
        assert_eq!(fixture.delete().await.expect_err("busy").message(), "busy");
        fixture.delete().await.expect("no longer busy");
        assert_eq!(fixture.told().await.iter().filter(|told| *told == "delete").count(), 1);
    });
}

#[test]
fn a_root_is_unmounted_after_the_delete_or_while_it_does_not_look() {
    for without_root in [false, true] {
        test("exit 0", async |fixture| {
            let root = tempfile::tempdir().expect("temporary folder");
            std::fs::write(root.path().join("file"), "").expect("write");
            let in_root = fixture.bundle.path().join("rootfs/file");
            fixture.shim.runtime.in_root.replace(Some(in_root.clone()));
            fixture.shim.runtime.without_root.set(without_root);
            fixture.shim.runtime.failing_deletes.set(1);
            let bind = Mount {
                kind: "bind".to_owned(),
                source: root.path().display().to_string(),
                options: vec!["rbind".to_owned()],
                ..Mount::default()
            };
            fixture.create_on(vec![bind], Stdio::default()).await.expect("create");
            assert!(in_root.exists(), "mounted");
            fixture.start().await.expect("start");
            fixture.shim.wait("c", None).await.expect("wait");
            assert_eq!(fixture.delete().await.expect_err("busy").message(), "busy");
            fixture.delete().await.expect("no longer busy");
            assert!(!in_root.exists(), "unmounted");
        });
    }
}

#[test]
fn a_container_that_was_never_started_is_killed_by_its_delete() {
    test("exec sleep 100", async |fixture| {
        fixture.shim.runtime.early.set(true);
        fixture.create().await.expect("create");
        assert_eq!(fixture.delete().await.expect("delete").exit.expect("killed").status, 137);
        assert_eq!(fixture.told().await, ["create", "exit 137", "delete"]);
    });
}

#[test]
fn whoever_waits_for_what_never_ran_is_let_go_by_its_delete() {
    test("exit 0", async |fixture| {
        fixture.create().await.expect("create");
        let (waited, deleted) = tokio::join!(fixture.shim.wait("c", None), fixture.delete());
        waited.expect("let go");
        assert_eq!(deleted.expect("deleted").exit, None);
        assert_eq!(fixture.told().await, ["create", "delete"]);
    });
}

#[test]
fn an_identifier_is_taken_from_the_moment_its_making_begins() {
    test("exit 0", async |fixture| {
        fixture.shim.runtime.slow_create.set(Duration::from_millis(50));
        let (first, second) = tokio::join!(fixture.create(), fixture.create());
        first.expect("the first");
        assert_eq!(second.expect_err("the second").kind(), Kind::AlreadyExists);
    });
}

#[test]
fn a_duplicate_exec_is_refused_and_the_first_keeps_its_place() {
    test("exec sleep 100", async |fixture| {
        fixture.shim.runtime.exec.replace("exec sleep 100".to_owned());
        fixture.create().await.expect("create");
        fixture.start().await.expect("start");
        fixture.exec("e").await.expect("exec");
        assert_eq!(fixture.exec("e").await.expect_err("taken").kind(), Kind::AlreadyExists);
        fixture.shim.kill("c", Some("e"), Signal::KILL, false).await.expect("the first runs");
        fixture.shim.kill("c", None, Signal::KILL, false).await.expect("init runs");
        fixture.shim.wait("c", None).await.expect("wait");
    });
}

#[test]
fn an_exit_is_in_the_journal_before_anybody_is_told() {
    test("exit 17", async |fixture| {
        fixture.create().await.expect("create");
        fixture.start().await.expect("start");
        fixture.shim.wait("c", None).await.expect("wait");
        let journal = Journal::read(&Bundle::new(fixture.bundle.path())).expect("readable");
        let journal = journal.expect("written");
        assert_eq!(journal.stage, Stage::Stopped);
        assert_eq!(journal.init.exit.expect("known").status, 17);
        assert!(journal.init.pid.is_some() && journal.shim.start_time.is_some());
    });
}

#[test]
fn a_paused_container_says_so_and_takes_no_execs() {
    test("exec sleep 100", async |fixture| {
        fixture.create().await.expect("create");
        fixture.start().await.expect("start");
        fixture.shim.pause("c").await.expect("pause");
        let refused = fixture.exec("e").await.expect_err("paused");
        assert_eq!(refused.message(), "cannot exec in a paused state");
        assert_eq!(fixture.shim.pause("c").await.expect_err("paused").kind(), Kind::Unknown);
        fixture.shim.resume("c").await.expect("resume");
        fixture.shim.kill("c", None, Signal::KILL, false).await.expect("kill");
        fixture.shim.wait("c", None).await.expect("wait");
        assert_eq!(fixture.told().await, ["create", "start", "paused", "resumed", "exit 137"]);
    });
}

#[test]
fn a_shim_leaves_only_when_it_is_empty_and_then_takes_nothing_new() {
    test("exit 0", async |fixture| {
        fixture.create().await.expect("create");
        assert!(!fixture.shim.shutdown());
        fixture.start().await.expect("start");
        fixture.shim.wait("c", None).await.expect("wait");
        fixture.delete().await.expect("delete");
        assert!(fixture.shim.shutdown());
        assert_eq!(fixture.create().await.expect_err("leaving").kind(), Kind::Unavailable);
    });
}

#[test]
fn output_written_to_a_file_is_there_when_delete_answers() {
    test("", async |fixture| {
        let file = fixture.bundle.path().join("logs/deep/out");
        fixture.shim.runtime.early.set(true);
        fixture.shim.runtime.init.replace("head -c 1000000 /dev/zero; echo e >&2".to_owned());
        let stdout = format!("file://{}", file.display());
        fixture.create_with(Stdio { stdout, ..Stdio::default() }).await.expect("create");
        fixture.start().await.expect("start");
        fixture.shim.wait("c", None).await.expect("wait");
        fixture.delete().await.expect("delete");
        let written = std::fs::metadata(&file).expect("written").len();
        assert_eq!(written, 1_000_002, "output and errors, both whole");
    });
}

#[test]
fn a_fifo_that_nobody_reads_does_not_keep_a_container_from_being_made() {
    test("exec sleep 100", async |fixture| {
        let fifo = fixture.bundle.path().join("out");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let stdout = fifo.display().to_string();
        let create = fixture.create_with(Stdio { stdout, ..Stdio::default() });
        create.await.expect("within the time that a test has");
    });
}

#[test]
fn a_checkpoint_is_not_ignored_by_a_runtime_that_cannot_restore_it() {
    test("exit 0", async |fixture| {
        let request = CreateRequest {
            id: ContainerId::new("c").expect("valid"),
            bundle: Bundle::new(fixture.bundle.path()),
            rootfs: Vec::new(),
            stdio: Stdio::default(),
            checkpoint: "/a/checkpoint".to_owned(),
            options: None,
        };
        let refused = Rc::clone(&fixture.shim).create(request).await.expect_err("cannot restore");
        assert_eq!(refused.kind(), Kind::Unimplemented);
    });
}

#[test]
fn a_missing_fifo_is_named_and_leaves_the_identifier_free() {
    test("exit 0", async |fixture| {
        let stdout = "/no/such/fifo".to_owned();
        let stdio = Stdio { stdout, ..Stdio::default() };
        let error = fixture.create_with(stdio).await.expect_err("missing");
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.report().contains("/no/such/fifo"), "{error:?}");
        fixture.create().await.expect("the id is free");
    });
}

/// Makes a script by another process: what another test starts while this one writes would hold
/// the file open for writing until it executes, and such a file cannot be executed.
fn executable(path: &std::path::Path, script: &str) {
    let status = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .arg(script)
        .status();
    assert!(status.expect("sh").success());
}

#[test]
fn a_logger_gets_the_output_and_is_waited_for() {
    test("", async |fixture| {
        let program = fixture.bundle.path().join("logger");
        let taken = fixture.bundle.path().join("taken");
        let script = "#!/bin/sh\necho -n r >&5; exec 5>&-\n\
            { echo $CONTAINER_ID $CONTAINER_NAMESPACE $1 $2; cat <&3; cat <&4; } > $2.new\n\
            sleep 0.1; mv $2.new $2\n";
        executable(&program, script);
        fixture.shim.runtime.early.set(true);
        fixture.shim.runtime.init.replace("echo out; echo err >&2".to_owned());
        let stdout = format!("binary-v2://{}?to={}", program.display(), taken.display());
        fixture.create_with(Stdio { stdout, ..Stdio::default() }).await.expect("create");
        fixture.start().await.expect("start");
        fixture.shim.wait("c", None).await.expect("wait");
        fixture.delete().await.expect("delete");
        let taken_text = std::fs::read_to_string(&taken).expect("the logger has ended");
        assert_eq!(taken_text, format!("c default to {}\nout\nerr\n", taken.display()));
    });
}

#[test]
fn a_logger_that_dies_does_not_take_its_container_along() {
    test("", async |fixture| {
        let program = fixture.bundle.path().join("logger");
        executable(&program, "#!/bin/sh\necho -n r >&5; exit 1\n");
        fixture.shim.runtime.early.set(true);
        let script = "sleep 0.2; head -c 1000000 /dev/zero; exit 4";
        fixture.shim.runtime.init.replace(script.to_owned());
        let stdout = format!("binary://{}", program.display());
        fixture.create_with(Stdio { stdout, ..Stdio::default() }).await.expect("create");
        fixture.start().await.expect("start");
        assert_eq!(fixture.shim.wait("c", None).await.expect("wait").status, 4);
        fixture.delete().await.expect("delete");
    });
}
