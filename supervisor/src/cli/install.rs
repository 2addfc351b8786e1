//! `install`, `uninstall`, `rollback`: binaries from images into the daemon's managed directory.

use std::path::Path;

use protos::grpc::supervisor::install::v1::{
    InstallRequest, ListRequest, Receipt, RollbackRequest, UninstallRequest,
};
use tonic::{Code, Status};

use super::client::Client;
use super::error::CliError;
use super::{Context, import, resolve, say, table};
use crate::image::reference;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Replace files that another image installed
    #[arg(long)]
    replace: bool,
    /// Also install the image's lib directory
    #[arg(long)]
    libs: bool,
    /// Image, by name, or an OCI or docker archive
    #[arg(required = true)]
    image: Option<String>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List what is installed
    Ls,
}

#[derive(clap::Args)]
pub(crate) struct UninstallArguments {
    /// Name of the image that was installed
    image: String,
}

pub(crate) async fn run(arguments: Arguments, context: Context) -> Result<u8, CliError> {
    let client = context.client().await?;
    let Some(wanted) = &arguments.image else { return list(&client).await };
    let names = if import::is_archive(wanted) {
        import::import(&client, Path::new(wanted), None).await?
    } else {
        vec![resolve::find(&client, wanted).await?.name]
    };
    if names.is_empty() {
        return Err(CliError::BadImage {
            name: wanted.clone(),
            why: "the archive has no image".into(),
        });
    }
    for name in names {
        let request = InstallRequest {
            image: name.clone(),
            replace: arguments.replace,
            libs: arguments.libs,
        };
        let answer = client
            .install()
            .install(request)
            .await
            .map_err(|status| CliError::call(format!("install {name}"), status))?;
        show(answer.into_inner().receipt.as_ref());
    }
    Ok(0)
}

pub(crate) async fn uninstall(
    arguments: UninstallArguments,
    context: Context,
) -> Result<u8, CliError> {
    let client = context.client().await?;
    let mut refusal = None;
    // The image may be removed already, so it is not looked up. Each full form of its name is tried.
    for image in reference::candidates(&arguments.image) {
        match client.install().uninstall(UninstallRequest { image }).await {
            Ok(_) => return Ok(0),
            Err(status) if status.code() == Code::NotFound => {
                refusal.get_or_insert(status);
            }
            Err(status) => {
                refusal = Some(status);
                break;
            }
        }
    }
    let status = refusal.unwrap_or_else(|| Status::not_found("it has no name"));
    Err(CliError::call("uninstall", status))
}

pub(crate) async fn rollback(context: Context) -> Result<u8, CliError> {
    let client = context.client().await?;
    let answer = client
        .install()
        .rollback(RollbackRequest {})
        .await
        .map_err(|status| CliError::call("roll back", status))?;
    print(&answer.into_inner().receipts);
    Ok(0)
}

async fn list(client: &Client) -> Result<u8, CliError> {
    let answer = client
        .install()
        .list(ListRequest {})
        .await
        .map_err(|status| CliError::call("list installed images", status))?;
    print(&answer.into_inner().receipts);
    Ok(0)
}

fn show(receipt: Option<&Receipt>) {
    for file in receipt.map(|receipt| &receipt.files[..]).unwrap_or_default() {
        say(format_args!("{} ({} bytes)", file.path, file.size_bytes));
    }
}

fn print(receipts: &[Receipt]) {
    let rows: Vec<Vec<String>> = receipts
        .iter()
        .map(|receipt| {
            let files: Vec<&str> = receipt.files.iter().map(|file| file.path.as_str()).collect();
            vec![
                receipt.image.clone(),
                receipt.digest.clone(),
                table::moment(receipt.installed_at.as_ref()),
                files.join(" "),
            ]
        })
        .collect();
    table::print(&["IMAGE", "DIGEST", "INSTALLED", "FILES"], &rows);
}
