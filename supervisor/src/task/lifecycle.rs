//! The life of a task in this daemon: which request is valid when, and what each outcome leads to.
//!
//! ```text
//!            Created            Deleted              Removed
//!  Starting ─────────► Live ──────────────► Deleting ───────► Gone ──┐ Removed
//!     │                 │                      │               ▲  ▲   │
//!     │ Died            │ Died                 │ Died          │  └───┘
//!     ▼                 ▼                      ▼               │
//!    Dead ◄─────────── Dead ◄──────────────── Dead ───Removed──┤
//!                                                              │
//!  Starting, Live ─────────────────────────────────Removed─────┘
//! ```
//!
//! `Starting` becomes `Dead` where the daemon finds the record of an exit when it starts. `Deleting`
//! becomes `Dead` where the bundle cannot be removed: the next Delete tries again. `Starting` becomes
//! `Gone` where a Create failed. `Removed` is accepted in every phase, because it tells what is true on
//! the disk: no bundle is left, whatever came before.
//!
//! [`decide`] is the whole machine, and a pure function. `Task::record` is the only place that writes
//! a phase. The states of processes (created, running, paused, stopped) are the shim's.

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

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// To make a task of this id.
    Create,
    /// To know something: state, wait.
    Ask,
    /// To change it: start, exec, pause, and the like.
    Drive,
    /// To signal a process.
    Signal,
    /// To delete it.
    Delete,
}

/// What has happened to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The shim answered Create, or a bundle of a task was found at the start of the daemon.
    Created,
    /// The connection to the shim closed.
    Disconnected,
    /// The shim has deleted the task.
    Deleted,
    /// The shim is gone for good, and the exit is kept.
    Died,
    /// The bundle is removed, and the id is free.
    Removed,
}

/// A request or an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// A client's request.
    Asked(Request),
    /// An outcome.
    Happened(Outcome),
}

/// What to do.
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
    /// Stop its creation, which then removes what it has made.
    Abandon,
    /// Reach the shim again, or clean up after it.
    Reconnect,
    /// Nothing: the connection closes where its end is expected.
    Ignore,
    /// Be in this phase.
    Enter(Phase),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The id is taken.
    Exists,
    /// There is no such task.
    NotFound,
    /// Its process has finished.
    Finished,
    /// Its shim is gone.
    Exited,
    /// An outcome that cannot come now. The phase stays, and the error is ours.
    Unexpected,
}

/// Decides what an input leads to.
pub(super) fn decide(now: Phase, input: Input) -> Result<Step, Refused> {
    use Input::{Asked, Happened};
    use Outcome::{Created, Deleted, Died, Disconnected, Removed};
    use Phase::{Dead, Deleting, Gone, Live, Starting};
    use Request::{Ask, Create, Delete, Drive, Signal};
    match (now, input) {
        (Starting | Live | Deleting | Dead, Asked(Create)) => Err(Refused::Exists),
        (Gone, Asked(Create)) => Ok(Step::Reserve),
        // To clients a task exists once Create has answered, until Delete has.
        (Starting | Deleting | Gone, Asked(Ask | Drive | Signal)) => Err(Refused::NotFound),
        (Deleting | Gone, Asked(Delete)) => Err(Refused::NotFound),
        // A Delete ends a Create: otherwise a task whose runtime hangs could never be removed.
        (Starting, Asked(Delete)) => Ok(Step::Abandon),
        (Live, Asked(Ask | Drive | Signal | Delete)) => Ok(Step::Forward),
        (Dead, Asked(Ask)) => Ok(Step::Recall),
        (Dead, Asked(Signal)) => Err(Refused::Finished),
        (Dead, Asked(Drive)) => Err(Refused::Exited),
        (Dead, Asked(Delete)) => Ok(Step::Remove),

        (Starting, Happened(Created)) => Ok(Step::Enter(Live)),
        (Live | Deleting | Dead | Gone, Happened(Created)) => Err(Refused::Unexpected),
        (Live, Happened(Disconnected)) => Ok(Step::Reconnect),
        // Create cleans up behind itself, and the shim of a deleted task is expected to end.
        (Starting | Deleting | Dead | Gone, Happened(Disconnected)) => Ok(Step::Ignore),
        (Live, Happened(Deleted)) => Ok(Step::Enter(Deleting)),
        (Starting | Deleting | Dead | Gone, Happened(Deleted)) => Err(Refused::Unexpected),
        (Starting | Live | Deleting, Happened(Died)) => Ok(Step::Enter(Dead)),
        (Dead | Gone, Happened(Died)) => Err(Refused::Unexpected),
        (Starting | Live | Deleting | Dead | Gone, Happened(Removed)) => Ok(Step::Enter(Gone)),
    }
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
