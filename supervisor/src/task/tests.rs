//! The life of tasks, against a shim that lives in the test.
//!
//! Its binary is a script that prints the address of a ttrpc server that the test runs, so that the
//! test decides what the shim answers and when it dies.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protos::grpc::containerd::events::TaskExit;
use protos::ttrpc::api;
use protos::ttrpc::protobuf::well_known_types::empty::Empty;
use protos::ttrpc::shim_async::{Task as TaskService, create_task};
use shim_sdk::{ContainerId, Kind};
use tokio::sync::{Notify, watch};
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::asynchronous::transport::Listener;

use super::bundle::Dirs;
use super::table::{ShimEnvironment, Tasks};
use super::{Create, Status, Stdio};
use crate::config::{DaemonConfig, Flags};
use crate::events::{Bus, Envelope, Event, Subscription};
use crate::metadata::Namespace;

/// What the shim in the test knows.
struct Shim {
    exit: watch::Sender<Option<u32>>,
    created: Mutex<bool>,
    refuse: Option<&'static str>,
    shut_down: AtomicU32,
    /// Whether the next Delete gets no answer.
    mute: AtomicBool,
    /// Notified when a Delete that gets no answer has come.
    muted: Notify,
    /// What stands for the shim's process, where a test kills that.
    process: Mutex<Option<std::process::Child>>,
    /// A container that it is in the middle of creating: unknown to State, and to the first Delete.
    creating: Mutex<Option<&'static str>>,
    /// Whether that was deleted.
    undone: Mutex<bool>,
}

impl Shim {
    /// Whether `id` is the container that is being created.
    fn is_creating(&self, id: &str) -> bool {
        *self.creating.lock().unwrap() == Some(id)
    }
}

fn status(code: ttrpc::Code, message: &str) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message.to_owned()))
}

