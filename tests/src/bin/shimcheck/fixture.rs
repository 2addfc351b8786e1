//! What a row can use: a directory and a namespace of its own, an event endpoint, bundles and shims.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use harness::leak::{self, Scope, Trace};
use harness::proc;
use harness::shim::bundle::{self, Bundle};
use harness::shim::stream::{Input, Stream};
use harness::shim::ttrpc::{CallError, Code};
use harness::shim::{Client, Dialect, Events, Invocation, Reply, Task, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protos::ttrpc::api::{CreateTaskRequest, ExecProcessRequest, Status};
use protos::ttrpc::shim::oci::Options as RuncOptions;
use serde_json::Value;

use crate::options::Options;
use crate::verdict::not_offered;

/// How long what should happen at once may take on a busy machine, or on one that is emulated.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A row's surroundings.
pub(crate) struct Fixture {
    /// What is checked.
    pub(crate) options: Options,
    /// In the name of everything the row makes; its containerd namespace, too.
    pub(crate) token: String,
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// The event endpoint, listening.
    pub(crate) events: RefCell<Events>,
    /// How shims are started.
    pub(crate) dialect: Dialect,
    serial: Cell<usize>,
}

impl Fixture {
    /// Sets it up in the directory given.
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let dir = options.place.clone();
        let token = dir.file_name().context("the place has a name")?.to_string_lossy().into_owned();
        fs::create_dir_all(dir.join("b"))?;
        let events = Events::serve(&dir.join("e.ttrpc")).context("serve events")?;
        Ok(Self {
            options: options.clone(),
            token,
            events: RefCell::new(events),
            dialect: options.dialect.unwrap_or(Dialect::V1_6),
            serial: Cell::new(0),
            dir,
        })
    }

    /// A fresh id.
    pub(crate) fn id(&self) -> String {
        self.serial.set(self.serial.get() + 1);
        format!("{}-c{}", self.token, self.serial.get())
    }

    /// A fresh path for a file or a fifo.
    pub(crate) fn path(&self, purpose: &str) -> PathBuf {
        self.serial.set(self.serial.get() + 1);
        self.dir.join(format!("{purpose}{}", self.serial.get()))
    }

    /// A spec that runs a shell script.
    pub(crate) fn spec(&self, id: &str, script: &str) -> Value {
        bundle::spec(&bundle::shell(script), &format!("/{}/{id}", self.token))
    }

    /// A bundle that runs a shell script.
    pub(crate) fn shell(&self, script: &str) -> Result<Bundle> {
        self.shaped(script, |_| {})
    }

    /// The same with changes to its spec.
    pub(crate) fn shaped(&self, script: &str, shape: impl FnOnce(&mut Value)) -> Result<Bundle> {
        let id = self.id();
        let mut spec = self.spec(&id, script);
        shape(&mut spec);
        let mut bundle = Bundle::make(&self.dir.join("b"), &id, spec).context("make a bundle")?;
        let lower = bundle::overlay(&self.options.rootfs, &self.dir.join("snap").join(&id));
        bundle.rootfs = vec![lower.context("make an overlay")?];
        bundle.options = self.runc_options();
        Ok(bundle)
    }

    /// The runtime's options, if a runtime was named.
    pub(crate) fn runc_options(&self) -> Option<RuncOptions> {
        let runtime = self.options.runtime.as_ref()?;
        Some(RuncOptions { binary_name: runtime.display().to_string(), ..RuncOptions::default() })
    }

    /// What the runtime that was named says of itself; empty if none was.
    pub(crate) fn runtime_version(&self) -> String {
        self.options.runtime.as_deref().map(version).unwrap_or_default()
    }

    /// How a shim is executed for a bundle.
    pub(crate) fn invocation(&self, bundle: &Bundle) -> Invocation {
        Invocation {
            binary: self.options.shim.clone(),
            namespace: self.token.clone(),
            id: bundle.id.clone(),
            address: self.dir.join("containerd.sock").display().to_string(),
            publish: "/usr/bin/containerd".to_owned(),
            debug: false,
            bundle: bundle.path.clone(),
            ttrpc: self.events.borrow().path().display().to_string(),
            dialect: self.dialect,
            options: bundle.options_any(),
            socket_dir: None,
            environment: vec![(harness::root::MARKER.to_owned(), self.dir.display().to_string())],
            limit: Duration::from_secs(15),
        }
    }

    /// Starts a shim and connects to it; its log is read.
    pub(crate) fn start(&self, bundle: &Bundle) -> Result<Shim<'_>> {
        if let Some(log) = &bundle.log {
            log.follow().context("read the shim's log")?;
        }
        self.start_with(&self.invocation(bundle))
    }

    /// Starts a shim in a way of the row's own.
    pub(crate) fn start_with(&self, invocation: &Invocation) -> Result<Shim<'_>> {
        let reply = invocation.start()?;
        self.note_socket(&reply.address)?;
        self.connect(&reply, &invocation.id)
    }

    /// Connects to a shim that runs.
    pub(crate) fn connect(&self, reply: &Reply, id: &str) -> Result<Shim<'_>> {
        let client = Client::connect(&reply.address)
            .with_context(|| format!("connect to {}", reply.address))?;
        let answer = Task::new(&client, reply.service(), id)
            .connect()
            .context("Connect, right after the start")?;
        let pid = i32::try_from(answer.shim_pid)?;
        ensure!(pid > 1, "Connect says the shim's process id is {pid}");
        Ok(Shim { fixture: self, reply: reply.clone(), client, pid })
    }

    /// A container that runs a script, without streams.
    pub(crate) fn run(&self, script: &str) -> Result<Life<'_>> {
        let bundle = self.shell(script)?;
        self.run_bundle(bundle)
    }

    /// A container of a bundle, without streams.
    pub(crate) fn run_bundle(&self, bundle: Bundle) -> Result<Life<'_>> {
        let mut life = self.create(bundle)?;
        life.start()?;
        Ok(life)
    }

    /// A container that is created and not started.
    pub(crate) fn create(&self, bundle: Bundle) -> Result<Life<'_>> {
        let request = bundle.create_request();
        self.create_with(bundle, &request)
    }

    /// The same with a request of the row's own.
    pub(crate) fn create_with(
        &self,
        bundle: Bundle,
        request: &CreateTaskRequest,
    ) -> Result<Life<'_>> {
        let shim = self.start(&bundle)?;
        let task = shim.task(&bundle.id);
        let pid = task.create(request).context("Create")?;
        Ok(Life { shim, bundle, task, pid, created_pid: pid })
    }

    /// Writes a shim's socket down, for the sweep.
    pub(crate) fn note_socket(&self, address: &str) -> Result<()> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let mut file =
            fs::OpenOptions::new().create(true).append(true).open(self.dir.join("sockets"))?;
        writeln!(file, "{path}")?;
        Ok(())
    }

    /// Where to look for what is left.
    pub(crate) fn scope(&self) -> Scope {
        Scope {
            token: self.token.clone(),
            directory: self.dir.clone(),
            sockets: sockets(&self.dir),
            namespace_cgroup_may_stay: true,
        }
    }

    /// What of the shims and their containers is still there, once it had time to go. The row's own
    /// fifos and directories do not count.
    fn remains(&self, counts: impl Fn(&Trace) -> bool) -> Vec<Trace> {
        let mut last = Vec::new();
        until(Duration::from_secs(6), || {
            last = leak::look(&self.scope());
            last.retain(|trace| !self.is_own(trace) && counts(trace));
            last.is_empty().then_some(())
        });
        last
    }

    fn is_own(&self, trace: &Trace) -> bool {
        match trace {
            Trace::Fifo(path) | Trace::Entry(path) => path.starts_with(&self.dir),
            Trace::Socket(what) => {
                let events = self.dir.join("e.ttrpc").display().to_string();
                what.starts_with(&events)
            }
            Trace::Process { what, .. } => what.contains("--row "),
            // crun makes plain directories where it expects a hierarchy.
            Trace::Cgroup(path) => leak::on_tmpfs(path),
            Trace::Mount(_) | Trace::Loop(_) => false,
        }
    }

    /// Asserts that no process, mount or cgroup is left; a socket's file may be.
    pub(crate) fn nothing_but_sockets_left(&self) -> Result<()> {
        let remains = self.remains(|trace| !matches!(trace, Trace::Socket(_)));
        ensure!(remains.is_empty(), "left behind:\n{}", leak::list(&remains).trim_end());
        Ok(())
    }

    /// Asserts that nothing is left.
    pub(crate) fn nothing_left(&self) -> Result<()> {
        let remains = self.remains(|_| true);
        ensure!(remains.is_empty(), "left behind:\n{}", leak::list(&remains).trim_end());
        Ok(())
    }

    /// Standard output and error as fifos that are read.
    pub(crate) fn pipes(&self) -> Result<Pipes> {
        Ok(Pipes {
            stdin: None,
            stdout: Some(Stream::read(&self.path("stdout")).context("make stdout")?),
            stderr: Some(Stream::read(&self.path("stderr")).context("make stderr")?),
        })
    }

    /// The same and standard input.
    pub(crate) fn pipes_with_input(&self) -> Result<Pipes> {
        let mut pipes = self.pipes()?;
        pipes.stdin = Some(Input::make(&self.path("stdin")).context("make stdin")?);
        Ok(pipes)
    }

    /// A terminal: standard input, and standard output for both.
    pub(crate) fn terminal(&self) -> Result<Pipes> {
        Ok(Pipes { stderr: None, ..self.pipes_with_input()? })
    }
}

