//! `userfaultfd(2)`: missing and write-protected pages of another process's address space, as messages.
//!
//! Everything here works from outside the address space except [`move_request`], which only a task that shares it may issue.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::SharedWords;
use crate::sys;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

const API: u64 = 0xAA;
/// `UFFDIO_API`, and so on: `_IOWR(0xAA, nr, size)`.
const fn iowr(nr: u64, size: u64) -> u64 {
    (3 << 30) | (size << 16) | (API << 8) | nr
}
const fn ior(nr: u64, size: u64) -> u64 {
    (2 << 30) | (size << 16) | (API << 8) | nr
}
const IOC_API: u64 = iowr(0x3F, 24);
const IOC_REGISTER: u64 = iowr(0x00, 32);
const IOC_UNREGISTER: u64 = ior(0x01, 16);
const IOC_WAKE: u64 = ior(0x02, 16);
const IOC_COPY: u64 = iowr(0x03, 40);
const IOC_WRITEPROTECT: u64 = iowr(0x06, 24);
/// `UFFDIO_MOVE`, to be issued by an agent inside the address space with [`move_request`] as its argument.
pub const IOC_MOVE: u64 = iowr(0x05, 40);
/// `USERFAULTFD_IOC_NEW` on `/dev/userfaultfd`: makes a userfaultfd for the caller's address space.
pub const IOC_NEW: u64 = API << 8;

const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const FEATURE_EVENT_FORK: u64 = 1 << 1;
const FEATURE_EVENT_REMAP: u64 = 1 << 2;
const FEATURE_EVENT_REMOVE: u64 = 1 << 3;
const FEATURE_EVENT_UNMAP: u64 = 1 << 6;
const FEATURE_MOVE: u64 = 1 << 16;

const MODE_MISSING: u64 = 1;
const MODE_WP: u64 = 2;
const COPY_DONTWAKE: u64 = 1;
const COPY_WP: u64 = 2;
const WP_WP: u64 = 1;
const WP_DONTWAKE: u64 = 2;
const MOVE_DONTWAKE: u64 = 1;

/// How wide a message is, in words.
pub const MESSAGE_WORDS: usize = 4;

/// What a userfaultfd tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// A task waits at a page that is missing, or write-protected.
    Fault {
        /// The address.
        address: u64,
        /// It wanted to write.
        is_write: bool,
        /// The page is there, but write-protected.
        is_protected: bool,
    },
    /// The address space was duplicated; this descriptor is for the child's. It is ours from now on.
    Fork(RawFd),
    /// A mapping was moved.
    Remap {
        /// Where it was.
        from: u64,
        /// Where it is.
        to: u64,
        /// Bytes.
        len: u64,
    },
    /// The contents of a range were given up; the mapping stays.
    Remove {
        /// First address.
        start: u64,
        /// First address after it.
        end: u64,
    },
    /// A mapping was removed.
    Unmap {
        /// First address.
        start: u64,
        /// First address after it.
        end: u64,
    },
}

impl Message {
    /// Decodes the words of one message; `None` for a kind that is not known, or no message at all.
    pub fn decode(words: [u64; MESSAGE_WORDS]) -> Option<Self> {
        let [event, a, b, c] = words;
        // `struct uffd_msg`: the event is the first byte, the argument's three words follow at offset 8.
        match event & 0xFF {
            0x12 => {
                Some(Self::Fault { address: b & !(PAGE - 1), is_write: a & 1 != 0, is_protected: a & 2 != 0 })
            }
            0x13 => Some(Self::Fork(a as u32 as RawFd)),
            0x14 => Some(Self::Remap { from: a, to: b, len: c }),
            0x15 => Some(Self::Remove { start: a, end: b }),
            0x16 => Some(Self::Unmap { start: a, end: b }),
            _ => None,
        }
    }
}

/// What came of an installation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Install {
    /// So many bytes are in place; less than asked where something stood in the way further on.
    Done(u64),
    /// The first page is there already.
    Exists,
    /// The address space is changing: read the messages that wait, and try again.
    Changing,
    /// The mapping, or the address space, is gone.
    Gone,
}

