//! The sleep average: what a task earns by sleeping and pays by running.
//!
//! Linux 2.6.18 `recalc_task_prio` and the part of `schedule` that charges the task switched from. Sleeping
//! earns one for one up to a second; running costs one for one at bonus 0 and 1, and a tenth of that at
//! bonus 10.

use super::prio::{self, ON_RUNQUEUE_WEIGHT};
use super::task::{SleepType, Task};
use crate::types::{Class, Nanos, Waker};

/// Credits a sleep, or a wait that counts like one, and gives the priority that follows. Real-time tasks
/// are left as they are.
///
/// All tasks are user tasks here: the kernel's exception for threads without an address space has no use.
pub(super) fn credit(task: &mut Task, sleep: Nanos) -> u8 {
    if task.class == Class::Normal && sleep > Nanos::ZERO {
        let ceiling = prio::interactive_sleep(task.static_prio);
        let average = task.sleep_avg();
        if sleep > ceiling && average < ceiling {
            // One long sleep makes a task just interactive, and waiting for a CPU adds nothing to that.
            task.set_sleep_avg(ceiling);
            task.sleep_type = SleepType::NonInteractive;
        } else if task.sleep_type != SleepType::NonInteractive {
            task.set_sleep_avg(average.saturating_add(sleep));
        } else if average < ceiling {
            task.set_sleep_avg(average.saturating_add(sleep).min(ceiling));
        }
    }
    task.wanted_prio()
}

/// Credits the sleep of a task that wakes: its priority follows, and how waiting for its first run will
/// count.
pub(super) fn credit_wakeup(task: &mut Task, by: Waker, now: Nanos) {
    if by == Waker::New {
        task.sleep_type = SleepType::Normal;
        task.timestamp = now;
        task.prio = task.wanted_prio();
        return;
    }
    if !task.class.is_realtime() {
        task.prio = credit(task, now.saturating_sub(task.timestamp));
    }
    if task.sleep_type == SleepType::Normal {
        task.sleep_type =
            if by == Waker::Interrupt { SleepType::Interrupted } else { SleepType::Interactive };
    }
    task.timestamp = now;
}

/// Credits the wait from wake-up to first run, and gives the priority that follows if it changed.
pub(super) fn credit_first_run(task: &mut Task, now: Nanos) -> Option<u8> {
    let waited = now.saturating_sub(task.timestamp);
    let credited = match task.sleep_type {
        SleepType::Interrupted => waited,
        SleepType::Interactive => Nanos((u128::from(waited.0) * u128::from(ON_RUNQUEUE_WEIGHT) / 100) as u64),
        SleepType::Normal | SleepType::NonInteractive => {
            task.sleep_type = SleepType::Normal;
            return None;
        }
    };
    let prio = if task.class.is_realtime() { task.prio } else { credit(task, credited) };
    task.sleep_type = SleepType::Normal;
    (prio != task.prio).then_some(prio)
}

/// Takes the CPU time used since the last switch off the sleep average.
///
/// The kernel takes `run / bonus` at each switch, and a switch comes at each slice end at the latest. A
/// report of more than a slice is therefore paid step by step, as if there had been switches all along.
pub(super) fn settle(task: &mut Task, slice: Nanos) {
    let run = std::mem::take(&mut task.unsettled);
    pay(task, run, slice);
}

/// Does what [`settle`] does, but leaves the last slice's worth unpaid: at a slice end the kernel
/// recomputes the priority before it charges that slice.
pub(super) fn settle_all_but_last(task: &mut Task, slice: Nanos) {
    if task.unsettled > slice {
        let run = task.unsettled - slice;
        task.unsettled = slice;
        pay(task, run, slice);
    }
}

fn pay(task: &mut Task, run: Nanos, slice: Nanos) {
    let mut average = task.sleep_avg();
    if run <= slice {
        average = average.saturating_sub(Nanos(run.0 / price(average)));
    } else {
        let mut left = run.0;
        // Each round crosses into the next lower bonus: at most eleven.
        while left > 0 && average > Nanos::ZERO {
            let price = price(Nanos(average.0 - 1));
            let floor = u64::from(prio::bonus(Nanos(average.0 - 1))) * (prio::MAX_SLEEP_AVG.0 / 10);
            let step = (average.0 - floor).min(left.div_ceil(price));
            average.0 -= step;
            left = left.saturating_sub(step * price);
        }
    }
    task.set_sleep_avg(average);
}

/// How much running costs one unit of sleep average.
fn price(average: Nanos) -> u64 {
    u64::from(prio::bonus(average)).max(1)
}
