//! The rules of `guest_fair_scheduler`.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use guest_sched::fair::DEF_SLICE;
use guest_sched::fair::weight::weight;
use guest_sched::{
    Class, FairScheduler, Fork, Nanos, Nice, Policy, Resched, RtPriority, Sleep, TaskId, TaskParams, Vcpu,
    Waker,
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
    policy: FairScheduler,
    now: Nanos,
}

impl Guest {
    fn new() -> Self {
        Self { policy: FairScheduler::new(1).unwrap(), now: Nanos::ZERO }
    }

    fn hog(&mut self, id: TaskId, params: TaskParams) {
        self.policy.add(id, params, self.now).unwrap();
        let _ = self.policy.wake(id, Waker::Task, self.now).unwrap();
    }

    fn pick(&mut self) -> Option<TaskId> {
        self.policy.pick_next(V0, self.now).unwrap()
    }

    fn run(&mut self, ran: Nanos) -> Resched {
        self.now += ran;
        let current = self.policy.current(V0).unwrap();
        self.policy.charge(current, ran, self.now).unwrap()
    }

    /// Lets whoever is chosen run to `late` past its budget, again and again; gives the CPU time of tasks 0
    /// to 9.
    fn drive(&mut self, length: Nanos, late: Nanos) -> [f64; 10] {
        let mut used = [0.0; 10];
        let end = self.now + length;
        while self.now < end {
            let id = self.pick().unwrap();
            let ran = self.policy.budget(V0).unwrap_or(ms(10)) + late;
            used[id.index()] += ran.as_secs_f64();
            let _ = self.run(ran);
        }
        self.policy.check_invariants().unwrap();
        used
    }
}

#[test]
fn equal_hogs_take_turns_of_a_slice() {
    let mut guest = Guest::new();
    for id in [A, B, C] {
        guest.hog(id, nice(0));
    }
    let mut turns = Vec::new();
    for _ in 0..6 {
        turns.push(guest.pick().unwrap());
        assert_eq!(guest.policy.budget(V0), Some(DEF_SLICE));
        assert_eq!(guest.run(DEF_SLICE - Nanos(1)), Resched::NO);
        assert_eq!(guest.run(Nanos(1)), Resched::on(V0));
    }
    assert_eq!(turns, [A, B, C, A, B, C]);
}

#[test]
fn shares_follow_weights_however_late_the_reports_are() {
    for late in [Nanos::ZERO, Nanos::from_micros(30), ms(3), ms(50)] {
        let mut guest = Guest::new();
        let values = [0, 0, 5, 10, 19, -5];
        for (id, value) in (0..).map(TaskId).zip(values) {
            guest.hog(id, nice(value));
        }
        let used = guest.drive(Nanos::from_secs(2_000), late);
        let total: f64 = used.iter().sum();
        let weights: u64 = values.iter().map(|&value| weight(Nice::new(value).unwrap())).sum();
        for (used, value) in used.iter().zip(values) {
            let expected = weight(Nice::new(value).unwrap()) as f64 / weights as f64;
            let share = used / total;
            assert!((share / expected - 1.0).abs() < 0.02, "{late:?}, nice {value}: {share}, not {expected}");
        }
    }
}

#[test]
fn long_sleeper_preempts_and_has_banked_no_more_than_its_credit() {
    let mut guest = Guest::new();
    guest.policy.add(B, nice(0), guest.now).unwrap();
    guest.hog(A, nice(0));
    guest.pick();
    for _ in 0..1_000 {
        let _ = guest.run(ms(10));
    }
    assert_eq!(guest.policy.wake(B, Waker::Task, guest.now), Ok(Resched::on(V0)));
    let used = guest.drive(ms(600), Nanos::ZERO);
    assert!((used[1] - used[0]).abs() < 0.0125, "ten seconds asleep, and {used:?}");
}

#[test]
fn sleeper_wakes_beside_a_lone_hog_that_was_never_charged() {
    let mut guest = Guest::new();
    guest.policy.add(B, nice(0), guest.now).unwrap();
    guest.hog(A, nice(0));
    guest.pick();
    assert_eq!(guest.policy.budget(V0), None);
    guest.now += Nanos::from_secs(3_600);
    assert_eq!(guest.policy.wake(B, Waker::Task, guest.now), Ok(Resched::on(V0)));
    let _ = guest.policy.charge(A, Nanos::from_secs(3_600), guest.now).unwrap();
    let used = guest.drive(ms(600), Nanos::ZERO);
    assert!((used[1] - used[0]).abs() < 0.0125, "{used:?}");
}

#[test]
fn short_sleeper_does_not_preempt_for_less_than_the_granularity() {
    let mut guest = Guest::new();
    guest.hog(A, nice(0));
    guest.hog(B, nice(0));
    guest.pick();
    let _ = guest.run(ms(3));
    let _ = guest.policy.block(A, Sleep::Interruptible, guest.now).unwrap();
    assert_eq!(guest.pick(), Some(B));
    let _ = guest.run(ms(3));
    assert_eq!(guest.policy.wake(A, Waker::Task, guest.now), Ok(Resched::NO));
    // What B may have used since counts, charged or not.
    let _ = guest.policy.block(A, Sleep::Interruptible, guest.now).unwrap();
    guest.now += ms(2);
    assert_eq!(guest.policy.wake(A, Waker::Task, guest.now), Ok(Resched::on(V0)));
}

