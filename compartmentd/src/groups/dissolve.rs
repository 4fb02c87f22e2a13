//! Ending groups. Members return to the group that theirs was nested in, else to the host's scheduler.

use std::sync::Arc;

use super::caller::Caller;
use super::controller::Controller;
use super::driver::Driver as _;
use super::group::{Group, GroupId, Phase};
use super::kind::Kind;
use crate::errno::{Refusal, Why};
use crate::notices::Notice;

impl<K: Kind> Controller<K> {
    /// Removes an empty lasting group.
    ///
    /// # Errors
    /// ENOENT, EPERM, EBUSY if it has members, is held, or is being changed.
    pub fn remove(self: &Arc<Self>, caller: &Caller, name: &str) -> Result<(), Refusal> {
        let group = self
            .group_named(name)
            .ok_or_else(|| Refusal::new(Why::Missing, format!("there is no group {name}")))?;
        self.check_owns(caller, group.id)?;
        if let Some(holder) = group.holder() {
            let why = format!("group {name} is held by process {}, and goes with it", holder.pid);
            return Err(Refusal::new(Why::Busy, why));
        }
        {
            let mut phase = group.phase.try_write().ok_or_else(|| {
                Refusal::new(Why::Busy, format!("something is being moved into or out of group {name}"))
            })?;
            if *phase == Phase::Removing {
                return Err(group.being_removed());
            }
            let nr = self.members(group.id).len();
            if nr > 0 {
                return Err(Refusal::new(Why::Busy, format!("group {name} has {nr} members")));
            }
            *phase = Phase::Removing;
        }
        self.dissolve(&group, "removed");
        Ok(())
    }

    /// Ends the group of a holder that let go of it.
    pub fn release(self: &Arc<Self>, id: GroupId) {
        if let Ok(group) = self.group(id)
            && self.begin_removing(&group)
        {
            self.dissolve(&group, "released");
        }
    }

    /// Ends every group, the outer ones last.
    pub fn dissolve_all(self: &Arc<Self>) {
        // Free of each other first, so that members go straight to the host.
        for group in self.groups() {
            if let Err(error) = K::take_out(self, &group) {
                tracing::warn!(group = group.name, %error, "a group cannot be taken out of its outer one");
            }
        }
        for group in self.groups() {
            if self.begin_removing(&group) {
                self.dissolve(&group, "shutdown");
            }
        }
    }

    /// Ends a group whose worker cannot be had any more.
    pub(super) fn give_up(self: &Arc<Self>, group: &Arc<Group<K>>, reason: &Refusal) {
        let uids = [group.owner().0; 2];
        self.event(uids, "failed", &[("group", &group.name), ("reason", reason)]);
        if self.begin_removing(group) {
            self.dissolve(group, "failed");
        }
    }

    /// Waits for moves under way, then lets no other begin. False if somebody else is removing it.
    fn begin_removing(&self, group: &Group<K>) -> bool {
        std::mem::replace(&mut *group.phase.write(), Phase::Removing) == Phase::Alive
    }

    /// Carries out the end of a group in phase `Removing`. Goes on whatever fails: at the end the group is gone.
    fn dissolve(self: &Arc<Self>, group: &Arc<Group<K>>, why: &str) {
        let outer = K::unlink(self, group);
        let driver = group.driver().ok();
        let members = self.members(group.id);
        if let (Some(outer), Some(driver)) = (&outer, &driver) {
            for process in &members {
                let moved = driver
                    .leave(process.pid)
                    .and_then(|()| outer.driver()?.join(process.pid, process.start_time));
                match moved {
                    Ok(()) => self.tables.lock().put(process.pid, process.start_time, outer.id),
                    Err(error) => self.event(
                        [group.owner().0, outer.owner().0],
                        "escaped",
                        &[("group", &group.name), ("pid", &process.pid), ("reason", &error)],
                    ),
                }
            }
            outer.forget_view();
        }
        let ended = driver.map_or_else(|| Err(group.being_removed()), |driver| driver.dissolve());
        if let Err(error) = ended {
            tracing::warn!(group = group.name, %error, "a worker did not end by itself");
            self.launcher.kill(&group.dir);
            if let Err(error) = self.launcher.recover(&group.dir) {
                tracing::error!(group = group.name, %error, "members may be left parked");
            }
        }
        *group.driver.write() = None;
        self.tables.lock().remove_group(group.id);
        if let Err(error) = std::fs::remove_dir_all(&group.dir) {
            tracing::warn!(dir = %group.dir.display(), %error, "a state directory is left over");
        }
        self.tell_dissolved(group, outer.as_deref(), why, &members.iter().map(|p| p.pid).collect::<Vec<_>>());
    }

    fn tell_dissolved(&self, group: &Group<K>, outer: Option<&Group<K>>, why: &str, pids: &[i32]) {
        let to = outer.map_or("0", |outer| &outer.name);
        self.event(
            [group.owner().0; 2],
            "dissolved",
            &[("group", &group.name), ("why", &why), ("members", &pids.len()), ("to", &to)],
        );
        self.notices.post(Notice::Group { side: K::SIDE, name: group.name.clone() });
        for pid in pids {
            for id in [group.id, outer.map_or(GroupId::HOST, |outer| outer.id)] {
                self.post_member(id, *pid);
            }
        }
    }
}
