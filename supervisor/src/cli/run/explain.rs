//! Why a container's command did not start.

use std::path::PathBuf;

use installer::layer::merged::Merged;

use crate::cli::error::CliError;
use crate::cli::spec::{self, SpecInput};

/// The command that a container is made for, and the files in which it is looked up.
pub(super) struct Attempt {
    merged: Option<Merged>,
    args: Vec<String>,
    env: Vec<String>,
    cwd: PathBuf,
}

impl Attempt {
    pub(super) fn new(merged: Option<Merged>, input: &SpecInput<'_>) -> Self {
        let (args, env, cwd) = (input.args.clone(), input.env.clone(), input.cwd.clone());
        Self { merged, args, env, cwd }
    }

    /// Returns the command's own fault where the image's files show it, and the error otherwise. The
    /// message alone does not tell them apart: it differs from runtime to runtime.
    pub(super) fn explain(self, error: CliError) -> CliError {
        let (CliError::Call { answer, .. }, Some(mut merged)) = (&error, self.merged) else {
            return error;
        };
        let command = self.args.first().cloned().unwrap_or_default();
        let tried = spec::search_path(&mut merged, &command, &self.env, &self.cwd);
        spec::explain(&tried, &command, answer.message()).map_or(error, CliError::from)
    }
}