/// The sockets of a place's shims.
pub(crate) fn sockets(place: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(place.join("sockets")).unwrap_or_default();
    text.lines().filter(|line| line.starts_with('/')).map(PathBuf::from).collect()
}

/// A container's streams.
pub(crate) struct Pipes {
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Option<Stream>,
    pub(crate) stderr: Option<Stream>,
}

impl Pipes {
    fn paths(&self) -> (String, String, String) {
        (
            self.stdin.as_ref().map(Input::path).unwrap_or_default(),
            self.stdout.as_ref().map(Stream::path).unwrap_or_default(),
            self.stderr.as_ref().map(Stream::path).unwrap_or_default(),
        )
    }

    /// Names them in a request.
    pub(crate) fn create(&self, mut request: CreateTaskRequest) -> CreateTaskRequest {
        (request.stdin, request.stdout, request.stderr) = self.paths();
        request
    }

    /// Names them in a request.
    pub(crate) fn exec(&self, mut request: ExecProcessRequest) -> ExecProcessRequest {
        (request.stdin, request.stdout, request.stderr) = self.paths();
        request
    }

    /// Standard output.
    pub(crate) fn out(&self) -> Result<&Stream> {
        self.stdout.as_ref().context("there is no stdout")
    }

    /// Standard input.
    pub(crate) fn input(&mut self) -> Result<&mut Input> {
        self.stdin.as_mut().context("there is no stdin")
    }
}

