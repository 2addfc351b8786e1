//! `check`: compares the daemon's root directory with its records, and repairs it.

use protos::grpc::supervisor::check::v1::{CheckRequest, Finding};

use super::error::CliError;
use super::{Context, say};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Repair what can be repaired: rebuild a database that is not used, unpack damaged snapshots again
    #[arg(long)]
    repair: bool,
    /// Read every blob and every file of an image, instead of comparing sizes
    #[arg(long)]
    read_all: bool,
}

pub(crate) async fn run(arguments: Arguments, context: Context) -> Result<u8, CliError> {
    let client = context.client().await?;
    let request = CheckRequest { repair: arguments.repair, read_blobs: arguments.read_all };
    let failed = |status| CliError::call("check", status);
    let mut findings = client.check().check(request).await.map_err(failed)?.into_inner();
    let mut open = 0_usize;
    while let Some(finding) = findings.message().await.map_err(failed)? {
        open += usize::from(!finding.mended);
        say(line(&finding));
    }
    Ok(u8::from(open > 0))
}

/// One finding on one line. Names come from images and directories, so control characters in them
/// are escaped: a terminal would act on them.
fn line(finding: &Finding) -> String {
    let scope = match finding.namespace.as_str() {
        "" => String::new(),
        namespace => format!("{namespace}/"),
    };
    let line = format!(
        "{} {scope}{}: {}: {}",
        finding.subject, finding.name, finding.reason, finding.action
    );
    line.chars()
        .flat_map(|character| {
            let escaped = character.is_control().then(|| character.escape_default());
            let plain = (!character.is_control()).then_some(character);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_that_no_terminal_acts_on() {
        let finding = Finding {
            subject: "orphan".into(),
            name: "a\u{1b}[2Jb\nc".into(),
            namespace: "n".into(),
            reason: "r".into(),
            action: "a".into(),
            mended: false,
        };
        assert_eq!(line(&finding), "orphan n/a\\u{1b}[2Jb\\nc: r: a");
    }
}
