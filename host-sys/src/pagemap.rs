//! `/proc/PID/pagemap`: which pages of an address space are there.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::sys;

const WRITTEN: u64 = 1 << 1;
const FILE: u64 = 1 << 2;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;
const PFNZERO: u64 = 1 << 5;

/// Neighbouring pages that are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// They are write-protected by a userfaultfd.
    pub is_protected: bool,
    /// They belong to a file or to shared memory, not to the process alone.
    pub is_file: bool,
    /// They are the zero page that all share.
    pub is_zero: bool,
}

/// An open `/proc/PID/pagemap`. It stays with the address space that it was opened for.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
}

impl Pagemap {
    /// Opens a process's.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    pub fn open(pid: i32) -> io::Result<Self> {
        Ok(Self { file: File::open(format!("/proc/{pid}/pagemap"))? })
    }

    /// Counts the pages of a range that no other address space maps.
    pub fn exclusive(&self, start: u64, end: u64) -> u64 {
        const EXCLUSIVE: u64 = 1 << 56;
        let mut entries = vec![0u8; ((end - start) / 4096) as usize * 8];
        let read =
            std::os::unix::fs::FileExt::read_at(&self.file, &mut entries, start / 4096 * 8).unwrap_or(0);
        let words = entries[..read].chunks_exact(8).map(|c| c.try_into().map_or(0, u64::from_ne_bytes));
        words.filter(|word| word & EXCLUSIVE != 0).count() as u64
    }

    /// Hands the address of every anonymous page of a range that no other address space maps to `each`.
    pub fn own(&self, start: u64, end: u64, mut each: impl FnMut(u64)) {
        const PAGES: u64 = 8192;
        const FILE_OR_EXCLUSIVE: u64 = 1 << 61 | 1 << 56;
        let mut entries = vec![0u8; (end - start).div_ceil(4096).min(PAGES) as usize * 8];
        for from in (start..end).step_by(PAGES as usize * 4096) {
            let len = ((end - from) / 4096).min(PAGES) as usize * 8;
            let read = std::os::unix::fs::FileExt::read_at(&self.file, &mut entries[..len], from / 4096 * 8);
            let words = entries[..read.unwrap_or(0)].chunks_exact(8);
            for (i, word) in words.map(|c| c.try_into().map_or(0, u64::from_ne_bytes)).enumerate() {
                if word & FILE_OR_EXCLUSIVE == 1 << 56 {
                    each(from + i as u64 * 4096);
                }
            }
        }
    }

    /// Hands every region of pages in a range that the process has, in memory or in the host's swap, to `each`.
    ///
    /// # Errors
    /// `ENOTTY` on kernels before 6.7; `ESRCH` when the address space is gone.
    pub fn present(&self, start: u64, end: u64, mut each: impl FnMut(Region)) -> io::Result<()> {
        let mut regions = [[0u64; 3]; 256];
        let mut from = start;
        while from < end {
            let mut arg = [0u64; 12];
            arg[2] = from;
            arg[3] = end;
            arg[10] = PRESENT | SWAPPED;
            arg[11] = PRESENT | WRITTEN | FILE | PFNZERO;
            let n = sys::pagemap_scan(self.file.as_fd(), &mut arg, &mut regions)?;
            for &[start, end, categories] in &regions[..n] {
                each(Region {
                    start,
                    end,
                    is_protected: categories & WRITTEN == 0,
                    is_file: categories & FILE != 0,
                    is_zero: categories & PFNZERO != 0,
                });
            }
            let walked = arg[4];
            if walked <= from {
                break;
            }
            from = walked;
        }
        Ok(())
    }
}

/// A mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// It is private to the process and belongs to no file.
    pub is_anonymous: bool,
}

/// An open `/proc/PID/maps` that is asked for single mappings (Linux 6.11), at 0.5 µs each.
#[derive(Debug)]
pub struct Vmas {
    file: File,
}

impl Vmas {
    /// Opens a process's.
    ///
    /// # Errors
    /// `ENOENT`, `EACCES`.
    pub fn open(pid: i32) -> io::Result<Self> {
        Ok(Self { file: File::open(format!("/proc/{pid}/maps"))? })
    }

    /// Gives the mapping at an address, or the next one after it.
    ///
    /// # Errors
    /// `ENOENT` if there is none, `ENOTTY` on older kernels, `ESRCH`.
    pub fn at_or_after(&self, address: u64) -> io::Result<Vma> {
        const PROCMAP_QUERY: u64 = 0xC068_6611;
        const COVERING_OR_NEXT: u64 = 0x10;
        const SHARED: u64 = 8;
        // size, flags, address; start, end, flags, page size, offset, inode, device, buffer sizes and addresses.
        let mut query = [0u64; 13];
        query[..3].copy_from_slice(&[104, COVERING_OR_NEXT, address]);
        sys::ioctl_words(self.file.as_fd(), PROCMAP_QUERY, &mut query)?;
        let [_, _, _, start, end, flags, _, _, inode, ..] = query;
        Ok(Vma { start, end, is_anonymous: flags & SHARED == 0 && inode == 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_page_is_present() {
        let mut memory = vec![0u8; 16 * 4096];
        memory[5 * 4096] = 1;
        let start = (memory.as_ptr() as u64).next_multiple_of(4096);
        let mut pages = 0;

        let pagemap = Pagemap::open(std::process::id() as i32).expect("readable");
        match pagemap.present(start, start + 15 * 4096, |r| pages += (r.end - r.start) / 4096) {
            Ok(()) => assert!(pages >= 1),
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ENOTTY), "an old kernel"),
        }
    }

    #[test]
    fn mapping_of_own_stack_is_anonymous() {
        let here = 0u8;
        let address = std::ptr::from_ref(&here) as u64;
        let vmas = Vmas::open(std::process::id() as i32).expect("readable");

        match vmas.at_or_after(address) {
            Ok(vma) => assert!(vma.is_anonymous && vma.start <= address && address < vma.end),
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ENOTTY), "an old kernel"),
        }
    }
}
