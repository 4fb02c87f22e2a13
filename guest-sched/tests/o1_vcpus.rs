//! `guest_o1_scheduler` on several vcpus: placement, pulling, balancing, changing their number.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use guest_sched::{
    Class, Fork, Nanos, Nice, O1Scheduler, Policy, Resched, Sleep, TaskId, TaskParams, Vcpu, Waker,
};

fn ms(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

/// Adds `nr` hogs and wakes them.
fn hogs(policy: &mut O1Scheduler, nr: u32, now: Nanos) {
    for id in (0..nr).map(TaskId) {
        policy.add(id, TaskParams::default(), now).unwrap();
        let _ = policy.wake(id, Waker::Task, now).unwrap();
    }
}

fn counts(policy: &O1Scheduler, nr: u32) -> Vec<usize> {
    let mut counts = vec![0; policy.vcpus().into()];
    for id in (0..nr).map(TaskId) {
        counts[policy.info(id).unwrap().vcpu.index()] += 1;
    }
    counts
}

fn pick_all(policy: &mut O1Scheduler, now: Nanos) {
    for vcpu in (0..policy.vcpus()).map(Vcpu) {
        policy.pick_next(vcpu, now).unwrap();
    }
}

/// Lets all currents run for `length` in steps of 1 ms, balancing when asked for; gives each task's CPU
/// time in ms.
fn drive(policy: &mut O1Scheduler, nr: u32, start: Nanos, length: Nanos) -> Vec<u64> {
    let (mut now, mut used, mut resched) = (start, vec![0; nr as usize], Vec::new());
    pick_all(policy, now);
    while now < start + length {
        now += ms(1);
        for vcpu in (0..policy.vcpus()).map(Vcpu) {
            if let Some(id) = policy.current(vcpu) {
                used[id.index()] += 1;
                if policy.charge(id, ms(1), now).unwrap().is_needed() {
                    policy.pick_next(vcpu, now).unwrap();
                }
            } else {
                policy.pick_next(vcpu, now).unwrap();
            }
        }
        if policy.next_balance().is_some_and(|due| due <= now) {
            policy.balance(now, &mut resched);
            for vcpu in resched.drain(..) {
                policy.pick_next(vcpu, now).unwrap();
            }
        }
        policy.check_invariants().unwrap();
    }
    used
}

#[test]
fn wakeups_go_to_idle_vcpus() {
    let mut policy = O1Scheduler::new(4).unwrap();
    hogs(&mut policy, 4, Nanos::ZERO);
    assert_eq!(counts(&policy, 4), [1, 1, 1, 1]);
    assert_eq!(policy.next_balance(), None, "nothing is queued");
}

#[test]
fn newly_idle_vcpu_pulls_expired_before_active() {
    let mut policy = O1Scheduler::new(2).unwrap();
    let mut now = ms(1);
    hogs(&mut policy, 5, now);
    pick_all(&mut policy, now);
    // Whoever is on vcpu 0 runs a slice and expires.
    let first = policy.current(Vcpu(0)).unwrap();
    now += ms(100);
    let _ = policy.charge(first, ms(100), now).unwrap();
    policy.pick_next(Vcpu(0), now).unwrap();
    now += ms(10);
    // Vcpu 1 runs dry.
    while let Some(id) = policy.current(Vcpu(1)) {
        if policy.info(id).unwrap().vcpu != Vcpu(1) || id == first {
            break;
        }
        let _ = policy.block(id, Sleep::Interruptible, now).unwrap();
        policy.pick_next(Vcpu(1), now).unwrap();
    }
    assert_eq!(policy.current(Vcpu(1)), Some(first));
    policy.check_invariants().unwrap();
}

#[test]
fn hot_task_is_left_where_it_is_until_attempts_have_failed() {
    let mut policy = O1Scheduler::new(2).unwrap();
    let mut now = ms(10);
    hogs(&mut policy, 3, now);
    pick_all(&mut policy, now);
    let (busy, other) = if counts(&policy, 3) == [2, 1] { (Vcpu(0), Vcpu(1)) } else { (Vcpu(1), Vcpu(0)) };
    let ran = policy.current(busy).unwrap();
    now += ms(100);
    let _ = policy.charge(ran, ms(100), now).unwrap();
    policy.pick_next(busy, now).unwrap();
    let gone = policy.current(other).unwrap();
    let _ = policy.block(gone, Sleep::Interruptible, now).unwrap();
    assert_eq!(policy.pick_next(other, now), Ok(None), "it ran this very instant");
    let mut resched = Vec::new();
    while resched.is_empty() {
        now = policy.next_balance().unwrap();
        policy.balance(now, &mut resched);
    }
    assert_eq!(resched, [other]);
    assert_eq!(policy.pick_next(other, now), Ok(Some(ran)));
    assert!(now < ms(120), "{now:?}");
}

#[test]
fn hogs_share_two_vcpus_evenly() {
    let mut policy = O1Scheduler::new(2).unwrap();
    hogs(&mut policy, 4, Nanos::ZERO);
    let used = drive(&mut policy, 4, Nanos::ZERO, Nanos::from_secs(20));
    for used in used {
        assert!((9_800..=10_200).contains(&used), "{used}");
    }
}

#[test]
fn uneven_runqueues_are_evened_out() {
    let mut policy = O1Scheduler::new(1).unwrap();
    hogs(&mut policy, 8, Nanos::ZERO);
    policy.set_vcpus(4, Nanos::ZERO).unwrap();
    let _ = drive(&mut policy, 8, ms(1), Nanos::from_secs(2));
    assert_eq!(counts(&policy, 8), [2, 2, 2, 2]);
}

#[test]
fn fewer_vcpus_keep_all_tasks_and_more_are_used() {
    let mut policy = O1Scheduler::new(4).unwrap();
    hogs(&mut policy, 8, Nanos::ZERO);
    pick_all(&mut policy, Nanos::ZERO);
    policy.set_vcpus(2, ms(1)).unwrap();
    policy.check_invariants().unwrap();
    assert_eq!(counts(&policy, 8), [4, 4]);
    assert_eq!(policy.pick_next(Vcpu(2), ms(1)).unwrap_err().to_string(), "no vcpu 2");
    assert!(policy.set_vcpus(0, ms(1)).is_err() && policy.set_vcpus(1_025, ms(1)).is_err());
    policy.set_vcpus(8, ms(2)).unwrap();
    pick_all(&mut policy, ms(2));
    let nr_running = (0..8).filter(|&vcpu| policy.current(Vcpu(vcpu)).is_some()).count();
    assert_eq!(nr_running, 8, "each idle vcpu pulled one");
}

#[test]
fn fork_uses_an_idle_vcpu() {
    let mut policy = O1Scheduler::new(2).unwrap();
    hogs(&mut policy, 1, Nanos::ZERO);
    let home = policy.info(TaskId(0)).unwrap().vcpu;
    policy.pick_next(home, Nanos::ZERO).unwrap();
    let other = Vcpu(1 - home.0);
    assert_eq!(policy.fork(TaskId(0), TaskId(1), Fork::Process, ms(1)), Ok(Resched::on(other)));
}

#[test]
fn heavy_task_gets_a_vcpu_of_its_own() {
    let mut policy = O1Scheduler::new(2).unwrap();
    hogs(&mut policy, 3, Nanos::ZERO);
    let heavy = TaskParams { nice: Nice::MIN, class: Class::Normal };
    policy.add(TaskId(3), heavy, Nanos::ZERO).unwrap();
    let _ = policy.wake(TaskId(3), Waker::Task, Nanos::ZERO).unwrap();
    let used = drive(&mut policy, 4, Nanos::ZERO, Nanos::from_secs(10));
    assert!(used[3] > 9_000, "{used:?}");
}

#[test]
fn sync_wakeup_comes_to_the_waker() {
    let mut policy = O1Scheduler::new(2).unwrap();
    hogs(&mut policy, 4, Nanos::ZERO);
    pick_all(&mut policy, Nanos::ZERO);
    let now = ms(50);
    let sleeper = (0..4).map(TaskId).find(|&id| {
        let info = policy.info(id).unwrap();
        info.vcpu == Vcpu(0) && policy.current(Vcpu(0)) != Some(id)
    });
    let _ = policy.block(sleeper.unwrap(), Sleep::Interruptible, now).unwrap();
    let third = (0..4)
        .map(TaskId)
        .find(|&id| policy.info(id).unwrap().vcpu == Vcpu(1) && policy.current(Vcpu(1)) != Some(id));
    let _ = policy.block(third.unwrap(), Sleep::Interruptible, now).unwrap();
    let _ = policy.wake(sleeper.unwrap(), Waker::Sync(Vcpu(1)), now + ms(20)).unwrap();
    assert_eq!(policy.info(sleeper.unwrap()).unwrap().vcpu, Vcpu(1));
}
