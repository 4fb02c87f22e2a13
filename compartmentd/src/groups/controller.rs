//! All groups, and what may be asked about them. Changes are in the sibling modules, one per verb.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::accounts::Accounts;
use super::driver::{Driver as _, Launcher};
use super::group::{Group, GroupId};
use super::host::{Host, Process};
use super::journal::Journal;
use super::kind::Kind;
use super::reserve::Reservations;
use super::sched::Sched;
use super::tables::Tables;
use crate::errno::{Refusal, Why};
use crate::notices::{Notice, Notices, Side};
use crate::supervise::StateRoot;
use crate::tasks::Guests;

/// What a controller is made of.
pub struct Setup<K: Kind = Sched> {
    /// The processes.
    pub host: Arc<dyn Host>,
    /// Starts workers.
    pub launcher: Arc<dyn Launcher<K>>,
    /// Where what happens is written.
    pub journal: Arc<Journal>,
    /// Where changes are told.
    pub notices: Notices,
    /// Where groups are kept.
    pub state: StateRoot,
    /// What is set of new groups, beside their names and guests.
    pub template: K::Config,
}

/// Holds all groups of a kind. Shared; every method may be called from several threads.
pub struct Controller<K: Kind = Sched> {
    pub(super) host: Arc<dyn Host>,
    pub(super) launcher: Arc<dyn Launcher<K>>,
    pub(super) journal: Arc<Journal>,
    pub(super) notices: Notices,
    pub(super) state: StateRoot,
    pub(super) template: K::Config,
    pub(super) tables: Mutex<Tables<K>>,
    pub(super) nesting: Mutex<()>,
    pub(super) moves: Reservations,
    beside: K::Beside,
    /// The other kinds' groups, whose keepers and workers are no members either.
    others: Mutex<Vec<Weak<dyn Owns>>>,
}

/// Who has processes of its own.
pub trait Owns: Send + Sync {
    /// Says what a process is, if it is one of them.
    fn own(&self, pid: i32) -> Option<&'static str>;
}

impl<K: Kind> std::fmt::Debug for Controller<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("tables", &self.tables).finish_non_exhaustive()
    }
}

impl<K: Kind> Owns for Controller<K> {
    fn own(&self, pid: i32) -> Option<&'static str> {
        self.groups().iter().filter_map(|group| group.driver().ok()).find_map(|driver| {
            if pid == driver.keeper_pid() {
                Some("a keeper")
            } else {
                (pid == driver.worker_pid()).then_some("a worker")
            }
        })
    }
}

impl Controller {
    /// Gives the applications that show tasks.
    pub fn guests(&self) -> &Arc<Guests> {
        &self.beside.guests
    }

    pub(super) fn accounts(&self) -> &Accounts {
        &self.beside.accounts
    }
}

impl<K: Kind> Controller<K> {
    /// Makes a controller without groups.
    pub fn new(setup: Setup<K>) -> Arc<Self> {
        let Setup { host, launcher, journal, notices, state, template } = setup;
        let beside = K::beside(&journal, &notices, &state);
        Arc::new(Self {
            host,
            launcher,
            journal,
            notices,
            state,
            template,
            tables: Mutex::default(),
            nesting: Mutex::default(),
            moves: Reservations::default(),
            beside,
            others: Mutex::default(),
        })
    }

    /// Has the processes of another kind's groups be refused as members.
    pub fn respect(&self, other: &Arc<impl Owns + 'static>) {
        let other: Weak<dyn Owns> = Arc::downgrade(other) as _;
        self.others.lock().push(other);
    }

    /// Gives the processes of the host.
    pub fn host(&self) -> &dyn Host {
        &*self.host
    }

    /// Gives the processes of the host, to be shared.
    pub fn shared_host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// Gives where groups are kept.
    pub fn state(&self) -> &StateRoot {
        &self.state
    }

    /// Gives where changes are told.
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Gives the logs.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Gives a group.
    ///
    /// # Errors
    /// ENOENT if there is none (any more), and for group 0, which has no worker.
    pub fn group(&self, id: GroupId) -> Result<Arc<Group<K>>, Refusal> {
        self.tables
            .lock()
            .group(id)
            .ok_or_else(|| Refusal::new(Why::Missing, "there is no such group (any more)"))
    }

