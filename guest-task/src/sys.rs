//! The raw mappings. Both live until the process ends: tasks point into them from every thread.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::sync::atomic::AtomicU64;

use nix::libc;

/// Maps `len` words of a sealed file, shared, for the rest of the process's life. The caller has sealed it against shrinking.
pub(crate) fn map_forever(file: impl AsFd, len: usize) -> io::Result<&'static [AtomicU64]> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let start = unsafe {
        libc::mmap(ptr::null_mut(), len * 8, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0)
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: page-aligned, `len` words long, never unmapped, and the file cannot shrink; everybody reaches it through atomics.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<AtomicU64>(), len) })
}

/// Maps a private page for the rest of the process's life that reads as zero in a child made by `fork`.
pub(crate) fn map_wiped_on_fork() -> io::Result<&'static AtomicU64> {
    const PAGE: usize = 4096;
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let start = unsafe { libc::mmap(ptr::null_mut(), PAGE, prot, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: advice about the page just mapped, which nobody else knows.
    if unsafe { libc::madvise(start, PAGE, libc::MADV_WIPEONFORK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: page-aligned, zeroed, never unmapped, reached through this atomic only.
    Ok(unsafe { &*start.cast::<AtomicU64>() })
}
