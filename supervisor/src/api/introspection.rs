//! The Introspection service: what this daemon is made of, under the names of containerd's plugins.
//!
//! Clients look here for what they may use: `ctr install` for where to put binaries, unpacking for
//! the platforms of a snapshotter, CRI tools for what a runtime can do.

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;

use prost::Message as _;
use prost_types::Any;
use protos::grpc::containerd::services::introspection::v1 as wire;
use protos::grpc::containerd::types::{Platform, RuntimeRequest};
use tonic::metadata::BinaryMetadataValue;
use tonic::{Request, Response, Status};

use crate::config::DaemonConfig;
use crate::metadata::filter::{Fields, Filters};
use crate::task::Tasks;

/// What is served from this process: type, id, and the types that it is built on.
const PLUGINS: &[(&str, &str, &[&str])] = &[
    ("io.containerd.content.v1", "content", &[]),
    ("io.containerd.snapshotter.v1", crate::snapshot::DEFAULT_SNAPSHOTTER, &[]),
    (
        "io.containerd.metadata.v1",
        "sqlite",
        &["io.containerd.content.v1", "io.containerd.snapshotter.v1"],
    ),
    ("io.containerd.differ.v1", "walking", &["io.containerd.metadata.v1"]),
    ("io.containerd.event.v1", "exchange", &[]),
    ("io.containerd.internal.v1", "opt", &[]),
    ("io.containerd.lease.v1", "manager", &["io.containerd.metadata.v1"]),
    ("io.containerd.runtime.v2", "task", &["io.containerd.event.v1", "io.containerd.metadata.v1"]),
    ("io.containerd.streaming.v1", "manager", &["io.containerd.metadata.v1"]),
    (
        "io.containerd.transfer.v1",
        "local",
        &["io.containerd.lease.v1", "io.containerd.metadata.v1"],
    ),
    ("io.containerd.grpc.v1", "containers", &[]),
    ("io.containerd.grpc.v1", "content", &[]),
    ("io.containerd.grpc.v1", "diff", &[]),
    ("io.containerd.grpc.v1", "events", &[]),
    ("io.containerd.grpc.v1", "healthcheck", &[]),
    ("io.containerd.grpc.v1", "images", &[]),
    ("io.containerd.grpc.v1", "introspection", &[]),
    ("io.containerd.grpc.v1", "leases", &[]),
    ("io.containerd.grpc.v1", "namespaces", &[]),
    ("io.containerd.grpc.v1", "snapshots", &[]),
    ("io.containerd.grpc.v1", "streaming", &[]),
    ("io.containerd.grpc.v1", "tasks", &[]),
    ("io.containerd.grpc.v1", "transfer", &[]),
    ("io.containerd.grpc.v1", "version", &[]),
];

/// The header of the answer to Server that tells the root directory which is served, so that a
/// client of ours can tell whether this daemon is the one that it means.
pub(crate) const SERVED_ROOT: &str = "supervisor-root-bin";

/// containerd.services.introspection.v1.Introspection.
pub(crate) struct Introspection {
    root: BinaryMetadataValue,
    plugins: Vec<wire::Plugin>,
    uuid: String,
    tasks: Tasks,
}

impl Introspection {
    /// `uuid` tells this root from every other.
    pub(crate) fn new(config: &DaemonConfig, uuid: String, tasks: Tasks) -> Self {
        let root = BinaryMetadataValue::from_bytes(config.root.as_os_str().as_encoded_bytes());
        Self { root, plugins: plugins(config), uuid, tasks }
    }
}

fn plugins(config: &DaemonConfig) -> Vec<wire::Plugin> {
    let export = |name: &str, value: String| HashMap::from([(name.to_owned(), value)]);
    let platform = || Platform {
        os: "linux".to_owned(),
        architecture: crate::image::Platform::host().architecture,
        ..Platform::default()
    };
    let ours = PLUGINS.iter().map(|(kind, id, requires)| wire::Plugin {
        r#type: (*kind).to_owned(),
        id: (*id).to_owned(),
        requires: requires.iter().map(|kind| (*kind).to_owned()).collect(),
        platforms: match *kind {
            "io.containerd.snapshotter.v1"
            | "io.containerd.differ.v1"
            | "io.containerd.runtime.v2" => vec![platform()],
            _ => Vec::new(),
        },
        exports: match (*kind, *id) {
            ("io.containerd.internal.v1", "opt") => {
                export("path", config.opt.display().to_string())
            }
            ("io.containerd.snapshotter.v1", _) => {
                export("root", config.root.join("snapshots").display().to_string())
            }
            ("io.containerd.content.v1", _) => {
                export("root", config.root.join("content").display().to_string())
            }
            _ => HashMap::new(),
        },
        capabilities: Vec::new(),
        init_err: None,
    });
    let proxies = config.proxy_plugins.iter().map(|(name, plugin)| {
        let mut exports: HashMap<_, _> = plugin.exports.clone().into_iter().collect();
        exports.insert("address".to_owned(), plugin.address.display().to_string());
        let kind = match plugin.kind.as_str() {
            "snapshot" => "io.containerd.snapshotter.v1",
            "content" => "io.containerd.content.v1",
            "diff" => "io.containerd.differ.v1",
            _ => "io.containerd.sandbox.controller.v1",
        };
        wire::Plugin {
            r#type: kind.to_owned(),
            id: name.clone(),
            platforms: vec![plugin.platform.as_deref().map_or_else(platform, parse_platform)],
            exports,
            capabilities: plugin.capabilities.clone(),
            // containerd reports a plugin that failed to load in the same way.
            init_err: Some(protos::grpc::google::rpc::Status {
                code: tonic::Code::Unimplemented.into(),
                message: "proxy plugins are not implemented".to_owned(),
                details: Vec::new(),
            }),
            ..wire::Plugin::default()
        }
    });
    ours.chain(proxies).collect()
}

