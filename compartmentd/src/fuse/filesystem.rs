//! The requests of FUSE, one method each.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;

use super::handles::{Cut, Handle, Reader, StreamHandle, WatchedHandle, errno};
use super::view::{GENERATION, View, WRITE_MAX, caller, file_attr, kind};
use crate::errno::{Refusal, Why};
use crate::tree::{Attr, Inode, Opened, TTL, Urgency};

impl Filesystem for View {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            // A list of /proc with what `stat` shows of each: else every `ps` would ask for every process.
            InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO,
            // As long as the inode: links whose text changes are looked up as another one each time.
            InitFlags::FUSE_CACHE_SYMLINKS,
        ];
        for flags in wanted {
            let _ = config.add_capabilities(flags);
        }
        let _ = config.set_max_write(WRITE_MAX);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let dir = Inode(parent.0);
        let found = self.tree.room(dir).and_then(|room| room.lookup(dir.local(), name));
        match found.and_then(|inode| self.attr(inode)) {
            Ok(attr) => reply.entry(&self.ttl(Inode(attr.ino.0)), &attr, GENERATION),
            // Only here is a number seen that no process has: the kernel does not go on to what was to be done with it.
            Err(why) if why.why == Why::NoProcess => {
                reply.error(self.refused(request, "lookup", (parent, Some(name)), b"", why.errno(), &why));
            }
            Err(_) => {
                match self.tree.room(dir).map_or(Duration::ZERO, |room| room.missing_ttl(dir.local())) {
                    Duration::ZERO => reply.error(Errno::ENOENT),
                    // The number 0 is no entry's: then that there is none is remembered.
                    ttl => reply.entry(&ttl, &file_attr(Inode(0), &Attr::file(0)), GENERATION),
                }
            }
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(Inode(inode.0)) {
            Ok(attr) => reply.attr(&self.ttl(Inode(inode.0)), &attr),
            Err(why) => reply.error(errno(why.errno())),
        }
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        let at = Inode(inode.0);
        match self.tree.room(at).and_then(|room| room.readlink(at.local(), &caller(request))) {
            Ok(text) => reply.data(text.as_bytes()),
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
            // The value comes later when it is cut by `echo VALUE > FILE`: a refused one leaves all as it was.
            if size == Some(0)
                && room.is_emptied_by_cutting(at.local())
                && !self.handles.cut(inode.0, &caller(request))
            {
                return room.write(at.local(), &caller(request), b"");
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
        let (dir, name) = (Inode(parent.0), name.to_owned());
        let (scribe, caller) = (self.scribe.clone(), caller(request));
        self.carry_out(
            self.is_slow(dir, true),
            reply,
            move |reply: ReplyEmpty| match scribe
                .tree
                .room(dir)
                .and_then(|room| room.rmdir(dir.local(), &name, &caller))
            {
                Ok(()) => reply.ok(),
                Err(why) => {
                    let at = (parent, Some(name.as_os_str()));
                    reply.error(scribe.refused(caller, "rmdir", at, b"", why.errno(), &why));
                }
            },
            |reply| reply.error(Errno::EBUSY),
        );
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
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        let (scribe, caller) = (self.scribe.clone(), caller(request));
        self.carry_out(
            self.is_slow(Inode(parent.0), true),
            reply,
            move |reply: ReplyEmpty| {
                let from = (Inode(parent.0), name.as_os_str());
                let to = (Inode(new_parent.0), new_name.as_os_str());
                match scribe.tree.rename(&caller, from, to, is_exchange) {
                    Ok(()) => reply.ok(),
                    Err(why) => {
                        let value = scribe.path(to.0, Some(to.1));
                        let (at, number) = ((parent, Some(from.1)), why.rename_errno());
                        reply.error(scribe.refused(caller, "rename", at, value.as_bytes(), number, &why));
                    }
                }
            },
            |reply| reply.error(Errno::EBUSY),
        );
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let at = Inode(inode.0);
        match self.tree.room(at).and_then(|room| room.open(at.local(), &caller(request))) {
            Ok(Opened::Value)
                if flags.acc_mode() == OpenAccMode::O_WRONLY
                    && self.tree.room(at).is_ok_and(|room| room.is_emptied_by_cutting(at.local())) =>
            {
                let number = self.handles.add(Handle::Cut(Cut::new(inode.0, caller(request))));
                reply.opened(FileHandle(number), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
            }
            // Other writers keep nothing.
            Ok(Opened::Value) if flags.acc_mode() == OpenAccMode::O_WRONLY => {
                reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
            }
            Ok(Opened::Value) => {
                let number = self.handles.add(Handle::Value(Mutex::new(Arc::from([]))));
                reply.opened(FileHandle(number), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
            }
            Ok(Opened::Watched(watched)) => {
                let number = self.handles.add(Handle::Watched(WatchedHandle::new(watched)));
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
        let caller = caller(request);
        if let Handle::Stream(stream) = &*handle {
            let reader = Reader { caller, max: size as usize, reply };
            let refused = self.handles.read(stream, reader, flags.0 & libc::O_NONBLOCK != 0);
            if let Some(why) = refused {
                self.refused(request, "read", (inode, None), b"", why.errno(), &why);
            }
            return;
        }
        let (at, scribe) = (Inode(inode.0), self.scribe.clone());
        self.carry_out(
            self.is_slow(at, false),
            reply,
            move |reply: ReplyData| {
                let kept = match &*handle {
                    Handle::Value(kept) => kept,
                    Handle::Watched(handle) => {
                        handle.watched.was_read();
                        &handle.kept
                    }
                    Handle::Stream(_) | Handle::Cut(_) => return reply.error(Errno::EBADF),
                };
                match scribe.read_value(&caller, at, offset, kept) {
                    Ok(bytes) => {
                        let start = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
                        reply.data(&bytes[start..bytes.len().min(start.saturating_add(size as usize))]);
                    }
                    Err(why) => reply.error(errno(why.errno())),
                }
            },
            |reply| reply.error(Errno::EBUSY),
        );
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (at, caller, scribe) = (Inode(inode.0), caller(request), self.scribe.clone());
        let (handle, data) = (self.handles.get(fh.0), data.to_vec());
        self.carry_out(
            self.is_slow(at, true),
            reply,
            move |reply: ReplyWrite| {
                if let Some(Handle::Cut(cut)) = handle.as_deref() {
                    cut.written();
                }
                let done = match handle.as_deref() {
                    Some(Handle::Watched(handle)) => handle.watched.write(&caller, &data),
                    _ => scribe.tree.room(at).and_then(|room| room.write(at.local(), &caller, &data)),
                };
                match done {
                    Ok(()) => reply.written(data.len() as u32),
                    Err(why) => {
                        let at = (inode, None);
                        reply.error(scribe.refused(caller, "write", at, &data, why.errno(), &why));
                    }
                }
            },
            |reply| reply.error(Errno::EBUSY),
        );
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
            Some(Handle::Watched(handle)) => {
                if flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY) {
                    handle.set_poll(notifier);
                }
                reply.poll(
                    PollEvents::POLLIN
                        | PollEvents::POLLOUT
                        | match handle.watched.poll() {
                            Urgency::None => PollEvents::empty(),
                            Urgency::Event => PollEvents::POLLPRI,
                            Urgency::Changed => PollEvents::POLLPRI | PollEvents::POLLERR,
                        },
                );
            }
            _ => reply.poll(PollEvents::POLLIN | PollEvents::POLLOUT),
        }
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        match self.handles.remove(fh.0).as_deref() {
            Some(Handle::Stream(handle)) => handle.stream.close(),
            Some(Handle::Cut(cut)) => {
                let at = Inode(inode.0);
                if let Some(caller) = cut.is_left_cut()
                    && let Err(error) =
                        self.tree.room(at).and_then(|room| room.write(at.local(), caller, b""))
                {
                    tracing::warn!(%error, "a file that was cut keeps its value");
                }
            }
            _ => {}
        }
        reply.ok();
    }

    fn opendir(&self, request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let at = Inode(inode.0);
        match self.tree.room(at).and_then(|room| room.list(at.local())) {
            Ok(entries) => match self.keep_listing(request.uid(), entries) {
                Some(number) => reply.opened(FileHandle(number), FopenFlags::empty()),
                None => reply.error(Errno::ENFILE),
            },
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
        let Some(entries) = self.listings.lock().get(&fh.0).map(|(_, entries)| entries.clone()) else {
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

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(entries) = self.listings.lock().get(&fh.0).map(|(_, entries)| entries.clone()) else {
            return reply.error(Errno::EBADF);
        };
        let dots = [(".", Inode(inode.0)), ("..", Inode::ROOT)].map(|(name, ino)| (name, ino, None));
        let others = entries.iter().map(|e| (e.name.as_str(), e.inode, e.attr));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (i, (name, ino, known)) in dots.into_iter().chain(others).enumerate().skip(skip) {
            // What is looked up only now may have changed since the list was made: the kernel shall ask again.
            let (attr, ttl) = match known {
                Some(attr) => (file_attr(ino, &attr), self.ttl(ino)),
                None => match self.attr(ino) {
                    Ok(attr) => (attr, Duration::ZERO),
                    Err(_) => continue,
                },
            };
            if reply.add(INodeNo(ino.0), i as u64 + 1, name, &ttl, &attr, GENERATION) {
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
