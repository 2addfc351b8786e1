//! ProcessKind request is valid when: the states of a process, as a pure function.
//!
//! ```text
//!              ┌────────── fails ──────────┐
//!  Creating ─▶ Created ─Start▶ Starting ─▶ Running ─Pause▶ Pausing ─▶ Paused ─Resume▶ Resuming ─▶ Running
//!                 │               │           │              (failing: back to where it came from)
//!                 │               └─ exit ────┼── exit ─▶ Exiting ─▶ Stopped ─Delete▶ Deleting ─▶ gone
//!                 └─ exit, or Delete: Deleting                            ◀── fails ──┘
//! ```
//!
//! A phase in -ing has a job under way, which settles it. `Exiting` is an init whose exit is known
//! and not yet told, because its execs' exits come first.
//!
//! The texts of refusals are containerd's own: its clients match on some of them.

use crate::{Error, Kind};

/// ProcessKind process of a container.
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
}

/// What a client asks of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Start,
    Kill,
    Delete,
    Pause,
    Resume,
    /// Add an exec, asked of init.
    Exec,
    /// Start an exec, asked of its init.
    StartExec,
    Update,
    Checkpoint,
}

/// What to do about a valid request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Enter a phase and do the job that settles it.
    Go(Phase),
    /// Do it; the phase stays.
    Stay,
    /// Wait until the phase is settled, then ask again.
    Later,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The container is being made, or was never.
    NotCreated,
    /// The exec has no process yet.
    NotStarted,
    /// The process has ended.
    Finished,
    /// Init has ended, so nothing can be started in the container.
    InitEnded,
    /// The state does not allow it; the text is containerd's.
    State(&'static str),
}

impl Refusal {
    /// What the client is told.
    pub(crate) fn into_error(self, container: &str) -> Error {
        match self {
            Self::NotCreated => Error::new(Kind::NotFound, "container not created"),
            Self::NotStarted => Error::new(Kind::FailedPrecondition, "process not created"),
            Self::Finished => Error::new(Kind::NotFound, "process already finished"),
            Self::InitEnded => Error::new(
                Kind::FailedPrecondition,
                format!("container {container} init process is not running"),
            ),
            // UNKNOWN on the wire, as containerd's own shim has it.
            Self::State(text) => Error::new(Kind::Unknown, text),
        }
    }
}

