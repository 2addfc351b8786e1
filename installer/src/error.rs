//! What can go wrong with an installation, and the kinds of error that callers tell apart.

use std::io;
use std::path::{Path, PathBuf};

use crate::budget::Exhausted;
use crate::extract::{EntryName, ExtractError};

/// What went wrong, in terms a caller can map to its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The archive or the request is not acceptable as it is.
    InvalidArgument,
    /// What was named does not exist.
    NotFound,
    /// Something else holds that place.
    AlreadyExists,
    /// The caller may not do this.
    PermissionDenied,
    /// The disk or a limit is used up.
    ResourceExhausted,
    /// The state does not allow it.
    FailedPrecondition,
    /// The data is damaged or ends early.
    DataLoss,
    /// It was stopped: its client has gone.
    Cancelled,
    /// Anything else that the system refused.
    Internal,
}

impl Kind {
    /// The kind that a refused charge amounts to.
    pub fn of_refused(refused: &Exhausted) -> Self {
        match refused {
            Exhausted::Stopped => Self::Cancelled,
            Exhausted::Limit { .. } | Exhausted::Expansion { .. } | Exhausted::Time { .. } => {
                Self::ResourceExhausted
            }
        }
    }

    /// The kind that an I/O error amounts to.
    pub fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::AlreadyExists,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::PermissionDenied
            }
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => Self::InvalidArgument,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::OutOfMemory => Self::ResourceExhausted,
            io::ErrorKind::Unsupported => Self::InvalidArgument,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Self::DataLoss,
            _ => Self::Internal,
        }
    }
}

/// Binaries could not be installed, removed or rolled back. What is shown did not change.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A layer could not be read.
    #[error("image {image}, layer {layer}: {cause}")]
    Layer {
        /// The image.
        image: String,
        /// The layer's digest.
        layer: String,
        /// Why.
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
    #[error("{call}: {cause}")]
    System {
        /// The call with its arguments.
        call: String,
        /// The answer.
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
    fn call(self, name: &str, path: &Path) -> Result<T, InstallError>;
}

impl<T, E: Into<io::Error>> Call<T> for Result<T, E> {
    fn call(self, name: &str, path: &Path) -> Result<T, InstallError> {
        self.map_err(|cause| InstallError::System {
            call: format!("{name}({path:?})"),
            cause: cause.into(),
        })
    }
}
