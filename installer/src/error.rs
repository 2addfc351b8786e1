//! Why binaries could not be installed, removed or rolled back.

use std::io;
use std::path::{Path, PathBuf};

use crate::kind::Kind;
use crate::layer::{EntryName, ExtractError};

/// Binaries could not be installed, removed or rolled back. What is shown did not change.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A layer could not be read.
    #[error("image {image}, layer {layer}")]
    Layer {
        /// The image.
        image: String,
        /// The layer's digest.
        layer: String,
        /// Why.
        #[source]
        cause: ExtractError,
    },
    /// A layer is not what its digest says.
    #[error("image {image}: layer {layer} has digest {got}")]
    WrongDigest {
        /// The image.
        image: String,
        /// What the manifest says.
        layer: String,
        /// What was read.
        got: String,
    },
    /// An entry of the image may not be installed.
    #[error("image {image}: refused entry {entry}: {why}")]
    Refused {
        /// The image.
        image: String,
        /// The entry.
        entry: EntryName,
        /// The rule it breaks.
        why: String,
    },
    /// The image has nothing to install.
    #[error("image {image} has no files in bin/")]
    Nothing {
        /// The image.
        image: String,
    },
    /// Other files are in the way.
    #[error("image {image}: {} there already: {}; say replace to install over {}", are(.files), some(.files), them(.files))]
    InTheWay {
        /// The image.
        image: String,
        /// The files, each with whose it is.
        files: Vec<String>,
    },
    /// Nothing of that name is installed.
    #[error("image {image} is not installed in {}", .path.display())]
    NotInstalled {
        /// The image.
        image: String,
        /// The managed directory.
        path: PathBuf,
    },
    /// There is nothing to return to.
    #[error("no earlier set of binaries is kept in {}", .path.display())]
    NoEarlier {
        /// The managed directory.
        path: PathBuf,
    },
    /// A receipt that this version does not understand.
    #[error("receipts {}: {why}", .path.display())]
    Receipts {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system refused a call.
    #[error("{call}({path:?})")]
    System {
        /// The call.
        call: &'static str,
        /// The path that it was given.
        path: PathBuf,
        /// The answer.
        #[source]
        cause: io::Error,
    },
}

/// The first files of a list, and how many more there are.
fn some(files: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text = files.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if files.len() > SHOWN {
        text.push_str(&format!(" and {} more", files.len() - SHOWN));
    }
    text
}

fn are(files: &[String]) -> &'static str {
    if files.len() == 1 { "a file is" } else { "files are" }
}

fn them(files: &[String]) -> &'static str {
    if files.len() == 1 { "it" } else { "them" }
}

impl InstallError {
    /// What this amounts to for a caller.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Layer { cause, .. } => cause.kind(),
            Self::WrongDigest { .. } => Kind::DataLoss,
            Self::Refused { .. } => Kind::InvalidArgument,
            Self::Nothing { .. } => Kind::FailedPrecondition,
            Self::InTheWay { .. } => Kind::AlreadyExists,
            Self::NotInstalled { .. } | Self::NoEarlier { .. } => Kind::NotFound,
            Self::Receipts { .. } => Kind::DataLoss,
            Self::System { cause, .. } => match Kind::from_io(cause) {
                Kind::NotFound | Kind::AlreadyExists => Kind::Internal,
                kind => kind,
            },
        }
    }
}

/// Names a call for the error.
pub(crate) trait Call<T> {
    fn call(self, name: &'static str, path: &Path) -> Result<T, InstallError>;
}

impl<T, E: Into<io::Error>> Call<T> for Result<T, E> {
    fn call(self, name: &'static str, path: &Path) -> Result<T, InstallError> {
        self.map_err(|cause| InstallError::System {
            call: name,
            path: path.to_owned(),
            cause: cause.into(),
        })
    }
}

/// An error and its causes, as callers print them.
#[cfg(test)]
pub(crate) fn printed(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
