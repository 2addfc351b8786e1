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
        .normalized()
    }

    /// With the names that Go uses, and the variants as containerd's package `platforms` writes them:
    /// none for the usual one of amd64 and arm64, always one for arm.
    pub(crate) fn normalized(mut self) -> Self {
        let (architecture, variant) =
            (self.architecture.to_ascii_lowercase(), self.variant.to_ascii_lowercase());
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", other) => ("amd64", other),
            ("i386", _) => ("386", ""),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64", other) => ("arm64", other),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            other => other,
        };
        (self.architecture, self.variant) = (architecture.to_owned(), variant.to_owned());
        self.os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            lower => lower.to_owned(),
        };
        self
    }

    /// Whether an image for `image` runs here. An empty field in the image's platform matches any
    /// host.
    pub(crate) fn runs(&self, image: &Self) -> bool {
        self.distance(image).is_some()
    }

    /// How far an image for `image` is from the best one for this platform; `None` where it does not
    /// run here. Of two that run, the nearer one is to be chosen. Lower variants run: arm/v6 on
    /// arm/v7, amd64/v2 on amd64/v3.
    pub(crate) fn distance(&self, image: &Self) -> Option<u32> {
        /// Farther than any variant: the image does not say what it is for.
        const UNNAMED: u32 = 100;
        let part = |ours: &str, theirs: &str| match theirs {
            "" => Some(UNNAMED),
            theirs => (ours == theirs).then_some(0),
        };
        let unnamed = part(&self.os, &image.os)? + part(&self.architecture, &image.architecture)?;
        let variant = match (self.level(), image.level()) {
            (Some(ours), Some(theirs)) => ours.checked_sub(theirs)?,
            _ if self.variant.is_empty() || image.variant.is_empty() => 0,
            _ => part(&self.variant, &image.variant)?,
        };
        Some(unnamed + variant)
    }

    /// The number of the variant, where higher ones run what lower ones do.
    fn level(&self) -> Option<u32> {
        let usual = match self.architecture.as_str() {
            "amd64" => 1,
            "arm" => 7,
            "arm64" => 8,
            _ => return None,
        };
        match self.variant.strip_prefix('v') {
            None if self.variant.is_empty() => Some(usual),
            None => None,
            Some(number) => number.parse().ok(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
        write!(formatter, "{}/{}", or(&self.os), or(&self.architecture))?;
        if self.variant.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), architecture: next(), variant: next() }
    }

    #[test]
    fn spellings_are_containerd_s() {
        for (written, normal) in [
            ("Linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/i386", "linux/386"),
            ("macOS/aarch64", "darwin/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/s390x", "linux/s390x"),
        ] {
            assert_eq!(platform(written).normalized().to_string(), normal, "{written}");
        }
    }

    #[test]
    fn lower_variants_run_and_the_nearest_is_best() {
        let distance = |host: &str, image: &str| platform(host).distance(&platform(image));
        assert_eq!(distance("linux/arm/v7", "linux/arm/v7"), Some(0));
        assert_eq!(distance("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(distance("linux/arm/v7", "linux/arm/v5"), Some(2));
        assert_eq!(distance("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(distance("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(distance("linux/amd64", "linux/amd64/v2"), None);
        assert_eq!(distance("linux/amd64/v3", "linux/amd64"), Some(2));
        assert_eq!(distance("linux/arm64", "linux/arm64/v8"), Some(0));
        assert_eq!(distance("linux/amd64", "linux/arm64"), None);
        assert_eq!(distance("linux/amd64", "windows/amd64"), None);
        assert_eq!(distance("linux/s390x", "linux/s390x"), Some(0));
        let unnamed = distance("linux/amd64", "").expect("an image that says nothing runs");
        assert!(unnamed > distance("linux/amd64/v4", "linux/amd64").expect("it runs"));
    }
}
