//! Selects the manifest of an image that runs on a platform.

use super::resolve::{ResolvedManifest, ResolvedTarget};
use super::{ImageError, Platform};
use crate::content::Descriptor;

/// Platforms that an error lists.
const MAX_LISTED: usize = 10;

impl ResolvedTarget {
    /// Whether what is in it are no images: charts, signatures.
    pub(crate) fn is_artifact(&self) -> bool {
        self.manifests.iter().all(|image| image.diff_ids.is_empty() && !image.layers.is_empty())
    }

    /// The image to unpack for `platform`.
    pub(crate) fn select(
        &self,
        target: &Descriptor,
        platform: &Platform,
    ) -> Result<&ResolvedManifest, ImageError> {
        let exact = |image: &&ResolvedManifest| {
            image.platform.os == platform.os && image.platform.architecture == platform.architecture
        };
        let fits = |image: &&ResolvedManifest| platform.runs(&image.platform);
        let fitting: Vec<&ResolvedManifest> = self.manifests.iter().filter(fits).collect();
        let chosen = fitting.iter().copied().find(exact).or(fitting.first().copied());
        let image = chosen.ok_or_else(|| ImageError::NoPlatform {
            image: target.digest.to_string(),
            wanted: platform.to_string(),
            have: self
                .manifests
                .iter()
                .take(MAX_LISTED)
                .map(|image| image.platform.to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        if image.layers.len() != image.diff_ids.len() {
            let document = format!("config {}", image.config);
            let reason = format!(
                "it lists {} layers, manifest {} has {}",
                image.diff_ids.len(),
                image.manifest,
                image.layers.len()
            );
            return Err(ImageError::Malformed { document, reason });
        }
        Ok(image)
    }
}
