//! The messages between the shim and its helper: frames of JSON on a sequenced-packet socket.
//!
//! Promise: one packet is one frame, with a limit in size and in descriptors. A frame of another version,
//! or with more than its sender may send, is an error. The descriptors of a packet are in the order of
//! its [`StreamList`].
//! Not here: what a request does (`helper`), who waits for its answer (`connection`).
//! See unix(7), SCM_RIGHTS.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shim_sdk::Kind;

/// The version of the frames. Both ends are the same binary; a difference is a mistake in its start.
pub(super) const VERSION: u32 = 1;

/// The largest frame. Two paths, an id and an error text are much smaller. An OCI process may be larger, so
/// it is sent as a descriptor.
pub(super) const FRAME_BYTES: usize = 64 * 1024;

/// The greatest number of descriptors in one packet: three streams and a file, or one file of each
/// hierarchy of control groups.
const DESCRIPTORS: usize = 16;

/// The longest error text.
pub(super) const MESSAGE_BYTES: usize = 16 * 1024;

/// One frame. The sequence number matches an answer to its request, so that the answer to a caller that
/// gave up is not taken for the next one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Frame<T> {
    version: u32,
    pub(super) sequence: u64,
    pub(super) body: T,
}

/// A request of the shim. `root` is the directory of libcontainer's records.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum HelperRequest {
    /// A Create of this container may follow. The helper prepares its spec. Not answered.
    Expect { root: PathBuf, id: String, bundle: PathBuf },
    /// Answered by `Created`, with the reading end of the container's report.
    Create {
        root: PathBuf,
        id: String,
        bundle: PathBuf,
        no_pivot_root: bool,
        no_new_keyring: bool,
        streams: StreamList,
    },
    /// Answered by `Done` when the start message was sent to init.
    Start { root: PathBuf, id: String },
    /// The process is a descriptor after the streams. Answered by `Executed`, with the reading end of the
    /// process's report, before the command is executed.
    Exec { root: PathBuf, id: String, streams: StreamList },
    /// Answered by `Done`, also if the container does not exist.
    Delete { root: PathBuf, id: String, force: bool },
    /// Answered by `Done`.
    Pause { root: PathBuf, id: String },
    /// Answered by `Done`.
    Resume { root: PathBuf, id: String },
}

/// The streams whose descriptors come with a request, in this order, or the console socket.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct StreamList {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) console: Option<PathBuf>,
}

/// An answer of the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum HelperReply {
    Created {
        pid: i32,
        /// Whether the start runs hooks, so that the helper must do it.
        has_hooks: bool,
    },
    Executed {
        pid: i32,
    },
    Done,
    Failed(Failure),
    /// Sent without a request, with sequence 0, before the helper exits. The helper has not read a request
    /// that it has not answered.
    Leaving,
}

/// The failure of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES {
            let end = message.floor_char_boundary(MESSAGE_BYTES);
            message.truncate(end);
        }
        Self { reason, message }
    }
}

/// The bytes of one packet, its descriptors, and the pid of its sender.
pub(super) type Packet = (Vec<u8>, Vec<OwnedFd>, Option<i32>);

/// Why a request failed. [`Reason::kind`] has the status that a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reason {
    /// No container has the id.
    NoSuchContainer,
    /// A container has the id already.
    AlreadyExists,
    /// The container is not in the state that the request needs.
    WrongState,
    /// The spec, the process of an exec or the request is wrong.
    InvalidRequest,
    /// The engine or the host cannot do what the spec asks.
    Unsupported,
    /// The command does not exist in the container.
    CommandNotFound,
    /// The command exists and cannot be executed.
    CommandNotExecutable,
    /// A system call or an operation on a file failed.
    System,
    /// The container's control groups could not be found, created, limited or removed.
    Cgroup,
    /// A hook failed.
    Hook,
    /// A file or a place in the root file system is not what it must be.
    RootFilesystem,
    /// libcontainer failed, or all that is known is an error that it logged.
    Library,
    /// A process of the container or the helper ended before its part was done.
    ProcessEnded,
    /// A process sent a message that it may not send.
    UnexpectedMessage,
    /// A process was still there some time after SIGKILL.
    NotKilled,
}