#[tonic::async_trait]
impl TaskService for Shim {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        assert!(PathBuf::from(&request.bundle).join("config.json").exists());
        if let Some(reason) = self.refuse {
            return Err(status(ttrpc::Code::UNKNOWN, reason));
        }
        *self.created.lock().unwrap() = true;
        Ok(api::CreateTaskResponse { pid: 7, ..Default::default() })
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        _: api::StartRequest,
    ) -> ttrpc::Result<api::StartResponse> {
        Ok(api::StartResponse { pid: 7, ..Default::default() })
    }

    async fn state(
        &self,
        _: &TtrpcContext,
        request: api::StateRequest,
    ) -> ttrpc::Result<api::StateResponse> {
        if !*self.created.lock().unwrap() || self.is_creating(&request.id) {
            return Err(status(ttrpc::Code::NOT_FOUND, "no such task"));
        }
        let exit = *self.exit.borrow();
        let mut response = api::StateResponse { pid: 7, ..Default::default() };
        response.exit_status = exit.unwrap_or_default();
        response.status = protos::ttrpc::protobuf::EnumOrUnknown::from_i32(match exit {
            Some(_) => 3,
            None => 2,
        });
        Ok(response)
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        _: api::WaitRequest,
    ) -> ttrpc::Result<api::WaitResponse> {
        let mut exit = self.exit.subscribe();
        let exit = exit.wait_for(Option::is_some).await.unwrap().unwrap();
        Ok(api::WaitResponse { exit_status: exit, ..Default::default() })
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<Empty> {
        self.exit.send_replace(Some(128 + request.signal));
        Ok(Empty::new())
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> ttrpc::Result<api::DeleteResponse> {
        if self.mute.swap(false, Ordering::Relaxed) {
            self.muted.notify_one();
            std::future::pending::<()>().await;
        }
        if self.is_creating(&request.id) {
            *self.creating.lock().unwrap() = None;
            return Err(status(ttrpc::Code::NOT_FOUND, "no such task"));
        }
        if request.id == "cut-off" {
            *self.undone.lock().unwrap() = true;
            return Ok(api::DeleteResponse::default());
        }
        let exit = *self.exit.borrow();
        let running =
            || status(ttrpc::Code::FAILED_PRECONDITION, "cannot delete a running process");
        let exit_status = exit.ok_or_else(running)?;
        *self.created.lock().unwrap() = false;
        Ok(api::DeleteResponse { pid: 7, exit_status, ..Default::default() })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        _: api::ConnectRequest,
    ) -> ttrpc::Result<api::ConnectResponse> {
        let shim_pid = self.process.lock().unwrap().as_ref().map_or(0, std::process::Child::id);
        Ok(api::ConnectResponse { shim_pid, ..Default::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> ttrpc::Result<Empty> {
        self.shut_down.fetch_add(1, Ordering::Relaxed);
        Ok(Empty::new())
    }
}

/// Directories, a shim's script, and the server behind it.
struct Bench {
    place: tempfile::TempDir,
    shim: Arc<Shim>,
    server: Option<(tokio::sync::oneshot::Sender<()>, std::thread::JoinHandle<()>)>,
    namespace: Namespace,
    id: ContainerId,
    events: Bus,
}

impl Bench {
    async fn new() -> Self {
        Self::refusing(None).await
    }

    async fn refusing(refuse: Option<&'static str>) -> Self {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("shim.sock");
        // `start` answers with the address; `delete` says, by saying nothing, that it is done.
        let script = format!(
            "#!/bin/sh\nfor last; do :; done\ncat >/dev/null\n\
             echo $last >>{calls}\n\
             [ $last = start ] && echo '{{\"version\":3,\"address\":\"unix://{socket}\",\"protocol\":\"ttrpc\"}}'\n\
             exit 0\n",
            calls = place.path().join("calls").display(),
            socket = socket.display(),
        );
        let binary = place.path().join("shim");
        // By another process: what another test starts while this one writes would hold the file
        // open for writing until it executes, and such a file cannot be executed.
        let written = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""])
            .arg(&binary)
            .arg(script)
            .status();
        assert!(written.unwrap().success());
        let shim = Arc::new(Shim {
            exit: watch::Sender::new(None),
            created: Mutex::new(false),
            refuse,
            shut_down: AtomicU32::new(0),
            mute: AtomicBool::new(false),
            muted: Notify::new(),
            process: Mutex::new(None),
            creating: Mutex::new(None),
            undone: Mutex::new(false),
        });
        let mut bench = Self {
            place,
            shim,
            server: None,
            namespace: Namespace::new("default").unwrap(),
            id: ContainerId::new("web").unwrap(),
            events: Bus::new(),
        };
        bench.serve().await;
        bench
    }

    /// Brings the shim up, on a thread of its own so that it can die at once.
    async fn serve(&mut self) {
        let listener =
            std::os::unix::net::UnixListener::bind(self.place.path().join("shim.sock")).unwrap();
        let (die, dead) = tokio::sync::oneshot::channel::<()>();
        let services = create_task(self.shim.clone());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut server = Server::new()
                    .add_listener(Listener::try_from(listener).unwrap())
                    .register_service(services);
                server.start().await.unwrap();
                let _ = dead.await;
            });
            runtime.shutdown_background();
        });
        self.server = Some((die, thread));
    }

    /// The shim dies: its connections close and nothing listens.
    async fn kill_shim(&mut self) {
        let (die, thread) = self.server.take().unwrap();
        std::fs::remove_file(self.place.path().join("shim.sock")).unwrap();
        drop(die);
        thread.join().unwrap();
    }

    /// A daemon on the same directories.
    fn daemon(&self) -> Tasks {
        let flags = Flags {
            root: Some(self.place.path().join("root")),
            state: Some(self.place.path().join("state")),
            config: Some("/dev/null".into()),
            ..Flags::default()
        };
        let config = DaemonConfig::resolve(&flags).unwrap();
        Tasks::new(ShimEnvironment::new(&config), self.events.clone())
    }

    fn request(&self) -> Create {
        Create {
            id: self.id.clone(),
            runtime: self.place.path().join("shim").display().to_string(),
            spec: b"{}".to_vec(),
            rootfs: Vec::new(),
            stdio: Stdio::default(),
            checkpoint: None,
            options: None,
        }
    }

    fn subscribe(&self) -> Subscription {
        self.events.subscribe(|_| true)
    }

    fn dirs(&self) -> Dirs {
        self.dirs_of(self.id.as_str())
    }

    fn dirs_of(&self, id: &str) -> Dirs {
        let (root, state) = (self.place.path().join("root"), self.place.path().join("state"));
        Dirs::of(&root, &state, &self.namespace, &ContainerId::new(id).unwrap())
    }

    /// What the shim's binary was called with.
    fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.place.path().join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    fn assert_nothing_left(&self) {
        assert!(!self.dirs().bundle().exists(), "a bundle is left");
        assert_eq!(super::bundle::all(&self.place.path().join("root")).count(), 0, "work is left");
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("it takes too long")
}

