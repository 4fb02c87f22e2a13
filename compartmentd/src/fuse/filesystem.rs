//! The requests of FUSE, one method each.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyPoll, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;

use super::handles::{Handle, Reader, StreamHandle, errno};
use super::view::{GENERATION, TTL, View, WRITE_MAX, caller, kind};
use crate::errno::{Refusal, Why};
use crate::tree::{Inode, Opened};

impl Filesystem for View {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_write(WRITE_MAX);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let parent = Inode(parent.0);
        let found = self.tree.room(parent).and_then(|room| room.lookup(parent.local(), name));
        match found.and_then(|inode| self.attr(inode)) {
            Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
            Err(_) => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(Inode(inode.0)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(why) => reply.error(errno(why.errno())),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let at = Inode(inode.0);
        let done = self.tree.room(at).and_then(|room| {
            if uid.is_some() || gid.is_some() {
                return room.chown(at.local(), &caller(request), uid, gid);
            }
            // `echo VALUE > FILE` cuts the file first; times may be set, and are not kept.
            if mode.is_some() || size.is_some_and(|size| size != 0) {
                return Err(Refusal::new(Why::NotAllowed, "modes and sizes are fixed"));
            }
            Ok(())
        });
        match done.and_then(|()| self.attr(at)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(why) => reply.error(self.refused(request, "setattr", (inode, None), b"", why.errno(), &why)),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let dir = Inode(parent.0);
        let made = self.tree.room(dir).and_then(|room| room.mkdir(dir.local(), name, &caller(request)));
        match made.and_then(|inode| self.attr(inode)) {
            Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
            Err(why) => {
                reply.error(self.refused(request, "mkdir", (parent, Some(name)), b"", why.errno(), &why))
            }
        }
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let dir = Inode(parent.0);
        match self.tree.room(dir).and_then(|room| room.rmdir(dir.local(), name, &caller(request))) {
            Ok(()) => reply.ok(),
            Err(why) => {
                reply.error(self.refused(request, "rmdir", (parent, Some(name)), b"", why.errno(), &why))
            }
        }
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let is_exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
        let from = (Inode(parent.0), name);
        let to = (Inode(new_parent.0), new_name);
        match self.tree.rename(&caller(request), from, to, is_exchange) {
            Ok(()) => reply.ok(),
            Err(why) => {
                let value = self.path(Inode(new_parent.0), Some(new_name));
                let at = (parent, Some(name));
                reply.error(self.refused(request, "rename", at, value.as_bytes(), why.rename_errno(), &why));
            }
        }
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let at = Inode(inode.0);
        match self.tree.room(at).and_then(|room| room.open(at.local(), &caller(request))) {
            // Writers keep nothing.
            Ok(Opened::Value) if flags.acc_mode() == OpenAccMode::O_WRONLY => {
                reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
            }
            Ok(Opened::Value) => {
                let number = self.handles.add(Handle::Value(Mutex::new(Arc::from([]))));
                reply.opened(FileHandle(number), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
            }
            Ok(Opened::Stream(stream)) => {
                let number = self.handles.add(Handle::Stream(StreamHandle::new(stream)));
                let flags = FopenFlags::FOPEN_DIRECT_IO
                    | FopenFlags::FOPEN_NOFLUSH
                    | FopenFlags::FOPEN_NONSEEKABLE
                    | FopenFlags::FOPEN_STREAM;
                reply.opened(FileHandle(number), flags);
            }
            Err(why) => reply.error(self.refused(request, "open", (inode, None), b"", why.errno(), &why)),
        }
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(handle) = self.handles.get(fh.0) else { return reply.error(Errno::EBADF) };
        match &*handle {
            Handle::Value(kept) => match self.read_value(request, Inode(inode.0), offset, kept) {
                Ok(bytes) => {
                    let start = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
                    reply.data(&bytes[start..bytes.len().min(start.saturating_add(size as usize))]);
                }
                Err(why) => reply.error(errno(why.errno())),
            },
            Handle::Stream(stream) => {
                let reader = Reader { caller: caller(request), max: size as usize, reply };
                let refused = self.handles.read(stream, reader, flags.0 & libc::O_NONBLOCK != 0);
                if let Some(why) = refused {
                    self.refused(request, "read", (inode, None), b"", why.errno(), &why);
                }
            }
        }
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let at = Inode(inode.0);
        match self.tree.room(at).and_then(|room| room.write(at.local(), &caller(request), data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(why) => reply.error(self.refused(request, "write", (inode, None), data, why.errno(), &why)),
        }
    }

    fn poll(
        &self,
        _request: &Request,
        _inode: INodeNo,
        fh: FileHandle,
        notifier: PollNotifier,
        _events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        match self.handles.get(fh.0).as_deref() {
            Some(Handle::Stream(handle)) => {
                if flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY) {
                    handle.set_poll(notifier);
                }
                // Looked at after the notifier is in place: what comes between is told.
                let is_ready = handle.stream.is_ready();
                reply.poll(if is_ready {
                    PollEvents::POLLIN | PollEvents::POLLRDNORM
                } else {
                    PollEvents::empty()
                });
            }
            _ => reply.poll(PollEvents::POLLIN | PollEvents::POLLOUT),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        if let Some(handle) = self.handles.remove(fh.0)
            && let Handle::Stream(handle) = &*handle
        {
            handle.stream.close();
        }
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let at = Inode(inode.0);
        match self.tree.room(at).and_then(|room| room.list(at.local())) {
            Ok(entries) => {
                let number = self.last_listing.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                self.listings.lock().insert(number, Arc::new(entries));
                reply.opened(FileHandle(number), FopenFlags::empty());
            }
            Err(why) => reply.error(errno(why.errno())),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(entries) = self.listings.lock().get(&fh.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let dots = [(".", inode), ("..", INodeNo(Inode::ROOT.0))]
            .map(|(name, ino)| (name, ino, FileType::Directory));
        let others = entries.iter().map(|e| (e.name.as_str(), INodeNo(e.inode.0), kind(e.kind)));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (i, (name, ino, kind)) in dots.into_iter().chain(others).enumerate().skip(skip) {
            if reply.add(ino, i as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.lock().remove(&fh.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(self.not_made(request, "create", parent, name));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(self.not_made(request, "mknod", parent, name));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _to: &std::path::Path,
        reply: ReplyEntry,
    ) {
        reply.error(self.not_made(request, "symlink", parent, name));
    }

    fn link(&self, request: &Request, _inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply.error(self.not_made(request, "link", parent, name));
    }

    fn getxattr(&self, _request: &Request, _inode: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        // The kernel remembers ENOSYS and answers EOPNOTSUPP by itself from then on.
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _inode: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let why = Refusal::new(Why::NotAllowed, "the tree's files go with their directories");
        reply.error(self.refused(request, "unlink", (parent, Some(name)), b"", why.errno(), &why));
    }
}
