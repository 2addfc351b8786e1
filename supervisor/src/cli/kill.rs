//! `kill`: sends a signal to containers.

use protos::grpc::containerd::services::tasks::v1::KillRequest;
use tonic::Code;

use super::container::STOP_SIGNAL;
use super::error::CliError;
use super::{Context, container, for_each, signals};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Signal, by name or number [default: the image's stop signal, or SIGTERM]
    #[arg(short, long)]
    signal: Option<String>,
    /// Send it to every process of the container, not only the first
    #[arg(short = 'A', long)]
    all: bool,
    /// Ids of containers
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments, context: Context) -> Result<u8, CliError> {
    let chosen = arguments.signal.as_deref().map(signals::parse).transpose()?;
    let client = context.client().await?;
    let (client, all) = (&client, arguments.all);
    for_each(&arguments.ids, |id| async move {
        let signal = match chosen {
            Some(signal) => signal,
            None => {
                let record = container::get(client, &id).await?;
                let label = record.labels.get(STOP_SIGNAL).map_or("SIGTERM", String::as_str);
                signals::parse(label)?
            }
        };
        let request = KillRequest { container_id: id.clone(), exec_id: String::new(), signal, all };
        match client.tasks().kill(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => {
                container::get(client, &id).await?;
                Err(CliError::NotRunning { id })
            }
            Err(status) => Err(CliError::call(format!("kill {id}"), status)),
        }
    })
    .await
}
