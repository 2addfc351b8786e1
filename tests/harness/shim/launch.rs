//! Executing a shim's commands as each release of containerd does, and reading the replies as it
//! would.
//!
//! | daemon | `start` is given | the reply may be |
//! |---|---|---|
//! | 1.6 | options `Any`, if there are any | the address alone |
//! | 1.7 | the same | the address, or JSON of version 2 at most |
//! | 2.0 to 2.2 | the same | the address, or JSON of version 3 at most |
//! | 2.3 and later | `BootstrapParams` | `BootstrapResult`, JSON, or the address |

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use protos::ttrpc::bootstrap_api::{BootstrapParams, BootstrapResult};
use protos::ttrpc::protobuf::Message;
use protos::ttrpc::protobuf::well_known_types::any::Any;

use super::task;
use crate::wait::until;

/// What a command wrote, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: Vec<u8>,
    /// How it ended.
    pub status: ExitStatus,
    /// From start to exit and the end of both streams.
    pub took: Duration,
}

impl Output {
    /// Both streams, as a daemon that gives one pipe for both sees them.
    #[must_use]
    pub fn combined(&self) -> Vec<u8> {
        [self.err.as_slice(), self.out.as_slice()].concat()
    }

    /// Standard error, for messages.
    #[must_use]
    pub fn complaint(&self) -> String {
        let text = String::from_utf8_lossy(&self.combined()).trim().to_owned();
        text.chars().take(600).collect()
    }
}

/// A release of containerd, as a shim's `start` can tell it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is named as the release
pub enum Dialect {
    V1_6,
    V1_7,
    V2_0,
    V2_3,
}

/// What a daemon understood from the reply to `start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The version of the task service.
    pub version: i32,
    /// Where the shim listens.
    pub address: String,
    /// Whether the reply was plain, JSON, or protobuf.
    pub form: &'static str,
}

impl Reply {
    /// The name of the task service of that version.
    #[must_use]
    pub fn service(&self) -> &'static str {
        if self.version >= 3 { task::V3 } else { task::V2 }
    }
}

/// One execution of a shim's binary.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The shim.
    pub binary: PathBuf,
    /// `-namespace`.
    pub namespace: String,
    /// `-id`.
    pub id: String,
    /// `-address`, containerd's own socket.
    pub address: String,
    /// `-publish-binary`.
    pub publish: String,
    /// Whether `-debug` is given.
    pub debug: bool,
    /// The working directory: the bundle.
    pub bundle: PathBuf,
    /// `TTRPC_ADDRESS`.
    pub ttrpc: String,
    /// The daemon's release.
    pub dialect: Dialect,
    /// The runtime's options.
    pub options: Option<Any>,
    /// Where sockets are to be, if it is asked for.
    pub socket_dir: Option<String>,
    /// What else the environment holds.
    pub environment: Vec<(String, String)>,
    /// How long it may take.
    pub limit: Duration,
}

impl Invocation {
    /// The parameters that containerd 2.3 sends.
    #[must_use]
    pub fn params(&self) -> BootstrapParams {
        let mut params = BootstrapParams {
            instance_id: self.id.clone(),
            namespace: self.namespace.clone(),
            containerd_version: "2.3.0".to_owned(),
            containerd_ttrpc_address: self.ttrpc.clone(),
            containerd_grpc_address: self.address.clone(),
            containerd_binary: self.publish.clone(),
            socket_dir: self.socket_dir.clone(),
            ..BootstrapParams::default()
        };
        if let Some(options) = &self.options {
            let mut extension = protos::ttrpc::bootstrap_api::Extension::new();
            extension.value = protos::ttrpc::protobuf::MessageField::some(options.clone());
            params.extensions.push(extension);
        }
        params
    }

    /// What the dialect writes to standard input.
    #[must_use]
    pub fn input(&self) -> Vec<u8> {
        if self.dialect == Dialect::V2_3 {
            return self.params().write_to_bytes().unwrap_or_default();
        }
        self.options.as_ref().and_then(|any| any.write_to_bytes().ok()).unwrap_or_default()
    }

