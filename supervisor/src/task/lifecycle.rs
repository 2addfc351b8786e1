//! Which request is valid in which phase of a task, and what it leads to.
//!
//! ```text
//!   Create ──► Starting ──► Live ──Delete──► Deleting ──► Gone
//!                  │          │                            ▲
//!                  │        shim dies ──► Dead ──Delete────┤
//!                  └─ fails, or Delete ────────────────────┘
//! ```
//!
//! The states of processes (created, running, paused, stopped) are the shim's; here is only
//! whether there is a shim to ask.

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The id is taken; the shim is not ready.
    Starting,
    /// The shim answers for the task.
    Live,
    /// The shim has deleted the task; the bundle goes.
    Deleting,
    /// The shim is gone; the exit is recorded.
    Dead,
    /// Nothing remains.
    Gone,
}

/// What somebody wants of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// To make one of this id.
    Create,
    /// To know: state, wait.
    Ask,
    /// To change it: start, exec, pause, and the like.
    Drive,
    /// To signal a process.
    Signal,
    /// To delete it.
    Delete,
    /// Its shim's connection closed.
    Crash,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Take the id.
    Reserve,
    /// Let the shim do it.
    Forward,
    /// Answer from the record of the exit.
    Recall,
    /// Remove what remains.
    Remove,
    /// End its making, and remove what there is of it.
    Abandon,
    /// Clean up behind the shim.
    Bury,
    /// Nothing: it was expected, or somebody is at it already.
    Ignore,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Exists,
    NotFound,
    Finished,
    Exited,
}

/// Decides what a request leads to.
pub(super) fn decide(now: Phase, request: Request) -> Result<Step, Refused> {
    use Phase::{Dead, Deleting, Gone, Live, Starting};
    use Request::{Ask, Crash, Create, Delete, Drive, Signal};
    match (now, request) {
        (Starting | Live | Deleting | Dead, Create) => Err(Refused::Exists),
        (Gone, Create) => Ok(Step::Reserve),
        // To clients a task exists once Create has answered, until Delete has.
        (Starting | Deleting | Gone, Ask | Drive | Signal) => Err(Refused::NotFound),
        (Deleting | Gone, Delete) => Err(Refused::NotFound),
        // A Delete ends a Create: otherwise a task whose runtime hangs could never be removed.
        (Starting, Delete) => Ok(Step::Abandon),
        (Live, Ask | Drive | Signal | Delete) => Ok(Step::Forward),
        (Dead, Ask) => Ok(Step::Recall),
        (Dead, Signal) => Err(Refused::Finished),
        (Dead, Drive) => Err(Refused::Exited),
        (Dead, Delete) => Ok(Step::Remove),
        (Live, Crash) => Ok(Step::Bury),
        // Create cleans up behind itself, and a deleted task's shim is meant to go.
        (Starting | Deleting | Dead | Gone, Crash) => Ok(Step::Ignore),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_task_still_tells_its_exit_and_can_be_deleted() {
        assert_eq!(decide(Phase::Dead, Request::Ask), Ok(Step::Recall));
        assert_eq!(decide(Phase::Dead, Request::Delete), Ok(Step::Remove));
        assert_eq!(decide(Phase::Dead, Request::Signal), Err(Refused::Finished));
    }

    #[test]
    fn a_delete_ends_a_task_that_is_being_made() {
        assert_eq!(decide(Phase::Starting, Request::Delete), Ok(Step::Abandon));
        for request in [Request::Ask, Request::Drive, Request::Signal] {
            assert_eq!(decide(Phase::Starting, request), Err(Refused::NotFound));
        }
    }

    #[test]
    fn a_shim_is_buried_once() {
        assert_eq!(decide(Phase::Live, Request::Crash), Ok(Step::Bury));
        for phase in [Phase::Starting, Phase::Deleting, Phase::Dead, Phase::Gone] {
            assert_eq!(decide(phase, Request::Crash), Ok(Step::Ignore));
        }
    }

    #[test]
    fn an_id_is_taken_from_create_until_nothing_remains() {
        for phase in [Phase::Starting, Phase::Live, Phase::Deleting, Phase::Dead] {
            assert_eq!(decide(phase, Request::Create), Err(Refused::Exists));
        }
        assert_eq!(decide(Phase::Gone, Request::Create), Ok(Step::Reserve));
    }
}
