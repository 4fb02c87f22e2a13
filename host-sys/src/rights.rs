//! Doing something with a user's file-system rights, on a thread of its own.
//!
//! Only the ids that count for files are changed (`setfsuid(2)`), never the thread's user ids: a thread with those could be signalled by that
//! user, and the whole process with it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{Gid, Uid, geteuid, setfsgid, setfsuid};

/// Whose rights count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Makes an unlinked file in `dir` as `whom`, on a path without links, and lets it go again. Gives the directory's path as the kernel has it.
///
/// # Errors
/// What `whom` would get: EACCES, ENOENT, ENOTDIR, EROFS, EOPNOTSUPP, …; ELOOP for a link on the way; EPERM if we may not take on those rights.
pub fn try_tmpfile(dir: &Path, whom: &Identity) -> io::Result<PathBuf> {
    std::thread::scope(|scope| {
        let tried = std::thread::Builder::new().name("rights".into()).spawn_scoped(scope, || {
            become_for_files(whom)?;
            try_here(dir)
        })?;
        tried.join().map_err(|_| io::Error::other("a thread failed"))?
    })
}

fn try_here(dir: &Path) -> io::Result<PathBuf> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let at: OwnedFd = openat2(AT_FDCWD, dir, how)?;
    let own = format!("/proc/self/fd/{}", at.as_raw_fd());
    let path = std::fs::read_link(&own)?;
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(&own)?;
    Ok(path)
}

/// Gives the calling thread the rights of somebody for files. It has no way back: the thread has to end.
fn become_for_files(whom: &Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(whom.uid), Gid::from_raw(whom.gid));
    if uid == geteuid() {
        return Ok(());
    }
    crate::sys::set_thread_groups(&whom.groups)?;
    setfsgid(gid);
    setfsuid(uid);
    // They give what was before, whether or not it has worked.
    if setfsgid(gid) != gid || setfsuid(uid) != uid {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(())
}
