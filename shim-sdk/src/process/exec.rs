//! The life of an exec: added, started, ended.

use std::rc::Rc;

use oci_spec::runtime::Process as Spec;

use super::container::Container;
use super::lifecycle::{Decision, Input, Job, Outcome, Phase, ProcessKind, Request};
use super::process_state::Process;
use super::shim::ShimState;
use crate::event::Event;
use crate::reaper;
use crate::reaper::ExitWatch;
use crate::stdio::{self, Owner, Stdio};
use crate::{Error, Exec, ExecId, Exit, Pid, Result, Runtime, Signal};

/// The exit status that Wait returns for an exec that could not be started.
const EXEC_FAILED_STATUS: u32 = 255;

impl<R: Runtime> ShimState<R> {
    /// Adds an exec to a container; it starts when asked to.
    pub(crate) async fn add_exec(
        &self,
        id: &str,
        exec: ExecId,
        spec: Spec,
        stdio: Stdio,
    ) -> Result<()> {
        if stdio.terminal && !self.capabilities.terminal {
            return Err(Error::unimplemented("a terminal"));
        }
        let container = self.container(id)?;
        container.init.request(&container.id, Request::Exec).await?;
        let process = Process::new(ProcessKind::Exec, Phase::Created, false, stdio);
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
        container.init.request(&container.id, Request::StartExec).await?;
        process.request(&container.id, Request::Start).await?;
        match self.run_exec(&container, &exec, &process).await {
            Ok((pid, watch)) => {
                container.journal_exec(&exec, pid);
                self.events.push(Event::ExecStarted {
                    container: container.id.clone(),
                    exec: exec.clone(),
                    pid,
                });
                process.end_job(Job::Start, Outcome::Succeeded);
                self.follow_exec(&container, exec, process, watch);
                Ok(pid)
            }
            Err(error) => {
                // It never ran, so no exit is published; this ends the Waits for it.
                process.end_job(Job::Start, Outcome::Failed);
                process.set_exit(Exit::now(EXEC_FAILED_STATUS));
                Err(error)
            }
        }
    }

    async fn run_exec(
        &self,
        container: &Container<R::Container>,
        exec: &ExecId,
        process: &Process,
    ) -> Result<(Pid, ExitWatch)> {
        let spec = process.spec.borrow_mut().take();
        let spec = spec.ok_or_else(|| Error::precondition("the exec was started before"))?;
        let runtime_container = container.runtime_container()?;
        let owner = Owner { namespace: &self.namespace, id: exec.as_str() };
        let (io, attached) = stdio::open(&process.stdio, owner).await?;
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
        watch: ExitWatch,
    ) {
        let (shim, container) = (Rc::clone(self), Rc::clone(container));
        tokio::task::spawn_local(async move {
            let exit = watch.await;
            // It is Running, because it is followed once its start has succeeded.
            if process.apply(Input::Exited) != Ok(Decision::Enter(Phase::Stopped)) {
                return;
            }
            container.journal_exit(Some(&exec), exit);
            shim.events.push(Event::Exited {
                container: container.id.clone(),
                exec: Some(exec),
                pid: process.pid(),
                exit,
            });
            process.set_exit(exit);
        });
    }
}
