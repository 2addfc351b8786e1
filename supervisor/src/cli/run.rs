//! `run`: a container from an image, in the foreground or detached.
//!
//! Image, snapshot, spec, record, task, in this order; what was made is removed again, newest
//! first, when a later step fails, or when INT, TERM, HUP or QUIT comes before the command runs.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};

use installer::layer::merged::Merged;
use nix::sys::signal::Signal;
use oci_spec::runtime::Mount;
use protos::any;
use protos::grpc::containerd::runc::v1::Options;
use protos::grpc::containerd::services::containers::v1::container::Runtime;
use protos::grpc::containerd::services::containers::v1::{Container, CreateContainerRequest};
use protos::grpc::containerd::services::snapshots::v1::PrepareSnapshotRequest;
use protos::grpc::containerd::services::tasks::v1::{
    CreateTaskRequest, DeleteTaskRequest, StartRequest,
};
use protos::grpc::containerd::types;
use tokio::time::timeout;
use tonic::Code;

use super::attach::{self, Process};
use super::client::Client;
use super::container::{self, SNAPSHOTTER};
use super::error::CliError;
use super::resolve::{self, RunImage};
use super::rm::PATIENCE;
use super::signals::Signals;
use super::spec::{self, Accounts, Command, Environment, Network, SpecError, Wanted};
use super::stdio::{Fifos, Streams};
use super::terminal::RawTerminal;
use super::{Context, import, random_hex, rootfs, say, terminal, unfinished, unpack};
use crate::maker;

const RUNTIME: &str = "io.containerd.youki.v1";
const STOP_SIGNAL: &str = "io.containerd.image.config.stop-signal";
/// A host name has at most this many bytes.
const HOSTNAME_BYTES: usize = 63;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Remove the container when it exits
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
    /// Leave the container running and print its id
    #[arg(short, long)]
    detach: bool,
    /// Pass standard input on
    #[arg(short, long, conflicts_with = "detach")]
    interactive: bool,
    /// Give the container a terminal
    #[arg(short, long, conflicts_with = "detach")]
    tty: bool,
    /// Id of the container [default: random]
    #[arg(long, visible_alias = "id")]
    name: Option<String>,
    /// Runtime, by name or absolute path
    #[arg(long, default_value = RUNTIME)]
    runtime: String,
    /// Set a variable, or take it from this environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR", visible_alias = "cwd")]
    workdir: Option<PathBuf>,
    /// User, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Replace the image's entrypoint (and drop its command)
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Mount something, as type=bind,src=SOURCE,dst=DESTINATION,options=rbind:ro
    #[arg(long = "mount", value_name = "SPEC", value_parser = spec::parse_mount)]
    mounts: Vec<Mount>,
    /// Bind a directory or file of the host
    #[arg(
        short,
        long = "volume",
        value_name = "SOURCE:DESTINATION[:OPTIONS]",
        value_parser = spec::parse_volume
    )]
    volumes: Vec<Mount>,
    /// Mount the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Host name of the container [default: its id]
    #[arg(long)]
    hostname: Option<String>,
    /// Network
    #[arg(long, visible_alias = "network", value_enum, default_value_t = Network::None)]
    net: Network,
    /// Where a detached container's output goes: file://PATH or binary://PATH
    #[arg(long, value_name = "URI", requires = "detach")]
    log_uri: Option<String>,
    /// Image, by name, or an OCI or docker archive
    image: String,
    /// Command and arguments [default: the image's]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments, context: Context) -> Result<u8, CliError> {
    if arguments.tty {
        terminal::require()?;
    }
    let id = match &arguments.name {
        Some(name) => name.clone(),
        None => random_hex(8)?,
    };
    let client = context.client().await?;
    let image = if import::is_archive(&arguments.image) {
        let names = import::import(&client, Path::new(&arguments.image), None).await?;
        let name = names.first().ok_or_else(|| CliError::BadImage {
            name: arguments.image.clone(),
            why: "the archive has no image".into(),
        })?;
        resolve::resolve(&client, name).await?
    } else {
        resolve::resolve(&client, &arguments.image).await?
    };
    let labels = unfinished::labels(arguments.rm)?;
    // From here on something is there to be removed when this command is told to end.
    let mut signals = Signals::catch(arguments.tty)?;
    let prepared = settled(&mut signals, &id, prepare(&client, &id, &image, &labels)).await;
    let (mut mounts, told) = match prepared {
        Ok(prepared) => prepared,
        Err(error) if error.is_undecided() => return Err(unprepared(&client, &id, error).await),
        Err(error) => return Err(error),
    };
    if arguments.rm {
        rootfs::make_volatile(&mut mounts);
    }
    let mut is_recorded = false;
    let outcome = match told {
        Some(signal) => Err(interrupted(&id, signal)),
        None => {
            let recorded = &mut is_recorded;
            in_snapshot(&client, &id, &image, mounts, &arguments, &mut signals, recorded).await
        }
    };
    let error = match outcome {
        Ok(status) => return Ok(status),
        Err(error) => error,
    };
    let remove = async {
        if is_recorded {
            return container::remove(&client, &id, SNAPSHOTTER).await;
        }
        // A record of this id is somebody else's.
        container::remove_snapshot(&client, SNAPSHOTTER, &id).await
    };
    match timeout(PATIENCE, remove).await {
        Ok(Ok(())) => Err(error),
        Ok(Err(also)) => {
            let left = format!("its snapshot or record stays: {}", also.report());
            Err(left_behind(error, &left))
        }
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            Err(left_behind(error, &format!("its snapshot or record stays after {seconds} s")))
        }
    }
}

