//! Binaries from images that are here, into the managed directory.
//!
//! Finds an image's layers for this host in the content store and hands them to [`installer`],
//! which does the rest; one installation at a time, and none on the thread that serves.

use std::io;

use installer::budget::{Budget, Cost};
use installer::{Image, Layer, Opt, Options, Receipt};
use serde::Deserialize;
use shim_sdk::Kind;

use crate::content::{ContentError, Digest, Store};
use crate::image::bounded::List;
use crate::image::{Images, installer_kind};
use crate::metadata::{Namespace, RecordError};
use crate::text::{QUOTED_BYTES, escaped};

/// The largest manifest that is read, as in containerd.
const MAX_MANIFEST_BYTES: u64 = 8 << 20;
/// Layers of one image, links of one index.
const MAX_LAYERS: usize = 1024;
const MAX_LINKS: usize = 10_000;
/// An index may hold indexes, but nobody makes towers of them.
const MAX_NESTED: usize = 4;

/// The managed directory and what can be installed into it.
#[derive(Clone)]
pub(crate) struct Installer {
    opt: Opt,
    images: Images,
    content: Store,
}

/// Why binaries were not installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("image {image}: manifest {digest}: {why}")]
    Manifest { image: String, digest: Digest, why: String },
    #[error(transparent)]
    Install(#[from] installer::InstallError),
    #[error("the installation was interrupted: {0}")]
    Interrupted(tokio::task::JoinError),
}

impl InstallError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Record(error) => error.kind(),
            Self::Content(error) => error.kind(),
            Self::Manifest { .. } => Kind::FailedPrecondition,
            Self::Install(error) => installer_kind(error.kind()),
            Self::Interrupted(_) => Kind::Internal,
        }
    }
}

/// A manifest or an index: whichever of the two lists is there decides.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Option<List<Link, MAX_LAYERS>>,
    #[serde(default)]
    manifests: Option<List<Link, MAX_LINKS>>,
}

#[derive(Deserialize)]
struct Link {
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

impl Platform {
    fn is_ours(&self) -> bool {
        let (os, architecture) = (self.os.clone(), self.architecture.clone());
        let named = crate::image::Platform { os, architecture, variant: String::new() };
        named.normalized() == crate::image::Platform::host()
    }
}

impl Installer {
    pub(crate) fn new(opt: Opt, images: Images, content: Store) -> Self {
        Self { opt, images, content }
    }

    /// The managed directory.
    pub(crate) fn opt(&self) -> &Opt {
        &self.opt
    }

    /// Installs the binaries of an image.
    pub(crate) async fn install(
        &self,
        namespace: &Namespace,
        image: &str,
        options: Options,
        budget: &Budget,
    ) -> Result<Receipt, InstallError> {
        let record = self.images.get(namespace, image).await?;
        let (installer, namespace, budget) = (self.clone(), namespace.clone(), budget.clone());
        blocking(move || {
            let target = record.target.digest.clone();
            let image = installer.layers(&namespace, &record.name, target, &budget)?;
            Ok(installer.opt.install_within(&image, options, &budget)?)
        })
        .await
    }

    /// Removes what an image installed; the image itself need not be here any more.
    pub(crate) async fn uninstall(&self, image: String) -> Result<Receipt, InstallError> {
        let opt = self.opt.clone();
        blocking(move || Ok(opt.uninstall(&image)?)).await
    }

    /// Returns to the set before the last switch.
    pub(crate) async fn rollback(&self) -> Result<Vec<Receipt>, InstallError> {
        let opt = self.opt.clone();
        blocking(move || Ok(opt.rollback()?)).await
    }

    /// What is installed.
    pub(crate) async fn receipts(&self) -> Result<Vec<Receipt>, InstallError> {
        let opt = self.opt.clone();
        blocking(move || Ok(opt.receipts()?)).await
    }

    /// The layers for this host of the image with a target.
    fn layers(
        &self,
        namespace: &Namespace,
        name: &str,
        target: Digest,
        budget: &Budget,
    ) -> Result<Image, InstallError> {
        let mut digest = target.clone();
        for _ in 0..MAX_NESTED {
            let bad = |why: String| InstallError::Manifest {
                image: name.to_owned(),
                digest: digest.clone(),
                why,
            };
            let parse = |text: &str| Digest::parse(text).map_err(|error| bad(error.to_string()));
            budget.charge(Cost::Documents, MAX_MANIFEST_BYTES).map_err(|e| bad(e.to_string()))?;
            let manifest: Manifest =
                serde_json::from_slice(&self.read_manifest(namespace, name, &digest)?)
                    .map_err(|error| bad(escaped(&error.to_string(), QUOTED_BYTES).to_string()))?;
            if let Some(links) = manifest.layers {
                let layer = |link: &Link| Ok(self.layer(namespace, parse(&link.digest)?));
                let layers = links.iter().map(layer).collect::<Result<_, InstallError>>()?;
                return Ok(Image { name: name.to_owned(), digest: target.to_string(), layers });
            }
            let links = manifest
                .manifests
                .ok_or_else(|| bad("it is neither a manifest nor an index".into()))?;
            let ours = |link: &&Link| link.platform.as_ref().is_some_and(Platform::is_ours);
            let link = links
                .iter()
                .find(ours)
                .or_else(|| links.iter().find(|link| link.platform.is_none()))
                .ok_or_else(|| bad("it has no image for this platform".into()))?;
            digest = parse(&link.digest)?;
        }
        Err(InstallError::Manifest {
            image: name.to_owned(),
            digest: target,
            why: "its indexes are nested too deeply".into(),
        })
    }

    fn read_manifest(
        &self,
        namespace: &Namespace,
        name: &str,
        digest: &Digest,
    ) -> Result<Vec<u8>, InstallError> {
        let bad = |why: String| InstallError::Manifest {
            image: name.to_owned(),
            digest: digest.clone(),
            why,
        };
        let (info, blob) = self.content.open_blob(namespace, digest)?;
        if info.size_bytes > MAX_MANIFEST_BYTES {
            return Err(bad(format!("it has {} bytes", info.size_bytes)));
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(blob, MAX_MANIFEST_BYTES), &mut bytes)
            .map_err(|error| bad(error.to_string()))?;
        Ok(bytes)
    }

    fn layer(&self, namespace: &Namespace, digest: Digest) -> Layer {
        let (content, namespace) = (self.content.clone(), namespace.clone());
        let name = digest.to_string();
        let open = move || {
            let (_, blob) = content
                .open_blob(&namespace, &digest)
                .map_err(|error| io::Error::other(shim_sdk::error::report(&error)))?;
            Ok(Box::new(blob) as Box<dyn io::Read + Send>)
        };
        Layer { digest: name, open: Box::new(open) }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InstallError> + Send + 'static,
) -> Result<T, InstallError> {
    tokio::task::spawn_blocking(work).await.map_err(InstallError::Interrupted)?
}
