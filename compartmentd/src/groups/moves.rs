//! Moving processes between groups.

use std::sync::Arc;

use super::caller::Caller;
use super::controller::Controller;
use super::driver::Driver as _;
use super::group::{Group, GroupId, Phase};
use super::host::Process;
use super::kind::{Kind, Members as _};
use crate::errno::{Refusal, Why, no_process};

impl<K: Kind> Controller<K> {
    /// Moves a process, its threads with it, from one group to another. A representative nests its group instead.
    ///
    /// # Errors
    /// ESRCH if the process is gone, or not in `from` any more; EPERM; EBUSY while a group is removed; ELOOP;
    /// EOPNOTSUPP for processes that can be in no group; and what the workers refuse. Then the process is where it was.
    pub fn move_process(
        self: &Arc<Self>,
        caller: &Caller,
        pid: i32,
        from: GroupId,
        to: GroupId,
    ) -> Result<(), Refusal> {
        let _reserved = self.moves.reserve(pid)?;
        let (process, current) = self.locate_now(pid).ok_or_else(|| no_process(pid))?;
        if current != from {
            return Err(Refusal::new(
                Why::NoProcess,
                format!("process {pid} is in group {} by now", self.name_of(current)),
            ));
        }
        if let Some(inner) = self.represented_by(&process) {
            return K::move_representative(self, caller, &inner, &process, to);
        }
        if let Some(what) = self.unmovable(&process) {
            return Err(Refusal::new(Why::Unsupported, format!("process {pid} is {what}")));
        }
        caller.check_controls(&*self.host, pid)?;
        self.check_owns(caller, from)?;
        self.check_owns(caller, to)?;
        if from == to {
            return Ok(());
        }
        self.transfer(&process, from, to)?;
        self.tell_moved(caller, pid, from, to);
        Ok(())
    }

    /// Puts a process that is in no group into one, on the daemon's own account.
    ///
    /// # Errors
    /// As [`Controller::move_process`].
    pub fn place(self: &Arc<Self>, pid: i32, to: GroupId) -> Result<(), Refusal> {
        self.move_process(&Caller::DAEMON, pid, GroupId::HOST, to)
    }

    pub(crate) fn check_owns(&self, caller: &Caller, id: GroupId) -> Result<(), Refusal> {
        if id == GroupId::HOST || caller.owns(self.group(id)?.owner().0) {
            return Ok(());
        }
        Err(Refusal::new(Why::NotAllowed, format!("group {} is not the caller's", self.name_of(id))))
    }

    /// As `locate`, but for a process that the index does not know asks the worker of its parent: the child may
    /// just have been forked, and its event be under way.
    fn locate_now(&self, pid: i32) -> Option<(Process, GroupId)> {
        let (process, group) = self.locate(pid)?;
        if group != GroupId::HOST {
            return Some((process, group));
        }
        let parent = self.host.process(process.ppid).map(|parent| self.group_of(&parent));
        if let Some(id) = parent.filter(|id| *id != GroupId::HOST)
            && let Ok(group) = self.group(id)
        {
            group.forget_view();
            if group.view().is_ok_and(|view| view.start_time(pid) == Some(process.start_time)) {
                self.tables.lock().put(pid, process.start_time, id);
                return Some((process, id));
            }
        }
        Some((process, GroupId::HOST))
    }

    fn transfer(&self, process: &Process, from: GroupId, to: GroupId) -> Result<(), Refusal> {
        let target = if to == GroupId::HOST { None } else { Some(self.group(to)?) };
        let source = if from == GroupId::HOST { None } else { Some(self.group(from)?) };
        // Both stay while we are at it; taken in the order of their numbers, as by everybody.
        let mut both: Vec<&Arc<Group<K>>> = [&source, &target].into_iter().flatten().collect();
        both.sort_by_key(|group| group.id);
        let phases: Vec<_> = both.iter().map(|group| group.phase.read()).collect();
        if let Some(i) = phases.iter().position(|phase| **phase == Phase::Removing) {
            return Err(both[i].being_removed());
        }
        let target_driver = target.as_ref().map(|group| group.driver()).transpose()?;
        if let Some(source) = &source {
            K::settle(self, source, process);
            source.driver()?.leave(process.pid)?;
            source.forget_view();
        }
        if let Some(driver) = &target_driver {
            if let Err(e) = driver.join(process.pid, process.start_time) {
                match source.as_deref() {
                    Some(source) if e.why == Why::Broken && !K::GOES_BACK_UNANSWERED => {
                        self.tell_escaped(process, source, &e);
                    }
                    source => self.give_back(process, source),
                }
                return Err(e);
            }
            if let Some(target) = &target {
                target.forget_view();
            }
        }
        self.tables.lock().put(process.pid, process.start_time, to);
        if let Some(target) = &target {
            K::settle(self, target, process);
        }
        Ok(())
    }

    /// Puts a process back where it was after a join that failed.
    fn give_back(&self, process: &Process, source: Option<&Group<K>>) {
        let Some(source) = source else { return };
        let back = source.driver().and_then(|driver| driver.join(process.pid, process.start_time));
        if let Err(error) = back {
            self.tell_escaped(process, source, &error);
        }
    }

    /// Notes that a process has left a group and come into none.
    fn tell_escaped(&self, process: &Process, source: &Group<K>, error: &Refusal) {
        self.tables.lock().take(process.pid);
        self.post_member(source.id, process.pid);
        let uids = [source.owner().0; 2];
        self.event(uids, "escaped", &[("group", &source.name), ("pid", &process.pid), ("reason", error)]);
    }

    pub(super) fn tell_moved(&self, caller: &Caller, pid: i32, from: GroupId, to: GroupId) {
        let owner =
            self.group(if to == GroupId::HOST { from } else { to }).map_or(0, |group| group.owner().0);
        self.event(
            [caller.uid, owner],
            "moved",
            &[("pid", &pid), ("from", &self.name_of(from)), ("to", &self.name_of(to)), ("uid", &caller.uid)],
        );
        for group in [from, to] {
            self.post_member(group, pid);
        }
    }
}
