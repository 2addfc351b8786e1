//! The ways to run a container that the tests go through.

use std::path::PathBuf;

use harness::programs;

/// What runs the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Our shim with libcontainer in its own process tree.
    Youki,
    /// Our shim over runc.
    Runc,
    /// Our shim over crun, which the runtime's options name.
    Crun,
    /// containerd's own shim: a control that shows what these tests ask for to be reasonable.
    Stock,
}

impl Engine {
    /// The runtime's name for containerd.
    pub(crate) fn runtime(self) -> &'static str {
        match self {
            Self::Youki => "io.containerd.youki.v1",
            Self::Runc | Self::Crun | Self::Stock => "io.containerd.runc.v2",
        }
    }

    /// The directory to put first where containerd looks for shims.
    pub(crate) fn shims(self) -> Option<PathBuf> {
        match self {
            Self::Youki | Self::Runc | Self::Crun => Some(programs::directory()),
            Self::Stock => None,
        }
    }

    /// The binary that serves the container.
    pub(crate) fn binary(self) -> PathBuf {
        match self {
            Self::Youki => programs::ours("containerd-shim-youki-v1"),
            Self::Runc | Self::Crun => programs::ours("containerd-shim-runc-v2"),
            Self::Stock => programs::system("containerd-shim-runc-v2"),
        }
    }
}

/// Runs each of these functions once per engine of ours, as a test of its own.
macro_rules! with_each_engine {
    ($($name:ident)*) => {
        mod youki {
            $(#[test] fn $name() { super::$name($crate::engine::Engine::Youki); })*
        }
        mod runc {
            $(#[test] fn $name() { super::$name($crate::engine::Engine::Runc); })*
        }
    };
}

/// The same, and with containerd's own shim as a control.
macro_rules! with_each_engine_and_control {
    ($($name:ident)*) => {
        $crate::engine::with_each_engine! { $($name)* }
        mod control {
            $(
                #[test]
                #[ignore = "asks the test, not us: run with --include-ignored control"]
                fn $name() { super::$name($crate::engine::Engine::Stock); }
            )*
        }
    };
}

pub(crate) use {with_each_engine, with_each_engine_and_control};
