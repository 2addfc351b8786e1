//! Debian's containerd with our `containerd-shim-runc-v2` in place of its own.
//!
//! Nothing is asked for by name: containerd's default runtime is looked up on a PATH that begins
//! with our directory. [`life`] goes through the life of a container as `ctr` shows it, [`crash`]
//! kills containerd and the shim, [`scale`] runs many containers, and [`nested`] needs what only another
//! host has.

mod client;
mod crash;
mod life;
mod nested;
mod scale;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use harness::fixtures::{self, APP};
use harness::image::Image;
use harness::{Containerd, Finished, Root, eventually, run, wait};
use serde_json::Value;

use crate::engine::Engine;

/// A stock containerd that finds our shim where it looks for its own.
pub(crate) struct StockContainerd<'r> {
    root: &'r Root,
    engine: Engine,
    containerd: Containerd<'r>,
}

impl<'r> StockContainerd<'r> {
    /// Starts one that has the application image.
    fn start(root: &'r Root, engine: Engine) -> Self {
        let stock = Self::empty(root, engine);
        stock.containerd.import(&fixtures::images().app());
        stock
    }

    /// Starts one that has an image of busybox alone under that name, which needs no tools to be
    /// made.
    fn lean(root: &'r Root, engine: Engine) -> Self {
        let stock = Self::empty(root, engine);
        stock.containerd.import(&Image::busybox(APP).write(&root.path().join("image.tar")));
        stock
    }

    /// Starts one without an image.
    fn empty(root: &'r Root, engine: Engine) -> Self {
        let shims = engine.shims();
        let containerd = match engine {
            Engine::Crun => Containerd::start_for_crun(root, shims.as_deref()),
            Engine::Runc | Engine::Youki | Engine::Stock => {
                Containerd::start(root, shims.as_deref())
            }
        };
        Self { root, engine, containerd }
    }

    /// `ctr` and these words, to its end.
    #[track_caller]
    fn ctr(&self, words: &[&str]) -> Finished {
        self.containerd.run(words)
    }

    /// `ctr run` of a script under a fresh id, ready to be run.
    fn run(&self, flags: &[&str], script: &str) -> (Command, String) {
        let id = self.root.id("c");
        self.containerd.expect_shim(&id);
        let mut command = self.containerd.ctr(&["run"]);
        match self.engine {
            // The one that is not containerd's default.
            Engine::Youki => command.args(["--runtime", self.engine.runtime()]),
            Engine::Crun => command.args(["--runc-binary", "crun"]),
            Engine::Runc | Engine::Stock => &mut command,
        };
        command.arg("--fifo-dir").arg(self.root.dir("fifo")).args(flags);
        command.args([APP, &id, "/bin/sh", "-c", script]);
        (command, id)
    }

    /// A container that runs by itself, without streams.
    #[track_caller]
    fn detached(&self, flags: &[&str], script: &str) -> String {
        let flags = [&["--detach", "--null-io"], flags].concat();
        let (mut command, id) = self.run(&flags, script);
        let _ = run(&mut command).success();
        let shim = self.containerd.shim(&id);
        assert_eq!(
            fs::canonicalize(format!("/proc/{shim}/exe")).expect("the shim runs"),
            fs::canonicalize(self.engine.binary()).expect("it was built"),
            "the container must run under the shim that this test is about"
        );
        id
    }

    /// `ctr task exec` of a script.
    fn exec(&self, id: &str, exec: &str, script: &str) -> Command {
        let mut command = self.containerd.ctr(&["task", "exec", "--exec-id", exec, "--fifo-dir"]);
        command.arg(self.root.dir("fifo")).args([id, "/bin/sh", "-c", script]);
        command
    }

    /// What `ctr task ls` says of a container; empty when it has no task.
    fn status(&self, id: &str) -> String {
        let listed = self.ctr(&["task", "ls"]).success().out();
        let line = listed.lines().find(|line| line.starts_with(&format!("{id} ")));
        line.and_then(|line| line.split_whitespace().last()).unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn becomes(&self, id: &str, status: &str) {
        eventually(wait::SOON, &format!("{id} is {status}"), || {
            (self.status(id) == status).then_some(())
        });
    }

    /// Kills a container, if it runs, and removes its task and its record.
    #[track_caller]
    fn remove(&self, id: &str) {
        // It may have ended; that is the same result.
        let _ = self.ctr(&["task", "kill", "--signal", "SIGKILL", id]);
        self.becomes(id, "STOPPED");
        // ctr passes init's exit code on.
        let removed = self.ctr(&["task", "rm", id]);
        assert_eq!(self.status(id), "", "{removed:?}");
        let _ = self.ctr(&["containers", "rm", id]).success();
    }

    /// Watches containerd's events from now on.
    fn watch(&self) -> EventLog {
        let path = self.root.path().join("events");
        let file = File::create(&path).expect("make a file");
        let mut command = self.containerd.ctr(&["events"]);
        let child = command.stdin(Stdio::null()).stdout(file).spawn().expect("start ctr");
        let watch = EventLog { child, path };
        // What comes before the subscription is not told.
        let mut knock = 0;
        eventually(wait::SOON, "events are published", || {
            knock += 1;
            let label = format!("knock={knock}");
            let _ = self.ctr(&["namespaces", "label", self.root.namespace(), &label]).success();
            fs::metadata(&watch.path).is_ok_and(|meta| meta.len() > 0).then_some(())
        });
        watch
    }
}

/// `ctr events`, and what it wrote.
struct EventLog {
    child: Child,
    path: PathBuf,
}

impl EventLog {
    /// The events of a container's tasks, in order: the last word of the topic, and what it said.
    fn of(&self, id: &str) -> Vec<(String, Value)> {
        let text = fs::read_to_string(&self.path).expect("made above");
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .filter_map(|line| {
                let (head, body) = line.split_at(line.find('{')?);
                let topic = head.trim().rsplit(' ').next()?.strip_prefix("/tasks/")?.to_owned();
                let body: Value = serde_json::from_str(body).expect("ctr writes JSON");
                (body["container_id"] == id).then_some((topic, body))
            })
            .collect()
    }

    /// The same as words: `exit`, and `exit:e1` for an exec's.
    fn words(&self, id: &str) -> Vec<String> {
        self.of(id)
            .into_iter()
            .map(|(topic, body)| {
                let exec = body["exec_id"].as_str().or(body["id"].as_str()).unwrap_or_default();
                if exec.is_empty() || exec == id { topic } else { format!("{topic}:{exec}") }
            })
            .collect()
    }

    /// Waits for an event of a container, by its word.
    #[track_caller]
    fn wait_for(&self, id: &str, word: &str) {
        eventually(wait::SOON, &format!("{word} of {id}"), || {
            self.words(id).iter().any(|seen| seen == word).then_some(())
        });
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        // It may have gone with its containerd.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs each of these functions once per engine named, as a test of its own.
macro_rules! with_engines {
    ($($engine:ident: $variant:ident { $($name:ident)* })*) => {
        $(mod $engine {
            $(#[test] fn $name() { super::$name($crate::engine::Engine::$variant); })*
        })*
    };
}

use with_engines;
