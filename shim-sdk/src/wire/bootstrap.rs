//! The formats that a daemon and `start` use on stdin and stdout, one per generation of containerd.
//!
//! | daemon | stdin | stdout |
//! |---|---|---|
//! | 1.6, 1.7, 2.0 to 2.2 | runtime options as an `Any`, if there are any | the address, bare |
//! | 2.3 and later | `BootstrapParams`, always | `BootstrapResult` |
//!
//! Neither input has a magic number. An `Any` parses as `BootstrapParams`, with its type URL as the
//! instance's id and its value as the namespace. So stdin is read as the new format only if both
//! equal the values of the command line.

use protos::ttrpc::bootstrap_api::{BootstrapParams, BootstrapResult};
use protos::ttrpc::protobuf::Message;
use protos::ttrpc::protobuf::well_known_types::any::Any;
use protos::ttrpc::shim::oci::Options;

use crate::wire::convert;
use crate::{Error, Payload, Result};

/// The most that is read from stdin, as in containerd.
pub(crate) const MAX_STDIN_BYTES: u64 = 10 << 20;

/// The version of the task service that is announced; v2 is served beside it.
const VERSION: i32 = 3;

/// The parameters of `start` that the daemon sent on stdin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StartParams {
    /// Whether the answer must be a `BootstrapResult`.
    pub(crate) structured: bool,
    /// Runtime options.
    pub(crate) options: Option<Payload>,
    /// Where events go, if it is given here.
    pub(crate) events_address: Option<String>,
    /// The daemon's gRPC address, if it is given here.
    pub(crate) grpc_address: Option<String>,
    /// The directory for sockets, if it is not the default one.
    pub(crate) socket_dir: Option<String>,
    /// Whether the daemon asks for logs of debug level.
    pub(crate) debug: bool,
}

impl StartParams {
    /// Parses stdin. The id and the namespace are those of the command line.
    pub(crate) fn parse(stdin: &[u8], id: &str, namespace: &str) -> Result<Self> {
        if let Ok(params) = BootstrapParams::parse_from_bytes(stdin)
            && !id.is_empty()
            && params.instance_id == id
            && params.namespace == namespace
        {
            return Ok(Self::structured(params));
        }
        let any = Any::parse_from_bytes(stdin).map_err(|cause| {
            Error::invalid("parse runtime options from stdin").with_source(cause)
        })?;
        Ok(Self {
            structured: false,
            options: convert::optional_payload(Some(any).into()),
            events_address: None,
            grpc_address: None,
            socket_dir: None,
            debug: false,
        })
    }

    fn structured(params: BootstrapParams) -> Self {
        let given = |text: String| (!text.is_empty()).then_some(text);
        // The options are the first extension whose type's name ends so; the other extensions are
        // not for the runtime.
        let options = params
            .extensions
            .into_iter()
            .filter_map(|extension| convert::optional_payload(extension.value))
            .find(|payload| payload.type_url.ends_with("Options"));
        Self {
            structured: true,
            options,
            events_address: given(params.containerd_ttrpc_address),
            grpc_address: given(params.containerd_grpc_address),
            socket_dir: params.socket_dir.and_then(given),
            // An open enum: INFO is 0, more verbose levels are negative.
            debug: params.log_level.value() < 0,
        }
    }

    /// The cgroup for the shim itself, if runc's options name one.
    pub(crate) fn shim_cgroup(&self) -> Option<String> {
        let options = self.options.as_ref()?;
        if !options.type_url.ends_with("containerd.runc.v1.Options") {
            return None;
        }
        let options = Options::parse_from_bytes(&options.value).ok()?;
        (!options.shim_cgroup.is_empty()).then_some(options.shim_cgroup)
    }
}

/// The answer of `start`, the only bytes that it may print.
pub(crate) fn answer(structured: bool, address: &str) -> Result<Vec<u8>> {
    if !structured {
        return Ok(address.as_bytes().to_vec());
    }
    let result = BootstrapResult {
        version: VERSION,
        address: address.to_owned(),
        protocol: "ttrpc".to_owned(),
        ..BootstrapResult::default()
    };
    result.write_to_bytes().map_err(|cause| {
        Error::new(crate::Kind::Internal, "encode the bootstrap result").with_source(cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Any { type_url: "containerd.runc.v1.Options", value: [systemd_cgroup = true] }`, as
    /// containerd 1.6 sends it.
    const LEGACY: &[u8] = b"\x0a\x1acontainerd.runc.v1.Options\x12\x02\x48\x01";

    /// `BootstrapParams` for instance "web" in "default", as containerd 2.3 sends them.
    const PARAMS: &[u8] = b"\x0a\x03web\x12\x07default\x22\x052.3.0\x2a\x0cunix:///t.so\
        \x32\x0cunix:///g.so\x4a\x02/s";

    #[test]
    fn nothing_on_stdin_is_the_legacy_dialect_without_options() {
        let request = StartParams::parse(b"", "web", "default").expect("valid");
        assert!(!request.structured && request.options.is_none());
    }

    #[test]
    fn options_of_old_daemons_are_not_taken_for_parameters() {
        let request = StartParams::parse(LEGACY, "web", "default").expect("valid");
        assert!(!request.structured);
        let options = request.options.expect("given");
        assert_eq!(options.type_url, "containerd.runc.v1.Options");
        assert_eq!(options.value, [0x48, 0x01]);
    }

    #[test]
    fn parameters_of_new_daemons_are_believed_only_when_they_match_the_command_line() {
        let request = StartParams::parse(PARAMS, "web", "default").expect("valid");
        assert!(request.structured);
        assert_eq!(request.events_address.as_deref(), Some("unix:///t.so"));
        assert_eq!(request.socket_dir.as_deref(), Some("/s"));
        assert!(
            !StartParams::parse(PARAMS, "other", "default").is_ok_and(|other| other.structured)
        );
    }

    #[test]
    fn verbose_levels_mean_debug_and_unknown_ones_go_to_the_nearest() {
        let mut params = PARAMS.to_vec();
        // log_level = -4: a ten-byte varint of its sign-extended value.
        params.extend(b"\x18\xfc\xff\xff\xff\xff\xff\xff\xff\xff\x01");
        assert!(StartParams::parse(&params, "web", "default").expect("valid").debug);
        let mut params = PARAMS.to_vec();
        params.extend(b"\x18\x63");
        assert!(!StartParams::parse(&params, "web", "default").expect("valid").debug);
    }

    #[test]
    fn answers_are_golden_bytes() {
        let address = "unix:///run/s/x";
        assert_eq!(answer(false, address).expect("bytes"), address.as_bytes());
        assert_eq!(
            answer(true, address).expect("bytes"),
            b"\x08\x03\x12\x0funix:///run/s/x\x1a\x05ttrpc"
        );
    }

    #[test]
    fn the_shims_cgroup_is_found_in_runcs_options() {
        let stdin = b"\x0a\x1acontainerd.runc.v1.Options\x12\x07\x1a\x05/shim";
        let request = StartParams::parse(stdin, "web", "default").expect("valid");
        assert_eq!(request.shim_cgroup().as_deref(), Some("/shim"));
    }
}
