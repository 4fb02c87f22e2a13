//! Parking by `SIGSTOP` and `SIGCONT`: for whoever has nothing better. A process is one task.
//!
//! Weaker than the others: the parent sees the stop, and a stop by the user while the process is parked is lost when its
//! turn comes (a stop while it runs is seen and kept).

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use host_sys::Pidfd;

use super::{Outcome, Parker, Target};
use crate::host::table::{Parked, Table};
use crate::types::TaskId;

/// The way of parking by stop signals.
#[derive(Debug)]
pub struct Stopper {
    table: Arc<Table>,
    tasks: HashMap<TaskId, (Target, Option<Pidfd>, bool)>,
}

impl Stopper {
    /// Starts with nobody.
    pub fn new(table: Arc<Table>) -> Self {
        Self { table, tasks: HashMap::new() }
    }

    fn signal(&mut self, id: TaskId, signal: i32) -> io::Result<()> {
        let (_, pidfd, is_parked) =
            self.tasks.get_mut(&id).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        if let Some(pidfd) = pidfd {
            pidfd.signal(signal)?;
        }
        *is_parked = signal == libc::SIGSTOP;
        Ok(())
    }
}

impl Parker for Stopper {
    fn is_per_thread(&self) -> bool {
        false
    }

    fn attach(&mut self, target: Target) {
        self.tasks.insert(target.id, (target, Pidfd::open(target.pid).ok(), false));
    }

    fn prepare(&mut self, _id: TaskId) -> bool {
        true
    }

    fn forked(&mut self, _parent: TaskId, child: Target) -> bool {
        self.attach(child);
        false
    }

    fn park(&mut self, id: TaskId) -> io::Result<()> {
        self.table.set_parked(id.index(), Parked::Stop);
        self.signal(id, libc::SIGSTOP)
    }

    fn resume(&mut self, id: TaskId) -> io::Result<bool> {
        self.signal(id, libc::SIGCONT)?;
        self.table.set_parked(id.index(), Parked::No);
        Ok(true)
    }

    fn is_free(&self, id: TaskId) -> bool {
        self.tasks.get(&id).is_some_and(|(.., is_parked)| !is_parked)
    }

    fn is_out(&self, id: TaskId) -> bool {
        self.tasks
            .get(&id)
            .and_then(|(t, ..)| host_sys::process::stat(t.pid).ok())
            .is_none_or(|stat| !stat.is_runnable())
    }

    fn exited(&mut self, id: TaskId) {
        self.tasks.remove(&id);
        self.table.set_parked(id.index(), Parked::No);
    }

    fn detach(&mut self, id: TaskId) {
        if self.tasks.get(&id).is_some_and(|t| t.2) {
            let _ = self.signal(id, libc::SIGCONT);
        }
        self.exited(id);
    }

    fn notifier(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn outcomes(&mut self) -> Vec<Outcome> {
        Vec::new()
    }

    fn settle(&mut self) {}
}
