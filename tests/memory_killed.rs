//! Whatever of a memory group is killed with -9, fills up or fails: no byte of its members changes, and nobody hangs.

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use support::{
    Pools, Program, agents, alone, can_run_memory, checker, kill9, parent, sh, signal, wait_for, wait_until,
};

/// A group `g` of half the size of what a checker has, which is a member.
fn group(tiers: &str, ms: u64, kinds: &str) -> (Pools, Program) {
    let pools = Pools::start();
    pools.pool("g", "12M");
    pools.write("g/memory.swap.tiers", tiers).expect("tiers");
    let p = checker(ms, 8, 3, kinds);
    std::thread::sleep(Duration::from_millis(300));
    pools.rename("0", "g", p.pid()).expect("joined");
    (pools, p)
}

fn random() -> impl FnMut(u64) -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mut seed = time.map_or(1, |d| d.as_nanos() as u64) | 1;
    eprintln!("seed {seed}");
    move |below| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 8) % below
    }
}

/// How many kills a test has; more by hand.
fn rounds(usual: u64) -> u64 {
    std::env::var("COMPARTMENTS_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// Kills while a checker runs; gives how often.
fn kill_while_it_runs(kinds: &str, rounds: u64, whom: impl Fn(&Pools, u64) -> Vec<i32>) {
    let (pools, mut p) = group("lz4:2M file:1G:/var/tmp", rounds * 160 + 1000, kinds);
    let mut random = random();
    let mut nr = 0;
    for _ in 0..rounds {
        std::thread::sleep(Duration::from_millis(20 + random(130)));
        if let Ok(Some(status)) = p.0.try_wait() {
            assert!(status.success(), "{status} after {nr} kills");
            break;
        }
        for pid in whom(&pools, random(4)) {
            kill9(pid);
            nr += 1;
            // It dies when it gets the CPU: the next one must not be killed beside it.
            wait_until(10, "its end", || {
                fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty()
            });
        }
    }
    let status = p.wait(60);
    assert!(status.success(), "{status} after {nr} kills");
    assert!(nr > rounds / 2, "{nr} kills only");
    eprintln!("{kinds}: {nr} kills\n{}", pools.read("g/memory.stat"));
    wait_until(10, "the group to be empty", || pools.members("g").is_empty());
}

/// The worker of the one group.
fn worker(pools: &Pools) -> Vec<i32> {
    let pids = pools.daemon.drivers();
    pids.iter().copied().filter(|&p| parent(p).is_some_and(|pp| pids.contains(&pp))).collect()
}

#[test]
fn worker_killed_at_any_moment_changes_no_byte() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    // More often than a group of the other kind is mended.
    kill_while_it_runs("none", rounds(40), |pools, _| worker(pools));
}

#[test]
fn keeper_killed_hands_over_to_its_worker() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    kill_while_it_runs("none", rounds(20), |pools, choice| {
        let (keeper, worker) = pools.daemon.keeper_and_worker();
        // One of both, when there are both again.
        vec![if choice == 0 { worker } else { keeper }]
    });
}

#[test]
fn stopped_worker_and_keeper_are_made_to_go_on() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let (pools, mut p) = group("lz4:2M file:1G:/var/tmp", 6000, "none");
    let (keeper, worker) = pools.daemon.keeper_and_worker();
    for (nr, pid) in [worker, keeper, worker].into_iter().enumerate() {
        signal(pid, Signal::SIGSTOP);
        let is_told = || pools.daemon.log().matches("and is made to go on").count() > nr;
        wait_until(5, "it to go on", is_told);
    }
    assert!(p.wait_or(60, || pools.read("g/memory.stat")).success());
    assert_eq!(pools.daemon.keeper_and_worker(), (keeper, worker));
}

#[test]
fn members_die_with_keeper_and_worker() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let (pools, mut p) = group("file:1G:/var/tmp", 20_000, "none");
    wait_until(10, "evictions", || pools.key("g/memory.stat", "pswpout") > 100);
    let killed = Instant::now();

    while !pools.daemon.drivers().is_empty() {
        pools.daemon.drivers().into_iter().for_each(kill9);
        assert!(killed.elapsed() < Duration::from_secs(2), "they come back");
    }

    let status = p.wait(5);
    assert_eq!(status.signal(), Some(9), "{status}");
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
}

#[test]
fn daemon_killed_leaves_members_alone() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let (mut pools, mut p) = group("lz4:2M file:1G:/var/tmp", 5000, "none");
    for _ in 0..3 {
        pools.daemon.kill();
        std::thread::sleep(Duration::from_millis(400));
        pools.daemon.restart();
        assert_eq!(pools.read("g/memory.max"), "12582912\n");
        assert_eq!(pools.read("g/memory.swap.tiers"), "lz4:2M file:1G:/var/tmp\n");
        wait_until(5, "the member to be shown", || pools.members("g").contains(&p.pid()));
    }
    assert!(p.wait(60).success());
}