impl Reason {
    /// The status that a client gets.
    ///
    /// A failure of a runtime program is UNKNOWN in containerd's shim, whatever the cause, and clients
    /// rely on that. So only those reasons have another status that the runc engine finds in runc's log
    /// too (`engine/runc/log.rs`), or that this engine finds before it creates anything. A command that
    /// is not found is not NOT_FOUND: clients take that for the container.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::NoSuchContainer => Kind::NotFound,
            Self::AlreadyExists => Kind::AlreadyExists,
            Self::WrongState => Kind::FailedPrecondition,
            Self::InvalidRequest => Kind::InvalidArgument,
            Self::Unsupported => Kind::Unimplemented,
            Self::CommandNotFound
            | Self::CommandNotExecutable
            | Self::System
            | Self::Cgroup
            | Self::Hook
            | Self::RootFilesystem
            | Self::Library
            | Self::ProcessEnded
            | Self::UnexpectedMessage
            | Self::NotKilled => Kind::Unknown,
        }
    }
}

/// Encodes a frame.
pub(super) fn encode<T: Serialize>(sequence: u64, body: &T) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(&Frame { version: VERSION, sequence, body })?;
    if bytes.len() > FRAME_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a frame of {} bytes, at most {FRAME_BYTES} fit", bytes.len()),
        ));
    }
    Ok(bytes)
}

/// Decodes a frame.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<Frame<T>> {
    let frame: Frame<T> = serde_json::from_slice(bytes)?;
    if frame.version != VERSION {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of version {}, expected {VERSION}", frame.version),
        ));
    }
    Ok(frame)
}

/// Sends one packet with its descriptors; never raises SIGPIPE.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(
            socket.as_fd(),
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// Receives one packet and its descriptors, which are close-on-exec. `None` is the end: the peer
/// has closed its side.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    Ok(receive_from(socket)?.map(|(bytes, fds, _)| (bytes, fds)))
}

/// The same with the sender's pid, if the socket has SO_PASSCRED. The kernel gives the pid in the receiver's
/// pid namespace.
pub(super) fn receive_from(socket: impl AsFd) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; FRAME_BYTES];
    let mut space =
        [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let (mut fds, mut sender) = (Vec::new(), None);
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
            RecvAncillaryMessage::ScmCredentials(credentials) => {
                sender = Some(credentials.pid.as_raw_nonzero().get());
            }
            _ => {}
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet larger than any frame"));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some((bytes, fds, sender)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_frame_arrives_whole_with_its_descriptors_in_order() {
        let (near, far) = pair();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        let body = HelperRequest::Start { root: "/r".into(), id: "c".into() };
        send(&near, &encode(7, &body).unwrap(), &[null.as_fd(), write.as_fd()]).unwrap();
        let (bytes, mut fds) = receive(&far).unwrap().unwrap();
        let frame: Frame<HelperRequest> = decode(&bytes).unwrap();
        assert_eq!(frame.sequence, 7);
        assert!(matches!(frame.body, HelperRequest::Start { id, .. } if id == "c"));
        drop(write);
        File::from(fds.remove(1)).write_all(b"x").unwrap();
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn the_end_of_the_peer_is_none() {
        let (near, far) = pair();
        drop(near);
        assert!(receive(&far).unwrap().is_none());
    }

    #[test]
    fn a_frame_of_another_version_is_refused() {
        let error = decode::<HelperRequest>(
            br#"{"version":9,"sequence":1,"body":{"Start":{"root":"/","id":"c"}}}"#,
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "a frame of version 9, expected 1");
    }

    #[test]
    fn a_frame_too_large_is_refused_before_it_is_sent() {
        let body = HelperRequest::Start { root: "/".repeat(FRAME_BYTES).into(), id: "c".into() };
        assert_eq!(encode(1, &body).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let failure = Failure::new(Reason::System, "é".repeat(MESSAGE_BYTES));
        assert!(failure.message.len() <= MESSAGE_BYTES);
    }

    #[test]
    fn a_fuzzed_frame_is_refused_or_means_one_thing() {
        fn again<T: Serialize + DeserializeOwned + std::fmt::Debug>(bytes: &[u8]) {
            let Ok(frame) = decode::<T>(bytes) else { return };
            // Larger than what was read only where escapes are longer than what they stand for.
            let Ok(sent) = encode(frame.sequence, &frame.body) else { return };
            let back = decode::<T>(&sent).unwrap();
            assert_eq!(format!("{frame:?}"), format!("{back:?}"));
        }
        let words = &[
            "\"version\":1",
            "\"sequence\":",
            "\"body\":",
            "\"Create\"",
            "\"Failed\"",
            "null",
            "[",
            "{",
        ];
        ::fuzz::Target::new("frame").words(words).run(|bytes| {
            again::<HelperRequest>(bytes);
            again::<HelperReply>(bytes);
        });
    }
}
