//! The life of an exec: added, started, ended.

use std::rc::Rc;

use oci_spec::runtime::Process as Spec;

use super::container::{Container, Process};
use super::lifecycle::{Phase, ProcessKind, Refusal, Request};
use super::shim::ShimState;
use crate::event::{Event, Names};
use crate::reaper;
use crate::stdio::{self, Owner};
use crate::watch::Watch;
use crate::{Error, Exec, ExecId, Exit, Pid, Result, Runtime, Signal};

/// What is reported for an exec that could not be started, to those who wait for it.
const EXEC_FAILED_STATUS: u32 = 255;

impl<R: Runtime> ShimState<R> {
    /// Adds an exec to a container; it starts when asked to.
    pub(crate) async fn add_exec(
        &self,
        id: &str,
        exec: ExecId,
        spec: Spec,
        names: Names,
    ) -> Result<()> {
        if names.terminal && !self.capabilities.terminal {
            return Err(Error::unimplemented("a terminal"));
        }
        let container = self.container(id)?;
        let now = container.init.admit(&container.id, Request::Exec).await?;
        if container.restores && matches!(now, Phase::Created | Phase::Starting) {
            // There is nothing yet that a process could join.
            return Err(
                Refusal::State("cannot exec in a created state").into_error(container.id.as_str())
            );
        }
        let process = Process::new(ProcessKind::Exec, Phase::Created, names);
        *process.spec.borrow_mut() = Some(Box::new(spec));
        container.reserve(&exec, process)?;
        self.events.push(Event::ExecAdded { container: container.id.clone(), exec });
        Ok(())
    }

    /// Starts an exec.
    pub(crate) async fn start_exec(self: Rc<Self>, id: &str, exec: &str) -> Result<Pid> {
        let container = self.container(id)?;
        let process = container.process(Some(exec))?;
        let exec = ExecId::new(exec)?;
        container.init.admit(&container.id, Request::StartExec).await?;
        process.admit(&container.id, Request::Start).await?;
        match self.run_exec(&container, &exec, &process).await {
            Ok((pid, watch)) => {
                container.journal_exec(&exec, pid);
                self.events.push(Event::ExecStarted {
                    container: container.id.clone(),
                    exec: exec.clone(),
                    pid,
                });
                process.enter(Phase::Running);
                self.follow_exec(&container, exec, process, watch);
                Ok(pid)
            }
            Err(error) => {
                // It never ran: there is nothing to tell others of, but whoever waits is let go.
                process.stopped(Exit::now(EXEC_FAILED_STATUS));
                Err(error)
            }
        }
    }

    async fn run_exec(
        &self,
        container: &Container<R::Container>,
        exec: &ExecId,
        process: &Process,
    ) -> Result<(Pid, Watch)> {
        let spec = process.spec.borrow_mut().take();
        let spec = spec.ok_or_else(|| Error::precondition("the exec was started before"))?;
        let runtime_container = container.runtime_container()?;
        let owner = Owner { namespace: &self.namespace, id: exec.as_str() };
        let (io, attached) = stdio::open(&process.names, owner).await?;
        let request = Exec { id: exec.clone(), process: *spec };
        let _expecting = reaper::expect();
        let pid = self.runtime.exec(&runtime_container, request, io).await?;
        let handle = self.open_process(pid)?;
        // Before the next await: an exit from now on is not missed.
        let watch = reaper::watch(&handle);
        if let Err(error) = attached.ready().await {
            // It may have ended by itself.
            let _ = handle.signal(Signal::KILL);
            return Err(error);
        }
        process.set_handle(handle);
        process.attach(Rc::new(attached));
        if let Some(attached) = process.attached()
            && let Err(error) = attached.begin_input()
        {
            // It runs already, and is better off without input than killed.
            log::warn!("input of exec {exec}: {}", error.report());
        }
        Ok((pid, watch))
    }

    fn follow_exec(
        self: &Rc<Self>,
        container: &Rc<Container<R::Container>>,
        exec: ExecId,
        process: Rc<Process>,
        watch: Watch,
    ) {
        let (shim, container) = (Rc::clone(self), Rc::clone(container));
        tokio::task::spawn_local(async move {
            let exit = watch.await;
            container.journal_exit(Some(&exec), exit);
            shim.events.push(Event::Exited {
                container: container.id.clone(),
                exec: Some(exec),
                pid: process.pid(),
                exit,
            });
            process.stopped(exit);
        });
    }
}