/// A shim that runs, and a connection to it.
pub(crate) struct Shim<'s> {
    pub(crate) fixture: &'s Fixture,
    pub(crate) reply: Reply,
    pub(crate) client: Client,
    /// The server's process.
    pub(crate) pid: i32,
}

impl Shim<'_> {
    /// A container in it.
    pub(crate) fn task(&self, id: &str) -> Task {
        Task::new(&self.client, self.reply.service(), id)
    }

    /// A further connection to it.
    pub(crate) fn reconnect(&self) -> Result<Client> {
        Client::connect(&self.reply.address).context("connect again")
    }

    /// Its socket's file.
    pub(crate) fn socket(&self) -> PathBuf {
        let address = &self.reply.address;
        PathBuf::from(address.strip_prefix("unix://").unwrap_or(address))
    }

    /// Whether its process is there.
    pub(crate) fn alive(&self) -> bool {
        !matches!(leak::state(self.pid), None | Some('Z' | 'X'))
    }

    /// Waits until its process is gone.
    pub(crate) fn gone(&self, limit: Duration) -> Result<()> {
        until(limit, || (!self.alive()).then_some(())).with_context(|| {
            format!(
                "the shim (process {}) is still there after {:.1} s",
                self.pid,
                limit.as_secs_f32()
            )
        })
    }

    /// Sends its process a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid), signal).with_context(|| format!("send the shim {signal}"))
    }

    /// How many threads it has.
    pub(crate) fn threads(&self) -> usize {
        entries(&format!("/proc/{}/task", self.pid))
    }

    /// How many descriptors it has.
    pub(crate) fn descriptors(&self) -> usize {
        entries(&format!("/proc/{}/fd", self.pid))
    }

    /// Its resident memory.
    pub(crate) fn resident_kb(&self) -> usize {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    }

    /// Its children that are zombies.
    pub(crate) fn zombies(&self) -> usize {
        proc::children(self.pid).into_iter().filter(|pid| leak::state(*pid) == Some('Z')).count()
    }

    /// Asks it to leave, and waits until it has.
    pub(crate) fn leave(&self, id: &str) -> Result<()> {
        match self.task(id).shutdown() {
            // It may be gone before it has answered.
            Ok(()) | Err(CallError::Closed) => {}
            Err(why) => bail!("Shutdown: {why}"),
        }
        self.gone(SOON)
    }
}

fn entries(directory: &str) -> usize {
    fs::read_dir(directory).map(Iterator::count).unwrap_or(0)
}

/// A shim with a container.
pub(crate) struct Life<'s> {
    pub(crate) shim: Shim<'s>,
    pub(crate) bundle: Bundle,
    pub(crate) task: Task,
    /// Init's process; none before Start where a created container has none.
    pub(crate) pid: u32,
    /// What Create said of it.
    pub(crate) created_pid: u32,
}

/// Whether a shell catches a signal. What is to become the shell may be Go's, whose own handlers are
/// for SIGURG, too; no script has a trap for that.
fn traps(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let catches = |signal: Signal| caught & (1 << (signal as i32 - 1)) != 0;
    catches(signal) && !catches(Signal::SIGURG)
}

/// A script that goes on until [`Life::tell`], and then exits with a code.
pub(crate) fn until_told(code: u32) -> String {
    format!("trap 'exit {code}' TERM; while :; do sleep 0.05; done")
}

