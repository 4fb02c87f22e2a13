//! The rules of `guest_o1_scheduler`, one by one, against the numbers of Linux 2.6.18.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use guest_sched::{
    Class, Fork, Nanos, Nice, O1Scheduler, Policy, Resched, RtPriority, Sleep, TaskId, TaskParams, TaskState,
    Vcpu, Waker,
};

const V0: Vcpu = Vcpu(0);
const A: TaskId = TaskId(0);
const B: TaskId = TaskId(1);
const C: TaskId = TaskId(2);

fn ms(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

fn nice(value: i32) -> TaskParams {
    TaskParams { nice: Nice::new(value).unwrap(), class: Class::Normal }
}

/// A scheduler on one vcpu with a clock.
struct Guest {
    policy: O1Scheduler,
    now: Nanos,
}

impl Guest {
    fn new() -> Self {
        Self { policy: O1Scheduler::new(1).unwrap(), now: Nanos::ZERO }
    }

    /// Adds a task and wakes it at once: no credit for sleep.
    fn hog(&mut self, id: TaskId, params: TaskParams) {
        self.policy.add(id, params, self.now).unwrap();
        let _ = self.policy.wake(id, Waker::Task, self.now).unwrap();
    }

    fn pick(&mut self) -> Option<TaskId> {
        self.policy.pick_next(V0, self.now).unwrap()
    }

    /// Lets the current task run for `ran`.
    fn run(&mut self, ran: Nanos) -> Resched {
        self.now += ran;
        let current = self.policy.current(V0).unwrap();
        self.policy.charge(current, ran, self.now).unwrap()
    }

    /// Lets whoever is chosen run to its budget, again and again; gives the CPU time of tasks 0 to 3.
    fn drive(&mut self, length: Nanos) -> [Nanos; 4] {
        let mut used = [Nanos::ZERO; 4];
        let end = self.now + length;
        while self.now < end {
            let id = self.pick().unwrap();
            loop {
                let budget = self.policy.budget(V0).unwrap_or(ms(10)).min(end - self.now).max(Nanos(1));
                used[id.index()] += budget;
                if self.run(budget).is_needed() || self.now >= end {
                    break;
                }
            }
            self.policy.check_invariants().unwrap();
        }
        used
    }
}

#[test]
fn equal_hogs_sit_at_125_and_take_turns_of_100_ms() {
    let mut guest = Guest::new();
    for id in [A, B, C] {
        guest.hog(id, nice(0));
    }
    let mut turns = Vec::new();
    for _ in 0..6 {
        turns.push(guest.pick().unwrap());
        assert_eq!(guest.policy.info(turns[0]).unwrap().prio, 125);
        assert_eq!(guest.policy.budget(V0), Some(ms(100)));
        assert_eq!(guest.run(ms(99)), Resched::NO);
        assert_eq!(guest.run(ms(1)), Resched::on(V0));
    }
    assert_eq!(turns, [A, B, C, A, B, C]);
}

fn ratio(nice_a: i32, nice_b: i32) -> f64 {
    let mut guest = Guest::new();
    guest.hog(A, nice(nice_a));
    guest.hog(B, nice(nice_b));
    let used = guest.drive(Nanos::from_secs(600));
    used[0].as_secs_f64() / used[1].as_secs_f64()
}

#[test]
fn nice_ratios_are_those_of_the_slices() {
    for (a, b, expected) in
        [(0, 19, 100.0 / 5.0), (-1, 0, 420.0 / 100.0), (-20, 19, 800.0 / 5.0), (0, 0, 1.0), (5, 10, 1.5)]
    {
        let ratio = ratio(a, b);
        assert!((ratio / expected - 1.0).abs() < 0.01, "nice {a} to {b}: {ratio}, not {expected}");
    }
}

/// A task with a given sleep average, which it gets by sleeping in pieces too short to be cut.
fn slept(guest: &mut Guest, id: TaskId, params: TaskParams, average: Nanos) {
    guest.policy.add(id, params, guest.now).unwrap();
    let mut left = average;
    while left > Nanos::ZERO {
        let piece = left.min(ms(100));
        guest.now += piece;
        left -= piece;
        let _ = guest.policy.wake(id, Waker::Interrupt, guest.now).unwrap();
        if left > Nanos::ZERO {
            let _ = guest.policy.block(id, Sleep::Interruptible, guest.now).unwrap();
        }
    }
    assert_eq!(guest.policy.info(id).unwrap().sleep_avg, average);
}

fn avg(guest: &Guest, id: TaskId) -> Nanos {
    guest.policy.info(id).unwrap().sleep_avg
}

#[test]
fn running_lowers_the_sleep_average_by_run_over_bonus() {
    let mut guest = Guest::new();
    slept(&mut guest, A, nice(0), ms(1_000));
    assert_eq!(guest.pick(), Some(A));
    let _ = guest.run(ms(50));
    assert_eq!(avg(&guest, A), ms(1_000), "charged at the switch, not before");
    guest.pick();
    assert_eq!(avg(&guest, A), ms(995));
    let _ = guest.run(ms(45));
    guest.pick();
    assert_eq!(avg(&guest, A), ms(990));
}

/// How long a nice 0 task that starts at a full sleep average must run until it is below `average`.
fn time_to_sink_below(average: Nanos, piece: Nanos) -> Nanos {
    let mut guest = Guest::new();
    slept(&mut guest, A, nice(0), ms(1_000));
    guest.pick();
    let start = guest.now;
    while avg(&guest, A) >= average {
        let _ = guest.run(piece);
        guest.pick();
    }
    guest.now - start
}

#[test]
fn interactive_hog_loses_that_after_2_4_s_and_300_ms_after_4_2_s() {
    for (average, expected) in [(ms(700), 2_400.0), (ms(300), 4_200.0)] {
        let time = time_to_sink_below(average, ms(1)).as_secs_f64() * 1_000.0;
        assert!((time / expected - 1.0).abs() < 0.01, "{average:?}: {time} ms");
    }
    // One late report for all of it ends where the short ones do.
    let mut guest = Guest::new();
    slept(&mut guest, A, nice(0), ms(1_000));
    guest.pick();
    let _ = guest.run(ms(2_400));
    guest.pick();
    assert_eq!(avg(&guest, A), ms(700));
}

#[test]
fn one_long_sleep_makes_just_interactive() {
    let mut guest = Guest::new();
    guest.policy.add(A, nice(0), guest.now).unwrap();
    guest.now = Nanos::from_secs(3_600);
    let _ = guest.policy.wake(A, Waker::Task, guest.now).unwrap();
    let info = guest.policy.info(A).unwrap();
    assert_eq!((info.sleep_avg, info.prio, info.is_interactive), (ms(799), 118, true));
    // Such a sleep is not added to by waiting for the CPU.
    guest.now += ms(500);
    guest.pick();
    assert_eq!(avg(&guest, A), ms(799));
}

#[test]
fn disk_sleep_stops_at_the_ceiling() {
    let mut guest = Guest::new();
    slept(&mut guest, A, nice(0), ms(700));
    for _ in 0..3 {
        guest.pick();
        let _ = guest.policy.block(A, Sleep::Uninterruptible, guest.now).unwrap();
        guest.now += ms(60);
        let _ = guest.policy.wake(A, Waker::Interrupt, guest.now).unwrap();
    }
    assert_eq!(avg(&guest, A), ms(799));
}

#[test]
fn waiting_for_the_first_run_counts_whole_or_30_per_cent() {
    for (by, expected) in [(Waker::Interrupt, 200), (Waker::Task, 130)] {
        let mut guest = Guest::new();
        guest.policy.add(A, nice(0), guest.now).unwrap();
        guest.now += ms(100);
        let _ = guest.policy.wake(A, by, guest.now).unwrap();
        guest.now += ms(100);
        guest.pick();
        assert_eq!(avg(&guest, A), ms(expected), "{by:?}");
    }
}

#[test]
fn batch_task_earns_nothing_and_wakes_into_expired() {
    let mut guest = Guest::new();
    guest.hog(B, nice(0));
    guest.pick();
    guest.policy.add(A, TaskParams { class: Class::Batch, ..nice(0) }, guest.now).unwrap();
    guest.now += Nanos::from_secs(10);
    let _ = guest.policy.wake(A, Waker::Task, guest.now).unwrap();
    let info = guest.policy.info(A).unwrap();
    assert_eq!((info.sleep_avg, info.state, info.prio), (Nanos::ZERO, TaskState::Expired, 125));
}

#[test]
fn interactive_task_goes_back_to_active_and_round_robins_by_granules() {
    let mut guest = Guest::new();
    slept(&mut guest, A, nice(0), ms(1_000));
    slept(&mut guest, B, nice(0), ms(1_000));
    assert_eq!(guest.pick(), Some(A));
    assert_eq!(guest.policy.budget(V0), Some(ms(10)));
    assert_eq!(guest.run(ms(10)), Resched::on(V0));
    assert_eq!(guest.pick(), Some(B));
    // B used 95 ms in one go, A its next granule: both have their slice's place kept.
    assert_eq!(guest.run(ms(10)), Resched::on(V0));
    assert_eq!(guest.pick(), Some(A));
    assert_eq!(guest.policy.info(A).unwrap().slice_left, ms(90));
    assert_eq!(guest.run(ms(90)), Resched::on(V0));
    assert_eq!(guest.policy.info(A).unwrap().state, TaskState::Running);
    guest.pick();
    assert_eq!(guest.policy.info(A).unwrap().state, TaskState::Queued, "interactive: not expired");
}

#[test]
fn interactive_hogs_starve_an_expired_one_for_no_more_than_the_limit() {
    for nr in [2_u32, 4, 8] {
        let mut guest = Guest::new();
        let hog = TaskId(0);
        guest.hog(hog, nice(0));
        guest.pick();
        let _ = guest.run(ms(100));
        for id in (1..nr).map(TaskId) {
            guest.policy.add(id, nice(0), guest.now).unwrap();
        }
        guest.pick();
        // They sleep enough to stay interactive all the time: each runs 10 ms and sleeps as long as the
        // others run.
        let (mut waited, mut longest) = (Nanos::ZERO, Nanos::ZERO);
        for _ in 0..20_000 {
            for id in (1..nr).map(TaskId) {
                if guest.policy.info(id).unwrap().state == TaskState::Sleeping {
                    let _ = guest.policy.wake(id, Waker::Interrupt, guest.now).unwrap();
                }
            }
            let id = guest.pick().unwrap();
            let ran = ms(10).min(guest.policy.budget(V0).unwrap_or(ms(10)));
            let _ = guest.run(ran);
            if id == hog {
                longest = longest.max(waited);
                waited = Nanos::ZERO;
            } else {
                waited += ran;
            }
        }
        let limit = Nanos(Nanos::from_secs(1).0 * u64::from(nr) + ms(110).0 * u64::from(nr));
        assert!(longest > ms(0) && longest <= limit, "{nr} tasks: waited {longest:?}");
    }
}

#[test]
fn wakeup_preempts_only_if_strictly_better() {
    let mut guest = Guest::new();
    guest.hog(A, nice(0));
    guest.pick();
    guest.policy.add(B, nice(0), guest.now).unwrap();
    assert_eq!(guest.policy.wake(B, Waker::Task, guest.now), Ok(Resched::NO));
    guest.policy.add(C, nice(-1), guest.now).unwrap();
    assert_eq!(guest.policy.wake(C, Waker::Sync(V0), guest.now), Ok(Resched::NO));
    let _ = guest.policy.block(C, Sleep::Interruptible, guest.now).unwrap();
    assert_eq!(guest.policy.wake(C, Waker::Task, guest.now), Ok(Resched::on(V0)));
    assert_eq!(guest.pick(), Some(C));
}

#[test]
fn yield_goes_to_expired_and_rr_to_the_tail() {
    let mut guest = Guest::new();
    guest.hog(A, nice(0));
    guest.hog(B, nice(10));
    assert_eq!(guest.pick(), Some(A));
    assert_eq!(guest.policy.yield_now(A, guest.now), Ok(Resched::on(V0)));
    assert_eq!(guest.pick(), Some(B), "a worse task of the active array runs first");
    let rr = Class::Rr(RtPriority::new(1).unwrap());
    for id in [A, B] {
        let _ = guest.policy.set_class(id, rr, guest.now).unwrap();
    }
    let first = guest.pick().unwrap();
    let _ = guest.policy.yield_now(first, guest.now).unwrap();
    assert_ne!(guest.pick(), Some(first));
}

#[test]
fn rr_takes_turns_by_nice_slice_and_fifo_does_not() {
    let rt = RtPriority::new(10).unwrap();
    for (class, expected) in [(Class::Rr(rt), [A, B, A]), (Class::Fifo(rt), [A, A, A])] {
        let mut guest = Guest::new();
        guest.hog(A, TaskParams { class, ..nice(0) });
        guest.hog(B, TaskParams { class, ..nice(0) });
        guest.hog(C, nice(-20));
        for expected in expected {
            assert_eq!(guest.pick(), Some(expected), "{class:?}");
            let is_rr = matches!(class, Class::Rr(_));
            assert_eq!(guest.policy.budget(V0), is_rr.then_some(ms(100)));
            assert_eq!(guest.run(ms(100)).is_needed(), is_rr);
        }
    }
}

#[test]
fn renice_requeues_but_keeps_the_slice() {
    let mut guest = Guest::new();
    guest.hog(A, nice(0));
    guest.hog(B, nice(0));
    guest.pick();
    let worse = Nice::new(5).unwrap();
    assert_eq!(guest.policy.set_nice(A, worse, guest.now), Ok(Resched::on(V0)));
    let info = guest.policy.info(A).unwrap();
    assert_eq!((info.prio, info.slice_left), (130, ms(100)));
    assert_eq!(guest.pick(), Some(B));
    assert_eq!(guest.policy.set_nice(A, Nice::new(-5).unwrap(), guest.now), Ok(Resched::on(V0)));
    assert_eq!(guest.pick(), Some(A));
}

#[test]
fn fork_shares_slice_and_child_runs_first() {
    let mut guest = Guest::new();
    slept(&mut guest, A, nice(0), ms(1_000));
    guest.pick();
    let _ = guest.run(ms(33));
    assert_eq!(guest.policy.fork(A, B, Fork::Process, guest.now), Ok(Resched::on(V0)));
    let (parent, child) = (guest.policy.info(A).unwrap(), guest.policy.info(B).unwrap());
    assert_eq!(parent.slice_left + child.slice_left, ms(67));
    assert_eq!(child.sleep_avg, ms(900));
    assert_eq!(child.prio, parent.prio);
    assert_eq!(guest.pick(), Some(B));
}

#[test]
fn thread_goes_last() {
    let mut guest = Guest::new();
    guest.hog(A, nice(0));
    guest.hog(C, nice(0));
    guest.pick();
    assert_eq!(guest.policy.fork(A, B, Fork::Thread, guest.now), Ok(Resched::NO));
    let _ = guest.run(ms(50));
    assert_eq!(guest.pick(), Some(C));
}

#[test]
fn fork_makes_no_cpu_time() {
    let mut guest = Guest::new();
    guest.hog(A, nice(0));
    guest.hog(B, nice(0));
    guest.pick();
    let mut next = 2;
    while guest.policy.info(A).unwrap().slice_left < ms(100) || next == 2 {
        if guest.policy.fork(A, TaskId(next), Fork::Thread, guest.now).is_err() || next > 40 {
            break;
        }
        next += 1;
    }
    let children: u64 = (2..next).map(|id| guest.policy.info(TaskId(id)).unwrap().slice_left.0).sum();
    assert_eq!(Nanos(children), ms(100), "all that the parent had, until it expired");
    assert_eq!(guest.policy.info(A).unwrap().slice_left, ms(100), "expired, with a new slice");
}

#[test]
fn exit_returns_the_first_slice_and_a_quarter_of_the_sleep_average() {
    let mut guest = Guest::new();
    slept(&mut guest, A, nice(0), ms(1_000));
    guest.pick();
    let _ = guest.policy.fork(A, B, Fork::Process, guest.now).unwrap();
    guest.pick();
    let _ = guest.run(ms(10));
    let _ = guest.policy.exit(B, Some(A), guest.now).unwrap();
    let info = guest.policy.info(A).unwrap();
    assert_eq!(info.slice_left, ms(90));
    // The child had 900 ms and ran 10 ms at bonus 9.
    let child = 900_000_000 - 10_000_000 / 9;
    assert_eq!(info.sleep_avg, Nanos(750_000_000 + child / 4));
}

#[test]
fn overrun_comes_off_the_next_slice() {
    let mut guest = Guest::new();
    guest.hog(A, nice(0));
    guest.hog(B, nice(0));
    guest.pick();
    let _ = guest.run(ms(130));
    assert_eq!(guest.policy.info(A).unwrap().slice_left, ms(70));
    // 3.5 slices late: two turns are passed, and half a slice is left of the third.
    guest.pick();
    let _ = guest.run(ms(450));
    let used = guest.drive(ms(20_000 - 580));
    let (a, b) = (used[0].0 + ms(130).0, used[1].0 + ms(450).0);
    assert!(a.abs_diff(b) <= ms(100).0, "{a} {b}");
}

#[test]
fn late_reports_leave_the_ratio_exact() {
    for late in [0, 1, 7, 40, 250] {
        let mut guest = Guest::new();
        guest.hog(A, nice(0));
        guest.hog(B, nice(10));
        let mut used = [0_u64; 2];
        for _ in 0..40_000 {
            let id = guest.pick().unwrap();
            let ran = guest.policy.budget(V0).unwrap() + ms(late);
            used[id.index()] += ran.0;
            let _ = guest.run(ran);
        }
        let ratio = used[0] as f64 / used[1] as f64;
        assert!((ratio / 2.0 - 1.0).abs() < 0.01, "{late} ms late: {ratio}");
    }
}

#[test]
fn time_alone_is_not_owed() {
    let mut guest = Guest::new();
    guest.hog(A, nice(0));
    guest.pick();
    assert_eq!(guest.policy.budget(V0), None);
    // An hour alone, told only when somebody else has come.
    guest.now += Nanos::from_secs(3_600);
    guest.policy.add(B, nice(0), guest.now).unwrap();
    let _ = guest.policy.wake(B, Waker::Task, guest.now).unwrap();
    assert!(guest.policy.budget(V0).is_some());
    guest.now += ms(30);
    let _ = guest.policy.charge(A, Nanos::from_secs(3_600) + ms(30), guest.now).unwrap();
    let used = guest.drive(ms(2_000));
    assert!(used[0].0.abs_diff(used[1].0) <= ms(130).0, "{used:?}");
}

#[test]
fn set_slice_scales_the_table() {
    let mut guest = Guest::new();
    guest.policy.set_slice(Some(ms(5)));
    for (id, value, us) in [(0, 0, 5_000), (1, -1, 21_000), (2, 19, 250)] {
        guest.policy.add(TaskId(id), nice(value), guest.now).unwrap();
        assert_eq!(guest.policy.info(TaskId(id)).unwrap().slice_left, Nanos::from_micros(us));
    }
}

#[test]
fn sleep_of_exactly_the_ceiling_is_an_ordinary_one() {
    let mut guest = Guest::new();
    guest.policy.add(A, nice(0), guest.now).unwrap();
    guest.now += ms(799);
    let _ = guest.policy.wake(A, Waker::Task, guest.now).unwrap();
    guest.now += ms(100);
    guest.pick();
    assert_eq!(avg(&guest, A), ms(829), "waiting still counts");
}

#[test]
fn debt_of_exactly_a_slice_passes_one_turn() {
    let mut guest = Guest::new();
    guest.hog(A, nice(0));
    guest.hog(B, nice(0));
    guest.pick();
    let _ = guest.run(ms(200));
    let mut turns = Vec::new();
    for _ in 0..3 {
        turns.push(guest.pick().unwrap());
        let _ = guest.run(ms(100));
    }
    assert_eq!(turns, [B, B, A]);
}

#[test]
fn expired_current_is_told_to_go_at_every_charge() {
    let mut guest = Guest::new();
    guest.hog(A, nice(0));
    guest.hog(B, nice(0));
    guest.pick();
    assert_eq!(guest.run(ms(100)), Resched::on(V0));
    assert_eq!(guest.run(Nanos(1)), Resched::on(V0), "the driver has not picked yet");
    assert_eq!(guest.pick(), Some(B));
}
