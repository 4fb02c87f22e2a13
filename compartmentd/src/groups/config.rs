//! Setting what is set of a group and of its members.

use std::sync::Arc;

use guest_sched::host::proto::GuestClass;

use super::caller::Caller;
use super::controller::Controller;
use super::driver::Driver as _;
use super::group::{Group, GroupId};
use super::host::Process;
use super::kind::Kind;
use crate::errno::{Refusal, Why};
use crate::notices::Notice;

impl<K: Kind> Controller<K> {
    /// Changes what is set of a group. Two changes at once come one after the other; each sees what the other has done.
    ///
    /// # Errors
    /// EPERM, EBUSY while it is removed or its worker started, what `change` refuses, and the worker's. Then nothing has changed.
    pub fn configure(
        &self,
        caller: &Caller,
        group: &Group<K>,
        change: impl FnOnce(&mut K::Config) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.check_owns(caller, group.id)?;
        let phase = group.phase.read();
        if *phase == super::group::Phase::Removing {
            return Err(group.being_removed());
        }
        let _tuning = group.tuning.lock();
        let mut config = group.config();
        change(&mut config)?;
        if config == group.config() {
            return Ok(());
        }
        group.driver()?.configure(&config)?;
        group.setup.lock().config = config;
        group.forget_view();
        Ok(())
    }

    /// Gives a group to another owner; root only.
    ///
    /// # Errors
    /// EPERM, ENOENT.
    pub fn chown(
        self: &Arc<Self>,
        caller: &Caller,
        id: GroupId,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), Refusal> {
        if !caller.is_root() {
            return Err(Refusal::new(Why::NotAllowed, "only root gives groups away"));
        }
        let group = self.group(id)?;
        {
            let mut setup = group.setup.lock();
            setup.uid = uid.unwrap_or(setup.uid);
            setup.gid = gid.unwrap_or(setup.gid);
        }
        self.save(&group)?;
        self.notices.post(Notice::Owner(K::SIDE, id));
        let (uid, gid) = group.owner();
        self.event([uid; 2], "owner", &[("group", &group.name), ("uid", &uid), ("gid", &gid)]);
        Ok(())
    }
}

impl Controller {
    /// Changes the policy of an empty group.
    ///
    /// # Errors
    /// As [`Controller::configure`]; EBUSY if it has members.
    pub fn set_scheduler(&self, caller: &Caller, group: &Group, policy: &str) -> Result<(), Refusal> {
        self.configure(caller, group, |config| {
            if config.policy != policy && self.nr_members(group.id) > 0 {
                let why =
                    format!("group {} has members; its scheduler changes while it is empty", group.name);
                return Err(Refusal::new(Why::Busy, why));
            }
            config.policy = policy.to_owned();
            Ok(())
        })
    }

    /// Sets the guest nice of a member. Whoever owns the group may divide it as they like; others may only yield.
    ///
    /// # Errors
    /// ESRCH, EPERM, EACCES, EBUSY, and the worker's.
    pub fn set_member_nice(
        &self,
        caller: &Caller,
        group: &Group,
        process: &Process,
        nice: i8,
    ) -> Result<(), Refusal> {
        self.check_tunes(caller, group, process)?;
        let view = group.view()?;
        let old = view.tasks.get(&process.pid).map_or(0, |task| task.nice);
        if nice < old && !caller.owns(group.owner().0) {
            let why = format!("only the owner of group {} favours members of it", group.name);
            return Err(Refusal::new(Why::Other(libc::EACCES), why));
        }
        group.driver()?.set_nice(process.pid, nice)?;
        group.forget_view();
        Ok(())
    }

    /// Sets the guest class of a member. Only the owner of the group may give a real-time one.
    ///
    /// # Errors
    /// ESRCH, EPERM, EBUSY, and the worker's.
    pub fn set_member_class(
        &self,
        caller: &Caller,
        group: &Group,
        process: &Process,
        class: GuestClass,
    ) -> Result<(), Refusal> {
        self.check_tunes(caller, group, process)?;
        let is_realtime = matches!(class, GuestClass::Fifo(_) | GuestClass::Rr(_));
        if is_realtime && !caller.owns(group.owner().0) {
            let why = format!("only the owner of group {} makes members of it real-time tasks", group.name);
            return Err(Refusal::new(Why::NotAllowed, why));
        }
        group.driver()?.set_class(process.pid, class)?;
        group.forget_view();
        Ok(())
    }

    /// A representative is tuned by whoever owns its group, a process by whoever controls it.
    fn check_tunes(&self, caller: &Caller, group: &Group, process: &Process) -> Result<(), Refusal> {
        if *group.phase.read() == super::group::Phase::Removing {
            return Err(group.being_removed());
        }
        match self.represented_by(process) {
            Some(inner) => self.check_owns(caller, inner.id),
            None => caller.check_controls(&*self.host, process.pid),
        }
    }
}
