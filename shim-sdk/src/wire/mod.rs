//! The protocol's generated types end here: bootstrap, the task service, events, status codes.

pub(crate) mod bootstrap;
pub(crate) mod convert;
mod method;
pub(crate) mod publish;
pub(crate) mod server;
pub(crate) mod status;
pub(crate) mod task;

#[cfg(test)]
mod tests;
