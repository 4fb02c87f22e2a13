//! `cpu.max` holds for all members together.

mod support;

use std::time::{Duration, Instant};

use support::{Daemon, Program, alone, assert_near, can_run, nr_cpus, state, used_ms};

/// CPU time in percent of one CPU that the programs use together, as their schedstat tells.
fn usage(programs: &[&Program]) -> f64 {
    let pids: Vec<i32> = programs.iter().map(|p| p.pid()).collect();
    let start = Instant::now();
    let used: f64 = used_ms(&pids, Duration::from_secs(3)).iter().sum();
    used / start.elapsed().as_secs_f64() / 10.0
}

#[test]
fn group_of_three_uses_its_quota_and_no_more() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let programs = [Program::spin(), Program::spin(), Program::spin()];
    let all: Vec<&Program> = programs.iter().collect();
    daemon.write("sched-groups/g/cpu.max", "10000 100000").expect("a quota");
    for p in &programs {
        daemon.join("g", p.pid()).expect("joined");
    }
    let throttled =
        || ["nr_throttled", "throttled_usec"].map(|key| daemon.number("sched-groups/g/cpu.stat", key));

    for (quota, percent) in
        [("10000 100000", 10.0), ("25000 100000", 25.0), ("2500 10000", 25.0), ("50000 100000", 50.0)]
    {
        daemon.write("sched-groups/g/cpu.max", quota).expect("a quota");
        assert_eq!(daemon.read("sched-groups/g/cpu.max"), format!("{quota}\n"));
        let before = throttled();

        assert_near(&[percent], percent * 0.05, || vec![usage(&all)]);

        let after = throttled();
        assert!(after[0] >= before[0] + 10.0, "{quota}: nr_throttled {before:?} {after:?}");
        assert!(after[1] >= before[1] + 500_000.0, "{quota}: throttled_usec {before:?} {after:?}");
    }

    daemon.write("sched-groups/g/cpu.max", "max").expect("no quota");

    assert_near(&[100.0], 15.0, || vec![usage(&all)]);
}

#[test]
fn capped_members_share_the_quota_alike() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 5_000);
    daemon.write("sched-groups/g/cpu.max", "30000 100000").expect("a quota");
    let programs = [Program::spin(), Program::spin()];
    for p in &programs {
        daemon.join("g", p.pid()).expect("joined");
    }

    support::assert_shares(&[programs[0].pid(), programs[1].pid()], &[50.0, 50.0], 5.0, 3);
}

#[test]
fn vcpus_say_how_many_run_at_once() {
    if !can_run() || nr_cpus() < 2 {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 10_000);
    // Each on a CPU of its own: the host's balancer may put both on one beside the work of others.
    let spin_on =
        |cpu: usize| Program::start(&["taskset", "-c", &cpu.to_string(), "sh", "-c", "while :; do :; done"]);
    let programs = [spin_on(0), spin_on(support::cpu())];
    let all: Vec<&Program> = programs.iter().collect();
    for p in &programs {
        daemon.join("g", p.pid()).expect("joined");
    }

    let one = usage(&all);
    daemon.write("sched-groups/g/vcpus", "2").expect("two");
    let two = usage(&all);

    assert!(one < 105.0, "{one}");
    assert!(two > 1.25 * one && two > 110.0, "{one} {two}");
    // A quota is of CPU time, on however many CPUs it is used.
    daemon.write("sched-groups/g/cpu.max", "50000 100000").expect("a quota");
    assert_near(&[50.0], 2.5, || vec![usage(&all)]);
}

/// How many of these were runnable at once, of so many looks at `/proc`. One that is handed over between two reads is seen on both sides:
/// only who is runnable in two rounds counts, and only looks that were not themselves interrupted do.
fn runnable_at_once(pids: &[i32], time: Duration) -> Vec<usize> {
    let runnable = || -> Vec<bool> { pids.iter().map(|&p| state(p) == Some('R')).collect() };
    let end = Instant::now() + time;
    let mut counts = vec![0; pids.len() + 1];
    while Instant::now() < end {
        let start = Instant::now();
        let (first, second) = (runnable(), runnable());
        if start.elapsed() > Duration::from_micros(400) {
            continue;
        }
        counts[first.iter().zip(second).filter(|&(&a, b)| a && b).count()] += 1;
        std::thread::sleep(Duration::from_micros(700));
    }
    counts
}

fn at_most_vcpus_are_runnable(vcpus: usize) {
    if !can_run() || nr_cpus() < vcpus {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::with_mode(Some("envelope=none"));
    daemon.group("g", 10_000);
    daemon.write("sched-groups/g/vcpus", &vcpus.to_string()).expect("vcpus");
    // One that sleeps and wakes up: only its wake windows may exceed.
    let mut programs: Vec<Program> = (0..3).map(|_| Program::spin_anywhere()).collect();
    programs.push(Program::shell("while :; do sleep 0.05; done"));
    for p in &programs {
        daemon.join("g", p.pid()).expect("joined");
    }
    std::thread::sleep(Duration::from_millis(300));
    let pids: Vec<i32> = programs.iter().map(Program::pid).collect();
    // Once more if the machine was busy with others: what they take of the CPU nobody of the group gets.
    let mut seen = Vec::new();
    let is_kept = (0..3).any(|_| {
        let (is_kept, what) = is_promise_kept(&daemon, &pids, vcpus);
        seen.push(what);
        is_kept
    });
    assert!(is_kept, "{vcpus} run at once: {seen:#?}");
    // Every one of the three gets its turns.
    let used = used_ms(&pids[..3], Duration::from_secs(2));
    assert!(used.iter().all(|&ms| ms > 100.0), "{used:?}");
}

/// Whether no more of them run at once than vcpus, but for the time that the group counts as excess; and what was seen.
fn is_promise_kept(daemon: &Daemon, pids: &[i32], vcpus: usize) -> (bool, String) {
    let counted = || daemon.number("sched-groups/g/cpu.promise", "excess_runnable_usec");
    let (before, usage, start) =
        (counted(), daemon.number("sched-groups/g/cpu.stat", "usage_usec"), Instant::now());

    let counts = runnable_at_once(pids, Duration::from_secs(4));

    let took = start.elapsed().as_secs_f64() * 1e6;
    let usage = (daemon.number("sched-groups/g/cpu.stat", "usage_usec") - usage) / took;
    let counted = (counted() - before) / took;
    let total: usize = counts.iter().sum();
    let part = |from: usize| counts[from..].iter().sum::<usize>() as f64 / total as f64;
    let is_kept = part(vcpus) > 0.5 && part(vcpus + 1) <= counted + 0.02 && usage <= vcpus as f64 * 1.05;
    (is_kept, format!("{counts:?} of {total}, counted {counted:.4}, usage {usage:.2}"))
}

#[test]
fn one_runs_at_a_time_beyond_counted_windows() {
    at_most_vcpus_are_runnable(1);
}

#[test]
fn two_run_at_once_and_the_third_waits() {
    at_most_vcpus_are_runnable(2);
}
