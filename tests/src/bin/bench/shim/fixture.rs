//! The contenders, and the bundles that all of them get.

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::shim::bundle::{self, Bundle};
use harness::shim::{Client, Dialect, Events, Invocation, Task, launch, until};
use harness::wait;
use harness::{Root, programs};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protos::ttrpc::protobuf::Message;
use protos::ttrpc::shim::oci::Options;
use serde_json::json;

/// One of those that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// containerd's own shim, on runc.
    Go,
    /// Ours, on runc.
    OursRunc,
    /// Ours, on crun.
    OursCrun,
    /// Ours, on libcontainer.
    OursYouki,
    /// No shim: runc's commands.
    RawRunc,
    /// No shim: crun's commands.
    RawCrun,
}

impl Contender {
    /// The program that is executed first.
    pub(crate) fn program(self) -> PathBuf {
        match self {
            Self::Go => programs::system("containerd-shim-runc-v2"),
            Self::OursRunc | Self::OursCrun => programs::ours("containerd-shim-runc-v2"),
            Self::OursYouki => programs::ours("containerd-shim-youki-v1"),
            Self::RawRunc => programs::system("runc"),
            Self::RawCrun => programs::system("crun"),
        }
    }

    /// Whether there is a shim at all.
    pub(crate) fn has_shim(self) -> bool {
        !matches!(self, Self::RawRunc | Self::RawCrun)
    }

