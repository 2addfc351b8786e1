//! Takes what a shim writes to its `log` fifo into this daemon's log.
//!
//! Promise: reading never blocks anybody; while this daemon lives the fifo has a reader, and
//! because it is opened for both directions it never sees an end of file.

use std::path::Path;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::task::AbortHandle;

/// A line that is longer is cut.
const LINE_BYTES: u64 = 16 << 10;

/// Stops when dropped.
#[derive(Debug)]
pub(super) struct Drain(AbortHandle);

impl Drop for Drain {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to take the log of a task, named `name` in this daemon's.
pub(super) fn drain(path: &Path, name: String) -> std::io::Result<Drain> {
    let receiver = pipe::OpenOptions::new().read_write(true).open_receiver(path)?;
    let task = tokio::spawn(async move {
        let mut reader = BufReader::new(receiver);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(LINE_BYTES).read_until(b'\n', &mut line).await {
                Ok(0) => return,
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line);
                    log::info!(target: "shim", "{name}: {}", text.trim_end());
                }
                Err(error) => {
                    log::warn!("read the log of {name}: {error}");
                    return;
                }
            }
        }
    });
    Ok(Drain(task.abort_handle()))
}
