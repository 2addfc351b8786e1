//! Signals by name. Their values are Linux's numbers on every platform.
//!
//! containerd's clients send Linux's numbers to shims on every platform, so the numbers belong to
//! the protocol, not to the host.

use std::fmt;

/// A signal. Real-time signals have numbers and no names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident = $number:literal, $doc:literal;)*) => {
        impl Signal {
            $(#[doc = $doc] pub const $name: Self = Self($number);)*

            /// The signal's name without `SIG`, where it has one.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

signals! {
    PROBE = 0, "No signal: asks whether the process exists.";
    HUP = 1, "The terminal is gone.";
    INT = 2, "Interrupt from the keyboard.";
    QUIT = 3, "Quit from the keyboard.";
    ILL = 4, "Illegal instruction.";
    TRAP = 5, "Trace trap.";
    ABRT = 6, "Abort.";
    BUS = 7, "Bad memory access.";
    FPE = 8, "Arithmetic error.";
    KILL = 9, "Ends a process; cannot be caught.";
    USR1 = 10, "The first of two for the user.";
    SEGV = 11, "Invalid memory reference.";
    USR2 = 12, "The second of two for the user.";
    PIPE = 13, "A pipe without readers.";
    ALRM = 14, "A timer.";
    TERM = 15, "Asks a process to end.";
    STKFLT = 16, "Stack fault; unused.";
    CHLD = 17, "A child changed state.";
    CONT = 18, "Continue.";
    STOP = 19, "Stop; cannot be caught.";
    TSTP = 20, "Stop from the keyboard.";
    TTIN = 21, "Terminal input from the background.";
    TTOU = 22, "Terminal output from the background.";
    URG = 23, "Urgent data on a socket.";
    XCPU = 24, "Processor time used up.";
    XFSZ = 25, "File size limit.";
    VTALRM = 26, "A timer of processor time.";
    PROF = 27, "A profiling timer.";
    WINCH = 28, "The terminal's size changed.";
    IO = 29, "I/O is possible.";
    PWR = 30, "Power failure.";
    SYS = 31, "Bad system call.";
}

impl Signal {
    /// A signal from its Linux number, if there is such a signal.
    pub fn from_number(number: u32) -> Option<Self> {
        u8::try_from(number).ok().filter(|number| *number <= 64).map(Self)
    }

    /// The Linux number.
    pub fn number(self) -> u32 {
        u32::from(self.0)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        assert_eq!(Signal::from_number(9), Some(Signal::KILL));
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
        assert_eq!(
            Signal::from_number(34).map(|signal| signal.to_string()),
            Some("signal 34".into())
        );
        assert_eq!(Signal::from_number(65), None);
    }
}
