//! One attack.

use std::time::Duration;

use crate::engine::Engine;
use crate::fixture::Fixture;

/// Something to try, and what must be true afterwards.
#[derive(Clone)]
pub(crate) struct Attack {
    pub(crate) word: &'static str,
    /// None where no container is needed, or any will do.
    pub(crate) engine: Option<Engine>,
    /// Its point in the list of faults that this program goes back to.
    pub(crate) point: &'static str,
    pub(crate) promise: &'static str,
    pub(crate) limit: Duration,
    /// Panics where the attack won.
    pub(crate) attempt: fn(&Fixture),
}

impl Attack {
    /// What it is called.
    pub(crate) fn name(&self) -> String {
        match self.engine {
            Some(engine) => format!("{}/{}", self.word, engine.word()),
            None => self.word.to_owned(),
        }
    }

    /// The same with another limit.
    pub(crate) fn within(self, seconds: u64) -> Self {
        Self { limit: Duration::from_secs(seconds), ..self }
    }
}

/// An attack on the daemon, or on what needs no engine.
pub(crate) fn attack(
    point: &'static str,
    word: &'static str,
    promise: &'static str,
    attempt: fn(&Fixture),
) -> Vec<Attack> {
    let limit = Duration::from_secs(60);
    vec![Attack { word, engine: None, point, promise, limit, attempt }]
}

/// The same on each engine.
pub(crate) fn on_both(
    point: &'static str,
    word: &'static str,
    promise: &'static str,
    attempt: fn(&Fixture),
) -> Vec<Attack> {
    [Engine::Runc, Engine::Youki]
        .into_iter()
        .flat_map(|engine| {
            let mut one = attack(point, word, promise, attempt);
            one[0].engine = Some(engine);
            one
        })
        .collect()
}

/// The same on our own engine alone, where the other loses to what is not ours to mend.
pub(crate) fn on_youki(
    point: &'static str,
    word: &'static str,
    promise: &'static str,
    attempt: fn(&Fixture),
) -> Vec<Attack> {
    on_both(point, word, promise, attempt).split_off(1)
}

/// Gives each a limit of its own.
pub(crate) fn within(seconds: u64, attacks: Vec<Attack>) -> Vec<Attack> {
    attacks.into_iter().map(|attack| attack.within(seconds)).collect()
}
