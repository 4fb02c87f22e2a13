//! What the file system is made of, and how it answers; the requests themselves are in `filesystem`.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, Generation, INodeNo, Request};
use parking_lot::Mutex;

use super::handles::{Handles, errno};
use crate::errno::{Refusal, Why};
use crate::groups::journal::Refused;
use crate::groups::{Caller, Controller};
use crate::tree::{Attr, Entry, Inode, Kind, Tree};

pub(super) const GENERATION: Generation = Generation(0);
/// The longest write: longer ones come in pieces, and no value is longer.
pub(super) const WRITE_MAX: u32 = 128 * 1024;

/// How many requests may be carried out beside the threads that answer requests.
const ASIDE_MAX: usize = 256;

/// How many entries of open directories a user other than root may have us hold.
const HELD_ENTRIES_MAX: usize = 1 << 21;
/// Values longer than this are counted.
const LONG_VALUE: usize = 1 << 20;
/// How many bytes of open files may be held when a user other than root reads a long value.
const HELD_BYTES_MAX: usize = 1 << 29;

/// An open directory: whose, and what there is in it.
type Listing = (u32, Arc<Vec<Entry>>);

/// The tree, as FUSE asks about it.
pub struct View {
    pub(super) scribe: Scribe,
    pub(super) tree: Arc<Tree>,
    nr_aside: Arc<AtomicUsize>,
    pub(super) handles: Arc<Handles>,
    pub(super) listings: Mutex<std::collections::HashMap<u64, Listing>>,
    pub(super) last_listing: std::sync::atomic::AtomicU64,
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { tid: request.pid().cast_signed(), uid: request.uid(), gid: request.gid() }
}

pub(super) const fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
    }
}

pub(super) fn file_attr(inode: Inode, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(inode.0),
        size: attr.size,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: kind(attr.kind),
        perm: attr.mode,
        nlink: if attr.kind == Kind::Directory { 2 } else { 1 },
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl View {
    /// Shows a tree.
    pub fn new(tree: Arc<Tree>, controller: Arc<Controller>) -> Self {
        let handles = Arc::<Handles>::default();
        Self {
            scribe: Scribe { tree: tree.clone(), controller, handles: handles.clone() },
            tree,
            nr_aside: Arc::default(),
            handles,
            listings: Mutex::default(),
            last_listing: std::sync::atomic::AtomicU64::new(0),
        }
    }

    pub(super) fn attr(&self, inode: Inode) -> Result<FileAttr, Refusal> {
        Ok(file_attr(inode, &self.tree.room(inode)?.stat(inode.local())?))
    }

    /// Says how long the kernel may remember an entry; what changes sooner it is told.
    pub(super) fn ttl(&self, inode: Inode) -> Duration {
        self.tree.room(inode).map_or(Duration::ZERO, |room| room.ttl(inode.local()))
    }

    /// Says whether an entry's room may take long.
    pub(super) fn is_slow(&self, inode: Inode, is_change: bool) -> bool {
        self.tree.room(inode).is_ok_and(|room| room.is_slow(inode.local(), is_change))
    }

    /// Carries out what answers a request: at once, or if it `is_slow` on a thread of its own, so that nobody else waits for it. `busy` answers
    /// instead if there are too many of those.
    pub(super) fn carry_out<R: Send + 'static>(
        &self,
        is_slow: bool,
        reply: R,
        work: impl FnOnce(R) + Send + 'static,
        busy: impl FnOnce(R),
    ) {
        if !is_slow {
            return work(reply);
        }
        if self.nr_aside.fetch_add(1, Ordering::SeqCst) >= ASIDE_MAX {
            self.nr_aside.fetch_sub(1, Ordering::SeqCst);
            return busy(reply);
        }
        let nr = self.nr_aside.clone();
        let aside = move || {
            work(reply);
            nr.fetch_sub(1, Ordering::SeqCst);
        };
        if let Err(error) = std::thread::Builder::new().name("aside".into()).spawn(aside) {
            // What is not answered is answered with EIO when it is dropped.
            self.nr_aside.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!(%error, "a request is not carried out");
        }
    }

    /// Writes a refused operation into `error_log`; gives the errno for the answer.
    pub(super) fn refused(
        &self,
        request: &Request,
        op: &str,
        at: (INodeNo, Option<&OsStr>),
        value: &[u8],
        number: i32,
        why: &Refusal,
    ) -> Errno {
        self.scribe.refused(caller(request), op, at, value, number, why)
    }

    pub(super) fn not_made(&self, request: &Request, op: &str, parent: INodeNo, name: &OsStr) -> Errno {
        let why = Refusal::new(Why::NotAllowed, "the tree has only the files that it has");
        self.refused(request, op, (parent, Some(name)), b"", why.errno(), &why)
    }

    /// Keeps a listing for an open directory; gives its number. A user other than root who has others open must not let the sum grow too large.
    pub(super) fn keep_listing(&self, uid: u32, entries: Vec<Entry>) -> Option<u64> {
        let mut listings = self.listings.lock();
        let held: usize = match uid {
            0 => 0,
            uid => listings.values().filter(|(of, _)| *of == uid).map(|(_, entries)| entries.len()).sum(),
        };
        if held > 0 && held + entries.len() > HELD_ENTRIES_MAX {
            return None;
        }
        let number = self.last_listing.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        listings.insert(number, (uid, Arc::new(entries)));
        Some(number)
    }
}

/// Knows the tree and writes down what is refused.
#[derive(Clone)]
pub(super) struct Scribe {
    pub(super) tree: Arc<Tree>,
    controller: Arc<Controller>,
    handles: Arc<Handles>,
}

impl Scribe {
    pub(super) fn path(&self, inode: Inode, name: Option<&OsStr>) -> String {
        let dir = self.tree.room(inode).map(|room| room.path(inode.local())).unwrap_or_default();
        match name {
            None => dir,
            Some(name) if dir.is_empty() => name.to_string_lossy().into_owned(),
            Some(name) => format!("{dir}/{}", name.to_string_lossy()),
        }
    }

    /// Writes a refused operation into `error_log`; gives the errno for the answer.
    pub(super) fn refused(
        &self,
        caller: Caller,
        op: &str,
        (inode, name): (INodeNo, Option<&OsStr>),
        value: &[u8],
        number: i32,
        why: &Refusal,
    ) -> Errno {
        self.controller.journal().refused(&Refused {
            uid: caller.uid,
            pid: caller.pid(self.controller.host()),
            op,
            path: &self.path(Inode(inode.0), name),
            value,
            errno: number,
            reason: &why.reason,
        });
        errno(number)
    }

    pub(super) fn read_value(
        &self,
        caller: &Caller,
        inode: Inode,
        offset: u64,
        kept: &Mutex<Arc<[u8]>>,
    ) -> Result<Arc<[u8]>, Refusal> {
        if offset == 0 {
            let text = self.tree.room(inode)?.read(inode.local(), caller)?;
            let is_long = text.len() > LONG_VALUE && caller.uid != 0;
            if is_long && self.handles.held_bytes() + text.len() > HELD_BYTES_MAX {
                return Err(Refusal::new(Why::Other(libc::ENFILE), "too many long values are held open"));
            }
            *kept.lock() = text.into_bytes().into();
        }
        Ok(kept.lock().clone())
    }
}
