//! `images`: lists and removes images.

use protos::grpc::containerd::services::images::v1::{DeleteImageRequest, ListImagesRequest};

use super::client::Client;
use super::error::{CliError, unless_absent};
use super::{Context, for_each, resolve, say, table};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List images
    Ls {
        /// Print names only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove images
    Rm {
        /// Names of images
        #[arg(required = true, value_name = "IMAGE")]
        names: Vec<String>,
    },
}

pub(crate) async fn run(arguments: Arguments, context: Context) -> Result<u8, CliError> {
    let client = context.client().await?;
    match arguments.command.unwrap_or(Command::Ls { quiet: false }) {
        Command::Ls { quiet } => list(&client, quiet).await,
        Command::Rm { names } => remove(&client, &names).await,
    }
}

async fn list(client: &Client, quiet: bool) -> Result<u8, CliError> {
    let answer = client
        .images()
        .list(ListImagesRequest::default())
        .await
        .map_err(|status| CliError::call("list images", status))?;
    let mut images = answer.into_inner().images;
    images.sort_by(|a, b| a.name.cmp(&b.name));
    if quiet {
        images.iter().for_each(|image| say(&image.name));
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = images
        .into_iter()
        .map(|image| {
            let target = image.target.unwrap_or_default();
            let created = table::moment(image.created_at.as_ref());
            vec![image.name, target.digest, target.media_type, created]
        })
        .collect();
    table::print(&["NAME", "DIGEST", "TYPE", "CREATED"], &rows);
    Ok(0)
}

async fn remove(client: &Client, names: &[String]) -> Result<u8, CliError> {
    for_each(names, |name| async move {
        let found = resolve::find(client, &name).await?;
        let request = DeleteImageRequest { name: found.name.clone(), sync: true, target: None };
        unless_absent(client.images().delete(request).await, || format!("remove image {name}"))?;
        say(found.name);
        Ok(())
    })
    .await
}