    /// The command, without its action.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["-namespace", &self.namespace, "-address", &self.address])
            .args(["-publish-binary", &self.publish, "-id", &self.id])
            .env("TTRPC_ADDRESS", &self.ttrpc)
            .env("GOMAXPROCS", "2")
            .env_remove("NOTIFY_SOCKET")
            .current_dir(&self.bundle);
        if self.debug {
            command.arg("-debug");
        }
        if self.dialect != Dialect::V1_6 {
            command
                .env("GRPC_ADDRESS", &self.address)
                .env("NAMESPACE", &self.namespace)
                .env("MAX_SHIM_VERSION", "2");
        }
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }

    /// Runs `start` and returns all it wrote.
    ///
    /// # Errors
    ///
    /// When it cannot be executed or does not end in time.
    pub fn start_raw(&self, input: &[u8]) -> Result<Output> {
        let mut command = self.command();
        command.arg("start");
        run(&mut command, input, self.limit)
    }

    /// Runs `start` and understands the reply as the daemon of this dialect does.
    ///
    /// # Errors
    ///
    /// When it fails, or the daemon could not make sense of the reply.
    pub fn start(&self) -> Result<Reply> {
        let output = self.start_raw(&self.input())?;
        ensure!(output.status.success(), "start: {}: {}", output.status, output.complaint());
        understand(self.dialect, &output.combined())
            .with_context(|| format!("{:?} reads the reply {:?}", self.dialect, text(&output)))
    }

    /// Runs `delete` in the bundle, as a daemon does for a shim that is gone.
    ///
    /// # Errors
    ///
    /// When it cannot be executed or does not end in time.
    pub fn delete_raw(&self) -> Result<Output> {
        let mut command = self.command();
        command.args(["-bundle", &self.bundle.display().to_string(), "delete"]);
        // containerd 2.3 gives delete no parameters; all give it the options, if at all.
        let options = self.options.as_ref().and_then(|any| any.write_to_bytes().ok());
        run(&mut command, &options.unwrap_or_default(), self.limit)
    }

    /// Runs `delete` and reads its response.
    ///
    /// # Errors
    ///
    /// When it fails or its response cannot be read.
    pub fn delete(&self) -> Result<protos::ttrpc::api::DeleteResponse> {
        let output = self.delete_raw()?;
        ensure!(output.status.success(), "delete: {}: {}", output.status, output.complaint());
        protos::ttrpc::api::DeleteResponse::parse_from_bytes(&output.out).with_context(|| {
            format!("read the response {:?}", String::from_utf8_lossy(&output.out))
        })
    }
}

/// Reads a reply to `start` as that release does.
///
/// # Errors
///
/// When that release would refuse it.
pub fn understand(dialect: Dialect, reply: &[u8]) -> Result<Reply> {
    let plain = || -> Result<Reply> {
        let address = std::str::from_utf8(reply).context("the reply is not text")?.trim();
        ensure!(!address.is_empty(), "the reply is empty");
        ensure!(
            !address.contains(|letter: char| letter.is_control() || " {".contains(letter)),
            "the reply is not one address: {address:?}"
        );
        Ok(Reply { version: 2, address: address.to_owned(), form: "plain" })
    };
    let newest = match dialect {
        Dialect::V1_6 => return plain(),
        Dialect::V1_7 => 2,
        Dialect::V2_0 => 3,
        Dialect::V2_3 => {
            if let Ok(result) = BootstrapResult::parse_from_bytes(reply)
                && !result.address.is_empty()
            {
                ensure!(
                    (2..=3).contains(&result.version),
                    "the result's version is {}",
                    result.version
                );
                ensure!(result.protocol == "ttrpc", "the protocol is {:?}", result.protocol);
                return Ok(Reply {
                    version: result.version,
                    address: result.address,
                    form: "protobuf",
                });
            }
            3
        }
    };
    if reply.first() != Some(&b'{') {
        return plain();
    }
    let json: serde_json::Value = serde_json::from_slice(reply).context("the reply as JSON")?;
    let version = json["version"].as_i64().unwrap_or(0);
    ensure!(version <= newest, "version {version} is newer than this daemon's {newest}");
    let (Some(address), Some(protocol)) = (json["address"].as_str(), json["protocol"].as_str())
    else {
        bail!("the JSON lacks an address or a protocol: {json}");
    };
    ensure!(protocol == "ttrpc", "the protocol is {protocol:?}");
    Ok(Reply {
        version: i32::try_from(version).unwrap_or(0),
        address: address.to_owned(),
        form: "JSON",
    })
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.combined()).into_owned()
}

