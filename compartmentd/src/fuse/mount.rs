//! A mount with its threads.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use host_sys::LastWill;

use super::view::View;
use super::{abort, notifier};
use crate::notices::Notice;
use crate::supervise::mount::SUBTYPE;

/// Threads that answer requests: some may wait for a worker.
const THREADS: usize = 8;

/// A served mount; unmounted when dropped.
pub struct Mounted {
    _last_will: Option<LastWill>,
    unmounter: SessionUnmounter,
    at: PathBuf,
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mounted").finish_non_exhaustive()
    }
}

impl Mounted {
    /// Mounts at a prepared place ([`crate::supervise::mount::prepare`]): for all users if we are root, else for us. `on_end` is
    /// called when the mount is gone, by whomever. The connection ends with the calling thread.
    ///
    /// # Errors
    /// Those of the mount; if we are not root, `/dev/fuse` must be open to all, and `fusermount3` installed.
    pub fn mount(
        view: View,
        at: &Path,
        notices: Receiver<Notice>,
        on_end: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<Self> {
        let is_root = nix::unistd::geteuid().is_root();
        let mut config = Config::default();
        config.acl = if is_root { SessionACL::All } else { SessionACL::Owner };
        config.mount_options = vec![
            MountOption::FSName(SUBTYPE.into()),
            MountOption::Subtype(SUBTYPE.into()),
            MountOption::DefaultPermissions,
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::NoExec,
        ];
        config.n_threads = Some(THREADS);
        let handles = view.handles.clone();
        let mut session = Session::new(view, at, &config)?;
        let (unmounter, notifier) = (session.unmount_callable(), session.notifier());
        let (waking, ticking) = (handles.clone(), handles);
        spawn("notifier", move || notifier::deliver(&notices, &notifier, &waking))?;
        spawn("held-reads", move || ticking.tick_forever())?;
        spawn("fuse", move || on_end(session.run()))?;
        let last_will = abort::with_this_thread(at);
        if let Err(error) = &last_will {
            tracing::debug!(%error, "a connection may outlive us");
        }
        Ok(Self { _last_will: last_will.ok(), unmounter, at: at.to_owned() })
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Out of the way first, even if somebody has a file open there: what fuser does would be refused then.
        if crate::supervise::mount::is_mounted(&self.at)
            && let Err(error) = crate::supervise::mount::detach(&self.at)
        {
            tracing::warn!(%error, "the mount is left behind");
        }
        let _ = self.unmounter.unmount();
    }
}

/// Keeps the type checker honest: the view is shared by all threads.
const _: fn() = || {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Arc<View>>();
};
