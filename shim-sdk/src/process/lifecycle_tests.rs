//! The lifecycle for every state and input, and random sequences of inputs against a simpler model.

use proptest::prelude::*;

use super::*;
use crate::Kind;

const PHASES: [Phase; 11] = [
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
    Phase::Deleted,
];

const KINDS: [ProcessKind; 2] = [ProcessKind::Init, ProcessKind::Exec];

fn state(kind: ProcessKind, phase: Phase) -> State {
    State { kind, phase, has_process: true, has_exit: false, restores: false }
}

fn refusal(kind: ProcessKind, phase: Phase, request: Request) -> Refusal {
    decide(state(kind, phase), Input::Request(request)).expect_err("refused")
}

fn inputs() -> Vec<Input> {
    use Request::*;
    let kills = [Kill { ends: false }, Kill { ends: true }];
    let others = [Start, Delete, Pause, Resume, Exec, StartExec, Update, Checkpoint];
    let mut inputs: Vec<_> = kills.into_iter().chain(others).map(Input::Request).collect();
    for job in [Job::Create, Job::Start, Job::Pause, Job::Resume, Job::Delete] {
        inputs.push(Input::Ended(job, Outcome::Succeeded));
        inputs.push(Input::Ended(job, Outcome::Failed));
    }
    inputs.extend([Input::Exited, Input::ExitHandled]);
    inputs
}

/// The phase after an input as a list of the arrows in the drawing, and `None` where no arrow
/// starts.
fn model(state: State, input: Input) -> Option<Phase> {
    use Phase::*;
    let init = state.kind == ProcessKind::Init;
    let arrows: &[(Phase, Input, Phase, bool)] = &[
        (Creating, Input::Ended(Job::Create, Outcome::Succeeded), Created, init),
        (Creating, Input::Ended(Job::Create, Outcome::Failed), Deleted, init),
        (Created, Input::Request(Request::Start), Starting, true),
        (
            Created,
            Input::Request(Request::Kill { ends: true }),
            Stopped,
            init && !state.has_process,
        ),
        (Created, Input::Request(Request::Delete), Deleting, !init || !state.has_process),
        (Created, Input::Exited, Exiting, init),
        (Starting, Input::Ended(Job::Start, Outcome::Succeeded), Running, true),
        (Starting, Input::Ended(Job::Start, Outcome::Failed), Created, init),
        (Starting, Input::Ended(Job::Start, Outcome::Failed), Stopped, !init),
        (Running, Input::Request(Request::Pause), Pausing, init),
        (Running, Input::Exited, Exiting, init),
        (Running, Input::Exited, Stopped, !init),
        (Pausing, Input::Ended(Job::Pause, Outcome::Succeeded), Paused, init),
        (Pausing, Input::Ended(Job::Pause, Outcome::Failed), Running, init),
        (Pausing, Input::Exited, Exiting, init),
        (Paused, Input::Request(Request::Resume), Resuming, init),
        (Paused, Input::Exited, Exiting, init),
        (Resuming, Input::Ended(Job::Resume, Outcome::Succeeded), Running, init),
        (Resuming, Input::Ended(Job::Resume, Outcome::Failed), Paused, init),
        (Resuming, Input::Exited, Exiting, init),
        (Exiting, Input::ExitHandled, Stopped, init),
        (Stopped, Input::Request(Request::Delete), Deleting, true),
        (Deleting, Input::Ended(Job::Delete, Outcome::Succeeded), Deleted, true),
        (Deleting, Input::Ended(Job::Delete, Outcome::Failed), Stopped, state.has_exit),
        (Deleting, Input::Ended(Job::Delete, Outcome::Failed), Created, !state.has_exit),
    ];
    let mut next =
        arrows.iter().filter(|(from, on, _, holds)| *from == state.phase && *on == input && *holds);
    let phase = next.next().map(|(_, _, to, _)| *to);
    assert!(next.next().is_none(), "the model has one arrow for {state:?} and {input:?}");
    phase
}

/// What is decided, without the phase and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Enters,
    Stays,
    Waits,
    KillsFirst,
    Ignores,
    Refuses,
}

impl Answer {
    fn of(decision: &Result<Decision, Refusal>) -> Self {
        match decision {
            Ok(Decision::Enter(_)) => Self::Enters,
            Ok(Decision::Stay) => Self::Stays,
            Ok(Decision::Wait) => Self::Waits,
            Ok(Decision::KillFirst) => Self::KillsFirst,
            Ok(Decision::Ignore) => Self::Ignores,
            Err(_) => Self::Refuses,
        }
    }
}

