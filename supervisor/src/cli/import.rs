//! `import`: images from an archive, through the transfer service.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use protos::any;
use protos::grpc::containerd::services::transfer::v1::{TransferOptions, TransferRequest};
use protos::grpc::containerd::types;
use protos::grpc::containerd::types::transfer::{
    ImageImportStream, ImageStore, Progress, UnpackConfiguration,
};

use super::client::Client;
use super::container::SNAPSHOTTER;
use super::error::CliError;
use super::stream::Stream;
use super::{Context, say};
use crate::image::Platform;

/// The progress event that names an image which was stored.
const SAVED: &str = "saved";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name of the image [default: the name in the archive]
    #[arg(long)]
    name: Option<String>,
    /// OCI layout or docker archive, as a tar file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(crate) async fn run(arguments: Arguments, context: Context) -> Result<u8, CliError> {
    // Fails before a daemon is started.
    open(&arguments.file)?;
    let client = context.client().await?;
    for name in import(&client, &arguments.file, arguments.name.as_deref()).await? {
        say(name);
    }
    Ok(0)
}

/// Whether an argument is an archive: an image's name that is a file's path is read as the file.
pub(crate) fn is_archive(argument: &str) -> bool {
    Path::new(argument).is_file()
}

/// Imports an archive and unpacks its images; returns their names.
pub(crate) async fn import(
    client: &Client,
    path: &Path,
    name: Option<&str>,
) -> Result<Vec<String>, CliError> {
    let file = open(path)?;
    let shown = path.display().to_string();
    let content = Stream::open(client, "import").await?;
    let mut progress = Stream::open(client, "progress").await?;
    let source = ImageImportStream {
        stream: content.id.clone(),
        media_type: String::new(),
        force_compress: false,
    };
    let destination = ImageStore {
        name: name.unwrap_or_default().to_owned(),
        labels: HashMap::new(),
        unpacks: vec![UnpackConfiguration {
            platform: Some(host_platform()),
            snapshotter: SNAPSHOTTER.to_owned(),
        }],
        ..ImageStore::default()
    };
    let request = TransferRequest {
        source: Some(any::pack(&source)),
        destination: Some(any::pack(&destination)),
        options: Some(TransferOptions { progress_stream: progress.id.clone() }),
    };
    let mut transfer_client = client.transfer();
    let transfer = async {
        transfer_client
            .transfer(request)
            .await
            .map_err(|status| CliError::call(format!("import {shown}"), status))
    };
    let send = content.send(file, &shown);
    let names = async {
        let mut names = Vec::new();
        while let Ok(Some(message)) = progress.message().await {
            if let Some(Ok(progress)) = any::unpack::<Progress>(&message)
                && progress.event == SAVED
                && !names.contains(&progress.name)
            {
                names.push(progress.name);
            }
        }
        names
    };
    let (transferred, sent, names) = tokio::join!(transfer, send, names);
    transferred?;
    sent?;
    Ok(names)
}

fn open(path: &Path) -> Result<File, CliError> {
    let failed = |cause| CliError::io(format!("open archive {}", path.display()), cause);
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(CliError::ArchiveIsDirectory { path: path.to_owned() });
    }
    Ok(file)
}

fn host_platform() -> types::Platform {
    let Platform { os, architecture, variant } = Platform::host();
    types::Platform { os, architecture, variant, ..types::Platform::default() }
}
