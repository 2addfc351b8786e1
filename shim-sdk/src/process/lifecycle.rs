//! The lifecycle of a process as a pure function: requests, outcomes of jobs and exits are its
//! inputs.
//!
//! ```text
//!  Creating ─▶ Created ─Start▶ Starting ─▶ Running ─Pause▶ Pausing ─▶ Paused ─Resume▶ Resuming ─▶ Running
//!                 │  ◀─ fails (init) ┘        │
//!                 │                           │
//!                 ├──── init exits ───────────┴─────▶ Exiting ─▶ Stopped ─Delete▶ Deleting ─▶ Deleted
//!                 └──── Delete ───▶ Deleting                        ◀──── fails ──┘
//! ```
//!
//! - A phase in -ing has a job under way. The outcome of the job ends the phase. A job that fails
//!   returns the process to the phase before it; an exec that fails to start is `Stopped`.
//! - An exit overtakes Pause and Resume, whose outcomes are then ignored. It waits for Start.
//! - `Exiting` is an init whose exit is known and not yet published, because the exits of its execs
//!   are published first. An exec goes from `Running` to `Stopped` at once.
//! - Delete of an init that has a process and was never started kills that process first.
//!
//! `process_state::Process` holds the phase and is the only one that writes it. The reasons for
//! refusals are in `refusal`.

use super::refusal::Refusal;

/// Which process of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessKind {
    Init,
    Exec,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Creating,
    Created,
    Starting,
    Running,
    Pausing,
    Paused,
    Resuming,
    Exiting,
    Stopped,
    Deleting,
    Deleted,
}

/// A process as the lifecycle sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) kind: ProcessKind,
    pub(crate) phase: Phase,
    /// Whether there is a pid. A runtime may create init's process in Create or in Start.
    pub(crate) has_process: bool,
    /// Whether the exit is published.
    pub(crate) has_exit: bool,
    /// Whether Start restores the container from a checkpoint.
    pub(crate) restores: bool,
}

/// What a client requests of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Start,
    Kill {
        /// Whether the signal ends a process by default.
        ends: bool,
    },
    Delete,
    Pause,
    Resume,
    /// Add an exec; a request to init.
    Exec,
    /// Start an exec; a request to its init.
    StartExec,
    Update,
    Checkpoint,
}

/// A job that has a phase of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Create,
    Start,
    Pause,
    Resume,
    Delete,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
}

impl<T, E> From<&Result<T, E>> for Outcome {
    fn from(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Succeeded } else { Self::Failed }
    }
}

/// What can happen to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    Request(Request),
    /// A job ended.
    Ended(Job, Outcome),
    /// The process exited.
    Exited,
    /// The runtime has handled init's exit, and the exits of its execs are published.
    ExitHandled,
}

/// What to do about an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Enter the phase. For a request: do the job of that phase.
    Enter(Phase),
    /// Do what is requested; the phase stays.
    Stay,
    /// Wait until the phase changes, then decide again.
    Wait,
    /// Kill the process and wait for its exit, then decide again.
    KillFirst,
    /// Do nothing: an exit has overtaken the job, or was handled before.
    Ignore,
}

/// Decides an input. Only a request can be refused.
///
/// Two requests may be repeated: Kill while the process runs, and Delete while deleting, which
/// waits for the same deletion.
pub(crate) fn decide(state: State, input: Input) -> Result<Decision, Refusal> {
    match input {
        Input::Request(request) => decide_request(state, request),
        Input::Ended(job, outcome) => Ok(decide_outcome(state, job, outcome)),
        Input::Exited => Ok(decide_exit(state)),
        Input::ExitHandled => Ok(match (state.kind, state.phase) {
            (ProcessKind::Init, Phase::Exiting) => Decision::Enter(Phase::Stopped),
            (ProcessKind::Init | ProcessKind::Exec, _) => Decision::Ignore,
        }),
    }
}

