//! One shim that hosts everything, what it holds, and what it told.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::shim::events::Event;
use harness::shim::{Bundle, Client, Dialect, Events, Invocation, Task, bundle, until};
use harness::{Root, proc, programs};
use serde_json::json;

/// The longest that any call may take; the engine's own deadline is far beyond, so this is met only
/// if a helper that died or was stopped is noticed as such.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// How a helper's command line begins.
const HELPER: &str = "containerd-shim-libcontainer libcontainer-helper";

/// A shim, its events, and a container that stays.
pub(crate) struct Host {
    events: Events,
    rootfs: PathBuf,
    client: Client,
    service: &'static str,
    anchor: Bundle,
    /// The shim's process.
    pub(crate) shim: i32,
    root: Root,
}

/// What the shim holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holdings {
    pub(crate) threads: usize,
    pub(crate) descriptors: usize,
    pub(crate) children: usize,
    pub(crate) private_kb: u64,
}

impl Host {
    /// Starts the shim with a container that stays.
    pub(crate) fn start() -> Result<Self> {
        let root = Root::new();
        // The specs are a stock client's, with a cgroup for the namespace.
        root.tolerate_namespace_cgroup();
        let rootfs = root.path().join("rootfs");
        bundle::busybox(&rootfs, &programs::system("busybox")).context("make a root of busybox")?;
        let events = Events::serve(&root.path().join("e.ttrpc")).context("serve events")?;
        fs::create_dir_all(root.path().join("b"))?;
        let anchor = lay_out(&root, &rootfs, "exec sleep 100000")?;
        let reply = invocation(&root, &events, &anchor).start()?;
        let client = Client::connect(&reply.address).context("connect")?;
        let service = reply.service();
        let task = Task::new(&client, service, &anchor.id).within(PATIENCE);
        let shim = i32::try_from(task.connect().context("Connect")?.shim_pid)?;
        task.create(&anchor.create_request()).context("create the one that stays")?;
        task.start("").context("start the one that stays")?;
        Ok(Self { events, rootfs, client, service, anchor, shim, root })
    }

    /// The container that stays.
    pub(crate) fn anchor(&self) -> Task {
        self.task(&self.anchor.id)
    }

    /// A container of the host's.
    pub(crate) fn task(&self, id: &str) -> Task {
        Task::new(&self.client, self.service, id).within(PATIENCE)
    }

    /// A bundle that runs a script, in the same shim: its `start` says so.
    pub(crate) fn bundle(&self, script: &str) -> Result<Bundle> {
        let bundle = lay_out(&self.root, &self.rootfs, script)?;
        invocation(&self.root, &self.events, &bundle).start().context("start")?;
        Ok(bundle)
    }

    /// Forgets a bundle.
    pub(crate) fn remove(&self, bundle: &Bundle) -> Result<()> {
        fs::remove_dir_all(&bundle.path).context("remove a bundle")?;
        fs::remove_dir_all(self.root.path().join("snap").join(&bundle.id)).context("its layer")
    }

    /// The libcontainer helpers. A process that a helper has cloned is the shim's child as well, and
    /// has the helper's command line, until it executes the container's command.
    pub(crate) fn helpers(&self) -> Vec<i32> {
        let mut helpers = self.children();
        // In this order: a process that executes in between is no helper in the second look.
        helpers.retain(|pid| {
            has_executed(*pid) && harness::leak::command_line(*pid).starts_with(HELPER)
        });
        helpers
    }

