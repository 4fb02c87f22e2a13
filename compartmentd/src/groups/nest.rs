//! Nesting: a group as one task of another.

use std::sync::Arc;

use super::caller::Caller;
use super::controller::Controller;
use super::group::{Group, GroupId, Nested, Phase};
use super::host::Process;
use crate::errno::{Refusal, Why};

impl Controller {
    /// Nests `inner` into `to`, out of wherever it is nested; into group 0 makes it free.
    pub(super) fn move_representative(
        &self,
        caller: &Caller,
        inner: &Arc<Group>,
        process: &Process,
        to: GroupId,
    ) -> Result<(), Refusal> {
        let _nesting = self.nesting.lock();
        let from = inner.outer().unwrap_or(GroupId::HOST);
        for id in [inner.id, from, to] {
            self.check_owns(caller, id)?;
        }
        if from == to {
            return Ok(());
        }
        self.check_no_circle(inner.id, to)?;
        let target = if to == GroupId::HOST { None } else { Some(self.group(to)?) };
        let _phases: Vec<_> = {
            let mut groups: Vec<&Arc<Group>> = [Some(inner), target.as_ref()].into_iter().flatten().collect();
            groups.sort_by_key(|group| group.id);
            let phases: Vec<_> = groups.iter().map(|group| group.phase.read()).collect();
            if let Some(i) = phases.iter().position(|phase| **phase == Phase::Removing) {
                return Err(groups[i].being_removed());
            }
            phases
        };
        let old = self.take_out(inner)?;
        if let Some(target) = &target {
            let nested = target.driver().and_then(|outer| outer.nest(process.pid, &*inner.driver()?));
            if let Err(e) = nested {
                self.put_back(inner, old);
                return Err(e);
            }
            target.forget_view();
            inner.setup.lock().nested = Some(Nested { outer: to, pid: process.pid });
        }
        self.tables.lock().put(process.pid, process.start_time, to);
        if let Err(error) = self.save(inner) {
            tracing::warn!(group = inner.name, %error, "where a group is nested is not kept");
        }
        self.tell_moved(caller, process.pid, from, to);
        Ok(())
    }

    /// Walks outwards from `to`: it must not come by `inner`.
    fn check_no_circle(&self, inner: GroupId, to: GroupId) -> Result<(), Refusal> {
        let mut at = to;
        while at != GroupId::HOST {
            if at == inner {
                let name = self.name_of(inner);
                return Err(Refusal::new(Why::Circle, format!("group {name} would be inside of itself")));
            }
            at = self.group(at)?.outer().unwrap_or(GroupId::HOST);
        }
        Ok(())
    }

    /// Takes a group out of the one it is nested in; gives where that was.
    pub(super) fn take_out(&self, inner: &Group) -> Result<Option<Nested>, Refusal> {
        let Some(nested) = inner.nested() else { return Ok(None) };
        if let Ok(outer) = self.group(nested.outer) {
            match outer.driver()?.leave(nested.pid) {
                // The outer worker has seen its end already.
                Err(e) if e.errno() == libc::ESRCH => {}
                other => other?,
            }
            outer.forget_view();
        }
        inner.driver()?.ungate()?;
        inner.setup.lock().nested = None;
        self.tables.lock().take(nested.pid);
        Ok(Some(nested))
    }

    fn put_back(&self, inner: &Group, old: Option<Nested>) {
        let Some(old) = old else { return };
        inner.setup.lock().nested = Some(old);
        self.refresh_nesting(inner);
    }

    /// Links a group anew with the one it is nested in, after either's worker was started again or taken over.
    pub(super) fn refresh_nesting(&self, inner: &Group) {
        let Some(nested) = inner.nested() else { return };
        let relinked = (|| {
            let outer = self.group(nested.outer)?;
            let process = inner
                .representative()
                .and_then(|pid| self.host.process(pid))
                .ok_or_else(|| Refusal::new(Why::Busy, "its worker is being started"))?;
            let (outer_driver, inner_driver) = (outer.driver()?, inner.driver()?);
            // Either end may not know of the other any more.
            let _ = outer_driver.leave(nested.pid);
            let _ = inner_driver.ungate();
            outer_driver.nest(process.pid, &*inner_driver)?;
            outer.forget_view();
            let mut tables = self.tables.lock();
            tables.take(nested.pid);
            tables.put(process.pid, process.start_time, outer.id);
            drop(tables);
            inner.setup.lock().nested = Some(Nested { outer: outer.id, pid: process.pid });
            self.save(inner)
        })();
        if let Err(error) = relinked {
            inner.setup.lock().nested = None;
            self.tables.lock().take(nested.pid);
            let uids = [inner.owner().0; 2];
            self.event(uids, "unnested", &[("group", &inner.name), ("reason", &error)]);
        }
    }

    /// Takes the group out of its outer one, and moves the groups nested in it there. Gives the outer one.
    pub(super) fn unlink(&self, group: &Arc<Group>) -> Option<Arc<Group>> {
        let _nesting = self.nesting.lock();
        let outer = group.outer().and_then(|id| self.group(id).ok());
        if let Err(error) = self.take_out(group) {
            tracing::warn!(group = group.name, %error, "a group cannot be taken out of its outer one");
            if let Some(nested) = group.setup.lock().nested.take() {
                self.tables.lock().take(nested.pid);
            }
        }
        for inner in self.nested_in(group.id) {
            let nested = inner.nested();
            if let Err(error) = self.take_out(&inner) {
                tracing::warn!(group = inner.name, %error, "a group cannot be taken out of its outer one");
                inner.setup.lock().nested = None;
            }
            if let (Some(outer), Some(mut nested)) = (&outer, nested) {
                nested.outer = outer.id;
                inner.setup.lock().nested = Some(nested);
                self.refresh_nesting(&inner);
            }
            let _ = self.save(&inner);
        }
        outer
    }

    /// Links a group anew with those it is nested with.
    pub(super) fn relink(&self, group: &Arc<Group>) {
        let _nesting = self.nesting.lock();
        self.refresh_nesting(group);
        for inner in self.nested_in(group.id) {
            self.refresh_nesting(&inner);
        }
    }

    /// Nests a group that was taken over into the one named, where it had the number `pid`.
    pub(super) fn nest_again(&self, group: &Group, outer: &str, pid: i32) {
        let Some(outer) = self.group_named(outer) else { return };
        group.setup.lock().nested = Some(Nested { outer: outer.id, pid });
        self.refresh_nesting(group);
    }

    /// Lists the groups nested in `outer`.
    pub(super) fn nested_in(&self, outer: GroupId) -> Vec<Arc<Group>> {
        self.groups().into_iter().filter(|group| group.outer() == Some(outer)).collect()
    }
}
