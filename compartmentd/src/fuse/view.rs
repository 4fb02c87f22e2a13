//! What the file system is made of, and how it answers; the requests themselves are in `filesystem`.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, Generation, INodeNo, Request};
use parking_lot::Mutex;

use super::handles::{Handles, errno};
use crate::errno::{Refusal, Why};
use crate::groups::journal::Refused;
use crate::groups::{Caller, Controller};
use crate::tree::{Attr, Entry, Inode, Kind, Tree};

/// How long the kernel may remember entries; what changes sooner it is told.
pub(super) const TTL: Duration = Duration::from_secs(1);
pub(super) const GENERATION: Generation = Generation(0);
/// The longest write: longer ones come in pieces, and no value is longer.
pub(super) const WRITE_MAX: u32 = 128 * 1024;

/// The tree, as FUSE asks about it.
pub struct View {
    pub(super) tree: Arc<Tree>,
    pub(super) controller: Arc<Controller>,
    pub(super) handles: Arc<Handles>,
    pub(super) listings: Mutex<std::collections::HashMap<u64, Arc<Vec<Entry>>>>,
    pub(super) last_listing: std::sync::atomic::AtomicU64,
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { tid: request.pid().cast_signed(), uid: request.uid(), gid: request.gid() }
}

pub(super) const fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
    }
}

fn file_attr(inode: Inode, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(inode.0),
        size: 0,
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
        Self {
            tree,
            controller,
            handles: Arc::default(),
            listings: Mutex::default(),
            last_listing: std::sync::atomic::AtomicU64::new(0),
        }
    }

    pub(super) fn attr(&self, inode: Inode) -> Result<FileAttr, Refusal> {
        Ok(file_attr(inode, &self.tree.room(inode)?.stat(inode.local())?))
    }

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
        request: &Request,
        op: &str,
        (inode, name): (INodeNo, Option<&OsStr>),
        value: &[u8],
        number: i32,
        why: &Refusal,
    ) -> Errno {
        let caller = caller(request);
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

    pub(super) fn not_made(&self, request: &Request, op: &str, parent: INodeNo, name: &OsStr) -> Errno {
        let why = Refusal::new(Why::NotAllowed, "the tree has only the files that it has");
        self.refused(request, op, (parent, Some(name)), b"", why.errno(), &why)
    }

    pub(super) fn read_value(
        &self,
        request: &Request,
        inode: Inode,
        offset: u64,
        kept: &Mutex<Arc<[u8]>>,
    ) -> Result<Arc<[u8]>, Refusal> {
        if offset == 0 {
            let text = self.tree.room(inode)?.read(inode.local(), &caller(request))?;
            *kept.lock() = text.into_bytes().into();
        }
        Ok(kept.lock().clone())
    }
}