impl Life<'_> {
    /// Makes an init that runs [`until_told`] exit, without the shim's help.
    pub(crate) fn tell(&self) -> Result<()> {
        self.listens()?;
        kill(Pid::from_raw(i32::try_from(self.pid)?), Signal::SIGTERM).context("signal init")
    }

    /// Waits until an init that is a shell has set its trap for SIGTERM: the first process of a
    /// namespace is deaf without.
    pub(crate) fn listens(&self) -> Result<()> {
        until(SOON, || traps(self.pid, Signal::SIGTERM).then_some(()))
            .context("init does not set its trap")
    }

    /// Starts it.
    pub(crate) fn start(&mut self) -> Result<()> {
        let pid = self.task.start("").context("Start")?;
        if self.pid == 0 {
            // What is no OCI runtime may begin with nothing.
            self.pid = pid;
        }
        ensure!(pid == self.pid && pid > 0, "Create said process {}, Start says {pid}", self.pid);
        Ok(())
    }

    /// Waits for its exit, within what is right for something short.
    pub(crate) fn exit_status(&self) -> Result<u32> {
        exit_status(&self.task, "")
    }

    /// Adds and starts an exec of a script, without streams.
    pub(crate) fn exec(&self, exec: &str, script: &str) -> Result<u32> {
        let process = bundle::process(&bundle::shell(script));
        let added = self.task.exec(&self.task.exec_request(exec, &process));
        unless_unimplemented(added, "Exec").context("Exec")?;
        self.task.start(exec).context("Start of an exec")
    }

    /// Adds and starts an exec of a script with streams.
    pub(crate) fn exec_with(&self, exec: &str, script: &str, pipes: &Pipes) -> Result<u32> {
        let process = bundle::process(&bundle::shell(script));
        let request = pipes.exec(self.task.exec_request(exec, &process));
        unless_unimplemented(self.task.exec(&request), "Exec").context("Exec")?;
        self.task.start(exec).context("Start of an exec")
    }

    /// The status as the shim tells it.
    pub(crate) fn status(&self) -> Result<Status> {
        status(&self.task, "")
    }

    /// Ends it in the ordinary way, and the shim, and asserts that nothing is left.
    pub(crate) fn end(self) -> Result<()> {
        finish(&self.task)?;
        self.shim.leave(&self.bundle.id)?;
        self.shim.fixture.nothing_left()
    }
}

/// Kills a container if it runs, waits, and deletes it.
pub(crate) fn finish(task: &Task) -> Result<()> {
    match task.kill("", 9) {
        Ok(()) => {}
        Err(why) if why.code() == Some(Code::NOT_FOUND) => {}
        Err(why) => bail!("Kill, at the end: {why}"),
    }
    task.wait("").map_err(|why| anyhow!("Wait, at the end: {why}"))?;
    task.delete("").map_err(|why| anyhow!("Delete, at the end: {why}"))?;
    Ok(())
}

/// Waits for an exit, within what is right for something short.
pub(crate) fn exit_status(task: &Task, exec: &str) -> Result<u32> {
    Ok(task.within(SOON).wait(exec).context("Wait")?.exit_status)
}

/// The status as the shim tells it.
pub(crate) fn status(task: &Task, exec: &str) -> Result<Status> {
    let state = task.state(exec).context("State")?;
    state.status.enum_value().map_err(|number| anyhow!("State has status {number}"))
}

/// Turns UNIMPLEMENTED into a row that is not offered.
pub(crate) fn unless_unimplemented<T>(
    answer: std::result::Result<T, CallError>,
    what: &str,
) -> Result<T> {
    match answer {
        Err(CallError::Refused { code: Code::UNIMPLEMENTED, message }) => {
            not_offered(format!("{what} is UNIMPLEMENTED: {message}"))
        }
        other => Ok(other?),
    }
}

/// Asserts that a call was refused with a code.
pub(crate) fn refused<T: std::fmt::Debug>(
    answer: std::result::Result<T, CallError>,
    code: Code,
    what: &str,
) -> Result<String> {
    match answer {
        Err(CallError::Refused { code: got, message }) if got == code => Ok(message),
        Err(CallError::Refused { code: Code::UNIMPLEMENTED, message }) => {
            not_offered(format!("{what}: UNIMPLEMENTED: {message}"))
        }
        Err(why) => bail!("{what}: expected {code:?}, got {why}"),
        Ok(answer) => bail!("{what}: expected {code:?}, got success: {answer:?}"),
    }
}

/// How long something took.
pub(crate) fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let value = what();
    (value, began.elapsed())
}

/// The first line of what a program says of itself.
pub(crate) fn version(program: &Path) -> String {
    Command::new(program)
        .arg("--version")
        .output()
        .map(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().next().unwrap_or_default().to_owned()
        })
        .unwrap_or_default()
}
