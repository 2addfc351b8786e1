//! The directory, namespace and ids of one test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::leak::{self, Scope};
use crate::programs;

/// The environment variable that marks each process that a root starts.
pub const MARKER: &str = "TEST_ROOT";

/// The roots that are alive, for [`sweep_before_abort`].
static ALIVE: Mutex<Vec<Scope>> = Mutex::new(Vec::new());

/// Has a panic sweep every root before the process goes on to abort, as release programs do: no
/// destructor runs then.
pub fn sweep_before_abort() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        let alive = ALIVE.lock().map(|alive| alive.clone()).unwrap_or_default();
        alive.iter().for_each(leak::sweep);
    }));
}

/// A temporary root directory, a containerd namespace, and ids that no other test has.
///
/// Dropping it asserts that nothing of it remains, and then removes what does.
#[derive(Debug)]
pub struct Root {
    directory: PathBuf,
    token: String,
    serial: AtomicUsize,
    sockets: Mutex<Vec<PathBuf>>,
    namespace_cgroup_may_stay: AtomicBool,
    /// Whether this process is the one that looks for what is left.
    owned: bool,
}

impl Root {
    /// Makes a root with a name of its own.
    ///
    /// # Panics
    ///
    /// When the directory cannot be made, or the test does not run as root.
    #[must_use]
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make containers: run them as root");
        // Short, since sockets live below it and their paths end at 107 bytes.
        let directory = tempfile::Builder::new()
            .prefix("st-")
            .rand_bytes(8)
            .tempdir_in("/tmp")
            .expect("/tmp can be written to")
            .keep();
        let token =
            directory.file_name().expect("it was made with a name").to_string_lossy().into_owned();
        let this = Self {
            directory,
            token,
            serial: AtomicUsize::new(0),
            sockets: Mutex::default(),
            namespace_cgroup_may_stay: false.into(),
            owned: true,
        };
        ALIVE.lock().expect("no holder panics").push(this.scope());
        this
    }

    /// The root that another process has made at `directory` and looks after.
    ///
    /// # Panics
    ///
    /// When it is not the path of a root.
    #[must_use]
    pub fn adopt(directory: &Path) -> Self {
        let token =
            directory.file_name().expect("a root has a name").to_string_lossy().into_owned();
        Self {
            directory: directory.to_owned(),
            token,
            serial: AtomicUsize::new(0),
            sockets: Mutex::default(),
            namespace_cgroup_may_stay: false.into(),
            owned: false,
        }
    }

    /// Ends and removes what is left, and prints nothing.
    pub fn sweep(mut self) {
        let scope = self.scope();
        leak::sweep(&scope);
        ALIVE.lock().expect("no holder panics").retain(|alive| alive.token != scope.token);
        // There is nothing more to look for.
        self.owned = false;
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// A directory below the root, made if it is not there.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::create_dir_all(&path)
            .unwrap_or_else(|why| panic!("make {}: {why}", path.display()));
        path
    }

    /// The containerd namespace to use, which also names the cgroups of its containers.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.token
    }

    /// A fresh container id that says what it is for.
    #[must_use]
    pub fn id(&self, purpose: &str) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{}-{purpose}{serial}", self.token)
    }

    /// A command that carries this root's mark.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env("PATH", programs::SEARCH_PATH)
            .env(MARKER, &self.directory)
            .env_remove("RUST_LOG")
            .env_remove("NOTIFY_SOCKET")
            .current_dir("/");
        command
    }

    /// Watches a socket outside the root's directory, too.
    pub fn watch_socket(&self, path: PathBuf) {
        self.sockets.lock().expect("no holder panics").push(path);
    }

    /// Lets an empty cgroup named after the namespace stay: specs of stock clients have one, and
    /// runtimes remove the container's alone.
    pub fn tolerate_namespace_cgroup(&self) {
        self.namespace_cgroup_may_stay.store(true, Ordering::Relaxed);
    }

    fn scope(&self) -> Scope {
        Scope {
            token: self.token.clone(),
            directory: self.directory.clone(),
            sockets: self.sockets.lock().map(|held| held.clone()).unwrap_or_default(),
            namespace_cgroup_may_stay: self.namespace_cgroup_may_stay.load(Ordering::Relaxed),
        }
    }

    /// What but files remains of what ran here, once it had time to go.
    #[must_use]
    pub fn remains(&self) -> Vec<leak::Trace> {
        leak::settled(&self.scope())
    }

    /// Asserts that nothing but files remains of what ran here.
    ///
    /// # Panics
    ///
    /// When something remains, naming it.
    #[track_caller]
    pub fn assert_clean(&self) {
        let remains = leak::settled(&self.scope());
        assert!(remains.is_empty(), "{} left behind:\n{}", self.token, leak::list(&remains));
    }
}

impl Default for Root {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        let scope = self.scope();
        // A test that failed half way left things in the middle; that is not the fault to report.
        let remains = if std::thread::panicking() { Vec::new() } else { leak::settled(&scope) };
        leak::sweep(&scope);
        ALIVE.lock().expect("no holder panics").retain(|alive| alive.token != scope.token);
        assert!(remains.is_empty(), "{} left behind:\n{}", self.token, leak::list(&remains));
    }
}
