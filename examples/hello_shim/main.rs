//! A shim whose containers all run the same program of the host: `echo`.

use std::{cell::Cell, process::ExitCode};

use shim_sdk::{
    Bundle, ContainerId, Create, Created, Description, Error, Io, Pid, Program, Result, Runtime,
    spawn_process,
};

struct Hello;

impl Runtime for Hello {
    type Container = Cell<Option<Io>>;

    fn describe(&self) -> Description {
        Description { name: "io.containerd.hello.v1", ..Description::default() }
    }

    async fn create(&self, _: Create, io: Io) -> Result<Created<Self::Container>> {
        Ok(Created { container: Cell::new(Some(io)), pid: None })
    }

    async fn start(&self, container: &Self::Container) -> Result<Pid> {
        let Some(Io::Streams(streams)) = container.take() else {
            return Err(Error::precondition("the container has no streams"));
        };
        spawn_process(Program::new("/bin/echo").args(["hello from a shim"]).streams(streams)).await
    }

    async fn delete(&self, _: &Self::Container) -> Result<()> {
        Ok(())
    }

    async fn clean_up(&self, _: &ContainerId, _: &Bundle) -> Result<()> {
        Ok(())
    }
}

fn main() -> ExitCode {
    shim_sdk::run(|_| Ok(Hello))
}
