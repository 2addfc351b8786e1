//! Processes by handle, which Windows has in place of pidfds.

use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};

use windows_sys::Win32::Foundation::{FILETIME, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Threading::{
    GetExitCodeProcess, GetProcessTimes, INFINITE, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION,
    PROCESS_SYNCHRONIZE, PROCESS_TERMINATE, TerminateProcess, WaitForSingleObject,
};

/// Opens a process by its id, with the rights to wait for it, to end it and to query its start
/// time.
pub(crate) fn open_process(pid: u32) -> io::Result<OwnedHandle> {
    let rights = PROCESS_TERMINATE | PROCESS_SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION;
    // SAFETY: plain integers.
    let handle = unsafe { OpenProcess(rights, 0, pid) };
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: OpenProcess has just made it, and no other code knows it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Ends a process with an exit code.
pub(crate) fn terminate_process(process: BorrowedHandle<'_>, code: u32) -> io::Result<()> {
    // SAFETY: the handle is open for the borrow's life.
    done(unsafe { TerminateProcess(process.as_raw_handle(), code) })
}

/// Whether a process has ended.
pub(crate) fn has_ended(process: BorrowedHandle<'_>) -> io::Result<bool> {
    wait(process, 0)
}

/// Waits until a process has ended, and returns its exit code.
pub(crate) fn wait_for_exit(process: BorrowedHandle<'_>) -> io::Result<u32> {
    while !wait(process, INFINITE)? {}
    let mut code = 0;
    // SAFETY: the handle is open for the borrow's life, `code` outlives the call.
    done(unsafe { GetExitCodeProcess(process.as_raw_handle(), &mut code) })?;
    Ok(code)
}

/// The start time of a process, in units of 100 ns since 1601.
pub(crate) fn creation_time(process: BorrowedHandle<'_>) -> io::Result<u64> {
    let mut times = [FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 }; 4];
    let [created, exited, kernel, user] = &mut times;
    // SAFETY: the handle is open for the borrow's life, the four times outlive the call.
    done(unsafe { GetProcessTimes(process.as_raw_handle(), created, exited, kernel, user) })?;
    Ok(u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime))
}

/// Does nothing: the heap returns free memory by itself.
pub(crate) fn trim_heap() {}

fn wait(process: BorrowedHandle<'_>, milliseconds: u32) -> io::Result<bool> {
    // SAFETY: the handle is open for the borrow's life.
    match unsafe { WaitForSingleObject(process.as_raw_handle(), milliseconds) } {
        WAIT_OBJECT_0 => Ok(true),
        WAIT_TIMEOUT => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}

fn done(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
