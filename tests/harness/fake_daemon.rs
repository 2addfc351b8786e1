//! A daemon over raw ttrpc, for what no real daemon can be made to do.
//!
//! An error while it is set up panics, as in every test; [`crate::shim`] returns errors instead.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protos::ttrpc::api::CreateTaskRequest;
use serde_json::{Value, json};

use crate::shim::bundle::{self, Bundle};
use crate::shim::{Client, Dialect, Events, Invocation, Reply, Task, until};
use crate::{Root, eventually, leak, programs, wait};

/// One test's daemon.
pub struct FakeDaemon {
    // Gone before the root looks for what is left.
    /// Where the shims deliver their events.
    pub events: Events,
    /// What everything is made in.
    pub root: Root,
    binary: PathBuf,
    serial: AtomicUsize,
}

/// A shim that runs.
pub struct Shim {
    client: Client,
    /// What its start answered.
    pub reply: Reply,
    /// The server's process.
    pub pid: i32,
}

impl Default for FakeDaemon {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeDaemon {
    /// On a root of its own, with our shim for runc.
    #[must_use]
    pub fn new() -> Self {
        Self::with("containerd-shim-runc-v2")
    }

    /// With another shim of ours.
    pub fn with(binary: &str) -> Self {
        Self::on(Root::new(), programs::ours(binary))
    }

    /// On a root that is there, with this shim.
    pub fn on(root: Root, binary: PathBuf) -> Self {
        root.tolerate_namespace_cgroup();
        let events = Events::serve(&root.path().join("events.sock")).expect("listen for events");
        bundle::busybox(&root.dir("lower"), &programs::system("busybox")).expect("busybox");
        let serial = AtomicUsize::new(0);
        Self { events, root, binary, serial }
    }

    /// A bundle of a script, with its spec changed.
    pub fn shaped(&self, script: &str, change: impl FnOnce(&mut Value)) -> Bundle {
        self.over(&self.root.dir("lower"), script, change)
    }

    /// The same over another root file system.
    pub fn over(&self, lower: &Path, script: &str, change: impl FnOnce(&mut Value)) -> Bundle {
        let id = self.root.id("c");
        let cgroup = format!("/{}/{id}", self.root.namespace());
        let mut spec = bundle::spec(&bundle::shell(script), &cgroup);
        change(&mut spec);
        let mut bundle = Bundle::make(&self.root.dir("bundles"), &id, spec).expect("a bundle");
        let upper = format!("upper-{}", self.serial.fetch_add(1, Ordering::Relaxed));
        let mount = bundle::overlay(lower, &self.root.dir(&upper));
        bundle.rootfs = vec![mount.expect("directories")];
        bundle
    }

    /// A bundle of a script.
    pub fn bundle(&self, script: &str) -> Bundle {
        self.shaped(script, |_| {})
    }

    /// A bundle whose container joins the shim of the others.
    pub fn member(&self, script: &str) -> Bundle {
        self.shaped(script, |spec| {
            spec["annotations"] = json!({ "io.containerd.runc.v2.group": self.root.namespace() });
        })
    }

    /// How a shim is executed for a bundle.
    pub fn invocation(&self, bundle: &Bundle, dialect: Dialect) -> Invocation {
        let marker = (crate::root::MARKER.to_owned(), self.root.path().display().to_string());
        Invocation {
            binary: self.binary.clone(),
            namespace: self.root.namespace().to_owned(),
            id: bundle.id.clone(),
            address: self.root.path().join("containerd.sock").display().to_string(),
            publish: "/usr/bin/containerd".to_owned(),
            debug: false,
            bundle: bundle.path.clone(),
            ttrpc: self.events.path().display().to_string(),
            dialect,
            options: bundle.options_any(),
            socket_dir: None,
            environment: vec![marker],
            limit: Duration::from_secs(15),
        }
    }

    /// Starts a shim, or joins one, and reads its log.
    pub fn start(&self, bundle: &Bundle) -> Shim {
        bundle.log.as_ref().expect("it has one").follow().expect("read the log");
        self.start_with(&self.invocation(bundle, Dialect::V1_6))
    }

