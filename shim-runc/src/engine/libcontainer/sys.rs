//! The calls that need `unsafe`: each takes and returns descriptors that somebody owns.
#![allow(unsafe_code)] // system calls that neither nix nor rustix wraps, and inherited descriptors

pub(super) mod process;

use std::ffi::{c_char, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Takes over a descriptor that the parent left at a fixed number, and marks it close-on-exec.
///
/// To be called once per number, at the start of the process, before anything else could have
/// opened a descriptor there.
pub(super) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on a number has no effect on memory; it fails where nothing is open.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open (just checked) and by this function's contract nobody else
    // in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// close_range(2) from `first` on.
pub(super) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the caller is a process that has just started and owns nothing at these numbers;
    // the call touches no memory.
    match unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// mount_setattr(2) that clears MOUNT_ATTR_RDONLY, as a container would try.
#[cfg(test)]
pub(super) fn make_mount_writable(mount: impl AsFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: libc::MOUNT_ATTR_RDONLY,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a NUL-terminated literal, the structure outlives the call and its size
    // is the one given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Brings up the loopback of the caller's network namespace (netdevice(7), SIOCSIFFLAGS).
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = match rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    ) {
        // A kernel without IPv4 has nothing to bring up.
        Err(rustix::io::Errno::AFNOSUPPORT) => return Ok(()),
        other => other?,
    };
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = c_char::from_ne_bytes([*from]);
    }
    // SAFETY: the request names an interface and outlives both calls, which read and write it; the
    // union's member for these calls is the flags.
    unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) == -1 {
            return Err(io::Error::last_os_error());
        }
        #[allow(clippy::cast_possible_truncation)] // the flag is 1
        let up = libc::IFF_UP as libc::c_short;
        request.ifr_ifru.ifru_flags |= up;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// seccomp(2) SECCOMP_SET_MODE_FILTER with a classic BPF program; the listener's descriptor, if the
/// flags ask for one.
pub(super) fn set_seccomp_filter(code: &[u8], flags: u64) -> io::Result<Option<OwnedFd>> {
    // Copied for its alignment; it has at most a few thousand instructions.
    let mut filter: Vec<libc::sock_filter> = code
        .chunks_exact(size_of::<libc::sock_filter>())
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let length = libc::c_ushort::try_from(filter.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the program is too long"))?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: the program points to `len` instructions, which the kernel copies and checks before
    // the call returns; both outlive it.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
        let fd = RawFd::try_from(result).ok().filter(|fd| *fd >= 0);
        let fd = fd.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the call succeeded with that flag, so this is a new descriptor, close-on-exec,
        // that nobody else owns.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    if result == 0 { Ok(None) } else { Err(io::Error::last_os_error()) }
}

/// Puts a signal's disposition back to the default.
pub(super) fn reset_signal(signal: nix::sys::signal::Signal) -> nix::Result<()> {
    use nix::sys::signal::{SigHandler, signal as set};
    // SAFETY: the default disposition runs no handler of ours.
    unsafe { set(signal, SigHandler::SigDfl) }.map(|_| ())
}

/// Makes a write without a reader fail instead of ending the process (SIGPIPE).
pub(super) fn ignore_broken_pipes() -> nix::Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal as set};
    // SAFETY: no handler of ours is run.
    unsafe { set(Signal::SIGPIPE, SigHandler::SigIgn) }.map(|_| ())
}

/// Registers a descriptor with the runtime's poller.
pub(super) fn async_fd(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` answers with the same descriptor for as long as it lives, and nothing
    // closes or replaces that descriptor meanwhile.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// The numbers of bpf(2) that libc does not have: BPF_PROG_LOAD and BPF_PROG_ATTACH,
/// BPF_PROG_TYPE_CGROUP_DEVICE, BPF_CGROUP_DEVICE and BPF_F_ALLOW_MULTI.
const PROG_LOAD: c_int = 5;
const PROG_ATTACH: c_int = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// Loads a program that decides about devices, of eight bytes for each instruction.
pub(super) fn load_device_program(code: &[u64]) -> io::Result<OwnedFd> {
    /// The beginning of `union bpf_attr` for this call; the kernel takes the rest to be zero.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
    }
    let count = u32::try_from(code.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the program is too long"))?;
    let address = |pointer: *const u8| pointer.addr() as u64;
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count,
        code: address(code.as_ptr().cast()),
        license: address(c"Apache-2.0".as_ptr().cast()),
    };
    // SAFETY: the structure and both that it points to outlive the call, which copies and checks
    // them; the length is that of the structure.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    let fd =
        RawFd::try_from(result).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the call answered with a descriptor that is new, and close-on-exec already.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has such a program decide for a control group and those below, beside whatever decides already.
pub(super) fn attach_device_program(program: impl AsFd, group: impl AsFd) -> io::Result<()> {
    /// As above.
    #[repr(C)]
    struct Attach {
        target: RawFd,
        program: RawFd,
        kind: u32,
        flags: u32,
    }
    let attach = Attach {
        target: group.as_fd().as_raw_fd(),
        program: program.as_fd().as_raw_fd(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure outlives the call, holds two open descriptors, and has the length given.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