/// Runs a command to its end and to the end of both its streams.
///
/// # Errors
///
/// When it cannot be started; when it, or a process that inherited its streams, does not end in
/// `limit`.
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output> {
    let line = crate::command::line(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("execute `{line}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A command that does not read its input closes it, which is its right.
        std::thread::spawn(move || stdin.write_all(&input));
    }
    let out = child.stdout.take().map(collect);
    let err = child.stderr.take().map(collect);
    let Some(status) = until(limit, || child.try_wait().transpose()) else {
        kill_group(child.id());
        let _ = child.wait();
        bail!("`{line}` did not end within {:.1} s", limit.as_secs_f32());
    };
    let status = status?;
    let ends = |stream: Option<mpsc::Receiver<io::Result<Vec<u8>>>>| -> Result<Vec<u8>> {
        let Some(stream) = stream else { return Ok(Vec::new()) };
        let left = limit.saturating_sub(began.elapsed()).max(Duration::from_millis(200));
        match stream.recv_timeout(left) {
            Ok(bytes) => Ok(bytes?),
            Err(_) => bail!("`{line}` has ended, but a process that it left holds its output open"),
        }
    };
    let (out, err) = (ends(out)?, ends(err)?);
    Ok(Output { out, err, status, took: began.elapsed() })
}

fn kill_group(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended; that is the same result.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn collect(mut from: impl Read + Send + 'static) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = from.read_to_end(&mut bytes).map(|_| bytes);
        let _ = sender.send(read);
    });
    receiver
}

/// Whether the file is a Go program, and so the shim is Go's.
#[must_use]
pub fn is_go(binary: &Path) -> bool {
    // The mark that the Go linker leaves for `go version`.
    let mark = b"\xff Go buildinf:";
    std::fs::read(binary).is_ok_and(|bytes| bytes.windows(mark.len()).any(|window| window == mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"unix:///run/containerd/s/0123";
    const JSON_2: &[u8] =
        br#"{"version":2,"address":"unix:///run/containerd/s/0123","protocol":"ttrpc"}"#;
    const JSON_3: &[u8] =
        br#"{"version":3,"address":"unix:///run/containerd/s/0123","protocol":"ttrpc"}"#;
    /// version 3, address, protocol.
    const RESULT: &[u8] = b"\x08\x03\x12\x1dunix:///run/containerd/s/0123\x1a\x05ttrpc";

    #[test]
    fn every_release_takes_a_plain_address_for_version_2() {
        for dialect in [Dialect::V1_6, Dialect::V1_7, Dialect::V2_0, Dialect::V2_3] {
            let reply = understand(dialect, PLAIN).expect("a plain address");
            assert_eq!((reply.version, reply.form), (2, "plain"), "{dialect:?}");
            assert_eq!(reply.address, "unix:///run/containerd/s/0123");
        }
    }

    #[test]
    fn json_is_read_from_1_7_on_and_version_3_from_2_0_on() {
        assert!(understand(Dialect::V1_6, JSON_2).is_err());
        assert!(understand(Dialect::V1_7, JSON_2).is_ok());
        assert!(understand(Dialect::V1_7, JSON_3).is_err());
        for dialect in [Dialect::V2_0, Dialect::V2_3] {
            let reply = understand(dialect, JSON_3).expect("version 3 as JSON");
            assert_eq!((reply.version, reply.form), (3, "JSON"), "{dialect:?}");
        }
    }

    #[test]
    fn only_the_newest_reads_protobuf() {
        let reply = understand(Dialect::V2_3, RESULT).expect("a BootstrapResult");
        assert_eq!((reply.version, reply.form), (3, "protobuf"));
        assert_eq!(reply.service(), task::V3);
        for dialect in [Dialect::V1_6, Dialect::V1_7, Dialect::V2_0] {
            assert!(understand(dialect, RESULT).is_err(), "{dialect:?}");
        }
    }

    #[test]
    fn a_word_more_than_the_address_spoils_the_reply() {
        for dialect in [Dialect::V1_6, Dialect::V1_7, Dialect::V2_0, Dialect::V2_3] {
            let noisy = [b"warning: something\n", PLAIN].concat();
            assert!(understand(dialect, &noisy).is_err(), "{dialect:?}");
            assert!(understand(dialect, b"").is_err(), "{dialect:?}");
        }
    }

    #[test]
    fn a_command_whose_child_holds_its_output_is_told_from_one_that_ends() {
        let limit = Duration::from_secs(5);
        let ended = run(Command::new("/bin/sh").args(["-c", "echo out; echo err >&2"]), &[], limit);
        let ended = ended.expect("it ends");
        assert_eq!((ended.out.as_slice(), ended.err.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        let held = run(
            Command::new("/bin/sh").args(["-c", "sleep 6 & echo out"]),
            &[],
            Duration::from_secs(2),
        );
        assert!(held.expect_err("it is held").to_string().contains("holds its output open"));
    }
}