fn decide_request(state: State, request: Request) -> Result<Decision, Refusal> {
    use Phase::*;
    use ProcessKind::{Exec, Init};
    use Refusal::*;
    match (request, state.kind, state.phase) {
        (_, Init, Creating | Deleted) => Err(NotCreated),
        (_, Exec, Deleted) => Err(Finished),
        // An exec is never in these phases: it is added at once, and is paused with its container.
        (_, Exec, Creating | Pausing | Paused | Resuming) => Err(NotStarted),

        (Request::Start, _, Created) => Ok(Decision::Enter(Starting)),
        (Request::Start, _, Starting | Running | Pausing | Resuming) => {
            Err(State("cannot start a running process"))
        }
        (Request::Start, _, Paused) => Err(State("cannot start a paused process")),
        (Request::Start, _, Exiting | Stopped) => Err(State("cannot start a stopped process")),
        (Request::Start, _, Deleting) => Err(State("cannot start a deleted process")),

        (
            Request::Kill { .. },
            Init,
            Created | Starting | Running | Pausing | Paused | Resuming,
        ) if state.has_process => Ok(Decision::Stay),
        // No process gets the signal: a signal that would end it ends the container.
        (Request::Kill { ends: true }, Init, Created) => Ok(Decision::Enter(Stopped)),
        (
            Request::Kill { .. },
            Init,
            Created | Starting | Running | Pausing | Paused | Resuming,
        )
        | (Request::Kill { .. }, Exec, Created) => Err(NotStarted),
        // Its pid is about to be known.
        (Request::Kill { .. }, Exec, Starting) => Ok(Decision::Wait),
        (Request::Kill { .. }, Exec, Running) => Ok(Decision::Stay),
        (Request::Kill { .. }, _, Exiting | Stopped | Deleting) => Err(Finished),

        (Request::Delete, Init, Created) if state.has_process => Ok(Decision::KillFirst),
        (Request::Delete, _, Created | Stopped) => Ok(Decision::Enter(Deleting)),
        (Request::Delete, _, Starting | Running | Pausing | Resuming) => {
            Err(State("cannot delete a running process"))
        }
        (Request::Delete, _, Paused) => Err(State("cannot delete a paused process")),
        // The process has exited: the client need not know that the exit is not published yet.
        (Request::Delete, _, Exiting | Deleting) => Ok(Decision::Wait),

        (Request::Pause, Init, Running) => Ok(Decision::Enter(Pausing)),
        (Request::Pause, Init, Created | Starting) => {
            Err(State("cannot pause task in created state"))
        }
        (Request::Pause, Init, Pausing | Paused | Resuming) => {
            Err(State("cannot pause a paused container"))
        }
        (Request::Pause, Init, Exiting | Stopped | Deleting) => {
            Err(State("cannot pause a stopped container"))
        }

        (Request::Resume, Init, Paused) => Ok(Decision::Enter(Resuming)),
        (Request::Resume, Init, Created | Starting) => {
            Err(State("cannot resume task in created state"))
        }
        (Request::Resume, Init, Running | Pausing | Resuming) => {
            Err(State("cannot resume a running process"))
        }
        (Request::Resume, Init, Exiting | Stopped | Deleting) => {
            Err(State("cannot resume a stopped container"))
        }

        // The container has no process that an exec could join.
        (Request::Exec, Init, Created | Starting) if state.restores => {
            Err(State("cannot exec in a created state"))
        }
        (Request::Exec | Request::StartExec, Init, Created | Starting | Running) => {
            Ok(Decision::Stay)
        }
        (Request::Exec | Request::StartExec, Init, Pausing | Paused | Resuming) => {
            Err(State("cannot exec in a paused state"))
        }
        (Request::Exec, Init, Exiting | Stopped) => Err(State("cannot exec in a stopped state")),
        (Request::Exec, Init, Deleting) => Err(State("cannot exec in a deleted state")),
        (Request::StartExec, Init, Exiting | Stopped | Deleting) => Err(InitEnded),

        (Request::Update, Init, Created | Starting | Running | Pausing | Paused | Resuming) => {
            Ok(Decision::Stay)
        }
        (Request::Update, Init, Exiting | Stopped | Deleting) => {
            Err(State("cannot update a stopped container"))
        }

        (Request::Checkpoint, Init, Running | Paused) => Ok(Decision::Stay),
        (Request::Checkpoint, Init, Pausing | Resuming) => Ok(Decision::Wait),
        (Request::Checkpoint, Init, Created | Starting) => {
            Err(State("cannot checkpoint a task in created state"))
        }
        (Request::Checkpoint, Init, Exiting | Stopped | Deleting) => {
            Err(State("cannot checkpoint a stopped container"))
        }

        // The wire sends these to init only.
        (
            Request::Pause
            | Request::Resume
            | Request::Exec
            | Request::StartExec
            | Request::Update
            | Request::Checkpoint,
            Exec,
            Created | Starting | Running | Exiting | Stopped | Deleting,
        ) => Err(State("cannot do this to an exec process")),
    }
}

fn decide_outcome(state: State, job: Job, outcome: Outcome) -> Decision {
    use Outcome::{Failed, Succeeded};
    use Phase::*;
    use ProcessKind::{Exec, Init};
    let next = match (job, state.phase, outcome, state.kind) {
        (Job::Create, Creating, Succeeded, Init) => Created,
        // The container leaves the table, and its id is free.
        (Job::Create, Creating, Failed, Init) => Deleted,
        (Job::Start, Starting, Succeeded, Init | Exec) => Running,
        (Job::Start, Starting, Failed, Init) => Created,
        // An exec can be started once only.
        (Job::Start, Starting, Failed, Exec) => Stopped,
        (Job::Pause, Pausing, Succeeded, Init) => Paused,
        (Job::Pause, Pausing, Failed, Init) => Running,
        (Job::Resume, Resuming, Succeeded, Init) => Running,
        (Job::Resume, Resuming, Failed, Init) => Paused,
        (Job::Delete, Deleting, Succeeded, Init | Exec) => Deleted,
        (Job::Delete, Deleting, Failed, Init | Exec) if state.has_exit => Stopped,
        (Job::Delete, Deleting, Failed, Init | Exec) => Created,
        // An exit has overtaken the job, or the kind of process has no such job.
        (
            Job::Create | Job::Start | Job::Pause | Job::Resume | Job::Delete,
            Creating | Created | Starting | Running | Pausing | Paused | Resuming | Exiting
            | Stopped | Deleting | Deleted,
            Succeeded | Failed,
            Init | Exec,
        ) => return Decision::Ignore,
    };
    Decision::Enter(next)
}

fn decide_exit(state: State) -> Decision {
    use Phase::*;
    use ProcessKind::{Exec, Init};
    match (state.kind, state.phase) {
        // The start event is published before the exit event.
        (Init | Exec, Creating | Starting) => Decision::Wait,
        (Init, Created | Running | Pausing | Paused | Resuming) => Decision::Enter(Exiting),
        (Exec, Running) => Decision::Enter(Stopped),
        (Exec, Created | Pausing | Paused | Resuming)
        | (Init | Exec, Exiting | Stopped | Deleting | Deleted) => Decision::Ignore,
    }
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