#[tokio::test]
async fn a_task_lives_from_create_to_delete_and_leaves_nothing() {
    let bench = Bench::new().await;
    let (tasks, namespace, id) = (bench.daemon(), &bench.namespace, &bench.id);
    assert_eq!(soon(tasks.create(namespace, bench.request())).await.unwrap(), 7);
    let again = soon(tasks.create(namespace, bench.request())).await.unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
    assert_eq!(soon(tasks.start(namespace, id, None)).await.unwrap(), 7);
    let early = soon(tasks.delete(namespace, id)).await.unwrap_err();
    assert_eq!(early.to_string(), "cannot delete a running process");
    assert_eq!(early.kind(), Kind::FailedPrecondition);
    let waiting = tasks.wait(namespace, id, None);
    let killing = tasks.kill(namespace, id, None, 15, false);
    let (exit, killed) = soon(async { tokio::join!(waiting, killing) }).await;
    killed.unwrap();
    assert_eq!(exit.unwrap().status, 143);
    assert_eq!(soon(tasks.list(namespace)).await[0].1.status, Status::Stopped);
    assert_eq!(soon(tasks.delete(namespace, id)).await.unwrap().exit.status, 143);
    assert_eq!(bench.shim.shut_down.load(Ordering::Relaxed), 1);
    let gone = soon(tasks.wait(namespace, id, None)).await.unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_create_that_fails_says_the_shims_words_and_leaves_nothing() {
    let bench = Bench::refusing(Some("OCI runtime create failed: no such command")).await;
    let tasks = bench.daemon();
    let error = soon(tasks.create(&bench.namespace, bench.request())).await.unwrap_err();
    assert_eq!(error.to_string(), "OCI runtime create failed: no such command");
    bench.assert_nothing_left();
    let mut request = bench.request();
    request.runtime = "io.containerd.nope.v9".to_owned();
    let error = soon(tasks.create(&bench.namespace, request)).await.unwrap_err();
    assert!(error.to_string().contains("/containerd-shim-nope-v9"), "{error}");
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_client_that_goes_away_during_create_does_not_stop_it() {
    let bench = Bench::new().await;
    let tasks = bench.daemon();
    let creating = tasks.create(&bench.namespace, bench.request());
    let _ = tokio::time::timeout(Duration::from_micros(1), creating).await;
    soon(async {
        while tasks.state(&bench.namespace, &bench.id, None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_dead_shim_is_cleaned_up_after_and_its_exit_published_once_and_kept() {
    let mut bench = Bench::new().await;
    let (tasks, namespace, id) = (bench.daemon(), bench.namespace.clone(), bench.id.clone());
    let mut events = bench.subscribe();
    soon(tasks.create(&namespace, bench.request())).await.unwrap();
    let waiting = tokio::spawn({
        let (tasks, namespace, id) = (tasks.clone(), namespace.clone(), id.clone());
        async move { tasks.wait(&namespace, &id, None).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    bench.kill_shim().await;
    assert_eq!(soon(waiting).await.unwrap().unwrap().status, 0);
    assert_eq!(bench.calls(), ["start", "delete"]);
    let exit = soon(events.next()).await.unwrap();
    assert_eq!(exit.topic(), "/tasks/exit");
    let signalled = soon(tasks.kill(&namespace, &id, None, 9, false)).await.unwrap_err();
    assert_eq!(signalled.kind(), Kind::NotFound);

    // A later daemon knows the exit too, and does not publish it again.
    let later = bench.daemon();
    soon(later.recover(true)).await;
    assert_eq!(soon(later.state(&namespace, &id, None)).await.unwrap().status, Status::Stopped);
    assert!(soon(later.wait(&namespace, &id, None)).await.is_ok());
    soon(later.delete(&namespace, &id)).await.unwrap();
    let delete = soon(events.next()).await.unwrap();
    assert!(matches!(delete.event, Event::TaskDeleted(_)));
    assert_eq!(bench.calls(), ["start", "delete"]);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn an_exit_that_was_heard_of_is_not_told_again_when_the_shim_dies() {
    let mut bench = Bench::new().await;
    let (tasks, namespace, id) = (bench.daemon(), bench.namespace.clone(), bench.id.clone());
    soon(tasks.create(&namespace, bench.request())).await.unwrap();
    let mut events = bench.subscribe();
    let exit = TaskExit {
        container_id: "web".to_owned(),
        id: "web".to_owned(),
        pid: 7,
        exit_status: 42,
        exited_at: None,
    };
    let message = protos::any::pack(&exit).into();
    let event = Envelope {
        timestamp: std::time::SystemTime::now(),
        namespace: "default".to_owned(),
        event: Event::Forwarded { topic: "/tasks/exit".to_owned(), message },
    };
    tasks.deliver(event).unwrap();
    bench.kill_shim().await;
    assert_eq!(soon(tasks.wait(&namespace, &id, None)).await.unwrap().status, 42);
    bench.events.close();
    assert!(events.next().await.is_some());
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_later_daemon_adopts_a_running_task() {
    let bench = Bench::new().await;
    let (namespace, id) = (&bench.namespace, &bench.id);
    let first = bench.daemon();
    soon(first.create(namespace, bench.request())).await.unwrap();
    let second = bench.daemon();
    soon(second.recover(true)).await;
    assert_eq!(soon(second.state(namespace, id, None)).await.unwrap().status, Status::Running);
    soon(second.kill(namespace, id, None, 9, false)).await.unwrap();
    assert_eq!(soon(second.wait(namespace, id, None)).await.unwrap().status, 137);
    soon(second.delete(namespace, id)).await.unwrap();
    bench.assert_nothing_left();
    assert_eq!(bench.calls(), ["start"]);
}

#[tokio::test]
async fn a_shim_that_died_without_a_daemon_is_cleaned_up_after_at_start() {
    let mut bench = Bench::new().await;
    let first = bench.daemon();
    soon(first.create(&bench.namespace, bench.request())).await.unwrap();
    first.stop();
    // The first daemon is as good as dead: it is not let to see its shim die.
    let drained = bench.dirs().bundle().join("shim-binary-path");
    let kept = std::fs::read(&drained).unwrap();
    std::fs::write(&drained, "/nonexistent").unwrap();
    bench.kill_shim().await;
    soon(first.wait(&bench.namespace, &bench.id, None)).await.unwrap_err();
    soon(async {
        while bench.dirs().remains().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    std::fs::remove_file(bench.dirs().bundle().join("exit.json")).unwrap();
    std::fs::write(&drained, kept).unwrap();

    let mut events = bench.subscribe();
    let second = bench.daemon();
    soon(second.recover(true)).await;
    assert_eq!(soon(events.next()).await.unwrap().topic(), "/tasks/exit");
    assert!(soon(second.wait(&bench.namespace, &bench.id, None)).await.is_ok());
    assert_eq!(bench.calls(), ["start", "delete"]);
}

#[tokio::test]
async fn what_no_client_was_told_of_is_removed_at_start() {
    let mut bench = Bench::new().await;
    // As after a crash between the making of the bundle and the answer of the shim.
    bench.dirs().make(b"{}", &bench.place.path().join("shim")).unwrap();
    let tasks = bench.daemon();
    soon(tasks.recover(true)).await;
    bench.assert_nothing_left();
    // And between the answer and Create. The shim is not asked but killed: it might be creating.
    let process = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    *bench.shim.process.lock().unwrap() = Some(process);
    bench.dirs().make(b"{}", &bench.place.path().join("shim")).unwrap();
    let socket = bench.place.path().join("shim.sock");
    let bootstrap = super::shim_client::bootstrap::Bootstrap {
        version: 3,
        address: shim_sdk::address::unix(&socket),
        protocol: "ttrpc".to_owned(),
    };
    bench.dirs().keep_bootstrap(&bootstrap).unwrap();
    let tasks = bench.daemon();
    let dying = async {
        let ended = || bench.shim.process.lock().unwrap().as_mut().unwrap().try_wait().unwrap();
        let death = loop {
            match ended() {
                Some(death) => break death,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        bench.kill_shim().await;
        death
    };
    let ((), death) = soon(async { tokio::join!(tasks.recover(true), dying) }).await;
    assert_eq!(death.signal(), Some(9));
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_create_cut_off_in_a_pods_shim_leaves_the_pod_alone() {
    let bench = Bench::new().await;
    let process = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    *bench.shim.process.lock().unwrap() = Some(process);
    let bootstrap = super::shim_client::bootstrap::Bootstrap {
        version: 3,
        address: shim_sdk::address::unix(&bench.place.path().join("shim.sock")),
        protocol: "ttrpc".to_owned(),
    };
    for id in ["cut-off", "pod"] {
        let dirs = bench.dirs_of(id);
        dirs.make(b"{}", &bench.place.path().join("shim")).unwrap();
        dirs.keep_bootstrap(&bootstrap).unwrap();
    }
    // The shim has made "pod", and is in the middle of making the other.
    *bench.shim.creating.lock().unwrap() = Some("cut-off");
    *bench.shim.created.lock().unwrap() = true;
    let tasks = bench.daemon();
    soon(tasks.recover(true)).await;
    let mut process = bench.shim.process.lock().unwrap().take().unwrap();
    assert!(process.try_wait().unwrap().is_none(), "the shim of a pod was killed");
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(*bench.shim.undone.lock().unwrap(), "the container of the cut off create stayed");
    assert!(!bench.dirs_of("cut-off").bundle().exists());
    assert!(bench.dirs_of("pod").bundle().exists());
}

// The phase does not change when the shim is reached again, so the Delete waited for ever.
#[tokio::test]
async fn a_delete_whose_connection_closes_is_sent_again_once_the_shim_is_reached() {
    let mut bench = Bench::new().await;
    let (tasks, namespace, id) = (bench.daemon(), bench.namespace.clone(), bench.id.clone());
    soon(tasks.create(&namespace, bench.request())).await.unwrap();
    soon(tasks.kill(&namespace, &id, None, 9, false)).await.unwrap();
    bench.shim.mute.store(true, Ordering::Relaxed);
    let deleting = tokio::spawn({
        let (tasks, namespace, id) = (tasks.clone(), namespace.clone(), id.clone());
        async move { tasks.delete(&namespace, &id).await }
    });
    soon(bench.shim.muted.notified()).await;
    // Neither of the two awaits anything: the daemon sees the connection closed, and a shim that listens.
    bench.kill_shim().await;
    bench.serve().await;
    assert_eq!(soon(deleting).await.unwrap().unwrap().exit.status, 137);
    bench.assert_nothing_left();
    // The shim was reached: its binary did not clean up behind it.
    assert_eq!(bench.calls(), ["start"]);
}

#[tokio::test]
async fn the_daemons_stop_ends_the_waiting_but_not_the_task() {
    let bench = Bench::new().await;
    let tasks = bench.daemon();
    soon(tasks.create(&bench.namespace, bench.request())).await.unwrap();
    let waiting = tasks.wait(&bench.namespace, &bench.id, None);
    let (waited, ()) = soon(async { tokio::join!(waiting, async { tasks.stop() }) }).await;
    assert_eq!(waited.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(*bench.shim.exit.borrow(), None);
}
