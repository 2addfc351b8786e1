//! The container's record: its spec, runtime and labels.

use std::collections::HashMap;
use std::path::PathBuf;

use installer::layer::merged::Merged;
use oci_spec::runtime::Spec;
use protos::any;
use protos::grpc::containerd::runc::v1::Options;
use protos::grpc::containerd::services::containers::v1::container::Runtime;
use protos::grpc::containerd::services::containers::v1::{Container, CreateContainerRequest};

use super::arguments::Arguments;
use crate::cli::client::Client;
use crate::cli::container::{SNAPSHOTTER, STOP_SIGNAL};
use crate::cli::error::CliError;
use crate::cli::resolve::RunImage;
use crate::cli::spec::{Accounts, Command, Environment, SpecError, SpecInput};
use crate::cli::unfinished;
use crate::creator;

/// A host name has at most this many bytes.
const HOSTNAME_BYTES: usize = 63;

/// What the image and the command line say of the container's spec. Users and groups are looked up
/// in the image's files.
pub(super) fn spec_input<'a>(
    client: &'a Client,
    id: &'a str,
    image: &RunImage,
    merged: Option<&mut Merged>,
    arguments: &Arguments,
) -> Result<SpecInput<'a>, CliError> {
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
    Ok(SpecInput {
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

/// Creates the record.
pub(super) async fn create(
    client: &Client,
    id: &str,
    image: &RunImage,
    spec: &Spec,
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
    // containerd refuses longer labels; they describe the image, so the container can do without
    // them. The creator's labels are set by this process alone.
    labels.retain(|key, value| {
        key.len() + value.len() <= 4096 && ![creator::LABEL, creator::GOES_TOO].contains(&&**key)
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

/// The options of this project's shims: the engine keeps its records, and its cache of compiled
/// seccomp profiles, in a directory of this daemon's instead of one that the whole host shares.
fn engine_options(client: &Client, runtime: &str) -> Option<prost_types::Any> {
    let engine = match runtime {
        "io.containerd.runc.v2" => "runc",
        "io.containerd.youki.v1" => "youki",
        _ => return None,
    };
    let root = client.runtime_root(engine).to_string_lossy().into_owned();
    Some(any::pack(&Options { root, ..Options::default() }))
}
