//! Reads of files side by side, by `io_uring` where the host grants it.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use io_uring::IoUring;
use nix::sys::uio::pread;

use crate::sys;

/// Reads of one go.
const ENTRIES: usize = 64;

/// One read.
#[derive(Debug)]
pub struct Read<'a> {
    /// The file.
    pub fd: BorrowedFd<'a>,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is to be filled.
    pub buf: &'a mut [u8],
    /// How it ended; less than the whole is `UnexpectedEof`.
    pub result: io::Result<()>,
}

impl<'a> Read<'a> {
    /// Makes a read that is to be done.
    pub fn new(file: &'a File, offset: u64, buf: &'a mut [u8]) -> Self {
        Self { fd: std::os::fd::AsFd::as_fd(file), offset, buf, result: Ok(()) }
    }
}

/// Does reads.
pub struct Reader {
    ring: Option<IoUring>,
}

impl Reader {
    /// Makes a ring; without one, reads are done one after the other.
    pub fn new() -> Self {
        Self { ring: IoUring::new(ENTRIES as u32).ok() }
    }

    /// Makes a reader that does one read after the other.
    pub const fn without_ring() -> Self {
        Self { ring: None }
    }

    /// Does all reads, and leaves in each how it ended.
    pub fn read(&mut self, reads: &mut [Read<'_>]) {
        // A single one is done as soon without.
        self.read_if(reads.len() > 1, reads, || ());
    }

    /// As [`Reader::read`], and calls `meanwhile` while the first of them are under way, or else after them.
    pub fn read_while(&mut self, reads: &mut [Read<'_>], meanwhile: impl FnOnce()) {
        self.read_if(true, reads, meanwhile);
    }

    fn read_if(&mut self, may_use_ring: bool, reads: &mut [Read<'_>], meanwhile: impl FnOnce()) {
        let mut meanwhile = Some(meanwhile);
        for reads in reads.chunks_mut(ENTRIES) {
            let is_done = match &mut self.ring {
                Some(ring) if may_use_ring => {
                    let call = || meanwhile.take().into_iter().for_each(|call| call());
                    sys::ring_read(ring, reads, call).is_ok()
                }
                _ => false,
            };
            if !is_done {
                for read in reads {
                    read.result = one(read);
                }
            }
        }
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
    }
}

fn one(read: &mut Read<'_>) -> io::Result<()> {
    let mut done = 0;
    while done < read.buf.len() {
        match pread(read.fd, &mut read.buf[done..], (read.offset + done as u64).cast_signed()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("has_ring", &self.ring.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn reads_are_done_with_and_without_a_ring() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&(0..=255).collect::<Vec<u8>>().repeat(64)).expect("written");
        for mut reader in [Reader::new(), Reader { ring: None }] {
            let mut buffers = vec![[0u8; 16]; 100];
            let mut reads: Vec<_> = buffers
                .iter_mut()
                .enumerate()
                .map(|(i, buf)| Read::new(&file, i as u64 * 16 + 1, buf))
                .collect();

            let mut nr_calls = 0;
            reader.read_while(&mut reads, || nr_calls += 1);

            assert_eq!(nr_calls, 1);
            assert!(reads.iter().all(|r| r.result.is_ok()));
            drop(reads);
            assert!(buffers.iter().enumerate().all(|(i, b)| b[0] == (i * 16 + 1) as u8));
            let mut far = [0u8; 8];
            let mut reads = [Read::new(&file, 1 << 30, &mut far)];
            reader.read(&mut reads);
            assert!(reads[0].result.is_err());
        }
    }
}
