//! A file of 64-bit words that several processes map.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use crate::sys::Words;

/// A mapped file of 64-bit words, reached through atomics only.
#[derive(Debug)]
pub struct SharedWords {
    words: Words,
}

impl SharedWords {
    /// Maps `path` for reading and writing, made with mode 0600 (sparse, zeroed) where it is missing.
    ///
    /// # Errors
    /// Those of `open`, `ftruncate` and `mmap`.
    pub fn create(path: &Path, len: usize) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        if file.metadata()?.len() < len as u64 * 8 {
            file.set_len(len as u64 * 8)?;
        }
        Self::map(&file, len, true)
    }

    /// Maps `path` for reading. Writing through it would end the process.
    ///
    /// # Errors
    /// Those of `open` and `mmap`; `InvalidData` if the file is too short.
    pub fn open_read(path: &Path, len: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        if file.metadata()?.len() < len as u64 * 8 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Self::map(&file, len, false)
    }

    fn map(file: &File, len: usize, writable: bool) -> io::Result<Self> {
        Ok(Self { words: Words::map(file.as_fd(), len, writable)? })
    }

    /// Gives the words.
    pub fn words(&self) -> &[AtomicU64] {
        self.words.as_slice()
    }
}
