//! Hearing what workers report, and noticing their end. One thread per group, asleep until something happens.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use guest_sched::host::Event;

use super::controller::Controller;
use super::driver::Launched;
use super::group::Group;
use crate::errno::{Refusal, Why};
use crate::notices::Notice;

/// A group whose workers have to be replaced more often than this many times a minute is given up.
const MENDS_MAX: usize = 30;

impl Controller {
    /// Follows a group until its end.
    pub(super) fn listen(self: &Arc<Self>, group: &Arc<Group>, mut events: Receiver<Event>) {
        let mut ends: Vec<Instant> = Vec::new();
        loop {
            for event in &events {
                self.on_event(group, event);
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
    fn reach_again(&self, group: &Group, ends: &mut Vec<Instant>) -> Result<Launched, Refusal> {
        loop {
            ends.retain(|end| end.elapsed() < Duration::from_secs(60));
            ends.push(Instant::now());
            if ends.len() > MENDS_MAX {
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
    pub(super) fn mend(&self, group: &Group) -> Result<Launched, Refusal> {
        let resumed = self.launcher.recover(&group.dir)?;
        let uids = [group.owner().0; 2];
        self.journal.event(uids, "mended", &[("group", &group.name), ("resumed", &resumed.len())]);
        self.launcher.spawn(&group.dir, &group.config())
    }

    fn on_reconnected(&self, group: &Arc<Group>) {
        self.index_snapshot(group);
        let uids = [group.owner().0; 2];
        self.journal.event(
            uids,
            "reconnected",
            &[("group", &group.name), ("members", &self.nr_members(group.id))],
        );
        let _nesting = self.nesting.lock();
        self.refresh_nesting(group);
        for inner in self.nested_in(group.id) {
            self.refresh_nesting(&inner);
        }
    }

    /// Makes the index agree with what the worker publishes.
    pub(super) fn index_snapshot(&self, group: &Group) {
        group.forget_view();
        let Ok(view) = group.view() else { return };
        let mut tables = self.tables.lock();
        for pid in tables.pids(group.id) {
            if !view.tasks.contains_key(&pid) {
                tables.take(pid);
            }
        }
        for (pid, task) in &view.tasks {
            // What stands for a nested group is known better here than by the worker.
            let known = tables.membership(*pid).filter(|m| m.group == group.id).map(|m| m.start_time);
            let is_right = |start| self.host.process(*pid).is_some_and(|process| process.start_time == start);
            if !known.is_some_and(is_right) {
                tables.put(*pid, task.start_time, group.id);
            }
        }
    }

    fn on_event(&self, group: &Arc<Group>, event: Event) {
        let uids = [group.owner().0; 2];
        let name = &group.name;
        match event {
            Event::Forked { parent, child } => {
                if let Some(process) = self.host.process(child) {
                    self.index_child(group, child, process.start_time);
                }
                self.journal.event(uids, "forked", &[("group", name), ("parent", &parent), ("pid", &child)]);
            }
            Event::Exited { pid } => {
                self.index_gone(group, pid);
                self.journal.event(uids, "exited", &[("group", name), ("pid", &pid)]);
            }
            Event::Executed { pid } => {
                self.journal.event(uids, "executed", &[("group", name), ("pid", &pid)]);
            }
            Event::Escaped { pid, reason } => {
                self.index_gone(group, pid);
                self.journal.event(uids, "escaped", &[("group", name), ("pid", &pid), ("reason", &reason)]);
            }
            Event::Restarted { members } => {
                self.index_snapshot(group);
                self.journal.event(uids, "restarted", &[("group", name), ("members", &members)]);
            }
            Event::Degraded { reason } => {
                self.journal.event(uids, "degraded", &[("group", name), ("reason", &reason)]);
            }
        }
    }

    fn index_child(&self, group: &Group, pid: i32, start_time: u64) {
        let mut tables = self.tables.lock();
        // It may have been moved on before we heard of it.
        if tables.membership(pid).is_none_or(|m| m.start_time != start_time) {
            tables.put(pid, start_time, group.id);
            drop(tables);
            self.notices.post(Notice::Member { group: group.id, pid });
            self.notices.post(Notice::Member { group: super::GroupId::HOST, pid });
        }
    }

    fn index_gone(&self, group: &Group, pid: i32) {
        let mut tables = self.tables.lock();
        if tables.membership(pid).is_some_and(|m| m.group == group.id) {
            tables.take(pid);
            drop(tables);
            self.notices.post(Notice::Member { group: group.id, pid });
        }
        group.forget_view();
    }
}