    /// Starts a shim in a way of the test's own.
    pub fn start_with(&self, invocation: &Invocation) -> Shim {
        let reply = invocation.start().expect("start");
        self.root.watch_socket(Path::new(reply.address.trim_start_matches("unix://")).to_owned());
        let client = Client::connect(&reply.address).expect("connect");
        let answer = Task::new(&client, reply.service(), &invocation.id).connect();
        let pid = i32::try_from(answer.expect("Connect").shim_pid).expect("pids are small");
        Shim { client, reply, pid }
    }

    /// A container in a shim of its own.
    pub fn run(&self, bundle: &Bundle) -> (Shim, Task) {
        self.run_with(bundle, &bundle.create_request())
    }

    /// The same with a request of the test's own.
    pub fn run_with(&self, bundle: &Bundle, request: &CreateTaskRequest) -> (Shim, Task) {
        let shim = self.start(bundle);
        let task = shim.task(&bundle.id);
        task.create(request).expect("Create");
        task.start("").expect("Start");
        (shim, task)
    }

    /// A runtime that does as runc does, until a verb is made to go wrong.
    pub fn runtime(&self, bundle: &mut Bundle) -> Fault {
        let (directory, faults) = (self.root.dir("runtime"), self.root.dir("runtime/faults"));
        let (path, real) = (directory.join("runtime"), programs::system("runc"));
        let script = format!(
            "#!/bin/sh\nreal='{}'\nfor word do\n  case $word in\n    \
             create|start|exec|delete) if [ -e '{1}'/$word ]; then . '{1}'/$word; fi; break ;;\n  \
             esac\ndone\nexec \"$real\" \"$@\"\n",
            real.display(),
            faults.display()
        );
        if !path.exists() {
            programs::script(&path, &script);
        }
        let options = bundle.options.get_or_insert_default();
        options.binary_name = path.display().to_string();
        Fault { directory: faults }
    }

    /// Ends a container and its shim.
    pub fn end(&self, shim: &Shim, task: &Task) {
        // It may have ended; that is the same result.
        let _ = task.kill("", 9);
        task.wait("").expect("Wait");
        task.delete("").expect("Delete");
        self.leave(shim, task);
    }

    /// Has a shim without a task leave, and forgets the bundles.
    pub fn leave(&self, shim: &Shim, task: &Task) {
        // It may be gone before it has answered.
        let _ = task.shutdown();
        shim.gone(wait::SOON);
        self.forget();
    }

    /// What a daemon removes.
    pub fn forget(&self) {
        let _ = fs::remove_dir_all(self.root.path().join("bundles"));
    }
}

impl Shim {
    /// A container in it.
    pub fn task(&self, id: &str) -> Task {
        Task::new(&self.client, self.reply.service(), id)
    }

    /// Kills it outright.
    pub fn kill(&self) {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).expect("the shim runs");
        self.gone(wait::SOON);
    }

    /// Waits until its process is gone.
    #[track_caller]
    pub fn gone(&self, limit: Duration) {
        let gone = || matches!(leak::state(self.pid), None | Some('Z' | 'X')).then_some(());
        assert!(until(limit, gone).is_some(), "the shim is still there after {limit:?}");
    }
}

/// Where a runtime's faults are.
pub struct Fault {
    directory: PathBuf,
}

impl Fault {
    /// Makes a verb run this first; `"$real" "$@"` is what it would have run.
    pub fn before(&self, verb: &str, script: &str) {
        fs::write(self.directory.join(verb), format!("{script}\n")).expect("write a fault");
    }

    /// Makes a verb stop before it has begun, until [`Self::let_go`].
    pub fn hold(&self, verb: &str) {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let (held, go) = (at("held"), at("go"));
        self.before(verb, &format!(": >'{held}'; until [ -e '{go}' ]; do sleep 0.05; done"));
    }

    /// Waits until a call has come to where it is held.
    #[track_caller]
    pub fn holds(&self) {
        let held = self.directory.join("held");
        eventually(wait::SOON, "the runtime is called", || held.exists().then_some(()));
    }

    /// Lets a call go that [`Self::hold`] holds.
    pub fn let_go(&self) {
        fs::write(self.directory.join("go"), "").expect("write a file");
    }

    /// Ends a verb's fault.
    pub fn mend(&self, verb: &str) {
        fs::remove_file(self.directory.join(verb)).expect("it was made");
    }
}
