//! The calls that need `unsafe`: each takes and returns descriptors that somebody owns.
#![allow(unsafe_code)] // system calls that neither nix nor rustix wraps, and inherited descriptors

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

/// Closes what [`inherited`] took over, in a clone that will execute another program and whose copy
/// of the owner is never dropped.
pub(super) fn close_inherited(number: RawFd) {
    // SAFETY: closing a number has no effect on memory; by this function's contract the owner in
    // this process never uses it again.
    unsafe { libc::close(number) };
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

/// mount_setattr(2) with MOUNT_ATTR_RDONLY on a detached mount.
pub(super) fn make_mount_read_only(mount: impl AsFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
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

/// Makes libc look users up in `/etc/passwd` alone.
///
/// A statically linked libc would otherwise load whatever modules the container's own
/// `/etc/nsswitch.conf` names, from the container's root, into the process that still holds the
/// shim's socket.
pub(super) fn pin_user_lookup_to_files() {
    unsafe extern "C" {
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    for database in [c"passwd", c"group"] {
        // SAFETY: both arguments are NUL-terminated literals; there is one thread.
        unsafe { __nss_configure_lookup(database.as_ptr(), c"files".as_ptr()) };
    }
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

/// seccomp(2) SECCOMP_SET_MODE_FILTER with a classic BPF program.
pub(super) fn set_seccomp_filter(code: &[u8], flags: u64) -> io::Result<()> {
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
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a signal's disposition back to the default.
pub(super) fn reset_signal(signal: nix::sys::signal::Signal) -> nix::Result<()> {
    use nix::sys::signal::{SigHandler, signal as set};
    // SAFETY: the default disposition runs no handler of ours.
    unsafe { set(signal, SigHandler::SigDfl) }.map(|_| ())
}

/// Registers a descriptor with the runtime's poller.
pub(super) fn async_fd(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` answers with the same descriptor for as long as it lives, and nothing
    // closes or replaces that descriptor meanwhile.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