fn parse_platform(text: &str) -> Platform {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Platform { os: next(), architecture: next(), variant: next(), ..Platform::default() }
}

struct Shown<'a>(&'a wire::Plugin);

impl Fields for Shown<'_> {
    fn field<'a>(&'a self, path: &[&str]) -> Option<Cow<'a, str>> {
        match path {
            ["type"] => Some(self.0.r#type.as_str().into()),
            ["id"] => Some(self.0.id.as_str().into()),
            ["capabilities"] => Some(self.0.capabilities.join(",").into()),
            _ => None,
        }
    }
}

#[tonic::async_trait]
impl wire::introspection_server::Introspection for Introspection {
    async fn plugins(
        &self,
        request: Request<wire::PluginsRequest>,
    ) -> Result<Response<wire::PluginsResponse>, Status> {
        let filters = Filters::parse(&request.into_inner().filters)
            .map_err(|error| Status::invalid_argument(shim_sdk::error::report(&error)))?;
        let wanted = |plugin: &&wire::Plugin| filters.matches(&Shown(plugin));
        let plugins = self.plugins.iter().filter(wanted).cloned().collect();
        Ok(Response::new(wire::PluginsResponse { plugins }))
    }

    async fn server(&self, _: Request<()>) -> Result<Response<wire::ServerResponse>, Status> {
        let namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |file| file.ino());
        let mut answer = Response::new(wire::ServerResponse {
            uuid: self.uuid.clone(),
            pid: std::process::id().into(),
            pidns: namespace,
            deprecations: Vec::new(),
        });
        answer.metadata_mut().insert_bin(SERVED_ROOT, self.root.clone());
        Ok(answer)
    }

    async fn plugin_info(
        &self,
        request: Request<wire::PluginInfoRequest>,
    ) -> Result<Response<wire::PluginInfoResponse>, Status> {
        let wire::PluginInfoRequest { r#type, id, options } = request.into_inner();
        let plugin = self
            .plugins
            .iter()
            .find(|plugin| plugin.r#type == r#type && plugin.id == id)
            .cloned()
            .ok_or_else(|| Status::not_found(format!("plugin {type}.{id} not found")))?;
        let mut extra = None;
        if r#type == "io.containerd.runtime.v2"
            && let Some(options) = options
        {
            let asked = protos::any::unpack::<RuntimeRequest>(&options)
                .ok_or_else(|| Status::invalid_argument("options are not a RuntimeRequest"))?
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            let info =
                self.tasks.runtime_info(&asked.runtime_path, asked.options.map(Into::into)).await;
            let info = info.map_err(super::status::refuse)?;
            // Decoded once, so that what is passed on is what it is said to be.
            let info = protos::grpc::containerd::types::RuntimeInfo::decode(info.as_slice())
                .map_err(|error| Status::internal(format!("answer of shim to -info: {error}")))?;
            extra = Some(Any::clone(&protos::any::pack(&info)));
        }
        Ok(Response::new(wire::PluginInfoResponse { plugin: Some(plugin), extra }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_managed_directory_is_found_by_the_filter_that_ctr_install_uses() {
        let flags = crate::config::Flags {
            root: Some("/nonexistent/root".into()),
            opt: Some("/nonexistent/opt".into()),
            config: Some("/dev/null".into()),
            ..Default::default()
        };
        let config = DaemonConfig::resolve(&flags).unwrap();
        let filters = Filters::parse(&["id==opt"]).unwrap();
        let found: Vec<_> =
            plugins(&config).into_iter().filter(|plugin| filters.matches(&Shown(plugin))).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].exports["path"], "/nonexistent/opt");
    }

    #[test]
    fn a_proxy_plugin_is_listed_with_the_error_that_it_is_not_implemented() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        let text = "[proxy_plugins.stargz]\ntype = \"snapshot\"\naddress = \"/run/stargz.sock\"\n";
        std::fs::write(&file, text).unwrap();
        let flags = crate::config::Flags { config: Some(file), ..Default::default() };
        let plugins = plugins(&DaemonConfig::resolve(&flags).unwrap());
        let failed: Vec<_> = plugins.iter().filter(|plugin| plugin.init_err.is_some()).collect();
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0].r#type, "io.containerd.snapshotter.v1");
        assert_eq!(failed[0].id, "stargz");
        assert_eq!(failed[0].exports["address"], "/run/stargz.sock");
        let error = failed[0].init_err.as_ref().unwrap();
        assert_eq!(error.code, i32::from(tonic::Code::Unimplemented));
        assert_eq!(error.message, "proxy plugins are not implemented");
    }

    #[test]
    fn platforms_have_up_to_three_parts() {
        let platform = parse_platform("linux/arm64/v8");
        assert_eq!((platform.os.as_str(), platform.variant.as_str()), ("linux", "v8"));
        assert_eq!(parse_platform("linux/amd64").variant, "");
    }
}
