//! A mapping of memory: the one thing that the loads need and no crate of ours gives safely.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Private anonymous memory, unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    at: NonNull<c_void>,
    len: NonZeroUsize,
}

impl Mapping {
    /// Maps so many bytes of zeros.
    pub(super) fn new(len: NonZeroUsize) -> nix::Result<Self> {
        // SAFETY: without MAP_FIXED no mapping that somebody uses is touched.
        let at = unsafe {
            mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }?;
        Ok(Self { at, len })
    }

    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.len.get()
    }

    /// All of it, as words.
    pub(super) fn words(&mut self) -> &mut [u64] {
        // SAFETY: the mapping is page-aligned, as long as this, initialised (zeros), ours alone, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr().cast(), self.len.get() / 8) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length; no slice of it outlives `self`.
        let _ = unsafe { munmap(self.at, self.len.get()) };
    }
}
