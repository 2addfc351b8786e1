//! Platforms: what an image is for, and what a host can run.

use std::fmt;

/// An operating system and an architecture.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Platform {
    /// `linux`.
    pub(crate) os: String,
    /// In Go's words: `amd64`, `arm64`.
    pub(crate) architecture: String,
    /// `v8`, `v7`; empty where it does not matter.
    pub(crate) variant: String,
}

impl Platform {
    /// This host's.
    pub(crate) fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            variant: String::new(),
        }
    }

    /// With the names that Go uses, as containerd normalizes them.
    pub(crate) fn normalized(mut self) -> Self {
        let lower = self.architecture.to_ascii_lowercase();
        self.architecture = match lower.as_str() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "i386" => "386".to_owned(),
            "aarch64" => "arm64".to_owned(),
            "armhf" => "arm".to_owned(),
            _ => lower,
        };
        self.os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            lower => lower.to_owned(),
        };
        self
    }

    /// Whether an image for `image` runs here. What an image does not say does not stand in its
    /// way.
    pub(crate) fn runs(&self, image: &Self) -> bool {
        let agrees = |ours: &str, theirs: &str| theirs.is_empty() || ours == theirs;
        let variant = self.variant.is_empty() || agrees(&self.variant, &image.variant);
        agrees(&self.os, &image.os) && agrees(&self.architecture, &image.architecture) && variant
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
        write!(formatter, "{}/{}", or(&self.os), or(&self.architecture))?;
        if self.variant.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.variant) }
    }
}