#[test]
fn members_killed_in_the_middle_of_evictions_leave_nothing() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let (pools, mut other) = group("lz4:2M file:1G:/var/tmp", 6000, "none");
    let mut random = random();
    for _ in 0..10 {
        let mut p = checker(60_000, 4, 2, "fork");
        std::thread::sleep(Duration::from_millis(50));
        pools.rename("0", "g", p.pid()).expect("joined");
        std::thread::sleep(Duration::from_millis(random(400)));
        kill9(p.pid());
        p.wait(5);
    }
    assert!(other.wait(60).success());
    wait_until(10, "the group to be empty", || pools.members("g").is_empty());
    assert_eq!((pools.number("g/memory.current"), pools.number("g/memory.swap.current")), (0, 0));
    wait_until(5, "the agents to be gone", || agents().is_empty());
}

#[test]
fn agent_killed_by_its_user_costs_no_byte() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let (pools, mut p) = group("lz4:2M file:1G:/var/tmp", 4000, "none");
    let inside = wait_for(5, "an agent", || Some(agents()).filter(|a| !a.is_empty()));
    wait_until(10, "evictions", || pools.key("g/memory.stat", "pgsteal") > 1000);

    inside.iter().copied().for_each(kill9);
    let stolen = pools.key("g/memory.stat", "pgsteal");
    wait_until(10, "another agent", || agents().iter().any(|agent| !inside.contains(agent)));
    wait_until(10, "evictions", || pools.key("g/memory.stat", "pgsteal") > stolen + 1000);

    let status = p.wait_or(60, || pools.read("g/memory.stat"));
    assert!(status.success(), "{status}");
}

#[test]
fn full_swap_kills_one_member_and_says_so() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let pools = Pools::start();
    pools.pool("g", "16M");
    pools.write("g/memory.swap.tiers", "file:8M:/var/tmp").expect("tiers");
    let mut small = checker(6000, 2, 1, "none");
    pools.rename("0", "g", small.pid()).expect("joined");
    let (mut events, mut seen) = (pools.daemon.events(), String::new());

    let mut large = checker(60_000, 24, 2, "none");
    // It may be killed while it joins.
    let _ = pools.rename("0", "g", large.pid());

    let status = large.wait_or(30, || pools.read("g/memory.stat"));
    assert_eq!(status.signal(), Some(9), "{status}");
    assert!(small.wait(60).success());
    assert_eq!(pools.key("g/memory.events", "oom_kill"), 1);
    assert!(pools.key("g/memory.events", "oom") >= 1);
    let pid = large.pid().to_string();
    wait_until(5, "the event", || {
        let _ = events.read_to_string(&mut seen);
        seen.lines().any(|l| l.contains("oom") && l.contains(&format!("={pid}")))
    });
}

#[test]
fn full_disk_kills_nobody_who_can_do_without_it() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let disk = SmallDisk::new(6);
    let (pools, mut p) =
        group(&format!("file:1G:{} file:1G:/var/tmp", disk.0.path().display()), 4000, "none");

    let status = p.wait_or(60, || pools.read("g/memory.stat"));

    assert!(status.success(), "{status}");
    assert!(pools.key("g/memory.stat", "pswpout") > 0);
    drop(pools);
}

#[test]
fn full_disk_with_nothing_behind_it_is_as_full_swap() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let disk = SmallDisk::new(4);
    let (pools, mut p) = group(&format!("file:1G:{}", disk.0.path().display()), 60_000, "none");

    let status = p.wait_or(60, || pools.read("g/memory.stat"));

    assert_eq!(status.signal(), Some(9), "{status}");
    assert_eq!(pools.key("g/memory.events", "oom_kill"), 1);
    drop(pools);
}

/// A file system of so many MiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mib: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let made = sh(&format!("mount -t tmpfs -o size={mib}m small {}", dir.path().display()));
        assert!(made.status.success(), "{made:?}");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn worker_killed_while_mappings_change_changes_no_byte() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    kill_while_it_runs("maps,io,stack,huge", rounds(30), |pools, _| worker(pools));
}

#[test]
fn worker_killed_while_members_fork_and_execute_changes_no_byte() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    // A worker that is killed while it puts an agent into a new process takes that process along.
    kill_while_it_runs("fork,exec,mortal", rounds(30), |pools, _| worker(pools));
}
