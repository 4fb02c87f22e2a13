//! Members of a memory group see no difference but time, and the group is never larger than its limit.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::{Pools, Program, alone, can_run_memory, checker, wait_until};

/// Looks at a group every 10 ms while something goes on; gives the most by which `memory.current` was above `memory.max`.
fn watch_limit<T>(pools: &Pools, group: &str, what: impl FnOnce() -> T) -> (T, u64) {
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0;
            while !is_done.load(Ordering::SeqCst) {
                let (current, max) = (format!("{group}/memory.current"), format!("{group}/memory.max"));
                most = most.max(pools.number(&current).saturating_sub(pools.number(&max)));
                std::thread::sleep(Duration::from_millis(10));
            }
            most
        });
        let done = Done(&is_done);
        let result = what();
        drop(done);
        (result, sampler.join().expect("the sampler"))
    })
}

/// Waits for a checker to say that all was right.
fn ends_right(pools: &Pools, group: &str, checker: &mut Program, seconds: u64) {
    let status = checker.wait_or(seconds, || pools.read(&format!("{group}/memory.stat")));
    assert!(status.success(), "{status}");
}

fn half_of_the_working_set(tiers: &str, kinds: &str) {
    let pools = Pools::start();
    pools.pool("g", "16M");
    pools.write("g/memory.swap.tiers", tiers).expect("tiers");
    let mut p = checker(6000, 8, 4, kinds);
    let mut outside = checker(6000, 4, 2, kinds);
    std::thread::sleep(Duration::from_millis(500));

    pools.rename("0", "g", p.pid()).expect("joined");

    let ((), above) = watch_limit(&pools, "g", || ends_right(&pools, "g", &mut p, 40));
    eprintln!("{tiers} {kinds}: {above} bytes above the limit\n{}", pools.read("g/memory.stat"));
    assert_eq!(above, 0);
    assert!(pools.key("g/memory.stat", "pswpout") > 0);
    ends_right(&pools, "g", &mut outside, 60);
    wait_until(5, "the group to be empty", || pools.members("g").is_empty());
    wait_until(5, "its swap to be free", || pools.number("g/memory.swap.current") == 0);
}

#[test]
fn plain_pages_are_right_in_half_of_their_number() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    half_of_the_working_set("file:1G:/var/tmp", "none");
    half_of_the_working_set("lz4:4M file:1G:/var/tmp", "none");
}

#[test]
fn pages_that_are_mapped_anew_and_moved_are_right() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    half_of_the_working_set("file:1G:/var/tmp", "maps");
    half_of_the_working_set("lz4:2M file:1G:/var/tmp", "maps,fork");
}

#[test]
fn everything_a_program_may_do_with_its_pages_is_right() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    half_of_the_working_set("lz4:4M file:1G:/var/tmp", "all");
}

#[test]
fn pages_of_forked_children_are_right_and_their_own() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    half_of_the_working_set("lz4:2M file:1G:/var/tmp", "fork");
}
