//! A member process as the tree shows it: its threads put together.

use std::collections::HashMap;

use guest_sched::TaskState;
use guest_sched::host::proto::GuestClass;
use guest_sched::host::{GroupStat, Member, Snapshot};

/// A member process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskView {
    /// Start time, see [`super::Process`].
    pub start_time: u64,
    /// Guest nice.
    pub nice: i8,
    /// Guest class.
    pub class: GuestClass,
    /// The most active of its threads' states.
    pub state: TaskState,
    /// Of the first thread.
    pub static_prio: u8,
    /// Of the first thread.
    pub prio: u8,
    /// Of the first thread.
    pub bonus: u8,
    /// Of the first thread.
    pub is_interactive: bool,
    /// Of the first thread.
    pub sleep_avg_ns: u64,
    /// Of the first thread.
    pub slice_left_ns: u64,
    /// Sum of all threads.
    pub usage_ns: u64,
    /// Sum of all threads.
    pub wait_ns: u64,
    /// Sum of all threads.
    pub nr_switches: u64,
}

impl TaskView {
    fn of(m: &Member) -> Self {
        Self {
            start_time: m.start_time,
            nice: m.nice,
            class: m.class,
            state: m.state,
            static_prio: m.static_prio,
            prio: m.prio,
            bonus: m.bonus,
            is_interactive: m.is_interactive,
            sleep_avg_ns: m.sleep_avg_ns,
            slice_left_ns: m.slice_left_ns,
            usage_ns: m.usage_ns,
            wait_ns: m.wait_ns,
            nr_switches: m.nr_switches,
        }
    }

    fn add(&mut self, m: &Member) {
        let (usage, wait, switches) = (self.usage_ns, self.wait_ns, self.nr_switches);
        let state = if activity(m.state) < activity(self.state) { m.state } else { self.state };
        if m.tid == m.pid {
            *self = Self::of(m);
        }
        self.state = state;
        self.usage_ns = usage.saturating_add(m.usage_ns);
        self.wait_ns = wait.saturating_add(m.wait_ns);
        self.nr_switches = switches.saturating_add(m.nr_switches);
    }
}

const fn activity(state: TaskState) -> u8 {
    match state {
        TaskState::Running => 0,
        TaskState::Queued => 1,
        TaskState::Expired => 2,
        TaskState::Sleeping => 3,
    }
}

/// A group as its worker published it, by process.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Counters.
    pub stat: GroupStat,
    /// Members by PID.
    pub tasks: HashMap<i32, TaskView>,
}

impl From<Snapshot> for View {
    fn from(snapshot: Snapshot) -> Self {
        let mut tasks: HashMap<i32, TaskView> = HashMap::new();
        for m in &snapshot.members {
            tasks.entry(m.pid).and_modify(|task| task.add(m)).or_insert_with(|| TaskView::of(m));
        }
        Self { stat: snapshot.stat, tasks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::fake::member;

    #[test]
    fn threads_are_put_together() {
        let mut first = member(290, 5);
        first.state = TaskState::Sleeping;
        first.prio = 118;
        let mut second = member(290, 5);
        second.tid = 291;
        second.state = TaskState::Queued;
        second.prio = 130;
        for m in [&mut first, &mut second] {
            m.usage_ns = 10;
            m.nr_switches = 2;
        }

        for order in [[first, second], [second, first]] {
            let view = View::from(Snapshot { members: order.to_vec(), ..Snapshot::default() });
            let task = view.tasks[&290];
            assert_eq!(
                (task.state, task.prio, task.usage_ns, task.nr_switches),
                (TaskState::Queued, 118, 20, 4)
            );
        }
    }
}
