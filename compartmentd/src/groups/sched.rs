//! sched_groups: what is theirs alone. Their nesting is in `nest`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use guest_sched::host::client::read_config;
use guest_sched::host::{Event, GroupConfig};

use super::accounts::Accounts;
use super::caller::Caller;
use super::controller::Controller;
use super::driver::SchedDriver;
use super::group::{Group, GroupId};
use super::host::Process;
use super::journal::Journal;
use super::kind::{Kind, Members};
use super::listen::Told;
use super::task::View;
use crate::errno::Refusal;
use crate::notices::{Notices, Side};
use crate::supervise::StateRoot;
use crate::tasks::Guests;

/// What there is beside sched_groups.
#[derive(Debug)]
pub struct SchedBeside {
    /// The applications that show tasks.
    pub(super) guests: Arc<Guests>,
    /// What the daemon itself sees of workers.
    pub(super) accounts: Accounts,
}

/// Groups of tasks that one guest scheduler controls.
#[derive(Clone, Copy, Debug)]
pub struct Sched;

impl Kind for Sched {
    type Config = GroupConfig;
    type Event = Event;
    type View = View;
    type Driver = dyn SchedDriver;
    type Beside = SchedBeside;

    const SIDE: Side = Side::Sched;
    const NOUN: &'static str = "sched_group";
    const GUESTS: &'static [&'static str] = &guest_sched::POLICIES;
    const GUEST_KEY: &'static str = "scheduler";
    const NESTS: bool = true;

    fn beside(journal: &Arc<Journal>, notices: &Notices, state: &StateRoot) -> SchedBeside {
        let guests = Arc::new(Guests::new(journal.clone(), notices.clone(), state.path()));
        SchedBeside { guests, accounts: Accounts::default() }
    }

    fn load(dir: &Path) -> io::Result<GroupConfig> {
        read_config(dir)
    }

    fn name(config: &GroupConfig) -> &str {
        &config.name
    }

    fn config(template: &GroupConfig, name: &str, guest: &str) -> GroupConfig {
        GroupConfig { name: name.into(), policy: guest.into(), ..template.clone() }
    }

    fn look(controller: &Controller) {
        controller.accounts().call();
    }

    fn settle(controller: &Controller, group: &Group, process: &Process) {
        controller.accounts().settle(group, process);
    }

    fn move_representative(
        controller: &Controller,
        caller: &Caller,
        inner: &Arc<Group>,
        process: &Process,
        to: GroupId,
    ) -> Result<(), Refusal> {
        controller.move_representative(caller, inner, process, to)
    }

    fn take_out(controller: &Controller, group: &Group) -> Result<(), Refusal> {
        controller.take_out(group).map(drop)
    }

    fn unlink(controller: &Controller, group: &Arc<Group>) -> Option<Arc<Group>> {
        controller.unlink(group)
    }

    fn relink(controller: &Controller, group: &Arc<Group>) {
        controller.relink(group);
    }

    fn nest_again(controller: &Controller, group: &Arc<Group>, outer: &str, pid: i32) {
        controller.nest_again(group, outer, pid);
    }
}

impl Members for View {
    fn members(&self) -> Vec<(i32, u64)> {
        self.tasks.iter().map(|(pid, task)| (*pid, task.start_time)).collect()
    }

    fn start_time(&self, pid: i32) -> Option<u64> {
        self.tasks.get(&pid).map(|task| task.start_time)
    }
}

impl From<Event> for Told {
    fn from(event: Event) -> Self {
        match event {
            Event::Forked { parent, child } => Self::Forked { parent, child },
            Event::Exited { pid } => Self::Exited { pid },
            Event::Executed { pid } => Self::Executed { pid },
            Event::Escaped { pid, reason } => Self::Escaped { pid, reason },
            Event::Restarted { members } => Self::Restarted { members },
            Event::Degraded { reason } => Self::Degraded { reason },
            Event::Busy => Self::Busy,
        }
    }
}
