//! Binaries from images that are here, into the managed directory.
//!
//! Finds an image's layers for this host in the content store and hands them to [`installer`],
//! which does the rest; one installation at a time, and none on the thread that serves.

use std::io;

use installer::budget::{Budget, Cost};
use installer::{Image, Layer, ManagedDirectory, Options, Receipt};
use shim_sdk::Kind;

use crate::content::{ContentError, Descriptor, Digest, Store};
use crate::image::manifest::{self, IndexOrManifest, MAX_BYTES, RawDescriptor};
use crate::image::{ImageError, Images, Platform, installer_kind};
use crate::metadata::{Namespace, RecordError};

/// Indexes in indexes that are followed.
const MAX_DEPTH: usize = 4;

/// The managed directory and what can be installed into it.
#[derive(Clone)]
pub(crate) struct Installer {
    managed: ManagedDirectory,
    images: Images,
    content: Store,
}

/// Why binaries were not installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageInstallError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("image {image}")]
    Image {
        image: String,
        #[source]
        cause: ImageError,
    },
    #[error(transparent)]
    Install(#[from] installer::InstallError),
    #[error("the installation was interrupted: {0}")]
    Interrupted(tokio::task::JoinError),
}

impl ImageInstallError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Record(error) => error.kind(),
            Self::Content(error) => error.kind(),
            Self::Image { cause: ImageError::Content(cause), .. } => cause.kind(),
            // The image is stored, and cannot be installed as it is.
            Self::Image { .. } => Kind::FailedPrecondition,
            Self::Install(error) => installer_kind(error.kind()),
            Self::Interrupted(_) => Kind::Internal,
        }
    }
}

impl Installer {
    pub(crate) fn new(managed: ManagedDirectory, images: Images, content: Store) -> Self {
        Self { managed, images, content }
    }

    /// The managed directory.
    pub(crate) fn managed(&self) -> &ManagedDirectory {
        &self.managed
    }

    /// Installs the binaries of an image.
    pub(crate) async fn install(
        &self,
        namespace: &Namespace,
        image: &str,
        options: Options,
        budget: &Budget,
    ) -> Result<Receipt, ImageInstallError> {
        let record = self.images.get(namespace, image).await?;
        let (installer, namespace, budget) = (self.clone(), namespace.clone(), budget.clone());
        blocking(move || {
            let image = installer.layers(&namespace, &record.name, &record.target, &budget)?;
            Ok(installer.managed.install_within(&image, options, &budget)?)
        })
        .await
    }

    /// Removes what an image installed; the image itself need not be here any more.
    pub(crate) async fn uninstall(&self, image: String) -> Result<Receipt, ImageInstallError> {
        let managed = self.managed.clone();
        blocking(move || Ok(managed.uninstall(&image)?)).await
    }

    /// Returns to the set before the last switch.
    pub(crate) async fn rollback(&self) -> Result<Vec<Receipt>, ImageInstallError> {
        let managed = self.managed.clone();
        blocking(move || Ok(managed.rollback()?)).await
    }

    /// What is installed.
    pub(crate) async fn receipts(&self) -> Result<Vec<Receipt>, ImageInstallError> {
        let managed = self.managed.clone();
        blocking(move || Ok(managed.receipts()?)).await
    }

    /// The layers for this host of an image.
    fn layers(
        &self,
        namespace: &Namespace,
        name: &str,
        target: &Descriptor,
        budget: &Budget,
    ) -> Result<Image, ImageInstallError> {
        let bad = |cause| ImageInstallError::Image { image: name.to_owned(), cause };
        let (mut media_type, mut digest) = (target.media_type.clone(), target.digest.clone());
        for _ in 0..MAX_DEPTH {
            let document = format!("manifest {digest}");
            let bytes = self.read(namespace, &document, &digest, budget).map_err(bad)?;
            match manifest::parse_index_or_manifest(&document, &media_type, &bytes).map_err(bad)? {
                IndexOrManifest::Manifest(manifest) => {
                    let layer = |link: &RawDescriptor| {
                        let digest = manifest::digest(&document, &link.digest)?;
                        Ok(self.layer(namespace, digest))
                    };
                    let layers =
                        manifest.layers.iter().map(layer).collect::<Result<_, _>>().map_err(bad)?;
                    let digest = target.digest.to_string();
                    return Ok(Image { name: name.to_owned(), digest, layers });
                }
                IndexOrManifest::Index(index) => {
                    let link = index.select(&document, &Platform::host()).map_err(bad)?;
                    media_type.clone_from(&link.media_type);
                    digest = manifest::digest(&document, &link.digest).map_err(bad)?;
                }
            }
        }
        let what = "depth of the image's indexes".to_owned();
        Err(bad(ImageError::Limit { what, limit: MAX_DEPTH as u64 }))
    }

    /// The bytes of a document.
    fn read(
        &self,
        namespace: &Namespace,
        document: &str,
        digest: &Digest,
        budget: &Budget,
    ) -> Result<Vec<u8>, ImageError> {
        let (info, blob) = self.content.open_blob(namespace, digest)?;
        if info.size_bytes > MAX_BYTES {
            let what = format!("size of {document}");
            return Err(ImageError::Limit { what, limit: MAX_BYTES });
        }
        budget.charge(Cost::Documents, info.size_bytes)?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(blob, MAX_BYTES), &mut bytes)
            .map_err(|cause| ImageError::Read { document: document.to_owned(), cause })?;
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
    work: impl FnOnce() -> Result<T, ImageInstallError> + Send + 'static,
) -> Result<T, ImageInstallError> {
    tokio::task::spawn_blocking(work).await.map_err(ImageInstallError::Interrupted)?
}