    /// The shim's children.
    fn children(&self) -> Vec<i32> {
        let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.shim));
        let list = list.unwrap_or_default();
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// What the shim holds once its helper has left, or as soon as it is no more than `before`.
    pub(crate) fn settled(&self, before: Option<&Holdings>) -> Result<Holdings> {
        // A helper leaves after ten seconds without work.
        let limit = Duration::from_secs(20);
        until(limit, || self.helpers().is_empty().then_some(()))
            .context("the helper does not leave")?;
        let mut now = self.holdings();
        until(Duration::from_secs(5), || {
            now = self.holdings();
            let Ok(now) = &now else { return Some(()) };
            let is_less = before.is_none_or(|before| {
                now.threads <= before.threads
                    && now.descriptors <= before.descriptors
                    && now.children <= before.children
            });
            is_less.then_some(())
        });
        now
    }

    fn holdings(&self) -> Result<Holdings> {
        let process = format!("/proc/{}", self.shim);
        let count = |what: &str| fs::read_dir(format!("{process}/{what}")).map(Iterator::count);
        let memory = fs::read_to_string(format!("{process}/smaps_rollup"))?;
        let anonymous = memory.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        Ok(Holdings {
            threads: count("task")?,
            descriptors: count("fd")?,
            children: self.children().len(),
            private_kb: anonymous
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .context("no Anonymous in smaps_rollup")?,
        })
    }

    /// How often each exit was told, by container and exec (empty for init).
    pub(crate) fn exits(&self) -> HashMap<(String, String), usize> {
        let mut exits = HashMap::new();
        for seen in self.events.seen() {
            if let Event::Exit(exit) = seen.event {
                *exits.entry((exit.container_id, exit.id)).or_insert(0) += 1;
            }
        }
        exits
    }

    /// Asserts as much, for runs in which nothing fails.
    pub(crate) fn exits_are_told_once(&self, containers: usize, execs: usize) -> Result<()> {
        let wanted = containers + execs;
        // Events follow their cause.
        until(PATIENCE, || (self.exits().len() >= wanted).then_some(()));
        let exits = self.exits();
        ensure!(exits.len() == wanted, "{} exits were told, of {wanted}", exits.len());
        if let Some((whose, count)) = exits.iter().find(|(_, count)| **count != 1) {
            anyhow::bail!("the exit of {whose:?} was told {count} times");
        }
        Ok(())
    }

    /// Ends the container that stayed, and the shim; asserts that nothing is left.
    pub(crate) fn end(self) -> Result<()> {
        let task = self.anchor();
        task.kill("", 9).context("kill the one that stayed")?;
        task.wait("").context("wait for it")?;
        task.delete("").context("delete it")?;
        // It may be gone before it has answered.
        let _ = task.shutdown();
        let gone =
            || matches!(harness::leak::state(self.shim), None | Some('Z' | 'X')).then_some(());
        until(PATIENCE, gone).context("the shim does not leave")?;
        self.remove(&self.anchor)?;
        let Self { events, client, root, .. } = self;
        drop((events, client));
        let left = root.remains();
        ensure!(left.is_empty(), "left behind:\n{}", harness::leak::list(&left));
        Ok(())
    }
}

/// Whether a process has executed a program since it was cloned: the kernel's PF_FORKNOEXEC is not
/// among its flags.
fn has_executed(pid: i32) -> bool {
    proc::stat(pid, 9).is_some_and(|flags: u32| flags & 0x40 == 0)
}

fn lay_out(root: &Root, rootfs: &std::path::Path, script: &str) -> Result<Bundle> {
    let id = root.id("c");
    let token = root.namespace();
    let mut spec = bundle::spec(&bundle::shell(script), &format!("/{token}/{id}"));
    spec["annotations"] = json!({ "io.containerd.runc.v2.group": "soak" });
    let mut bundle = Bundle::make(&root.path().join("b"), &id, spec).context("make a bundle")?;
    bundle.rootfs = vec![bundle::overlay(rootfs, &root.path().join("snap").join(&id))?];
    Ok(bundle)
}

fn invocation(root: &Root, events: &Events, bundle: &Bundle) -> Invocation {
    Invocation {
        binary: programs::ours("containerd-shim-youki-v1"),
        namespace: root.namespace().to_owned(),
        id: bundle.id.clone(),
        address: root.path().join("containerd.sock").display().to_string(),
        publish: "/usr/bin/containerd".to_owned(),
        debug: false,
        bundle: bundle.path.clone(),
        ttrpc: events.path().display().to_string(),
        dialect: Dialect::V1_6,
        options: None,
        socket_dir: None,
        environment: vec![(harness::root::MARKER.to_owned(), root.path().display().to_string())],
        limit: PATIENCE,
    }
}
