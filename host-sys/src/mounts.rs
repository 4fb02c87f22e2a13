//! Mounts that are made in one mount namespace and put into another (Linux 5.2).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::sys;

/// A copy of a mount, or of a directory in one, that is mounted nowhere yet. Gone when dropped.
#[derive(Debug)]
pub struct DetachedMount(OwnedFd);

impl DetachedMount {
    /// Copies what is at `path`, without what is mounted below.
    ///
    /// # Errors
    /// Those of `open_tree(2)`; `EPERM` without `CAP_SYS_ADMIN` in the user namespace that owns our mount namespace.
    pub fn copy(path: &Path) -> io::Result<Self> {
        sys::open_tree_clone(&CString::new(path.as_os_str().as_bytes())?).map(Self)
    }

    /// Mounts it at `path` of the mount namespace in which we are now.
    ///
    /// # Errors
    /// Those of `move_mount(2)`.
    pub fn attach(&self, path: &Path) -> io::Result<()> {
        sys::move_mount(self.0.as_fd(), &CString::new(path.as_os_str().as_bytes())?)
    }
}
