//! What a transfer tells of itself while it runs.

use std::sync::Arc;

use crate::content::Descriptor;

/// One piece of news, in the words of containerd's progress messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Event {
    /// What happened: `importing`, `complete`, `unpacking`, `unpacked`, `saved`.
    pub(crate) event: &'static str,
    /// To what.
    pub(crate) name: String,
    /// What that points to.
    pub(crate) target: Option<Descriptor>,
    /// How much is done.
    pub(crate) progress: u64,
    /// Of how much.
    pub(crate) total: u64,
}

/// Where news goes. Called from blocking threads too, and must not block.
#[derive(Clone)]
pub(crate) struct Progress(Arc<dyn Fn(Event) + Send + Sync>);

impl Progress {
    /// News to `told`.
    pub(crate) fn to(told: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    /// Progress that no client reads.
    pub(crate) fn ignored() -> Self {
        Self::to(|_| {})
    }

    /// Tells.
    pub(crate) fn tell(&self, event: Event) {
        (self.0)(event);
    }
}
