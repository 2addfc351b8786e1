//! The parameters of `start`: from the daemon on stdin, and from the bundle.

use std::collections::HashMap;
use std::io::{self, Read};

use super::args::Args;
use crate::wire::bootstrap::{MAX_STDIN_BYTES, StartParams};
use crate::{Bundle, Error, Kind, Result};

/// Reads the parameters from stdin.
pub(crate) fn read_params(args: &Args) -> Result<StartParams> {
    let mut stdin = Vec::new();
    let read = io::stdin().lock().take(MAX_STDIN_BYTES + 1).read_to_end(&mut stdin);
    let read = read.map_err(|cause| Error::io("read stdin", cause))?;
    if read as u64 > MAX_STDIN_BYTES {
        return Err(Error::invalid("more than 10 MiB on stdin"));
    }
    StartParams::parse(&stdin, &args.id, &args.namespace)
}

/// The annotations of the bundle; they decide which group a container belongs to.
pub(super) fn annotations(bundle: &Bundle) -> Result<HashMap<String, String>> {
    match bundle.annotations() {
        // The bundle of a sandbox has no config.json.
        Err(error) if error.kind() == Kind::NotFound => Ok(HashMap::new()),
        other => other,
    }
}