/// How somebody gets a userfaultfd who does not.
pub const REMEDY: &str = "run the daemon as root, or give its user /dev/userfaultfd (chmod or a udev rule)";
/// How somebody gets `UFFDIO_MOVE`.
pub const MOVE_REMEDY: &str = "a kernel from Linux 6.8 on";

/// What a userfaultfd can do here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abilities {
    /// Whether it moves pages (Linux 6.8).
    pub has_move: bool,
}

/// A userfaultfd of another address space.
#[derive(Debug)]
pub struct Userfaultfd {
    fd: OwnedFd,
}

impl Userfaultfd {
    /// Asks the kernel what a userfaultfd of ours could do.
    ///
    /// # Errors
    /// Those of [`Userfaultfd::open_device`], and of making one.
    pub fn probe() -> io::Result<Abilities> {
        let device = Self::open_device()?;
        let fd = sys::userfaultfd_from(device.as_fd())?;
        // With no features asked for, the kernel answers with all that it has.
        let mut arg = [API, 0, 0];
        sys::ioctl_words(fd.as_fd(), IOC_API, &mut arg)?;
        Ok(Abilities { has_move: arg[1] & FEATURE_MOVE != 0 })
    }

    /// Opens what makes userfaultfds, to be handed to a process that is to get one.
    ///
    /// # Errors
    /// Those of `open`: `ENOENT` on kernels before 6.1, `EACCES`.
    pub fn open_device() -> io::Result<File> {
        File::options().read(true).write(true).open("/dev/userfaultfd")
    }

    /// Takes over a descriptor and agrees with the kernel on events for everything that changes the address space.
    ///
    /// # Errors
    /// `EPERM` where fork events are not granted (`CAP_SYS_PTRACE`), `EINVAL` on kernels before 6.8.
    pub fn with_events(fd: OwnedFd) -> io::Result<Self> {
        let features = FEATURE_PAGEFAULT_FLAG_WP
            | FEATURE_EVENT_FORK
            | FEATURE_EVENT_REMAP
            | FEATURE_EVENT_REMOVE
            | FEATURE_EVENT_UNMAP;
        Self::agree(fd, features)
    }

    /// Takes over a descriptor that is only a target of moves: it tells of nothing.
    ///
    /// # Errors
    /// `EINVAL` on kernels before 6.8, which cannot move.
    pub fn for_moves(fd: OwnedFd) -> io::Result<Self> {
        Self::agree(fd, FEATURE_MOVE)
    }

    /// Takes over a descriptor that is in use already, such as that of a forked child.
    pub fn in_use(fd: OwnedFd) -> Self {
        Self { fd }
    }

    fn agree(fd: OwnedFd, features: u64) -> io::Result<Self> {
        let mut arg = [API, features, 0];
        sys::ioctl_words(fd.as_fd(), IOC_API, &mut arg)?;
        Ok(Self { fd })
    }

    /// Has missing pages of a range reported, and writes to protected ones if `protects`.
    ///
    /// # Errors
    /// `EINVAL` for mappings that cannot be managed, `EBUSY` if another userfaultfd has them, `ENOMEM`, `ESRCH`.
    pub fn register(&self, start: u64, len: u64, protects: bool) -> io::Result<()> {
        let mode = if protects { MODE_MISSING | MODE_WP } else { MODE_MISSING };
        sys::ioctl_words(self.fd.as_fd(), IOC_REGISTER, &mut [start, len, mode, 0])
    }

    /// Gives a range up: whoever waits there goes on, protection is lifted.
    ///
    /// # Errors
    /// As [`Userfaultfd::register`].
    pub fn unregister(&self, start: u64, len: u64) -> io::Result<()> {
        sys::ioctl_words(self.fd.as_fd(), IOC_UNREGISTER, &mut [start, len])
    }

