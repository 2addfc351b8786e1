//! What `start` is told: by the daemon on stdin, and by the bundle.

use std::collections::HashMap;
use std::io::{self, Read};

use super::args::Args;
use crate::wire::bootstrap::{MAX_STDIN_BYTES, Request};
use crate::{Bundle, Error, Kind, Result};

/// Reads what the daemon says on stdin.
pub(crate) fn read_request(args: &Args) -> Result<Request> {
    let mut stdin = Vec::new();
    let read = io::stdin().lock().take(MAX_STDIN_BYTES + 1).read_to_end(&mut stdin);
    let read = read.map_err(|cause| Error::io("read stdin", cause))?;
    if read as u64 > MAX_STDIN_BYTES {
        return Err(Error::invalid("more than 10 MiB on stdin"));
    }
    Request::parse(&stdin, &args.id, &args.namespace)
}

/// The annotations that say which group a container is of.
pub(super) fn annotations(bundle: &Bundle) -> Result<HashMap<String, String>> {
    match bundle.annotations() {
        // A sandbox's bundle has no spec.
        Err(error) if error.kind() == Kind::NotFound => Ok(HashMap::new()),
        other => other,
    }
}