/// The answer to every input as a table: one letter for each phase, in the order of [`PHASES`].
/// E enters another phase, S stays, W waits, K kills first, I ignores, - refuses.
fn answer(state: State, input: Input) -> Answer {
    use Request::*;
    let init = state.kind == ProcessKind::Init;
    let row = match (input, init) {
        //                                              Creating, Created, Starting, Running, Pausing,
        //                                              Paused, Resuming, Exiting, Stopped, Deleting,
        //                                              Deleted
        (Input::Request(Start), true) => "-E---------",
        (Input::Request(Kill { .. }), true) if state.has_process => "-SSSSSS----",
        (Input::Request(Kill { ends: true }), true) => "-E---------",
        (Input::Request(Kill { ends: false }), true) => "-----------",
        (Input::Request(Delete), true) if state.has_process => "-K-----WEW-",
        (Input::Request(Delete), true) => "-E-----WEW-",
        (Input::Request(Pause), true) => "---E-------",
        (Input::Request(Resume), true) => "-----E-----",
        (Input::Request(Exec), true) if state.restores => "---S-------",
        (Input::Request(Exec | StartExec), true) => "-SSS-------",
        (Input::Request(Update), true) => "-SSSSSS----",
        (Input::Request(Checkpoint), true) => "---SWSW----",
        (Input::Request(Start), false) => "-E---------",
        (Input::Request(Kill { .. }), false) => "--WS-------",
        (Input::Request(Delete), false) => "-E-----WEW-",
        (Input::Request(Pause | Resume | Exec | StartExec | Update | Checkpoint), false) => {
            "-----------"
        }
        (Input::Ended(Job::Create, _), true) => "EIIIIIIIIII",
        (Input::Ended(Job::Start, _), _) => "IIEIIIIIIII",
        (Input::Ended(Job::Pause, _), true) => "IIIIEIIIIII",
        (Input::Ended(Job::Resume, _), true) => "IIIIIIEIIII",
        (Input::Ended(Job::Delete, _), _) => "IIIIIIIIIEI",
        (Input::Ended(Job::Create | Job::Pause | Job::Resume, _), false) => "IIIIIIIIIII",
        (Input::Exited, true) => "WEWEEEEIIII",
        (Input::Exited, false) => "WIWEIIIIIII",
        (Input::ExitHandled, true) => "IIIIIIIEIII",
        (Input::ExitHandled, false) => "IIIIIIIIIII",
    };
    let column = PHASES.iter().position(|phase| *phase == state.phase).expect("every phase");
    match row.as_bytes()[column] {
        b'E' => Answer::Enters,
        b'S' => Answer::Stays,
        b'W' => Answer::Waits,
        b'K' => Answer::KillsFirst,
        b'I' => Answer::Ignores,
        _ => Answer::Refuses,
    }
}

/// Checks a decision against the drawing and the table, and returns the phase that is entered.
fn check(state: State, input: Input) -> Option<Phase> {
    let decision = decide(state, input);
    assert_eq!(Answer::of(&decision), answer(state, input), "{state:?} {input:?}");
    let entered = match decision {
        Ok(Decision::Enter(phase)) => Some(phase),
        Ok(Decision::Stay | Decision::Wait | Decision::KillFirst | Decision::Ignore) | Err(_) => {
            None
        }
    };
    assert_eq!(entered, model(state, input), "{state:?} {input:?}");
    entered
}

#[test]
fn every_input_in_every_state_follows_the_drawing() {
    for kind in KINDS {
        for phase in PHASES {
            for bits in 0..8 {
                let (has_process, has_exit) = (bits & 1 != 0, bits & 2 != 0);
                let state = State { kind, phase, has_process, has_exit, restores: bits & 4 != 0 };
                for input in inputs() {
                    check(state, input);
                }
            }
        }
    }
}

proptest! {
    /// Any sequence of requests, outcomes and exits, in any order, also those that no runtime sends.
    #[test]
    fn any_sequence_of_requests_outcomes_and_exits_follows_the_drawing(
        kind in prop::sample::select(&KINDS[..]),
        has_process: bool,
        restores: bool,
        sequence in prop::collection::vec(prop::sample::select(inputs()), 0..80),
    ) {
        let init = kind == ProcessKind::Init;
        let phase = if init { Phase::Creating } else { Phase::Created };
        let mut now =
            State { kind, phase, has_process: init && has_process, has_exit: false, restores };
        let (mut stopped, mut deleted) = (0, 0);
        for input in sequence {
            let Some(phase) = check(now, input) else { continue };
            stopped += usize::from(phase == Phase::Stopped && now.phase != Phase::Deleting);
            deleted += usize::from(phase == Phase::Deleted);
            now.phase = phase;
            now.has_process |= phase == Phase::Running;
            now.has_exit |= phase == Phase::Stopped;
        }
        prop_assert!(stopped <= 1 && deleted <= 1, "a process is stopped and deleted once");
    }
}

#[test]
fn a_running_process_cannot_be_deleted_and_the_words_are_containerds() {
    for kind in KINDS {
        let error = refusal(kind, Phase::Running, Request::Delete).into_error("c");
        assert_eq!(error.message(), "cannot delete a running process");
        assert_eq!(error.kind(), Kind::Unknown);
    }
}

#[test]
fn kill_after_exit_reports_not_found() {
    for phase in [Phase::Exiting, Phase::Stopped, Phase::Deleting] {
        let refused = refusal(ProcessKind::Init, phase, Request::Kill { ends: true });
        assert_eq!(refused.into_error("c").kind(), Kind::NotFound);
    }
}

#[test]
fn an_exec_cannot_be_started_once_init_has_ended() {
    let refused = refusal(ProcessKind::Init, Phase::Stopped, Request::StartExec);
    assert_eq!(refused.into_error("c1").kind(), Kind::FailedPrecondition);
    assert!(refused.into_error("c1").message().contains("init process is not running"));
}

#[test]
fn an_init_that_was_never_started_is_killed_before_its_delete() {
    let created = state(ProcessKind::Init, Phase::Created);
    let delete = Input::Request(Request::Delete);
    assert_eq!(decide(created, delete), Ok(Decision::KillFirst));
}

#[test]
fn jobs_are_only_entered_from_settled_phases() {
    for kind in KINDS {
        for now in PHASES {
            for request in [Request::Start, Request::Delete, Request::Pause, Request::Resume] {
                if let Ok(Decision::Enter(_)) = decide(state(kind, now), Input::Request(request)) {
                    let settled = [Phase::Created, Phase::Running, Phase::Paused, Phase::Stopped];
                    assert!(settled.contains(&now), "{request:?} in {now:?}");
                }
            }
        }
    }
}
