//! What an attack can use: its root, a shim's daemon, a daemon, and secrets of the host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::fake_daemon::FakeDaemon;
use harness::shim::{Bundle, Stream};
use harness::{Finished, Root, Supervisor, programs, run};
use serde_json::{Value, json};

use crate::engine::Engine;

/// Upwards from wherever a descriptor leads to.
pub(crate) const UP: &str = "../../../../../../../../../../../..";
/// What our image is called.
pub(crate) const IMAGE: &str = "example.test/attack:1";
/// How long a container has for what should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// An attack's surroundings.
pub(crate) struct Fixture {
    pub(crate) daemon: FakeDaemon,
    pub(crate) engine: Engine,
}

impl Fixture {
    /// On the root that the parent process has made.
    pub(crate) fn new(root: &Path, engine: Option<Engine>) -> Self {
        let engine = engine.unwrap_or(Engine::Youki);
        let shim = programs::ours(engine.shim());
        Self { daemon: FakeDaemon::on(Root::adopt(root), shim), engine }
    }

    pub(crate) fn root(&self) -> &Root {
        &self.daemon.root
    }

    /// A file of the host that no container may read; its path.
    pub(crate) fn secret(&self) -> PathBuf {
        let path = self.root().path().join("secret");
        fs::write(&path, "the host's").expect("write the secret");
        path
    }

    /// A directory of the host with things in it that no container may change.
    pub(crate) fn victim(&self) -> PathBuf {
        let path = self.root().dir("victim");
        for name in ["ptmx", "null", "keep"] {
            fs::write(path.join(name), name).expect("write a file of the victim's");
        }
        fs::create_dir_all(path.join("pts")).expect("make a directory of the victim's");
        path
    }

    /// Where a container and the host leave each other files.
    pub(crate) fn shared(&self) -> PathBuf {
        self.root().dir("shared")
    }

    /// A busybox root file system of one's own, to be spoilt.
    pub(crate) fn lower(&self, name: &str) -> PathBuf {
        let path = self.root().dir(name);
        harness::shim::bundle::busybox(&path, &programs::system("busybox")).expect("busybox");
        path
    }

    /// Puts this program at `/attack` of a container, and [`Self::shared`] at `/shared`.
    pub(crate) fn equip(&self, spec: &mut Value) {
        let own = std::env::current_exe().expect("this program has a path");
        let bind = |from: &Path, to: &str, mode: &str| {
            json!({ "destination": to, "type": "bind", "source": from,
                    "options": ["rbind", "rprivate", mode] })
        };
        let mounts = spec["mounts"].as_array_mut().expect("a list of mounts");
        mounts.push(bind(&own, "/attack", "ro"));
        mounts.push(bind(&self.shared(), "/shared", "rw"));
    }

    /// Runs a container of its own shim to its end: its exit status, or why there was none.
    pub(crate) fn outcome(&self, bundle: &Bundle) -> Result<u32, String> {
        self.said(bundle).0
    }

    /// The same, and what it wrote.
    pub(crate) fn said(&self, bundle: &Bundle) -> (Result<u32, String>, String) {
        let stdout = Stream::read(&self.root().path().join(format!("{}.out", bundle.id)));
        let stdout = stdout.expect("make a fifo");
        let mut request = bundle.create_request();
        request.stdout = stdout.path();
        let shim = self.daemon.start(bundle);
        let task = shim.task(&bundle.id);
        let ended = task
            .within(SOON)
            .create(&request)
            .and_then(|_| task.within(SOON).start(""))
            .and_then(|_| task.within(SOON).wait(""))
            .map(|exit| exit.exit_status)
            .map_err(|why| why.to_string());
        if ended.is_ok() {
            stdout.wait_end(SOON);
        }
        // A container that was refused leaves nothing to be deleted; one that hangs is killed.
        let _ = task.kill("", 9);
        let _ = task.delete("");
        let _ = task.shutdown();
        shim.gone(SOON);
        let text = stdout.text();
        let _ = fs::remove_file(stdout.path());
        self.daemon.forget();
        (ended, text)
    }

    /// A daemon's command line with our image imported.
    pub(crate) fn supervisor(&self) -> Supervisor<'_> {
        let supervisor = Supervisor::new(self.root()).with_idle_timeout(2);
        let archive = self.root().path().join("image.tar");
        if !archive.exists() {
            let _ = harness::image::Image::busybox(IMAGE).write(&archive);
        }
        supervisor.import(&archive);
        supervisor
    }

    /// `run` with our image, on this engine.
    pub(crate) fn run(&self, on: &Supervisor<'_>, flags: &[&str], words: &[&str]) -> Finished {
        let runtime = ["run", "--runtime", self.engine.runtime()];
        run(&mut on.cli(&[&runtime, flags, &[IMAGE], words].concat()))
    }

    /// Waits for a file that a container makes in [`Self::shared`].
    pub(crate) fn waits_for(&self, name: &str) {
        let path = self.shared().join(name);
        harness::eventually(SOON, &format!("the container makes {name}"), || {
            path.exists().then_some(())
        });
    }
}

/// How a command ended, and the end of what it complained of.
pub(crate) fn brief(done: &Finished) -> String {
    let error = done.err();
    let from = error.char_indices().rev().nth(300).map_or(0, |(at, _)| at);
    format!("exit code {} after {:.1} s: {}", done.code(), done.took.as_secs_f32(), &error[from..])
}

/// Asserts that a command succeeded.
#[track_caller]
pub(crate) fn succeeded(done: &Finished, what: &str) {
    assert!(done.code() == 0, "{what}: {}", brief(done));
}

/// Every file below a directory with what may be changed of it: kind, mode, owner, content or target.
pub(crate) fn picture(of: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut directories = vec![of.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(about) = path.symlink_metadata() else { continue };
            let what = if about.is_symlink() {
                format!("{:?}", fs::read_link(&path).ok())
            } else if about.is_file() {
                String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned()
            } else {
                String::new()
            };
            let line = format!("{:o} {}:{} {what}", about.mode(), about.uid(), about.gid());
            if about.is_dir() {
                directories.push(path.clone());
            }
            found.insert(path, line);
        }
    }
    found
}

/// Asserts that a directory is as it was.
#[track_caller]
pub(crate) fn untouched(directory: &Path, before: &BTreeMap<PathBuf, String>, by: &str) {
    let after = picture(directory);
    let changed: Vec<_> = after
        .iter()
        .filter(|(path, line)| before.get(*path) != Some(line))
        .map(|(path, line)| format!("{} is now {line:?}", path.display()))
        .chain(
            before
                .keys()
                .filter(|path| !after.contains_key(*path))
                .map(|path| format!("{} is gone", path.display())),
        )
        .collect();
    assert!(changed.is_empty(), "{by} changed the host: {}", changed.join(", "));
}