    /// What it says of itself, on one line.
    pub(crate) fn version(self) -> Result<String> {
        let flag = if self.has_shim() { "-v" } else { "--version" };
        let program = self.program();
        let output = launch::run(Command::new(&program).arg(flag), &[], Duration::from_secs(10))?;
        let text = String::from_utf8_lossy(&output.out).into_owned();
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    fn options(self) -> Option<Options> {
        let binary_name = match self {
            Self::OursCrun => programs::system("crun").display().to_string(),
            _ => return None,
        };
        Some(Options { binary_name, ..Options::default() })
    }
}

/// A directory in memory, like the `/run` in which containerd has its bundles; `/tmp` may be a disk.
struct Memory(PathBuf);

impl Memory {
    /// Mounts it, in the private namespace of this program.
    fn at(path: PathBuf) -> Result<Self> {
        let options = Some("mode=0711");
        mount(Some("bundles"), &path, Some("tmpfs"), MsFlags::empty(), options)?;
        Ok(Self(path))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Err(why) = umount2(&self.0, MntFlags::MNT_DETACH) {
            println!("# unmount {}: {why}", self.0.display());
        }
    }
}

/// A corner of the machine for all of them.
pub(crate) struct Fixture {
    rootfs: PathBuf,
    events: Events,
    hierarchies: Vec<PathBuf>,
    runtime_roots: RefCell<Vec<PathBuf>>,
    /// Before the root, which it lies in.
    _bundles: Memory,
    /// Last, so that the check for leftovers comes after every listener is gone.
    root: Root,
}

impl Fixture {
    /// Makes it.
    pub(crate) fn new() -> Result<Self> {
        let root = Root::new();
        // The specs are a stock client's, with a cgroup for the namespace.
        root.tolerate_namespace_cgroup();
        let rootfs = root.path().join("rootfs");
        bundle::busybox(&rootfs, &programs::system("busybox")).context("make a root of busybox")?;
        let events = Events::serve(&root.path().join("e.ttrpc")).context("serve events")?;
        // Each of version 1's is a directory there; version 2's is the place itself.
        let top = PathBuf::from("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(&top)?
            .flatten()
            .map(|entry| entry.path())
            .chain(std::iter::once(top))
            .filter(|path| path.join("cgroup.procs").exists())
            .collect();
        let bundles = Memory::at(root.dir("b")).context("mount a tmpfs for the bundles")?;
        Ok(Self {
            rootfs,
            events,
            hierarchies,
            runtime_roots: RefCell::default(),
            _bundles: bundles,
            root,
        })
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// The name of everything here.
    pub(crate) fn token(&self) -> &str {
        self.root.namespace()
    }

    /// A bundle that runs `args`, the same for everybody but for the runtime's name.
    pub(crate) fn bundle(&self, contender: Contender, args: &[&str]) -> Result<Bundle> {
        let id = self.root.id("c");
        let args: Vec<String> = args.iter().map(|&word| word.to_owned()).collect();
        let spec = bundle::spec(&args, &format!("/{}/{id}", self.token()));
        self.lay_out(contender, &id, spec)
    }

    /// The same, to share a shim with all that are made so.
    pub(crate) fn grouped(
        &self,
        contender: Contender,
        args: &[&str],
        group: &str,
    ) -> Result<Bundle> {
        let id = self.root.id("c");
        let args: Vec<String> = args.iter().map(|&word| word.to_owned()).collect();
        let mut spec = bundle::spec(&args, &format!("/{}/{id}", self.token()));
        spec["annotations"] = json!({ "io.containerd.runc.v2.group": group });
        self.lay_out(contender, &id, spec)
    }

    fn lay_out(&self, contender: Contender, id: &str, spec: serde_json::Value) -> Result<Bundle> {
        let mut bundle = Bundle::make(&self.path().join("b"), id, spec).context("make a bundle")?;
        bundle.rootfs = vec![bundle::overlay(&self.rootfs, &self.path().join("snap").join(id))?];
        bundle.options = contender.options();
        Ok(bundle)
    }

    /// Forgets a bundle.
    pub(crate) fn remove(&self, bundle: &Bundle) -> Result<()> {
        fs::remove_dir_all(&bundle.path).context("remove a bundle")?;
        fs::remove_dir_all(self.path().join("snap").join(&bundle.id)).context("remove its layer")
    }

    /// How a shim is executed for a bundle.
    fn invocation(&self, contender: Contender, bundle: &Bundle) -> Invocation {
        Invocation {
            binary: contender.program(),
            namespace: self.token().to_owned(),
            id: bundle.id.clone(),
            address: self.path().join("containerd.sock").display().to_string(),
            publish: "/usr/bin/containerd".to_owned(),
            debug: false,
            bundle: bundle.path.clone(),
            ttrpc: self.events.path().display().to_string(),
            dialect: Dialect::V1_6,
            options: bundle.options_any(),
            socket_dir: None,
            environment: vec![(
                harness::root::MARKER.to_owned(),
                self.path().display().to_string(),
            )],
            limit: Duration::from_secs(30),
        }
    }

    /// Starts a shim; its reply's task, and how long the start took.
    pub(crate) fn start(
        &self,
        contender: Contender,
        bundle: &Bundle,
    ) -> Result<(Started, Duration)> {
        if let Some(log) = &bundle.log {
            log.follow().context("read the shim's log")?;
        }
        let input = bundle.options_any().and_then(|any| any.write_to_bytes().ok());
        let mut command = self.invocation(contender, bundle).command();
        command.arg("start").stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let began = Instant::now();
        let mut child = command.spawn().context("execute start")?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(&input).context("give it its options")?;
        }
        let output = child.wait_with_output().context("read its reply")?;
        let took = began.elapsed();
        ensure!(
            output.status.success(),
            "start: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let reply = launch::understand(Dialect::V1_6, &output.stdout)?;
        let client = Client::connect(&reply.address).context("connect")?;
        let task = Task::new(&client, reply.service(), &bundle.id).within(Duration::from_secs(60));
        Ok((Started { task, address: reply.address }, took))
    }

    /// Waits until nothing of a container is left but its shim.
    pub(crate) fn until_gone(&self, id: &str) -> Result<()> {
        let gone = || {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            !mounts.contains(id) && !self.has_state(id) && !self.has_cgroup(id)
        };
        let began = Instant::now();
        while !gone() {
            ensure!(
                began.elapsed() < Duration::from_secs(20),
                "{id} is still there: state {}, cgroup {}",
                self.has_state(id),
                self.has_cgroup(id)
            );
            wait::pass(Duration::from_micros(50));
        }
        Ok(())
    }

    /// Runtimes keep state in `/run/containerd/<runtime>/<namespace>/<id>`.
    fn has_state(&self, id: &str) -> bool {
        let mut roots = self.runtime_roots.borrow_mut();
        if roots.is_empty() {
            let entries = fs::read_dir("/run/containerd").into_iter().flatten().flatten();
            roots.extend(
                entries.map(|entry| entry.path().join(self.token())).filter(|path| path.exists()),
            );
        }
        let found = roots.iter().any(|root| root.join(id).exists());
        if !found {
            // The next may be another runtime's.
            roots.clear();
        }
        found
    }

    fn has_cgroup(&self, id: &str) -> bool {
        let name = format!("{}/{id}", self.token());
        // One that was hidden meanwhile is none: crun leaves plain files of these names there.
        self.hierarchies
            .iter()
            .filter(|hierarchy| hierarchy.join("cgroup.procs").exists())
            .any(|hierarchy| hierarchy.join(&name).join("cgroup.procs").exists())
    }
}

/// A shim that was started.
pub(crate) struct Started {
    /// The container it was started for.
    pub(crate) task: Task,
    /// Where it listens.
    address: String,
}

impl Started {
    /// The same task over a connection of its own, made by the calling thread.
    pub(crate) fn connected_anew(&self) -> Result<Task> {
        let client = Client::connect(&self.address).context("connect once more")?;
        Ok(self.task.over(&client))
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.task.connect().context("Connect")?.shim_pid)?)
    }

    /// Asks it to leave, and waits until it has.
    pub(crate) fn leave(&self) -> Result<()> {
        let pid = self.pid()?;
        // It may be gone before it has answered.
        let _ = self.task.shutdown();
        until(Duration::from_secs(15), || {
            matches!(harness::leak::state(pid), None | Some('Z' | 'X')).then_some(())
        })
        .with_context(|| format!("the shim {pid} does not leave"))
    }

    /// Creates and starts the container.
    pub(crate) fn run(&self, bundle: &Bundle) -> Result<()> {
        self.task.create(&bundle.create_request()).context("Create")?;
        self.task.start("").context("Start")?;
        Ok(())
    }

    /// Ends and deletes the container, and the shim with it.
    pub(crate) fn end(&self) -> Result<()> {
        self.task.kill("", 9).context("Kill")?;
        self.task.wait("").context("Wait")?;
        self.task.delete("").context("Delete")?;
        self.leave()
    }
}
