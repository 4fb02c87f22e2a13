//! One group.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::driver::Driver as _;
use super::host::Process;
use super::kind::Kind;
use super::sched::Sched;
use crate::errno::{Refusal, Why};

/// A group's number inside the daemon: never used again, unlike its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GroupId(pub u32);

impl GroupId {
    /// The host's own scheduler or memory.
    pub const HOST: Self = Self(0);
}

/// The process that holds a group made by reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    /// Its PID, which is the group's name and representative.
    pub pid: i32,
    /// Its start time.
    pub start_time: u64,
}

/// Whether a group may be changed. Moves into a group hold this for reading, its removal for writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// It may.
    Alive,
    /// It is being removed, or is.
    Removing,
}

/// Where a group is nested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Nested {
    pub(super) outer: GroupId,
    /// The representative's PID at that time: the outer worker's name for this group.
    pub(super) pid: i32,
}

#[derive(Debug)]
pub(super) struct GroupSetup<K: Kind> {
    pub(super) config: K::Config,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) holder: Option<Holder>,
    pub(super) nested: Option<Nested>,
}

/// Has a worker bring its table up to date; `None` if it does not answer in time. The thread that goes on waiting then ends with the
/// client's own patience.
fn sync_in_time<K: Kind>(driver: &Arc<K::Driver>) -> Option<Result<(), Refusal>> {
    let (tx, rx) = channel();
    let asked = driver.clone();
    let spawned = std::thread::Builder::new().name("sync".into()).spawn(move || tx.send(asked.sync()));
    match spawned {
        Ok(_) => rx.recv_timeout(PATIENCE).ok(),
        Err(_) => Some(driver.sync()),
    }
}

/// What was shown last.
pub(super) struct Cache<K: Kind> {
    at: Instant,
    view: Option<Arc<K::View>>,
    /// Since when its worker does not answer.
    silent_since: Option<Instant>,
}

/// A group other than 0.
pub struct Group<K: Kind = Sched> {
    /// Its number.
    pub id: GroupId,
    /// Its name in the tree.
    pub name: String,
    /// Its state directory.
    pub dir: PathBuf,
    pub(super) phase: RwLock<Phase>,
    pub(super) tuning: Mutex<()>,
    pub(super) setup: Mutex<GroupSetup<K>>,
    pub(super) driver: RwLock<Option<Arc<K::Driver>>>,
    pub(super) cache: Mutex<Cache<K>>,
}

impl<K: Kind> std::fmt::Debug for Group<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// How old what is shown of a group may be: its worker is asked no more often.
const FRESH: Duration = Duration::from_millis(20);
/// A worker that takes longer than this to answer is stopped or hangs.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long such a worker is not asked again.
const SILENCE: Duration = Duration::from_secs(5);

impl<K: Kind> Group<K> {
    pub(super) fn new(id: GroupId, dir: PathBuf, setup: GroupSetup<K>) -> Self {
        Self {
            id,
            name: K::name(&setup.config).to_owned(),
            dir,
            phase: RwLock::new(Phase::Alive),
            tuning: Mutex::new(()),
            setup: Mutex::new(setup),
            driver: RwLock::new(None),
            cache: Mutex::new(Cache { at: Instant::now(), view: None, silent_since: None }),
        }
    }

    /// Gives its worker.
    ///
    /// # Errors
    /// EBUSY while there is none: it is starting, or being started again.
    pub fn driver(&self) -> Result<Arc<K::Driver>, Refusal> {
        let driver = self.driver.read().clone();
        driver.ok_or_else(|| {
            Refusal::new(Why::Busy, format!("the worker of group {} is being started", self.name))
        })
    }

    /// Gives what is set of it.
    pub fn config(&self) -> K::Config {
        self.setup.lock().config.clone()
    }

    /// Gives its owner and the owner's group.
    pub fn owner(&self) -> (u32, u32) {
        let setup = self.setup.lock();
        (setup.uid, setup.gid)
    }

    /// Gives the process that holds it, if it was made by reading.
    pub fn holder(&self) -> Option<Holder> {
        self.setup.lock().holder
    }

    /// Gives the group that it is nested in.
    pub fn outer(&self) -> Option<GroupId> {
        self.setup.lock().nested.map(|nested| nested.outer)
    }

    pub(super) fn nested(&self) -> Option<Nested> {
        self.setup.lock().nested
    }

    /// Gives the process that stands for it on the host: its holder, else its worker.
    pub fn representative(&self) -> Option<i32> {
        match self.holder() {
            Some(holder) => Some(holder.pid),
            None => self.driver().ok().map(|driver| driver.worker_pid()).filter(|pid| *pid > 0),
        }
    }

    /// Says whether a process stands for it. A holder's number may belong to another process by now, if something else holds the group
    /// open for it.
    pub(super) fn is_represented_by(&self, process: &Process) -> bool {
        match self.holder() {
            Some(holder) => (holder.pid, holder.start_time) == (process.pid, process.start_time),
            None => self.representative() == Some(process.pid),
        }
    }

    /// Shows it as it is, at most 20 ms ago. What a worker that does not answer published last is better than nothing.
    ///
    /// # Errors
    /// EBUSY while there is no worker.
    pub fn view(&self) -> Result<Arc<K::View>, Refusal> {
        let driver = self.driver()?;
        // Somebody else may be waiting for a worker that does not answer: then what it published last has to do.
        let Some(mut cache) = self.cache.try_lock_for(PATIENCE) else {
            return Ok(Arc::new(driver.view()));
        };
        if let Some(view) = &cache.view
            && cache.at.elapsed() < FRESH
        {
            return Ok(view.clone());
        }
        if cache.silent_since.is_none_or(|since| since.elapsed() > SILENCE) {
            match sync_in_time::<K>(&driver) {
                Some(Ok(())) => cache.silent_since = None,
                Some(Err(error)) => {
                    tracing::debug!(group = self.name, %error, "a worker did not bring its table up to date");
                }
                None => cache.silent_since = Some(Instant::now()),
            }
        }
        let view = Arc::new(driver.view());
        cache.at = Instant::now();
        cache.view = Some(view.clone());
        Ok(view)
    }

    /// Has the next look see what was just changed.
    pub(crate) fn forget_view(&self) {
        if let Some(mut cache) = self.cache.try_lock_for(PATIENCE) {
            cache.view = None;
        }
    }

    pub(super) fn is_removing(&self) -> bool {
        *self.phase.read() == Phase::Removing
    }

    pub(super) fn being_removed(&self) -> Refusal {
        Refusal::new(Why::Busy, format!("group {} is being removed", self.name))
    }
}
