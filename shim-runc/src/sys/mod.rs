//! The raw system calls of this crate; the only place where `unsafe` is allowed.

pub(crate) mod ready;
