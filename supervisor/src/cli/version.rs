//! `version`: the versions of this program and of the daemon, if one listens.

use super::error::CliError;
use super::{Context, say};
use crate::daemon;

pub(crate) async fn run(context: Context) -> Result<u8, CliError> {
    say(format_args!("client: supervisor {}", env!("CARGO_PKG_VERSION")));
    if !daemon::is_listening(&context.config)? {
        say("server: not running");
        return Ok(0);
    }
    let client = context.client().await?;
    let answer = client
        .version()
        .version(())
        .await
        .map_err(|status| CliError::call("ask for the version", status))?
        .into_inner();
    say(format_args!("server: supervisor {} {}", answer.version, answer.revision));
    Ok(0)
}
