//! The numbers of the O(1) scheduler: priorities, slices, bonus, interactivity, granularity, load weights.
//!
//! Everything is a pure function of nice value and sleep average. Source: Linux 2.6.18 `kernel/sched.c` with
//! HZ = 1000, in nanoseconds where the kernel counts jiffies.

use crate::types::{Class, Nanos, Nice};

/// One more than the worst priority: 140 levels.
pub const MAX_PRIO: u8 = 140;
/// Priorities below this are real-time ones; time-shared priorities start here.
pub const MAX_RT_PRIO: u8 = 100;
/// The shortest slice of a time-shared task (nice 19).
pub const MIN_TIMESLICE: Nanos = Nanos::from_millis(5);
/// The slice at nice 0.
pub const DEF_TIMESLICE: Nanos = Nanos::from_millis(100);
/// The largest bonus: a quarter of the 40 nice levels.
pub const MAX_BONUS: u8 = 10;
/// The sleep average's ceiling, and the share of it that one step of the bonus stands for.
pub const MAX_SLEEP_AVG: Nanos = Nanos(DEF_TIMESLICE.0 * MAX_BONUS as u64);
/// How long an expired task waits at most before interactive ones expire too, per runnable task.
pub const STARVATION_LIMIT: Nanos = MAX_SLEEP_AVG;
/// How far above the neutral bonus a nice 0 task must be to count as interactive.
pub const INTERACTIVE_DELTA: i32 = 2;
/// What a child inherits of its parent's bonus, per cent.
pub const CHILD_PENALTY: u64 = 95;
/// How much a parent's sleep average outweighs that of a child that ends: 3 to 1.
pub const EXIT_WEIGHT: u64 = 3;
/// What a waiting task is credited of the time from wake-up to its first run, per cent.
pub const ON_RUNQUEUE_WEIGHT: u64 = 30;
/// The finest round robin between interactive tasks of one priority.
pub const GRANULARITY: Nanos = Nanos::from_millis(10);
/// The load weight of a nice 0 task.
pub const SCHED_LOAD_SCALE: u64 = 128;

/// One step of the bonus in sleep average.
const BONUS_STEP: u64 = MAX_SLEEP_AVG.0 / MAX_BONUS as u64;

/// Gives the static priority, 100..=139, of a nice value.
pub const fn static_prio(nice: Nice) -> u8 {
    (120 + nice.get() as i16) as u8
}

/// Gives the nice value of a static priority in 100..=139.
pub(super) const fn nice_of(static_prio: u8) -> Nice {
    match Nice::new(static_prio as i32 - 120) {
        Some(nice) => nice,
        None => Nice::MAX,
    }
}

/// Gives the slice of a static priority: 800 ms (nice -20) to 5 ms (nice 19), with the jump from 420 ms to
/// 100 ms between nice -1 and 0. Depends on nice only, never on the bonus.
pub const fn time_slice(static_prio: u8) -> Nanos {
    let base = if static_prio < 120 { 4 * DEF_TIMESLICE.0 } else { DEF_TIMESLICE.0 };
    let slice = base * (MAX_PRIO - static_prio) as u64 / 20;
    if slice < MIN_TIMESLICE.0 { MIN_TIMESLICE } else { Nanos(slice) }
}

/// Gives the bonus, 0..=10, of a sleep average: one step per 100 ms, 5 is neutral.
pub const fn bonus(sleep_avg: Nanos) -> u8 {
    let bonus = sleep_avg.0 / BONUS_STEP;
    if bonus > MAX_BONUS as u64 { MAX_BONUS } else { bonus as u8 }
}

/// Gives the dynamic priority, 100..=139, of a time-shared task.
pub const fn effective_prio(static_prio: u8, bonus: u8) -> u8 {
    let prio = static_prio as i32 - (bonus as i32 - MAX_BONUS as i32 / 2);
    if prio < MAX_RT_PRIO as i32 {
        MAX_RT_PRIO
    } else if prio > MAX_PRIO as i32 - 1 {
        MAX_PRIO - 1
    } else {
        prio as u8
    }
}

/// Gives the priority, 0..=139, a task of this class and sleep average is queued by. Real time: 99 less its
/// priority.
pub const fn prio_of(class: Class, static_prio: u8, sleep_avg: Nanos) -> u8 {
    match class {
        Class::Fifo(rt) | Class::Rr(rt) => MAX_RT_PRIO - 1 - rt.get(),
        Class::Normal | Class::Batch => effective_prio(static_prio, bonus(sleep_avg)),
    }
}

/// Gives how far below its static priority a task's dynamic priority must be to make it interactive, -3..=6.
pub const fn delta(static_prio: u8) -> i32 {
    (static_prio as i32 - MAX_RT_PRIO as i32) * MAX_BONUS as i32 / 40 - MAX_BONUS as i32 / 2
        + INTERACTIVE_DELTA
}

/// Says whether a time-shared task of these priorities is interactive. From nice 16 on it never is.
pub const fn is_interactive(static_prio: u8, prio: u8) -> bool {
    prio as i32 <= static_prio as i32 - delta(static_prio)
}

/// Gives the sleep average that one long sleep lifts a task to, and one that sleeps without being
/// interactive can reach at most: just below the next bonus step after the one that makes it interactive.
pub const fn interactive_sleep(static_prio: u8) -> Nanos {
    let steps = (MAX_BONUS as i32 / 2 + delta(static_prio) + 1) as u64;
    Nanos(BONUS_STEP * steps - Nanos::from_millis(1).0)
}

/// Gives how much of its slice an interactive task uses before it goes behind the others of its priority:
/// 10 ms at bonus 9 and 10, doubling with each step down, times the number of vcpus.
pub const fn granularity(bonus: u8, vcpus: u16) -> Nanos {
    let steps = MAX_BONUS - if bonus > MAX_BONUS - 1 { MAX_BONUS - 1 } else { bonus } - 1;
    Nanos((GRANULARITY.0 << steps) * vcpus as u64)
}

/// Gives a task's weight for balancing: 128 at nice 0, its slice's share of that otherwise, more for real
/// time.
pub const fn load_weight(class: Class, static_prio: u8) -> u64 {
    match class {
        Class::Fifo(rt) | Class::Rr(rt) => 1024 + rt.get() as u64 * SCHED_LOAD_SCALE / 100,
        Class::Normal | Class::Batch => time_slice(static_prio).0 * SCHED_LOAD_SCALE / DEF_TIMESLICE.0,
    }
}
