//! A memory worker as the controller needs it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use guest_mm::uffd::client::MemWorker;
use guest_mm::uffd::proto::{MemConfig, UnmanagedRange};
use guest_mm::uffd::table::{MemStat, MemTable};
use host_sys::uffd::{self, Abilities, Userfaultfd};

use super::{Mem, MemView};
use crate::errno::{Refusal, Why};
use crate::groups::driver::{Workers, drive_by_methods, kill_keepers};
use crate::groups::{Driver, Launched, Launcher};
use crate::supervise::liveness;

/// What is asked of a memory worker alone.
pub trait MemDriver: Driver<Mem> {
    /// Evicts so many bytes now.
    ///
    /// # Errors
    /// EAGAIN if less could be evicted (that is), and any other of the worker's.
    fn reclaim(&self, bytes: u64) -> Result<(), Refusal>;
    /// Lists what cannot be paged of a member.
    ///
    /// # Errors
    /// Any of the worker's.
    fn unmanaged(&self, pid: i32) -> Result<Vec<UnmanagedRange>, Refusal>;
    /// Gives the counters published last.
    fn stat(&self) -> MemStat;
}

drive_by_methods!(
    MemWorker, Mem,
    view: |worker| MemView::from(worker.snapshot()),
    pids: |worker| worker.worker_pid(), |worker| worker.keeper_pid()
);

impl MemDriver for MemWorker {
    fn reclaim(&self, bytes: u64) -> Result<(), Refusal> {
        Ok(Self::reclaim(self, bytes)?)
    }
    fn unmanaged(&self, pid: i32) -> Result<Vec<UnmanagedRange>, Refusal> {
        Ok(Self::unmanaged(self, pid)?)
    }
    fn stat(&self) -> MemStat {
        Self::stat(self)
    }
}

/// Refuses where no worker could do its work, and says what would help.
fn check_host() -> Result<(), Refusal> {
    let unsupported = |what: String, remedy| {
        Refusal::new(
            Why::Unsupported,
            format!("this host has no memory groups: {what}; to have them: {remedy}"),
        )
    };
    match Userfaultfd::probe() {
        Ok(Abilities { has_move: true }) => Ok(()),
        Ok(_) => Err(unsupported("no UFFDIO_MOVE".into(), uffd::MOVE_REMEDY)),
        Err(e) => Err(unsupported(format!("userfaultfd: {e}"), uffd::REMEDY)),
    }
}

impl Launcher<Mem> for Workers {
    fn spawn(&self, dir: &Path, config: &MemConfig) -> Result<Launched<Mem>, Refusal> {
        check_host()?;
        let (tx, rx) = channel();
        let worker = MemWorker::spawn(self.exe(), dir, config, tx)?;
        self.started(worker.keeper_pid());
        Ok((Arc::new(worker), rx))
    }

    fn connect(&self, dir: &Path) -> Result<Launched<Mem>, Refusal> {
        let table = MemTable::open(dir).map_err(io::Error::other)?;
        liveness::wait_for_worker(dir, || (table.keeper_pid(), table.worker_pid()), || false)?;
        let (tx, rx) = channel();
        Ok((Arc::new(MemWorker::connect(dir, tx)?), rx))
    }

    /// Nothing is parked by a guest VM. Members whose pages went with keeper and worker are killed by their agents.
    fn recover(&self, _dir: &Path) -> Result<Vec<i32>, Refusal> {
        Ok(Vec::new())
    }

    fn kill(&self, dir: &Path) {
        kill_keepers(dir);
    }

    fn reap(&self) {
        self.reap_keepers();
    }
}
