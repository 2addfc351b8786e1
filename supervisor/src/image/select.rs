//! Selects the manifest of an image that runs on a platform.

use super::manifest::{Index, RawDescriptor};
use super::resolve::{ResolvedManifest, ResolvedTarget};
use super::{ImageError, Platform};
use crate::content::Descriptor;

/// Platforms that an error lists.
const MAX_LISTED: usize = 10;

impl Index {
    /// The link to follow for `platform`: the first of those that name the nearest one, or else the
    /// first that names no platform. `document` is this index, for errors.
    pub(crate) fn select(
        &self,
        document: &str,
        platform: &Platform,
    ) -> Result<&RawDescriptor, ImageError> {
        let distance = |link: &RawDescriptor| match link.platform(document) {
            Ok(Some(named)) if named.os.is_empty() || named.architecture.is_empty() => None,
            Ok(Some(named)) => platform.distance(&named),
            Ok(None) | Err(_) => None,
        };
        let named = self.manifests.iter().filter_map(|link| Some((distance(link)?, link)));
        named
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, link)| link)
            .or_else(|| self.manifests.iter().find(|link| link.platform.is_none()))
            .ok_or_else(|| ImageError::NoPlatform {
                image: document.to_owned(),
                wanted: platform.to_string(),
                have: self
                    .manifests
                    .iter()
                    .filter_map(|link| link.platform(document).ok().flatten())
                    .take(MAX_LISTED)
                    .map(|named| named.to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}

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
        let fitting = self
            .manifests
            .iter()
            .filter_map(|image| Some((platform.distance(&image.platform)?, image)));
        let nearest = fitting.min_by_key(|(distance, _)| *distance).map(|(_, image)| image);
        let image = nearest.ok_or_else(|| ImageError::NoPlatform {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_for_this_platform_is_chosen() {
        let host = Platform::host();
        let json = format!(
            r#"{{"manifests":[{{"digest":"a","size":1,"platform":{{"os":"linux","architecture":"s390x"}}}},
                {{"digest":"b","size":1,"platform":{{"os":"{}","architecture":"{}"}}}}]}}"#,
            host.os, host.architecture
        );
        let index: Index = serde_json::from_str(&json).unwrap();
        assert_eq!(index.select("it", &host).unwrap().digest, "b");
        let other = Platform { os: "plan9".into(), ..Platform::default() };
        assert!(matches!(index.select("it", &other), Err(ImageError::NoPlatform { .. })));
        // Of several variants the nearest runs, in whichever order they are listed.
        let json = r#"{"manifests":[
            {"digest":"v5","size":1,"platform":{"os":"linux","architecture":"arm","variant":"v5"}},
            {"digest":"v8","size":1,"platform":{"os":"linux","architecture":"arm","variant":"v8"}},
            {"digest":"v6","size":1,"platform":{"os":"linux","architecture":"arm","variant":"v6"}}]}"#;
        let variants: Index = serde_json::from_str(json).unwrap();
        let arm = |variant: &str| Platform {
            os: "linux".into(),
            architecture: "arm".into(),
            variant: variant.into(),
        };
        assert_eq!(variants.select("it", &arm("v7")).unwrap().digest, "v6");
        assert_eq!(variants.select("it", &arm("v5")).unwrap().digest, "v5");
        // One that says nothing of platforms is for any.
        let index: Index =
            serde_json::from_str(r#"{"manifests":[{"digest":"a","size":1}]}"#).unwrap();
        assert_eq!(index.select("it", &host).unwrap().digest, "a");
    }
}
