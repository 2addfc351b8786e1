//! Seccomp filters. See seccomp(2).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Installs a classic BPF program with SECCOMP_SET_MODE_FILTER. Returns the listener's descriptor if
/// the flags request one.
pub(crate) fn set_seccomp_filter(code: &[u8], flags: u64) -> io::Result<Option<OwnedFd>> {
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
        // that nothing else owns.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    if result == 0 { Ok(None) } else { Err(io::Error::last_os_error()) }
}