#[test]
fn batch_and_sync_wakeups_do_not_preempt() {
    let mut guest = Guest::new();
    guest.policy.add(B, TaskParams { class: Class::Batch, ..nice(0) }, guest.now).unwrap();
    guest.policy.add(C, nice(0), guest.now).unwrap();
    guest.hog(A, nice(0));
    guest.pick();
    let _ = guest.run(Nanos::from_secs(1));
    assert_eq!(guest.policy.wake(B, Waker::Task, guest.now), Ok(Resched::NO));
    assert_eq!(guest.policy.wake(C, Waker::Sync(V0), guest.now), Ok(Resched::NO));
}

#[test]
fn realtime_runs_before_everything_and_by_the_o1_rules() {
    let rt = RtPriority::new(10).unwrap();
    let mut guest = Guest::new();
    guest.hog(C, nice(-20));
    guest.pick();
    guest.policy.add(A, TaskParams { class: Class::Rr(rt), ..nice(0) }, guest.now).unwrap();
    assert_eq!(guest.policy.wake(A, Waker::Task, guest.now), Ok(Resched::on(V0)));
    guest.hog(B, TaskParams { class: Class::Rr(rt), ..nice(0) });
    for expected in [A, B, A] {
        assert_eq!(guest.pick(), Some(expected));
        assert_eq!(guest.policy.budget(V0), Some(ms(100)));
        assert_eq!(guest.run(ms(100)), Resched::on(V0));
    }
    let better = Class::Fifo(RtPriority::new(11).unwrap());
    assert_eq!(guest.policy.set_class(B, better, guest.now), Ok(Resched::on(V0)));
    assert_eq!(guest.pick(), Some(B));
    assert_eq!(guest.policy.budget(V0), None);
    for id in [A, B] {
        let _ = guest.policy.set_class(id, Class::Normal, guest.now).unwrap();
    }
    guest.policy.check_invariants().unwrap();
}

#[test]
fn child_starts_a_turn_behind() {
    let mut guest = Guest::new();
    guest.hog(A, nice(0));
    guest.hog(B, nice(0));
    guest.pick();
    assert_eq!(guest.policy.fork(A, C, Fork::Process, guest.now), Ok(Resched::NO));
    let mut turns = Vec::new();
    for _ in 0..4 {
        turns.push(guest.pick().unwrap());
        let _ = guest.run(DEF_SLICE);
    }
    assert_eq!(turns[..2], [A, B]);
    assert!(turns[2..].contains(&C), "{turns:?}");
}

#[test]
fn yield_lets_the_next_one_run_first() {
    let mut guest = Guest::new();
    guest.hog(A, nice(0));
    guest.hog(B, nice(0));
    guest.pick();
    let _ = guest.run(DEF_SLICE);
    assert_eq!(guest.pick(), Some(B));
    let _ = guest.run(ms(1));
    // B is behind A by 5 ms and gives way all the same.
    let _ = guest.policy.yield_now(B, guest.now).unwrap();
    assert_eq!(guest.pick(), Some(A));
}

#[test]
fn a_thousand_hogs_each_get_their_turn() {
    let mut guest = Guest::new();
    for id in (0..1_000).map(TaskId) {
        guest.hog(id, nice((id.0 % 40) as i32 - 20));
    }
    let mut nr_turns = vec![0_u32; 1_000];
    for _ in 0..200_000 {
        let id = guest.pick().unwrap();
        nr_turns[id.index()] += 1;
        let ran = guest.policy.budget(V0).unwrap();
        let _ = guest.run(ran);
    }
    assert!(nr_turns.iter().all(|&nr| nr > 0));
}

#[test]
fn tasks_spread_over_vcpus_and_survive_their_number_changing() {
    let mut policy = FairScheduler::new(4).unwrap();
    for id in (0..8).map(TaskId) {
        policy.add(id, TaskParams::default(), Nanos::ZERO).unwrap();
        let _ = policy.wake(id, Waker::Task, Nanos::ZERO).unwrap();
    }
    let on = |policy: &FairScheduler, vcpu: u16| {
        (0..8).filter(|&id| policy.info(TaskId(id)).unwrap().vcpu == Vcpu(vcpu)).count()
    };
    for vcpu in 0..4 {
        policy.pick_next(Vcpu(vcpu), Nanos::ZERO).unwrap();
        assert!(on(&policy, vcpu) >= 1);
    }
    policy.set_vcpus(1, ms(1)).unwrap();
    policy.check_invariants().unwrap();
    assert_eq!(on(&policy, 0), 8);
    policy.set_vcpus(2, ms(1)).unwrap();
    assert!(policy.pick_next(Vcpu(1), ms(1)).unwrap().is_some(), "it pulls");
    let mut resched = Vec::new();
    policy.balance(policy.next_balance().unwrap(), &mut resched);
    assert_eq!((on(&policy, 0), on(&policy, 1)), (4, 4));
    policy.check_invariants().unwrap();
}
