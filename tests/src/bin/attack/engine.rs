//! The engines that attacks are tried on.

/// Which engine an attack is tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Our shim over runc.
    Runc,
    /// Our shim with libcontainer in it.
    Youki,
}

impl Engine {
    /// The shim's binary.
    pub(crate) fn shim(self) -> &'static str {
        match self {
            Self::Runc => "containerd-shim-runc-v2",
            Self::Youki => "containerd-shim-youki-v1",
        }
    }

    /// The runtime's name.
    pub(crate) fn runtime(self) -> &'static str {
        match self {
            Self::Runc => "io.containerd.runc.v2",
            Self::Youki => "io.containerd.youki.v1",
        }
    }

    /// Its name on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Youki => "youki",
        }
    }
}