/// Removes the snapshot of which is not known whether it was made, unless it is that of another
/// container; returns the error.
async fn unprepared(client: &Client, id: &str, error: CliError) -> CliError {
    let remove = async {
        match container::get(client, id).await {
            Err(CliError::NoContainer { .. }) => {
                container::remove_snapshot(client, SNAPSHOTTER, id).await
            }
            other => other.map(drop),
        }
    };
    match timeout(PATIENCE, remove).await {
        Ok(Ok(())) => error,
        Ok(Err(also)) => left_behind(error, &format!("its snapshot may stay: {}", also.report())),
        Err(_) => left_behind(error, "its snapshot may stay: the supervisor does not answer"),
    }
}

/// Waits for the answer to a short step, also when this command is told to end: only then is known
/// what there is to be removed. Returns the signal that came.
async fn settled<T>(
    signals: &mut Signals,
    id: &str,
    step: impl Future<Output = Result<T, CliError>>,
) -> Result<(T, Option<Signal>), CliError> {
    tokio::pin!(step);
    tokio::select! {
        biased;
        signal = signals.interrupted() => match timeout(PATIENCE, step).await {
            Ok(done) => Ok((done?, Some(signal))),
            Err(_) => {
                let error = interrupted(id, signal);
                Err(left_behind(error, "the supervisor does not say what was made of it"))
            }
        },
        done = &mut step => Ok((done?, None)),
    }
}

fn interrupted(id: &str, signal: Signal) -> CliError {
    let left = "what was made of it is removed".to_owned();
    CliError::Interrupted { id: id.to_owned(), signal, left }
}

/// Does a step of making a container, unless this command is told to end first.
async fn making<T>(
    signals: &mut Signals,
    id: &str,
    step: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    tokio::select! {
        biased;
        signal = signals.interrupted() => Err(interrupted(id, signal)),
        done = step => done,
    }
}

/// An error, and what its cleaning up could not remove.
fn left_behind(error: CliError, left: &str) -> CliError {
    match error {
        CliError::Interrupted { id, signal, .. } => {
            CliError::Interrupted { id, signal, left: left.to_owned() }
        }
        error => {
            log::warn!("clean up: {left}");
            error
        }
    }
}