    /// Wakes whoever waits in a range.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn wake(&self, start: u64, len: u64) -> io::Result<()> {
        sys::ioctl_words(self.fd.as_fd(), IOC_WAKE, &mut [start, len])
    }

    /// Copies pages into missing places and wakes who waits there. `source` is a whole number of pages.
    ///
    /// # Errors
    /// Those that [`Install`] does not name.
    pub fn copy(&self, to: u64, source: &[u8], is_protected: bool, wakes: bool) -> io::Result<Install> {
        let mode = if is_protected { COPY_WP } else { 0 } | if wakes { 0 } else { COPY_DONTWAKE };
        let len = source.len() as u64;
        let mut arg = [to, source.as_ptr() as u64, len, mode, 0];
        // The kernel only reads `source`, which is borrowed for the call.
        match sys::ioctl_words(self.fd.as_fd(), IOC_COPY, &mut arg) {
            Ok(()) => Ok(Install::Done(len)),
            Err(e) => match (arg[4].cast_signed(), e.raw_os_error()) {
                (done, _) if done > 0 => Ok(Install::Done(done.unsigned_abs())),
                (_, Some(libc::EEXIST)) => Ok(Install::Exists),
                (_, Some(libc::EAGAIN)) => Ok(Install::Changing),
                (_, Some(libc::ENOENT | libc::ESRCH | libc::ENOSPC)) => Ok(Install::Gone),
                _ => Err(e),
            },
        }
    }

    /// Sets or lifts the write protection of what is present in a range; lifting wakes who waits there if `wakes`.
    ///
    /// # Errors
    /// `EAGAIN` while the address space changes, `ENOENT` if the range is not registered, `ESRCH`.
    pub fn protect(&self, start: u64, len: u64, is_protected: bool, wakes: bool) -> io::Result<()> {
        let mode = match (is_protected, wakes) {
            (true, _) => WP_WP,
            (false, true) => 0,
            (false, false) => WP_DONTWAKE,
        };
        sys::ioctl_words(self.fd.as_fd(), IOC_WRITEPROTECT, &mut [start, len, mode])
    }

    /// Whether the address space is gone.
    pub fn is_dead(&self) -> bool {
        // Nothing can be mapped there: only the address space itself is asked for.
        self.protect(PAGE, PAGE, false, false).is_err_and(|e| e.raw_os_error() == Some(libc::ESRCH))
    }

    /// Reads waiting messages straight into shared words, so that none is lost with the reader; gives how many. The descriptor must
    /// be non-blocking.
    ///
    /// # Errors
    /// `EBADF` and the like; nothing waiting gives 0.
    pub fn read_into(&self, words: &SharedWords, at: usize, messages: usize) -> io::Result<usize> {
        match words.read_from(self.fd.as_fd(), at, messages * MESSAGE_WORDS) {
            Ok(bytes) => Ok(bytes / (MESSAGE_WORDS * 8)),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Userfaultfd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<Userfaultfd> for OwnedFd {
    fn from(uffd: Userfaultfd) -> Self {
        uffd.fd
    }
}

/// The argument of [`IOC_MOVE`]: takes pages out of one place of an address space and puts them in another, missing one, atomically.
/// The kernel writes the bytes moved, or a negative errno, into the last word.
pub const fn move_request(to: u64, from: u64, len: u64) -> [u64; 5] {
    [to, from, len, MOVE_DONTWAKE, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_each_kind_is_decoded() {
        assert_eq!(
            Message::decode([0x12, 3, 0x7f00_0000_1234, 0]),
            Some(Message::Fault { address: 0x7f00_0000_1000, is_write: true, is_protected: true })
        );
        assert_eq!(Message::decode([0x13, 7, 0, 0]), Some(Message::Fork(7)));
        assert_eq!(Message::decode([0x15, 4096, 8192, 0]), Some(Message::Remove { start: 4096, end: 8192 }));
        assert_eq!(Message::decode([0; 4]), None);
        assert_eq!(Message::decode([0xFF; 4]), None);
    }

    #[test]
    fn requests_have_the_numbers_of_the_header() {
        assert_eq!(IOC_API, 0xc018_aa3f);
        assert_eq!(IOC_REGISTER, 0xc020_aa00);
        assert_eq!(IOC_UNREGISTER, 0x8010_aa01);
        assert_eq!(IOC_COPY, 0xc028_aa03);
        assert_eq!(IOC_WRITEPROTECT, 0xc018_aa06);
        assert_eq!(IOC_MOVE, 0xc028_aa05);
    }
}
