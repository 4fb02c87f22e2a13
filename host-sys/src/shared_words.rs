//! A file of 64-bit words that several processes map.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::sys::{self, Words};

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

    /// Makes a sparse, zeroed memory file of `len` words without a name in any directory.
    ///
    /// # Errors
    /// Those of `memfd_create` and `ftruncate`.
    pub fn memory_file(name: &str, len: usize) -> io::Result<OwnedFd> {
        let name = std::ffi::CString::new(name)?;
        let file = File::from(memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC)?);
        file.set_len(len as u64 * 8)?;
        Ok(file.into())
    }

    /// Maps an open file of at least `len` words, for reading and writing.
    ///
    /// # Errors
    /// Those of `mmap`.
    pub fn map_fd(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Ok(Self { words: Words::map(fd, len, true)? })
    }

    /// Reads from a descriptor straight into words; gives the bytes read.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read_from(&self, fd: BorrowedFd<'_>, at: usize, len: usize) -> io::Result<usize> {
        let words = self.words().get(at..at + len).ok_or(io::ErrorKind::InvalidInput)?;
        sys::read_words(fd, words)
    }

    fn map(file: &File, len: usize, writable: bool) -> io::Result<Self> {
        Ok(Self { words: Words::map(file.as_fd(), len, writable)? })
    }

    /// Gives the words.
    pub fn words(&self) -> &[AtomicU64] {
        self.words.as_slice()
    }
}
