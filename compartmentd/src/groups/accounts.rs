//! What the daemon itself sees of its groups' workers: the CPU time that their members get, and whether a worker and its keeper hang both.
//!
//! A thread looks once a second while anybody in any group wants to run, and sleeps else: workers say when that begins ([`Told::Busy`](super::Told)).

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use guest_sched::host::cgroup;
use host_sys::process;
use parking_lot::{Condvar, Mutex};

use super::controller::Controller;
use super::group::{Group, GroupId};
use super::host::Process;
use super::ledger::{Account, Ledger};

const PERIOD: Duration = Duration::from_secs(1);
/// So many looks in a row must find the same sign of life overdue.
const SILENT_LOOKS: u32 = 3;

/// The ledgers of all groups.
#[derive(Debug, Default)]
pub struct Accounts {
    ledgers: Mutex<HashMap<GroupId, Ledger>>,
    is_called: Mutex<bool>,
    bell: Condvar,
}

impl Accounts {
    /// Somebody wants to run, or has come.
    pub(super) fn call(&self) {
        *self.is_called.lock() = true;
        self.bell.notify_one();
    }

    /// Reads what one process has used, which is about to leave or has just joined.
    pub(super) fn settle(&self, group: &Group, process: &Process) {
        let account = account_of(cgroup::v2_mount().as_deref(), process);
        if let Some(used) = read(&account) {
            self.ledgers.lock().entry(group.id).or_default().settle(account, used);
        }
    }

    fn wait(&self, period: Option<Duration>) {
        let mut is_called = self.is_called.lock();
        if !*is_called {
            match period {
                Some(period) => drop(self.bell.wait_for(&mut is_called, period)),
                None => self.bell.wait(&mut is_called),
            }
        }
        *is_called = false;
    }
}

/// The signs of life that were overdue at the last look, and at how many before.
type Silence = HashMap<GroupId, (u64, u32)>;

impl Controller {
    /// Looks at the groups' workers from now on, by a thread of its own.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn watch_workers(self: &Arc<Self>) -> io::Result<()> {
        let this = Arc::downgrade(self);
        let run = move || {
            let (mut silence, mut is_busy) = (Silence::new(), true);
            while let Some(controller) = this.upgrade() {
                controller.accounts().wait(is_busy.then_some(PERIOD));
                let groups = controller.groups();
                controller.accounts().ledgers.lock().retain(|id, _| groups.iter().any(|g| g.id == *id));
                silence.retain(|id, _| groups.iter().any(|g| g.id == *id));
                is_busy = false;
                for group in groups {
                    is_busy |= controller.look_at(&group, &mut silence);
                }
            }
        };
        std::thread::Builder::new().name("accounts".into()).spawn(run).map(drop)
    }

    /// Says whether the group has to be looked at again soon.
    fn look_at(&self, group: &Group, silence: &mut Silence) -> bool {
        let Ok(driver) = group.driver() else { return true };
        let Some(worker) = driver.worker() else { return false };
        match worker.overdue() {
            Some(beat) => {
                let (of, looks) = silence.entry(group.id).or_insert((beat, 0));
                *looks = if *of == beat { *looks + 1 } else { 1 };
                *of = beat;
                if *looks >= SILENT_LOOKS {
                    tracing::error!(group = group.name, "worker and keeper hang and are killed");
                    self.launcher.kill(&group.dir);
                }
            }
            None => drop(silence.remove(&group.id)),
        }
        self.sample(group) || worker.is_busy()
    }

    /// Reads what the members have used. Says whether they have used anything since the last time.
    fn sample(&self, group: &Group) -> bool {
        let mount = cgroup::v2_mount();
        let mut readings = HashMap::new();
        for process in self.members(group.id) {
            // A nested group has a ledger of its own.
            if self.represented_by(&process).is_some() {
                continue;
            }
            let account = account_of(mount.as_deref(), &process);
            if !readings.contains_key(&account)
                && let Some(used) = read(&account)
            {
                readings.insert(account, used);
            }
        }
        let mut ledgers = self.accounts().ledgers.lock();
        ledgers.entry(group.id).or_default().sample(process::now(), readings)
    }

    /// Gives the CPU time that the group's members, and those of the groups nested in it, have used in the last `window_ns`, by the
    /// kernel's account; `None` if they were not watched for so long.
    pub fn used_ns(&self, group: &Group, window_ns: u64) -> Option<u64> {
        self.sample(group);
        let own = self.accounts().ledgers.lock().get(&group.id)?.used_ns(window_ns)?;
        let inner = self.groups().into_iter().filter(|inner| inner.outer() == Some(group.id));
        inner.map(|inner| self.used_ns(&inner, window_ns)).try_fold(own, |sum, used| Some(sum + used?))
    }
}

fn account_of(mount: Option<&std::path::Path>, process: &Process) -> Account {
    let dir = mount.and_then(|mount| {
        let path = cgroup::v2_path(process.pid, process.pid).ok()?;
        Some(cgroup::dir(mount, cgroup::down_to_ours(&path)?))
    });
    dir.map_or(Account::Process(process.pid, process.start_time), Account::Cgroup)
}

fn read(account: &Account) -> Option<u64> {
    match account {
        Account::Cgroup(dir) => read_cgroup(dir.join("cpu.stat")),
        Account::Process(pid, _) => process::cpu_time(*pid).ok(),
    }
}

fn read_cgroup(file: PathBuf) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    usage.parse::<u64>().ok()?.checked_mul(1_000)
}
