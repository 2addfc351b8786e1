//! Device programs of cgroup v2. See bpf(2).

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Constants of bpf(2) that libc does not define: BPF_PROG_LOAD and BPF_PROG_ATTACH,
/// BPF_PROG_TYPE_CGROUP_DEVICE, BPF_CGROUP_DEVICE and BPF_F_ALLOW_MULTI.
const PROG_LOAD: c_int = 5;

const PROG_ATTACH: c_int = 8;

const TYPE_CGROUP_DEVICE: u32 = 15;

const CGROUP_DEVICE: u32 = 6;

const ALLOW_MULTI: u32 = 2;

/// Loads a BPF_PROG_TYPE_CGROUP_DEVICE program; each instruction has eight bytes.
pub(crate) fn load_device_program(code: &[u64]) -> io::Result<OwnedFd> {
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
    // SAFETY: the call returned a new descriptor, which is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches such a program to a cgroup. Programs that are attached already stay.
pub(crate) fn attach_device_program(program: impl AsFd, group: impl AsFd) -> io::Result<()> {
    /// The beginning of `union bpf_attr` for this call.
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
