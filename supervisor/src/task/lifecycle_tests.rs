//! Every answer of the machine, against a table and against a simpler model.

use proptest::prelude::*;

use super::Input::{Asked, Happened};
use super::*;

const PHASES: [Phase; 5] =
    [Phase::Starting, Phase::Live, Phase::Deleting, Phase::Dead, Phase::Gone];

const INPUTS: [Input; 10] = [
    Asked(Request::Create),
    Asked(Request::Ask),
    Asked(Request::Drive),
    Asked(Request::Signal),
    Asked(Request::Delete),
    Happened(Outcome::Created),
    Happened(Outcome::Disconnected),
    Happened(Outcome::Deleted),
    Happened(Outcome::Died),
    Happened(Outcome::Removed),
];

/// A row per input of [`INPUTS`], a column per phase of [`PHASES`].
///
/// Steps: `r`eserve, `f`orward, re`c`all, re`m`ove, `a`bandon, `b`ury, `-` ignore; a phase to enter
/// is its first letter in capitals, `X` for Dead. Refusals: `e`xists, `n`ot found, `d` finished,
/// `x` exited, `!` unexpected.
const TABLE: &str = "
    e e e e r   Create
    n f n c n   Ask
    n f n x n   Drive
    n f n d n   Signal
    a f n m n   Delete
    L ! ! ! !   Created
    - b - - -   Disconnected
    ! D ! ! !   Deleted
    X X X ! !   Died
    G G G G G   Removed
";

fn letter(answer: Result<Step, Refused>) -> &'static str {
    match answer {
        Ok(Step::Reserve) => "r",
        Ok(Step::Forward) => "f",
        Ok(Step::Recall) => "c",
        Ok(Step::Remove) => "m",
        Ok(Step::Abandon) => "a",
        Ok(Step::Reconnect) => "b",
        Ok(Step::Ignore) => "-",
        Ok(Step::Enter(Phase::Starting)) => "S",
        Ok(Step::Enter(Phase::Live)) => "L",
        Ok(Step::Enter(Phase::Deleting)) => "D",
        Ok(Step::Enter(Phase::Dead)) => "X",
        Ok(Step::Enter(Phase::Gone)) => "G",
        Err(Refused::Exists) => "e",
        Err(Refused::NotFound) => "n",
        Err(Refused::Finished) => "d",
        Err(Refused::Exited) => "x",
        Err(Refused::Unexpected) => "!",
    }
}

#[test]
fn every_answer_is_the_one_in_the_table() {
    let rows: Vec<&str> = TABLE.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(rows.len(), INPUTS.len());
    for (input, row) in INPUTS.into_iter().zip(rows) {
        let letters: Vec<&str> = row.split_whitespace().take(PHASES.len()).collect();
        for (phase, expected) in PHASES.into_iter().zip(letters) {
            assert_eq!(letter(decide(phase, input)), expected, "{phase:?}, {input:?}");
        }
    }
}

/// A task as a client and the daemon see it, without phases.
#[derive(Debug, Clone, Copy, Default)]
struct Model {
    /// The id is taken.
    taken: bool,
    /// A client's Create is being answered.
    creating: bool,
    /// Clients see the task.
    seen: bool,
    /// There is a shim to ask. Only looked at while the task is seen.
    shim: bool,
}

impl Model {
    fn asked(self, request: Request) -> Result<&'static str, &'static str> {
        match request {
            Request::Create if self.taken => Err("e"),
            Request::Create => Ok("r"),
            Request::Delete if self.creating => Ok("a"),
            _ if !self.seen => Err("n"),
            _ if self.shim => Ok("f"),
            Request::Ask => Ok("c"),
            Request::Delete => Ok("m"),
            Request::Signal => Err("d"),
            Request::Drive => Err("x"),
        }
    }

    /// What an outcome makes of it; `None` where it cannot come.
    fn after(self, outcome: Outcome) -> Option<Self> {
        let Self { taken, creating, seen, shim } = self;
        let dead = seen && !shim;
        match outcome {
            Outcome::Created => {
                creating.then_some(Self { taken, creating: false, seen: true, shim: true })
            }
            Outcome::Disconnected => Some(self),
            Outcome::Deleted => (seen && shim).then_some(Self { seen: false, ..self }),
            Outcome::Died => {
                (taken && !dead).then_some(Self { taken, creating: false, seen: true, shim: false })
            }
            Outcome::Removed => Some(Self::default()),
        }
    }
}

proptest! {
    #[test]
    fn any_sequence_is_answered_as_by_the_model(inputs in prop::collection::vec(0..INPUTS.len(), 0..60)) {
        let (mut phase, mut model) = (Phase::Gone, Model::default());
        for input in inputs.into_iter().map(|index| INPUTS[index]) {
            let answer = decide(phase, input);
            match input {
                Asked(request) => {
                    let expected = model.asked(request);
                    let (Ok(expected) | Err(expected)) = expected;
                    prop_assert_eq!(letter(answer), expected, "{:?}, {:?}", phase, input);
                    if answer == Ok(Step::Reserve) {
                        // The table makes a new task.
                        phase = Phase::Starting;
                        model = Model { taken: true, creating: true, ..Model::default() };
                    }
                }
                Happened(outcome) => {
                    prop_assert_eq!(
                        answer == Err(Refused::Unexpected),
                        model.after(outcome).is_none(),
                        "{:?}, {:?}", phase, input
                    );
                    prop_assert_eq!(answer == Ok(Step::Reconnect), outcome == Outcome::Disconnected && model.seen && model.shim);
                    if let Ok(Step::Enter(next)) = answer {
                        phase = next;
                    }
                    model = model.after(outcome).unwrap_or(model);
                }
            }
        }
    }
}
