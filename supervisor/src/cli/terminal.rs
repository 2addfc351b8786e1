//! This process's terminal while it belongs to a container.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsRawFd as _;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::error::CliError;
use super::sys;

/// A terminal in raw mode; dropping restores it.
pub(crate) struct RawTerminal {
    before: Termios,
}

/// Fails if standard input is no terminal.
pub(crate) fn require() -> Result<(), CliError> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    Err(CliError::NoTerminal)
}

impl RawTerminal {
    /// Switches standard input's terminal to raw mode.
    pub(crate) fn enter() -> Result<Self, CliError> {
        let stdin = io::stdin();
        let failed = |errno: nix::Error| CliError::io("switch the terminal to raw mode", errno);
        let before = tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Fails when the terminal is gone, which is harmless.
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Columns and rows of standard input's terminal.
pub(crate) fn size() -> Option<(u32, u32)> {
    let size = sys::tiocgwinsz(io::stdin().as_raw_fd()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}