    /// Finds a group other than 0 by its name.
    pub fn group_named(&self, name: &str) -> Option<Arc<Group<K>>> {
        self.tables.lock().by_name(name)
    }

    /// Lists the groups other than 0.
    pub fn groups(&self) -> Vec<Arc<Group<K>>> {
        self.tables.lock().groups()
    }

    /// Gives the name of a group for people.
    pub fn name_of(&self, id: GroupId) -> String {
        if id == GroupId::HOST {
            "0".into()
        } else {
            self.group(id).map_or_else(|_| "?".into(), |g| g.name.clone())
        }
    }

    /// Finds a process that has not ended and the group it is in.
    pub fn locate(&self, pid: i32) -> Option<(Process, GroupId)> {
        let process = self.host.process(pid)?;
        Some((process, self.group_of(&process)))
    }

    /// Gives the group a process is in.
    pub fn group_of(&self, process: &Process) -> GroupId {
        let mut tables = self.tables.lock();
        match tables.membership(process.pid) {
            Some(m) if m.start_time == process.start_time => m.group,
            Some(m) => {
                // The number belongs to another process now; its worker has not told yet.
                tables.take(process.pid);
                drop(tables);
                self.post_member(m.group, process.pid);
                GroupId::HOST
            }
            None => GroupId::HOST,
        }
    }

    /// Lists the processes of a group. One look into `/proc` for each; for group 0 one per process of the host.
    pub fn members(&self, id: GroupId) -> Vec<Process> {
        if id != GroupId::HOST {
            let pids = self.tables.lock().pids(id);
            return pids
                .into_iter()
                .filter_map(|pid| self.locate(pid))
                .filter_map(|(process, group)| (group == id).then_some(process))
                .collect();
        }
        let grouped: HashSet<i32> = self.tables.lock().members().keys().copied().collect();
        let pids = self.host.pids().into_iter().filter(|pid| !grouped.contains(pid));
        pids.filter_map(|pid| self.host.process(pid)).collect()
    }

    /// Counts the processes of a group, as far as is known.
    pub(super) fn nr_members(&self, id: GroupId) -> usize {
        self.tables.lock().pids(id).len()
    }

    /// Finds the group that a process represents.
    pub fn represented_by(&self, process: &Process) -> Option<Arc<Group<K>>> {
        if !K::NESTS {
            return None;
        }
        self.groups().into_iter().find(|group| group.is_represented_by(process))
    }

    /// Says why a process can be in no group, if so: it belongs to the kernel or to us.
    pub(super) fn unmovable(&self, process: &Process) -> Option<&'static str> {
        if process.is_kernel_thread {
            return Some("a kernel thread");
        }
        if process.pid == std::process::id() as i32 {
            return Some("the daemon itself");
        }
        if process.pid == 1 {
            return Some("the init process");
        }
        let others: Vec<_> = self.others.lock().iter().filter_map(Weak::upgrade).collect();
        self.own(process.pid).or_else(|| others.iter().find_map(|other| other.own(process.pid)))
    }

    /// Tells whoever looks at the tree of a process that came or went.
    pub(super) fn post_member(&self, group: GroupId, pid: i32) {
        self.notices.post(Notice::Member { side: K::SIDE, group, pid });
    }

    /// Writes an event that is about things of these users.
    pub(super) fn event(&self, uids: [u32; 2], event: &str, words: &[(&str, &dyn std::fmt::Display)]) {
        let (dir, mut words) = (K::SIDE.dir(), words.to_vec());
        if K::SIDE != Side::Sched {
            words.push(("in", &dir));
        }
        self.journal.event(uids, event, &words);
    }

    /// Gives who owns a process's entry: the owner of the group it represents, else the user who may control it, else root.
    pub fn owner_of(&self, process: &Process) -> (u32, u32) {
        if let Some(group) = self.represented_by(process) {
            return group.owner();
        }
        match self.host.creds(process.pid) {
            Some(creds) => creds.controller().map_or((0, 0), |uid| (uid, creds.gid)),
            None => (0, 0),
        }
    }

    /// Takes the exit status of keepers that have ended.
    pub fn reap(&self) {
        self.launcher.reap();
    }
}
