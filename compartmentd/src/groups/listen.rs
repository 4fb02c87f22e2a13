//! Hearing what workers report, and noticing their end. One thread per group, asleep until something happens.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::controller::Controller;
use super::driver::Launched;
use super::group::{Group, GroupId};
use super::kind::{Kind, Members as _};
use crate::errno::{Refusal, Why};

/// A group whose workers have to be replaced more often than this many times a minute is given up, or followed at a slower pace.
const MENDS_MAX: usize = 30;
/// The slower pace.
const PAUSE: Duration = Duration::from_secs(2);

/// What a worker reported, of whatever kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// A member forked a process, which is a member now.
    Forked {
        /// The parent process.
        parent: i32,
        /// The child process.
        child: i32,
    },
    /// A member process ended.
    Exited {
        /// The process.
        pid: i32,
    },
    /// A member executed another program.
    Executed {
        /// The process.
        pid: i32,
    },
    /// A process is free of the group.
    Escaped {
        /// The process.
        pid: i32,
        /// Why, in words.
        reason: String,
    },
    /// A member was killed, and is still to end.
    Killed {
        /// What the event is called.
        event: &'static str,
        /// The process.
        pid: i32,
        /// Its resident bytes, where they are known.
        resident: Option<u64>,
        /// Why, in words.
        reason: String,
    },
    /// The worker started again after its predecessor died.
    Restarted {
        /// How many members were found again.
        members: usize,
    },
    /// Somebody wants to run after nobody did for a while.
    Busy,
    /// A part works less well than it could.
    Degraded {
        /// What and why, in words.
        reason: String,
    },
}

impl<K: Kind> Controller<K> {
    /// Follows a group until its end.
    pub(super) fn listen(self: &Arc<Self>, group: &Arc<Group<K>>, mut events: Receiver<K::Event>) {
        let mut ends: Vec<Instant> = Vec::new();
        loop {
            for event in &events {
                self.on_event(group, event.into());
            }
            // The connection has ended: the worker is done, or dead.
            if group.is_removing() {
                return;
            }
            *group.driver.write() = None;
            match self.reach_again(group, &mut ends) {
                Ok((driver, again)) => {
                    *group.driver.write() = Some(driver);
                    events = again;
                    self.on_reconnected(group);
                }
                Err(error) => {
                    if !group.is_removing() {
                        self.give_up(group, &error);
                    }
                    return;
                }
            }
        }
    }

    /// Finds the group's next worker: its keeper starts one, and if that is gone too, we do; also if the new ones die while they start.
    fn reach_again(&self, group: &Group<K>, ends: &mut Vec<Instant>) -> Result<Launched<K>, Refusal> {
        loop {
            ends.retain(|end| end.elapsed() < Duration::from_secs(60));
            ends.push(Instant::now());
            if ends.len() > MENDS_MAX && !K::IS_GIVEN_UP {
                tracing::warn!(group = %group.name, "its worker ends again and again");
                std::thread::sleep(PAUSE);
            } else if ends.len() > MENDS_MAX {
                return Err(Refusal::new(Why::Broken, "its worker ends again and again"));
            }
            match self.launcher.connect(&group.dir).or_else(|_| self.mend(group)) {
                Err(error) if !group.is_removing() => {
                    tracing::warn!(group = %group.name, ?error, "a worker did not start");
                }
                other => return other,
            }
        }
    }

    /// Resumes what dead keeper and worker left parked, then starts others over the same state directory.
    pub(super) fn mend(&self, group: &Group<K>) -> Result<Launched<K>, Refusal> {
        let resumed = self.launcher.recover(&group.dir)?;
        let uids = [group.owner().0; 2];
        self.event(uids, "mended", &[("group", &group.name), ("resumed", &resumed.len())]);
        self.launcher.spawn(&group.dir, &group.config())
    }

    fn on_reconnected(&self, group: &Arc<Group<K>>) {
        self.index_snapshot(group);
        let uids = [group.owner().0; 2];
        self.event(uids, "reconnected", &[("group", &group.name), ("members", &self.nr_members(group.id))]);
        K::relink(self, group);
        K::look(self);
    }

    /// Makes the index agree with what the worker publishes.
    pub(super) fn index_snapshot(&self, group: &Group<K>) {
        group.forget_view();
        let Ok(view) = group.view() else { return };
        let mut tables = self.tables.lock();
        for pid in tables.pids(group.id) {
            if view.start_time(pid).is_none() {
                tables.take(pid);
            }
        }
        for (pid, start_time) in view.members() {
            // What stands for a nested group is known better here than by the worker.
            let known = tables.membership(pid).filter(|m| m.group == group.id).map(|m| m.start_time);
            let is_right = |start| self.host.process(pid).is_some_and(|process| process.start_time == start);
            if !known.is_some_and(is_right) {
                tables.put(pid, start_time, group.id);
            }
        }
    }

    fn on_event(&self, group: &Arc<Group<K>>, event: Told) {
        let uids = [group.owner().0; 2];
        let name = &group.name;
        match event {
            Told::Forked { parent, child } => {
                if let Some(process) = self.host.process(child) {
                    self.index_child(group, child, process.start_time);
                }
                self.event(uids, "forked", &[("group", name), ("parent", &parent), ("pid", &child)]);
            }
            Told::Exited { pid } => {
                self.index_gone(group, pid);
                self.event(uids, "exited", &[("group", name), ("pid", &pid)]);
            }
            Told::Executed { pid } => {
                self.event(uids, "executed", &[("group", name), ("pid", &pid)]);
            }
            Told::Escaped { pid, reason } => {
                self.index_gone(group, pid);
                self.event(uids, "escaped", &[("group", name), ("pid", &pid), ("reason", &reason)]);
            }
            Told::Killed { event, pid, resident, reason } => {
                let bytes = resident.map_or_else(|| "unknown".to_owned(), |bytes| bytes.to_string());
                let words: [(&str, &dyn std::fmt::Display); 4] =
                    [("group", name), ("pid", &pid), ("resident", &bytes), ("reason", &reason)];
                self.event(uids, event, &words);
                group.forget_view();
            }
            Told::Restarted { members } => {
                self.index_snapshot(group);
                self.event(uids, "restarted", &[("group", name), ("members", &members)]);
            }
            Told::Busy => K::look(self),
            Told::Degraded { reason } => {
                self.event(uids, "degraded", &[("group", name), ("reason", &reason)]);
            }
        }
    }

    fn index_child(&self, group: &Group<K>, pid: i32, start_time: u64) {
        let mut tables = self.tables.lock();
        // It may have been moved on before we heard of it.
        if tables.membership(pid).is_none_or(|m| m.start_time != start_time) {
            tables.put(pid, start_time, group.id);
            drop(tables);
            self.post_member(group.id, pid);
            self.post_member(GroupId::HOST, pid);
        }
    }

    fn index_gone(&self, group: &Group<K>, pid: i32) {
        let mut tables = self.tables.lock();
        if tables.membership(pid).is_some_and(|m| m.group == group.id) {
            tables.take(pid);
            drop(tables);
            self.post_member(group.id, pid);
        }
        group.forget_view();
    }
}