/// Everything that an error makes undone; tells whether there is a record to be removed.
async fn in_snapshot(
    client: &Client,
    id: &str,
    image: &RunImage,
    rootfs: Vec<types::Mount>,
    arguments: &Arguments,
    signals: &mut Signals,
    is_recorded: &mut bool,
) -> Result<u8, CliError> {
    let mut merged = rootfs::open(&rootfs)?;
    let wanted = wanted(client, id, image, merged.as_mut(), arguments)?;
    let (args, env, cwd) = (wanted.args.clone(), wanted.env.clone(), wanted.cwd.clone());
    let spec = spec::build(wanted);
    let record = create_record(client, id, image, &spec, arguments);
    match settled(signals, id, record).await {
        Ok(((), None)) => *is_recorded = true,
        Ok(((), Some(signal))) => {
            *is_recorded = true;
            return Err(interrupted(id, signal));
        }
        Err(error) => {
            // A record on this snapshot, which is ours, was made by this call.
            *is_recorded = error.is_undecided()
                && container::get(client, id).await.is_ok_and(|record| record.snapshot_key == id);
            return Err(error);
        }
    }
    let explain = |error: CliError| explain(error, merged, &args, &env, &cwd);
    if arguments.detach {
        detached(client, id, rootfs, arguments, signals).await.map_err(explain)?;
        say(id);
        return Ok(0);
    }
    let streams = Streams { stdin: arguments.interactive, terminal: arguments.tty };
    let mut fifos = Fifos::make(&client.fifo_directory(), id, streams)?;
    let [stdin, stdout, stderr] = fifos.paths();
    let request = CreateTaskRequest {
        container_id: id.to_owned(),
        rootfs,
        stdin,
        stdout,
        stderr,
        terminal: arguments.tty,
        ..CreateTaskRequest::default()
    };
    if let Err(error) = create_task(client, id, request, signals).await {
        return Err(explain(error));
    }
    let process = Process { container: id.to_owned(), exec: String::new() };
    let exit = process.exit(client);
    let raw = if arguments.tty { Some(RawTerminal::enter()) } else { None };
    let outcome = async {
        let _raw = raw.transpose()?;
        let mut copies = fifos.copy()?;
        if let Err(error) = start_task(client, id, signals).await {
            exit.abandon();
            return Err(error);
        }
        let status = exit.attend(client, &process, &mut copies, signals).await?;
        attach::finish(&mut copies, delete_task(client, id)).await?;
        Ok(status)
    }
    .await;
    match outcome {
        Ok(status) => {
            if arguments.rm {
                container::remove(client, id, SNAPSHOTTER).await?;
            }
            Ok(u8::try_from(status).unwrap_or(u8::MAX))
        }
        Err(error) => Err(explain(without_task(client, id, error).await)),
    }
}

/// Has the task made. One whose making fails or is interrupted is not there afterwards.
async fn create_task(
    client: &Client,
    id: &str,
    request: CreateTaskRequest,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let create = async {
        let created = client.tasks().create(request).await;
        created.map(drop).map_err(|status| CliError::call(format!("start container {id}"), status))
    };
    match making(signals, id, create).await {
        // The daemon goes on making it; or it went away, and the next one has found it made.
        Err(error) if error.is_undecided() => Err(without_task(client, id, error).await),
        made => made,
    }
}

/// Starts the task.
async fn start_task(client: &Client, id: &str, signals: &mut Signals) -> Result<(), CliError> {
    let start = async {
        let request = StartRequest { container_id: id.to_owned(), exec_id: String::new() };
        let started = client.tasks().start(request).await;
        started.map(drop).map_err(|status| CliError::call(format!("start container {id}"), status))
    };
    making(signals, id, start).await
}

/// Removes a task after an error that made it of no use, and returns the error.
async fn without_task(client: &Client, id: &str, error: CliError) -> CliError {
    match super::rm::end(client, id).await {
        Ok(()) => error,
        Err(also) => left_behind(error, &also.report()),
    }
}

/// A container that runs on without this process.
async fn detached(
    client: &Client,
    id: &str,
    rootfs: Vec<types::Mount>,
    arguments: &Arguments,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let log = arguments.log_uri.clone().unwrap_or_default();
    let request = CreateTaskRequest {
        container_id: id.to_owned(),
        rootfs,
        stdout: log.clone(),
        stderr: log,
        ..CreateTaskRequest::default()
    };
    create_task(client, id, request, signals).await?;
    match start_task(client, id, signals).await {
        Ok(()) => Ok(()),
        Err(error) => Err(without_task(client, id, error).await),
    }
}

async fn delete_task(client: &Client, id: &str) -> Result<(), CliError> {
    let request = DeleteTaskRequest { container_id: id.to_owned() };
    match client.tasks().delete(request).await {
        Err(status) if status.code() != Code::NotFound => {
            Err(CliError::call(format!("delete task {id}"), status))
        }
        _ => Ok(()),
    }
}

/// A snapshot for the container on top of the image's.
async fn prepare(
    client: &Client,
    id: &str,
    image: &RunImage,
    labels: &HashMap<String, String>,
) -> Result<Vec<types::Mount>, CliError> {
    let parent = image.layers.last().map(|layer| layer.chain_id.clone()).unwrap_or_default();
    let request = PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: id.to_owned(),
        parent,
        labels: labels.clone(),
    };
    let mut answer = client.snapshots().prepare(request.clone()).await;
    if answer.as_ref().is_err_and(|status| status.code() == Code::AlreadyExists)
        && unfinished::reclaim(client, id).await?
    {
        answer = client.snapshots().prepare(request.clone()).await;
    }
    if answer.as_ref().is_err_and(|status| status.code() == Code::NotFound) {
        // Imported by a client that left unpacking to others.
        unpack::unpack(client, image).await?;
        answer = client.snapshots().prepare(request).await;
    }
    match answer {
        Ok(answer) => Ok(answer.into_inner().mounts),
        Err(status) if status.code() == Code::AlreadyExists => {
            Err(CliError::IdInUse { id: id.to_owned() })
        }
        Err(status) => Err(CliError::call(format!("prepare snapshot {id}"), status)),
    }
}

