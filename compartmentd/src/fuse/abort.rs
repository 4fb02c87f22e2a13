//! The end of a connection whose daemon was killed, even if one of its threads cannot die.
//!
//! A thread that has the kernel forget an entry waits for the lock of the entry's directory; whoever lists that directory has the lock, and waits
//! for our answer. If we are killed in that moment, each waits for the other, and the next daemon for both: `/dev/fuse` is still open. The kernel
//! lets a connection be aborted through a file of `fusectl`, which is opened beforehand.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use host_sys::LastWill;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::supervise::mount::device_of;

const CONTROL: &str = "/sys/fs/fuse/connections";

/// Sees to it that the connection of the mount at `at` ends with the calling thread.
///
/// # Errors
/// Where the connection's file cannot be opened: `fusectl` is not mounted, and we are not root.
pub(super) fn with_this_thread(at: &Path) -> io::Result<LastWill> {
    let device = device_of(at).ok_or(io::ErrorKind::NotFound)?;
    let file = Path::new(CONTROL).join(device.to_string()).join("abort");
    let open = File::options().write(true).open(&file).or_else(|_| open_apart(file))?;
    LastWill::leave(open.into())
}

/// Opens a file of `fusectl` where nobody has mounted that, in a mount namespace that lasts no longer.
fn open_apart(file: PathBuf) -> io::Result<File> {
    const NONE: Option<&str> = None;
    let open = move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
        mount(Some("fusectl"), CONTROL, Some("fusectl"), MsFlags::empty(), NONE)?;
        File::options().write(true).open(file)
    };
    let apart = thread::Builder::new().name("fusectl".into()).spawn(open)?;
    apart.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}
