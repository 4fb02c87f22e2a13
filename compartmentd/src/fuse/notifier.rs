//! Tells the kernel what to forget, from a thread of its own: the kernel may take the directory's lock for that, which it holds during
//! requests.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use fuser::{INodeNo, Notifier};

use super::handles::Handles;
use crate::notices::Notice;
use crate::tree::rooms::{Stale, stale};

pub(super) fn deliver(notices: &Receiver<Notice>, notifier: &Notifier, handles: &Arc<Handles>) {
    for notice in notices {
        if notice == Notice::Streams {
            handles.wake();
            continue;
        }
        for stale in stale(&notice) {
            let told = match &stale {
                Stale::Entry(dir, name) => notifier.inval_entry(INodeNo(dir.0), OsStr::new(name)),
                Stale::Inode(inode) => notifier.inval_inode(INodeNo(inode.0), 0, 0),
            };
            match told {
                // What the kernel has not cached it need not forget.
                Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENOTCONN)) => {
                    tracing::debug!(error = %e, ?stale, "the kernel does not forget");
                }
                _ => {}
            }
        }
    }
}