/// Decides a request.
///
/// What repeats harmlessly: Kill while anything runs; Delete while deleting, which waits for the
/// same deletion.
pub(crate) fn decide(which: ProcessKind, now: Phase, request: Request) -> Result<Step, Refusal> {
    use Phase::*;
    use Refusal::*;
    match (request, which, now) {
        (_, ProcessKind::Init, Creating) => Err(NotCreated),
        // An exec is never in these: it is added at once, and never paused by itself.
        (_, ProcessKind::Exec, Creating | Pausing | Paused | Resuming) => Err(NotStarted),

        (Request::Start, _, Created) => Ok(Step::Go(Starting)),
        (Request::Start, _, Starting | Running | Pausing | Resuming) => {
            Err(State("cannot start a running process"))
        }
        (Request::Start, _, Paused) => Err(State("cannot start a paused process")),
        (Request::Start, _, Exiting | Stopped) => Err(State("cannot start a stopped process")),
        (Request::Start, _, Deleting) => Err(State("cannot start a deleted process")),

        (
            Request::Kill,
            ProcessKind::Init,
            Created | Starting | Running | Pausing | Paused | Resuming,
        ) => Ok(Step::Stay),
        (Request::Kill, ProcessKind::Exec, Created) => Err(NotStarted),
        // Its pid is about to be known.
        (Request::Kill, ProcessKind::Exec, Starting) => Ok(Step::Later),
        (Request::Kill, ProcessKind::Exec, Running) => Ok(Step::Stay),
        (Request::Kill, _, Exiting | Stopped | Deleting) => Err(Finished),

        (Request::Delete, _, Created | Stopped) => Ok(Step::Go(Deleting)),
        (Request::Delete, _, Starting | Running | Pausing | Resuming) => {
            Err(State("cannot delete a running process"))
        }
        (Request::Delete, _, Paused) => Err(State("cannot delete a paused process")),
        // The exit is known; that it is not told yet is our affair.
        (Request::Delete, _, Exiting | Deleting) => Ok(Step::Later),

        (Request::Pause, ProcessKind::Init, Running) => Ok(Step::Go(Pausing)),
        (Request::Pause, ProcessKind::Init, Created | Starting) => {
            Err(State("cannot pause task in created state"))
        }
        (Request::Pause, ProcessKind::Init, Pausing | Paused | Resuming) => {
            Err(State("cannot pause a paused container"))
        }
        (Request::Pause, ProcessKind::Init, Exiting | Stopped | Deleting) => {
            Err(State("cannot pause a stopped container"))
        }

        (Request::Resume, ProcessKind::Init, Paused) => Ok(Step::Go(Resuming)),
        (Request::Resume, ProcessKind::Init, Created | Starting) => {
            Err(State("cannot resume task in created state"))
        }
        (Request::Resume, ProcessKind::Init, Running | Pausing | Resuming) => {
            Err(State("cannot resume a running process"))
        }
        (Request::Resume, ProcessKind::Init, Exiting | Stopped | Deleting) => {
            Err(State("cannot resume a stopped container"))
        }

        (Request::Exec | Request::StartExec, ProcessKind::Init, Created | Starting | Running) => {
            Ok(Step::Stay)
        }
        (Request::Exec | Request::StartExec, ProcessKind::Init, Pausing | Paused | Resuming) => {
            Err(State("cannot exec in a paused state"))
        }
        (Request::Exec, ProcessKind::Init, Exiting | Stopped) => {
            Err(State("cannot exec in a stopped state"))
        }
        (Request::Exec, ProcessKind::Init, Deleting) => {
            Err(State("cannot exec in a deleted state"))
        }
        (Request::StartExec, ProcessKind::Init, Exiting | Stopped | Deleting) => Err(InitEnded),

        (
            Request::Update,
            ProcessKind::Init,
            Created | Starting | Running | Pausing | Paused | Resuming,
        ) => Ok(Step::Stay),
        (Request::Update, ProcessKind::Init, Exiting | Stopped | Deleting) => {
            Err(State("cannot update a stopped container"))
        }

        (Request::Checkpoint, ProcessKind::Init, Running | Paused) => Ok(Step::Stay),
        (Request::Checkpoint, ProcessKind::Init, Pausing | Resuming) => Ok(Step::Later),
        (Request::Checkpoint, ProcessKind::Init, Created | Starting) => {
            Err(State("cannot checkpoint a task in created state"))
        }
        (Request::Checkpoint, ProcessKind::Init, Exiting | Stopped | Deleting) => {
            Err(State("cannot checkpoint a stopped container"))
        }

        // Requests that only a container understands are never asked of an exec.
        (
            Request::Pause
            | Request::Resume
            | Request::Exec
            | Request::StartExec
            | Request::Update
            | Request::Checkpoint,
            ProcessKind::Exec,
            Created | Starting | Running | Exiting | Stopped | Deleting,
        ) => Err(State("cannot do this to an exec process")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 10] = [
        Phase::Creating,
        Phase::Created,
        Phase::Starting,
        Phase::Running,
        Phase::Pausing,
        Phase::Paused,
        Phase::Resuming,
        Phase::Exiting,
        Phase::Stopped,
        Phase::Deleting,
    ];

    #[test]
    fn a_running_process_cannot_be_deleted_and_the_words_are_containerds() {
        for which in [ProcessKind::Init, ProcessKind::Exec] {
            let refused = decide(which, Phase::Running, Request::Delete).expect_err("it runs");
            let error = refused.into_error("c");
            assert_eq!(error.message(), "cannot delete a running process");
            assert_eq!(error.kind(), Kind::Unknown);
        }
    }

    #[test]
    fn kill_after_exit_reports_not_found() {
        for phase in [Phase::Exiting, Phase::Stopped, Phase::Deleting] {
            let refused = decide(ProcessKind::Init, phase, Request::Kill).expect_err("it ended");
            assert_eq!(refused.into_error("c").kind(), Kind::NotFound);
        }
    }

    #[test]
    fn an_exec_cannot_be_started_once_init_has_ended() {
        let refused =
            decide(ProcessKind::Init, Phase::Stopped, Request::StartExec).expect_err("ended");
        assert_eq!(refused.into_error("c1").kind(), Kind::FailedPrecondition);
        assert!(refused.into_error("c1").message().contains("init process is not running"));
    }

    #[test]
    fn jobs_are_only_entered_from_settled_phases() {
        for which in [ProcessKind::Init, ProcessKind::Exec] {
            for now in PHASES {
                for request in [Request::Start, Request::Delete, Request::Pause, Request::Resume] {
                    if let Ok(Step::Go(_)) = decide(which, now, request) {
                        let settled =
                            [Phase::Created, Phase::Running, Phase::Paused, Phase::Stopped];
                        assert!(settled.contains(&now), "{request:?} in {now:?}");
                    }
                }
            }
        }
    }

    /// A simpler model: what may follow what, whichever requests come in which order.
    #[test]
    fn random_requests_never_leave_the_drawn_machine() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % below as u64) as usize
        };
        for _ in 0..2000 {
            let mut now = Phase::Created;
            let (mut started, mut deleted) = (0, 0);
            for _ in 0..40 {
                let requests = [Request::Start, Request::Delete, Request::Pause, Request::Resume];
                if let Ok(Step::Go(phase)) = decide(ProcessKind::Init, now, requests[next(4)]) {
                    started += usize::from(phase == Phase::Starting);
                    deleted += usize::from(phase == Phase::Deleting);
                    now = match phase {
                        Phase::Starting | Phase::Resuming => Phase::Running,
                        Phase::Pausing => Phase::Paused,
                        other => other,
                    };
                }
                if now == Phase::Running && next(8) == 0 {
                    now = Phase::Stopped;
                }
            }
            assert!(started <= 1 && deleted <= 1, "a process is started and deleted once");
        }
    }
}
