//! The table: what the daemon sees, and what a later worker finds.

use host_sys::process;

use super::{HostState, Worker};
use crate::host::proto::GuestClass;
use crate::host::table::{GroupStat, Member, Parked, pack_mode};
use crate::types::{Class, Nanos, TaskId};

fn guest_class(class: Class) -> GuestClass {
    match class {
        Class::Normal => GuestClass::Normal,
        Class::Batch => GuestClass::Batch,
        Class::Fifo(p) => GuestClass::Fifo(p.get()),
        Class::Rr(p) => GuestClass::Rr(p.get()),
    }
}

impl Worker {
    /// Publishes one task.
    pub(super) fn publish_task(&self, id: TaskId) {
        let (Some(task), Ok(info)) = (self.members.task(id), self.dispatch.info(id)) else { return };
        let waits = task.parked_since.map_or(Nanos::ZERO, |since| self.now.saturating_sub(since));
        let member = Member {
            pid: task.pid,
            tid: task.tid,
            start_time: task.start_time,
            parked: Parked::No,
            nice: info.params.nice.get(),
            class: guest_class(info.params.class),
            state: info.state,
            static_prio: info.static_prio,
            prio: info.prio,
            bonus: info.bonus,
            is_interactive: info.is_interactive,
            sleep_avg_ns: info.sleep_avg.0,
            slice_left_ns: info.slice_left.0,
            usage_ns: task.usage.0,
            wait_ns: (task.wait + waits).0,
            nr_switches: task.nr_switches,
            host: task.host,
            is_group: self.is_inner(id),
            is_runnable: matches!(self.dispatch.host_state(id), Some(HostState::On | HostState::Leaving)),
        };
        self.table.write(id.index(), &member);
    }

    /// Publishes everything as of now.
    pub(super) fn publish(&mut self) {
        self.tick_now();
        self.hear_sensor();
        self.charge_running();
        for index in 0..self.members.nr_slots() {
            self.publish_task(TaskId(index as u32));
        }
        self.publish_stat();
    }

    /// Publishes the group's counters.
    pub(super) fn publish_stat(&mut self) {
        let own_cpu = process::own_cpu_time();
        self.meter.overhead(self.now, own_cpu - self.own_cpu);
        self.own_cpu = own_cpu;
        let longest = self.members.tasks().filter_map(|(_, t)| t.parked_since).min();
        if let Some(since) = longest {
            self.meter.parked(self.now, self.now.saturating_sub(since).0);
        }
        let totals = self.meter.totals(self.now);
        let bandwidth = self.bandwidth.stats(self.now);
        self.table.write_stat(&GroupStat {
            worker_pid: std::process::id() as i32,
            keeper_pid: self.keeper.pid,
            usage_ns: self.usage.0,
            nr_members: self.members.nr_processes() as u64,
            nr_tasks: self.members.tasks().count() as u64,
            nr_switches: self.dispatch.nr_switches(),
            nr_throttled: bandwidth.nr_throttled,
            throttled_ns: bandwidth.throttled_time.0,
            worker_ns: own_cpu,
            excess_ns: totals.excess_ns,
            worst_window_ns: totals.worst_window_ns,
            longest_park_ns: totals.longest_park_ns,
            asked_ns: totals.asked_ns,
            got_ns: totals.got_ns,
            overhead_ns: totals.overhead_ns,
            window_ns: totals.window_ns,
            nr_parks: self.nr_parks,
            mode: pack_mode(self.parts.mode),
        });
    }
}
