//! `wait`: waits until containers stop.

use protos::grpc::containerd::services::tasks::v1::WaitRequest;
use tonic::Code;

use super::error::CliError;
use super::{Context, container, for_each, say};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Ids of containers
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments, context: Context) -> Result<u8, CliError> {
    let client = &context.client().await?;
    for_each(&arguments.ids, |id| async move {
        let request = WaitRequest { container_id: id.clone(), exec_id: String::new() };
        match client.tasks().wait(request).await {
            Ok(answer) => {
                say(answer.into_inner().exit_status);
                Ok(())
            }
            Err(status) if status.code() == Code::NotFound => {
                container::get(client, &id).await?;
                Err(CliError::NotRunning { id })
            }
            Err(status) => Err(CliError::call(format!("wait for {id}"), status)),
        }
    })
    .await
}
