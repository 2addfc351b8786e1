//! The smallest complete shim: a container is a plain process of the host.
//!
//! Nothing is isolated. What is left is what a runtime's author has to write: containerd can
//! create, start, exec, kill, wait for and delete such "containers", with their streams, exits and
//! events, and clean up after a crash of this shim.
//!
//! Try it: `ctr run --rm --runtime /path/to/containerd-shim-skeleton-v1 IMAGE NAME COMMAND`.

use std::process::ExitCode;

use oci_spec::runtime::Process;
use shim_sdk::{
    Bundle, ContainerId, Create, Created, Description, Error, Exec, Io, Journal, Pid,
    ProcessHandle, Program, Result, Runtime, Signal, Streams, spawn_process,
};

/// The runtime: it has nothing to remember between containers.
struct Skeleton;

/// A container: what to run, and the streams to run it with, until it is started.
struct Container {
    bundle: Bundle,
    init: std::cell::RefCell<Option<(Process, Streams)>>,
}

impl Runtime for Skeleton {
    type Container = Container;

    fn describe(&self) -> Description {
        Description {
            name: "io.containerd.skeleton.v1",
            version: env!("CARGO_PKG_VERSION"),
            revision: "",
            capabilities: Default::default(),
            features: None,
        }
    }

    async fn create(&self, request: Create, io: Io) -> Result<Created<Container>> {
        let process = request.bundle.spec()?.process().clone();
        let process = process.ok_or_else(|| Error::invalid("the spec has no process"))?;
        let init = std::cell::RefCell::new(Some((process, streams(io)?)));
        // No process yet, so no pid: it appears when the container is started.
        Ok(Created { container: Container { bundle: request.bundle, init }, pid: None })
    }

    async fn start(&self, container: &Container) -> Result<Pid> {
        let init = container.init.borrow_mut().take();
        let (process, streams) = init.ok_or_else(|| Error::precondition("started before"))?;
        run(&container.bundle, &process, streams).await
    }

    async fn exec(&self, container: &Container, request: Exec, io: Io) -> Result<Pid> {
        run(&container.bundle, &request.process, streams(io)?).await
    }

    async fn delete(&self, _container: &Container) -> Result<()> {
        Ok(()) // a process that has exited leaves nothing
    }

    async fn clean_up(&self, _id: &ContainerId, bundle: &Bundle) -> Result<()> {
        // The SDK has killed init; the journal knows the execs as well.
        let journal = Journal::read(bundle).ok().flatten();
        for (_, exec) in journal.into_iter().flat_map(|journal| journal.execs) {
            if let (Some(pid), None) = (exec.pid, exec.exit) {
                let _ = ProcessHandle::open(pid)?.signal(Signal::KILL); // gone is as well
            }
        }
        Ok(())
    }
}

fn streams(io: Io) -> Result<Streams> {
    match io {
        Io::Streams(streams) => Ok(streams),
        Io::Terminal(_) => Err(Error::unimplemented("a terminal")),
    }
}

/// Runs a process of the spec on the host, in the bundle.
async fn run(bundle: &Bundle, process: &Process, streams: Streams) -> Result<Pid> {
    let arguments = process.args().as_deref().unwrap_or_default();
    let [program, arguments @ ..] = arguments else {
        return Err(Error::invalid("the process has no arguments"));
    };
    let mut program = Program::new(program).args(arguments).directory(bundle.path()).bare_env();
    for variable in process.env().iter().flatten() {
        if let Some((name, value)) = variable.split_once('=') {
            program = program.env(name, value);
        }
    }
    spawn_process(program.streams(streams)).await
}

fn main() -> ExitCode {
    shim_sdk::run(|_| Ok(Skeleton))
}
