//! The signals of a server: Windows has none.

use std::rc::Rc;

use crate::process::shim::ShimState;
use crate::{Result, Runtime};

pub(super) fn handle_signals<R: Runtime>(_shim: &Rc<ShimState<R>>) -> Result<()> {
    Ok(())
}

pub(super) fn ignore_termination() -> Result<()> {
    Ok(())
}
