//! The few questions to the kernel that have no safe wrapper. Nothing here changes anything.
//!
//! The only `unsafe` of the operator's surface; each call's contract is stated where it is made.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `IORING_REGISTER_PROBE` of `linux/io_uring.h`.
const REGISTER_PROBE: libc::c_uint = 8;
/// `IO_URING_OP_SUPPORTED` of `linux/io_uring.h`.
const OP_SUPPORTED: u16 = 1;
/// Most operations `io_uring_probe` can describe.
const OPS_MAX: usize = 256;

/// The io_uring operations the node's executors use, by number.
pub const OPERATIONS: &[(u8, &str)] = &[
    (0, "NOP"),
    (1, "READV"),
    (2, "WRITEV"),
    (3, "FSYNC"),
    (4, "READ_FIXED"),
    (5, "WRITE_FIXED"),
    (6, "POLL_ADD"),
    (7, "POLL_REMOVE"),
    (9, "SENDMSG"),
    (10, "RECVMSG"),
    (11, "TIMEOUT"),
    (12, "TIMEOUT_REMOVE"),
    (13, "ACCEPT"),
    (15, "LINK_TIMEOUT"),
    (16, "CONNECT"),
    (17, "FALLOCATE"),
    (18, "OPENAT"),
    (19, "CLOSE"),
    (21, "STATX"),
    (22, "READ"),
    (23, "WRITE"),
    (26, "SEND"),
    (27, "RECV"),
];

/// `struct io_uring_params`: read and written by the kernel as a whole.
#[repr(C)]
#[derive(Default)]
struct RingParams {
    words: [u32; 30],
}

/// `struct io_uring_probe` with room for every operation.
#[repr(C)]
struct Probe {
    last_op: u8,
    ops_len: u8,
    reserved: u16,
    reserved_words: [u32; 3],
    ops: [ProbeOp; OPS_MAX],
}

/// `struct io_uring_probe_op`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProbeOp {
    op: u8,
    reserved: u8,
    flags: u16,
    reserved_word: u32,
}

const _: () = assert!(size_of::<RingParams>() == 120);
const _: () = assert!(size_of::<Probe>() == 16 + 8 * OPS_MAX);

/// Sets up a ring, enters it, asks which operations it has, and drops it. Returns the names of
/// those of [`OPERATIONS`] that are missing.
///
/// # Errors
/// The first call that was refused, with its name.
pub fn probe_io_uring() -> Result<Vec<&'static str>, String> {
    let failed = |call: &str| format!("{call}: {}", io::Error::last_os_error());
    let mut params = RingParams::default();
    // SAFETY: io_uring_setup reads and writes one io_uring_params, which `params` is by size and
    // layout, and keeps no pointer to it.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4 as libc::c_uint, &raw mut params) };
    let fd = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0);
    let fd = fd.ok_or_else(|| failed("io_uring_setup"))?;
    // SAFETY: the call above returned this descriptor, and nobody else has it.
    let ring = unsafe { OwnedFd::from_raw_fd(fd) };

    // SAFETY: with nothing to submit and nothing to wait for, io_uring_enter takes no memory of
    // ours (the signal mask is null).
    let entered = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            ring.as_raw_fd(),
            0 as libc::c_uint,
            0 as libc::c_uint,
            0 as libc::c_uint,
            std::ptr::null::<libc::sigset_t>(),
            0 as libc::size_t,
        )
    };
    if entered < 0 {
        return Err(failed("io_uring_enter"));
    }

    let mut probe = Box::new(Probe {
        last_op: 0,
        ops_len: 0,
        reserved: 0,
        reserved_words: [0; 3],
        ops: [ProbeOp::default(); OPS_MAX],
    });
    // SAFETY: IORING_REGISTER_PROBE writes an io_uring_probe with at most the number of operations
    // given; `probe` has that layout and room, and lives until the call returns.
    let registered = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            REGISTER_PROBE,
            &raw mut *probe,
            OPS_MAX as libc::c_uint,
        )
    };
    if registered < 0 {
        return Err(failed("io_uring_register(PROBE)"));
    }
    let supported = |op: u8| {
        let known = &probe.ops[..usize::from(probe.ops_len)];
        known.iter().any(|entry| entry.op == op && entry.flags & OP_SUPPORTED != 0)
    };
    Ok(OPERATIONS.iter().filter(|(op, _)| !supported(*op)).map(|(_, name)| *name).collect())
}

/// What direct I/O on a file must be aligned to, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectAlignment {
    /// Of the memory.
    pub memory: u32,
    /// Of the file position and length. 0: the file system does not do direct I/O on this file.
    pub offset: u32,
}

/// Asks the file system with `statx`. `None`: it does not say (kernels before 6.1, some file
/// systems).
///
/// # Errors
/// When the file cannot be looked at.
pub fn direct_alignment(file: &Path) -> io::Result<Option<DirectAlignment>> {
    let path = CString::new(file.as_os_str().as_bytes())?;
    // SAFETY: statx is a struct of integers: all zeros is a value of it.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is a NUL-terminated string and `found` one statx; both outlive the call.
    let result = unsafe {
        libc::statx(libc::AT_FDCWD, path.as_ptr(), 0, libc::STATX_DIOALIGN, &raw mut found)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let said = found.stx_mask & libc::STATX_DIOALIGN != 0;
    Ok(said.then_some(DirectAlignment {
        memory: found.stx_dio_mem_align,
        offset: found.stx_dio_offset_align,
    }))
}

/// Whether something keeps the clock in step with others, and the kernel's estimate of the error
/// in microseconds.
///
/// # Errors
/// When the kernel does not tell.
pub fn clock_sync() -> io::Result<(bool, u64)> {
    // SAFETY: timex is a struct of integers: all zeros is a value of it, and `modes` 0 asks
    // without changing anything.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: adjtimex reads and writes one timex, and keeps no pointer to it.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    let synchronised = timex.status & libc::STA_UNSYNC == 0;
    Ok((synchronised, u64::try_from(timex.maxerror).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_ascending() {
        assert!(OPERATIONS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn a_file_that_is_not_there_has_no_alignment() {
        let error = direct_alignment(Path::new("/nonexistent/file")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
