//! `exec`: another process in a running container.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use oci_spec::runtime::{Process as OciProcess, Spec};
use protos::any;
use protos::grpc::containerd::services::tasks::v1::{
    DeleteProcessRequest, ExecProcessRequest, GetRequest, StartRequest,
};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use tonic::Code;

use super::attach::{self, Process};
use super::client::Client;
use super::error::{CliError, unless_absent};
use super::signals::Signals;
use super::spec::{self, Accounts, Environment, SpecError};
use super::stdio::{Fifos, Streams};
use super::terminal::RawTerminal;
use super::{Context, container, random_hex, say, terminal};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave the process running and print its id
    #[arg(short, long)]
    detach: bool,
    /// Pass standard input on
    #[arg(short, long, conflicts_with = "detach")]
    interactive: bool,
    /// Give the process a terminal
    #[arg(short, long, conflicts_with = "detach")]
    tty: bool,
    /// Set a variable, or take it from this environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR", visible_alias = "cwd")]
    workdir: Option<PathBuf>,
    /// User, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Id of the container
    id: String,
    /// Command and arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "COMMAND"
    )]
    args: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments, context: Context) -> Result<u8, CliError> {
    if arguments.tty {
        terminal::require()?;
    }
    let client = context.client().await?;
    let record = container::get(&client, &arguments.id).await?;
    let spec = record.spec.ok_or_else(|| CliError::NoSpec { id: arguments.id.clone() })?;
    let spec: Spec = serde_json::from_slice(&spec.value)
        .map_err(|cause| CliError::BadSpec { id: arguments.id.clone(), cause })?;
    let process = process(&client, spec, &arguments).await?;
    let json = serde_json::to_vec(&process).map_err(|cause| CliError::Encode {
        id: arguments.id.clone(),
        document: "process",
        cause,
    })?;
    let exec = Process { container: arguments.id.clone(), exec: random_hex(8)? };
    let streams = Streams { stdin: arguments.interactive, terminal: arguments.tty };
    let mut fifos = if arguments.detach {
        None
    } else {
        let name = format!("{}-{}", exec.container, exec.exec);
        Some(Fifos::make(&client.fifo_directory(), &name, streams)?)
    };
    let [stdin, stdout, stderr] = fifos.as_ref().map(Fifos::paths).unwrap_or_default();
    let mut signals = Signals::catch(arguments.tty)?;
    let request = ExecProcessRequest {
        container_id: exec.container.clone(),
        exec_id: exec.exec.clone(),
        stdin,
        stdout,
        stderr,
        terminal: arguments.tty,
        spec: Some(prost_types::Any { type_url: any::PROCESS.to_owned(), value: json }),
    };
    let failed = |status: tonic::Status| {
        if status.code() == Code::NotFound {
            return CliError::NotRunning { id: exec.container.clone() };
        }
        explain(CliError::call(format!("exec in {}", exec.container), status), &arguments)
    };
    client.tasks().exec(request).await.map_err(failed)?;
    let start = StartRequest { container_id: exec.container.clone(), exec_id: exec.exec.clone() };
    let Some(fifos) = &mut fifos else {
        if let Err(status) = client.tasks().start(start).await {
            delete(&client, &exec).await?;
            return Err(failed(status));
        }
        say(&exec.exec);
        return Ok(0);
    };
    let exit = exec.exit(&client);
    let outcome = async {
        let _raw = if arguments.tty { Some(RawTerminal::enter()?) } else { None };
        let mut copies = fifos.copy()?;
        if let Err(status) = client.tasks().start(start).await {
            exit.abandon();
            return Err(failed(status));
        }
        let status = exit.attend(&client, &exec, &mut copies, &mut signals).await?;
        attach::finish(&mut copies, delete(&client, &exec)).await?;
        Ok(u8::try_from(status).unwrap_or(u8::MAX))
    }
    .await;
    if outcome.is_err()
        && let Err(also) = delete(&client, &exec).await
    {
        // Harmless: the process still runs, or the exec was not made.
        log::debug!("clean up: {}", also.report());
    }
    outcome
}

/// The process of the exec: that of the container's spec, with the command line's changes.
async fn process(
    client: &Client,
    spec: Spec,
    arguments: &Arguments,
) -> Result<OciProcess, CliError> {
    let mut process = spec.process().clone().unwrap_or_default();
    let mut env = Environment::of_process(process.env().as_deref().unwrap_or_default());
    if arguments.tty {
        env.default("TERM=xterm");
    }
    for variable in &arguments.env {
        env.set_or_inherit(variable)?;
    }
    process
        .set_args(Some(arguments.args.clone()))
        .set_env(Some(env.into_vec()))
        .set_terminal(arguments.tty.then_some(true));
    if let Some(directory) = &arguments.workdir {
        if !directory.is_absolute() {
            return Err(SpecError::RelativeDirectory(directory.clone()).into());
        }
        process.set_cwd(directory.clone());
    }
    if let Some(user) = &arguments.user {
        process.set_user(accounts(client, &arguments.id).await?.user(user)?);
    }
    Ok(process)
}

/// Reads passwd and group in the root directory of the running container.
async fn accounts(client: &Client, id: &str) -> Result<Accounts, CliError> {
    let request = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
    let task = match client.tasks().get(request).await {
        Ok(answer) => answer.into_inner().process.unwrap_or_default(),
        Err(status) if status.code() == Code::NotFound => {
            return Err(CliError::NotRunning { id: id.to_owned() });
        }
        Err(status) => return Err(CliError::call(format!("task {id}"), status)),
    };
    let root = File::open(format!("/proc/{}/root", task.pid))
        .map_err(|cause| CliError::io(format!("open the root of container {id}"), cause))?;
    let read = |path: &str| {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut content = Vec::new();
        match openat2(&root, path, flags, Mode::empty(), resolve) {
            Ok(file) => File::from(file)
                .take(Accounts::MAX_BYTES)
                .read_to_end(&mut content)
                .map_err(|cause| CliError::io(format!("read /{path} of container {id}"), cause))?,
            Err(_) => 0,
        };
        Ok::<_, CliError>(content)
    };
    Ok(Accounts::new(read("etc/passwd")?, read("etc/group")?))
}

async fn delete(client: &Client, exec: &Process) -> Result<(), CliError> {
    let request =
        DeleteProcessRequest { container_id: exec.container.clone(), exec_id: exec.exec.clone() };
    let deleted = client.tasks().delete_process(request).await;
    unless_absent(deleted, || format!("delete exec {}", exec.exec))
}

/// Returns the command's own fault if the message says so. A running container changes its files, so
/// that they are no evidence.
fn explain(error: CliError, arguments: &Arguments) -> CliError {
    let CliError::Call { answer, .. } = &error else { return error };
    let command = arguments.args.first().cloned().unwrap_or_default();
    spec::explain_by_words(&command, answer.message()).map_or(error, CliError::from)
}