async fn create_record(
    client: &Client,
    id: &str,
    image: &RunImage,
    spec: &oci_spec::runtime::Spec,
    arguments: &Arguments,
) -> Result<(), CliError> {
    let json = serde_json::to_vec(spec).map_err(|cause| CliError::Encode {
        id: id.to_owned(),
        document: "OCI spec",
        cause,
    })?;
    let mut labels: HashMap<String, String> =
        image.config.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    if !image.config.stop_signal.is_empty() {
        labels.insert(STOP_SIGNAL.to_owned(), image.config.stop_signal.clone());
    }
    // Labels that containerd would not take describe the image, not the container; and an image
    // does not say who made the container.
    labels.retain(|key, value| {
        key.len() + value.len() <= 4096 && ![maker::LABEL, maker::GOES_TOO].contains(&&**key)
    });
    labels.extend(unfinished::labels(arguments.rm)?);
    let container = Container {
        id: id.to_owned(),
        labels,
        image: image.name.clone(),
        runtime: Some(Runtime {
            name: arguments.runtime.clone(),
            options: engine_options(client, &arguments.runtime),
        }),
        spec: Some(prost_types::Any { type_url: any::SPEC.to_owned(), value: json }),
        snapshotter: SNAPSHOTTER.to_owned(),
        snapshot_key: id.to_owned(),
        ..Container::default()
    };
    match client.containers().create(CreateContainerRequest { container: Some(container) }).await {
        Ok(_) => Ok(()),
        Err(status) => Err(CliError::call(format!("create container {id}"), status)),
    }
}

/// For the shims of this project: the engine keeps its records, its cache of compiled profiles
/// among them, in a directory of this daemon's and not in one of the whole host's.
fn engine_options(client: &Client, runtime: &str) -> Option<prost_types::Any> {
    let engine = match runtime {
        "io.containerd.runc.v2" => "runc",
        "io.containerd.youki.v1" => "youki",
        _ => return None,
    };
    let root = client.runtime_root(engine).to_string_lossy().into_owned();
    Some(any::pack(&Options { root, ..Options::default() }))
}

fn wanted<'a>(
    client: &'a Client,
    id: &'a str,
    image: &RunImage,
    merged: Option<&mut Merged>,
    arguments: &Arguments,
) -> Result<Wanted<'a>, CliError> {
    let config = &image.config;
    let command = Command {
        entrypoint: arguments.entrypoint.as_deref(),
        args: &arguments.args,
        image_entrypoint: &config.entrypoint,
        image_args: &config.cmd,
    };
    let mut env = Environment::of_image(&config.env);
    if arguments.tty {
        env.default("TERM=xterm");
    }
    for variable in &arguments.env {
        env.set_or_inherit(variable)?;
    }
    let cwd = match &arguments.workdir {
        Some(directory) => directory.clone(),
        None if config.working_dir.is_empty() => PathBuf::from("/"),
        None => PathBuf::from(&config.working_dir),
    };
    if !cwd.is_absolute() {
        return Err(SpecError::RelativeDirectory(cwd).into());
    }
    let accounts = merged.map(Accounts::of_image).transpose()?.unwrap_or_default();
    let user = accounts.user(arguments.user.as_deref().unwrap_or(&config.user))?;
    let hostname = arguments.hostname.clone().unwrap_or_else(|| id.to_owned());
    Ok(Wanted {
        id,
        namespace: &client.namespace,
        args: command.resolve()?,
        env: env.into_vec(),
        cwd,
        user,
        terminal: arguments.tty,
        read_only: arguments.read_only,
        hostname: Some(hostname.chars().take(HOSTNAME_BYTES).collect()),
        network: arguments.net,
        mounts: [&arguments.mounts[..], &arguments.volumes[..]].concat(),
    })
}

/// Tells whether a start failed for want of the command, by looking for it in the image; what a
/// runtime says of it differs from one to the next.
fn explain(
    error: CliError,
    merged: Option<Merged>,
    args: &[String],
    env: &[String],
    cwd: &Path,
) -> CliError {
    let (CliError::Call { answer, .. }, Some(mut merged)) = (&error, merged) else { return error };
    let command = args.first().cloned().unwrap_or_default();
    let tried = spec::search_path(&mut merged, &command, env, cwd);
    spec::explain(&tried, &command, answer.message()).map_or(error, CliError::from)
}
