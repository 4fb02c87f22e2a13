//! No event on the hot paths allocates.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.
#![allow(unsafe_code)] // A global allocator is an unsafe trait; this one only counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use guest_sched::{Nanos, POLICIES, Policy, Sleep, TaskId, TaskParams, Vcpu, Waker, policy_by_name};

thread_local! {
    static NR_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NR_ALLOCATIONS.with(|nr| nr.set(nr.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and all memory comes from `System`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Gives how many allocations `run` makes in this thread.
fn allocations(run: impl FnOnce()) -> u64 {
    let before = NR_ALLOCATIONS.with(Cell::get);
    run();
    NR_ALLOCATIONS.with(Cell::get) - before
}

/// Lets tasks run, block and wake on all vcpus for a while.
fn churn(policy: &mut dyn Policy, nr_tasks: u32, resched: &mut Vec<Vcpu>) {
    let mut now = Nanos::from_secs(1);
    for round in 0..50_000_u32 {
        for vcpu in (0..policy.vcpus()).map(Vcpu) {
            let Ok(Some(id)) = policy.pick_next(vcpu, now) else { continue };
            let ran = policy.budget(vcpu).unwrap_or(Nanos::from_millis(3)).min(Nanos::from_millis(3));
            now += ran;
            let _ = policy.charge(id, ran, now);
            if round % 3 == 0 {
                let _ = policy.block(id, Sleep::Interruptible, now);
            } else if round % 17 == 0 {
                let _ = policy.yield_now(id, now);
            }
        }
        let _ = policy.wake(TaskId(round % nr_tasks), Waker::Interrupt, now);
        if policy.next_balance().is_some_and(|due| due <= now) {
            policy.balance(now, resched);
            resched.clear();
        }
    }
}

#[test]
fn hot_paths_do_not_allocate() {
    for name in POLICIES {
        for vcpus in [1, 3] {
            let mut policy = policy_by_name(name, vcpus).unwrap();
            for id in (0..100).map(TaskId) {
                policy.add(id, TaskParams::default(), Nanos::ZERO).unwrap();
                let _ = policy.wake(id, Waker::Task, Nanos::ZERO).unwrap();
            }
            let mut resched = Vec::with_capacity(16);
            let nr = allocations(|| churn(&mut *policy, 100, &mut resched));
            assert_eq!(nr, 0, "{name}, {vcpus} vcpus");
        }
    }
}

#[test]
fn counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![0_u8; 100]))), 1);
}
