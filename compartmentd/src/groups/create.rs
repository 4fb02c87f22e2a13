//! Making groups, and taking over those of an earlier daemon.

use std::ffi::OsStr;
use std::sync::Arc;

use super::caller::Caller;
use super::controller::Controller;
use super::driver::Launched;
use super::group::{Group, GroupSetup, Holder, Phase};
use super::kind::Kind;
use crate::errno::{Refusal, Why, no_process};
use crate::notices::Notice;
use crate::supervise::{Meta, StateDir};
use crate::tree::names::parse_group_name;

/// A group taken over, and the name of the group it was nested in with the PID it had there.
type Adopted<K> = (Arc<Group<K>>, Option<(String, i32)>);

impl<K: Kind> Controller<K> {
    /// Makes a lasting group that the caller owns.
    ///
    /// # Errors
    /// EINVAL for the name, EEXIST, ENOSPC, and what starting a worker may give.
    pub fn create(self: &Arc<Self>, caller: &Caller, name: &OsStr) -> Result<Arc<Group<K>>, Refusal> {
        let name = parse_group_name(name)?;
        self.make(caller, name, K::GUESTS[0], None)
    }

    /// Makes a group that the calling process holds, named by its PID. The caller ends it with [`Controller::release`].
    ///
    /// # Errors
    /// EBUSY if the process holds one already, ENOSPC, and what starting a worker may give.
    pub fn create_held(self: &Arc<Self>, caller: &Caller, guest: &str) -> Result<Arc<Group<K>>, Refusal> {
        let process = self.locate(caller.pid(&*self.host)).ok_or_else(|| no_process(caller.tid))?.0;
        let holder = Holder { pid: process.pid, start_time: process.start_time };
        let name = process.pid.to_string();
        self.make(caller, &name, guest, Some(holder)).map_err(|e| match e.why {
            Why::Exists => Refusal::new(Why::Busy, e.reason),
            _ => e,
        })
    }

    fn make(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        guest: &str,
        holder: Option<Holder>,
    ) -> Result<Arc<Group<K>>, Refusal> {
        let config = K::config(&self.template, name, guest);
        let setup = GroupSetup { config, uid: caller.uid, gid: caller.gid, holder, nested: None };
        // In the table first: the name is taken and the limit kept while the worker starts.
        let group = self.add(name, setup)?;
        let started = self.start(&group);
        match started {
            Ok(launched) => self.activate(&group, launched),
            Err(e) => {
                *group.phase.write() = Phase::Removing;
                self.launcher.kill(&group.dir);
                self.tables.lock().remove_group(group.id);
                let _ = std::fs::remove_dir_all(&group.dir);
                return Err(e);
            }
        }
        let kind = if holder.is_some() { "held" } else { "lasting" };
        self.event(
            [caller.uid; 2],
            "created",
            &[("group", &group.name), ("kind", &kind), (K::GUEST_KEY, &guest), ("uid", &caller.uid)],
        );
        self.notices.post(Notice::Group { side: K::SIDE, name: group.name.clone() });
        Ok(group)
    }

    fn add(&self, name: &str, setup: GroupSetup<K>) -> Result<Arc<Group<K>>, Refusal> {
        let state = &self.state;
        self.tables.lock().add_group(name, |id| Group::new(id, state.new_dir(), setup))
    }

    fn start(&self, group: &Group<K>) -> Result<Launched<K>, Refusal> {
        StateDir::create(&group.dir)?;
        self.save(group)?;
        self.launcher.spawn(&group.dir, &group.config())
    }

    /// Keeps what a later daemon has to know of a group.
    pub(super) fn save(&self, group: &Group<K>) -> Result<(), Refusal> {
        let (uid, gid) = group.owner();
        let nested = group.nested().map(|nested| (self.name_of(nested.outer), nested.pid));
        let meta = Meta { uid, gid, holder: group.holder(), nested };
        Ok(StateDir::save(&group.dir, &meta)?)
    }

    pub(super) fn activate(self: &Arc<Self>, group: &Arc<Group<K>>, (driver, events): Launched<K>) {
        *group.driver.write() = Some(driver);
        K::look(self);
        let (this, group) = (self.clone(), group.clone());
        let name = format!("group-{}", group.id.0);
        let spawned = std::thread::Builder::new().name(name).spawn(move || this.listen(&group, events));
        if let Err(error) = spawned {
            tracing::error!(%error, "nobody hears what a worker reports");
        }
    }

    /// Takes over every group that an earlier daemon left in the state directory. Held ones become lasting: their
    /// readers went with that daemon's mount. Groups that cannot be had are left alone and logged.
    pub fn adopt_all(self: &Arc<Self>) {
        let mut nested = Vec::new();
        for dir in self.state.dirs() {
            match self.adopt(&dir) {
                Ok((group, outer)) => nested.extend(outer.map(|outer| (group, outer))),
                Err(_) if StateDir::is_stillborn(&dir) => {
                    tracing::warn!(dir = %dir.display(), "removing a group that never came to life");
                    let _ = std::fs::remove_dir_all(&dir);
                }
                Err(error) => tracing::error!(dir = %dir.display(), %error, "a group cannot be taken over"),
            }
        }
        for (group, (outer, pid)) in nested {
            K::nest_again(self, &group, &outer, pid);
        }
    }

    fn adopt(self: &Arc<Self>, dir: &std::path::Path) -> Result<Adopted<K>, Refusal> {
        let meta = StateDir::load(dir)?;
        let config = K::load(dir)?;
        let name = K::name(&config).to_owned();
        let setup = GroupSetup { config, uid: meta.uid, gid: meta.gid, holder: None, nested: None };
        let group = self.tables.lock().add_group(&name, |id| Group::new(id, dir.to_owned(), setup))?;
        let launched = self.launcher.connect(dir).or_else(|_| self.mend(&group));
        let launched = launched.inspect_err(|_| {
            self.tables.lock().remove_group(group.id);
        })?;
        self.activate(&group, launched);
        self.index_snapshot(&group);
        let nr = self.nr_members(group.id);
        let uids = [meta.uid; 2];
        self.event(uids, "adopted", &[("group", &name), ("members", &nr)]);
        if let Some(holder) = meta.holder {
            self.event(
                uids,
                "lasting",
                &[
                    ("group", &name),
                    ("holder", &holder.pid),
                    ("reason", &"its reader went with the earlier daemon"),
                ],
            );
            self.save(&group)?;
        }
        Ok((group, meta.nested))
    }
}
