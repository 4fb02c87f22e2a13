//! `cpu.promise` is the daemon's own account, read from the kernel: it agrees with `/proc` and with what the worker says of itself.

mod support;

use std::time::{Duration, Instant};

use support::{Daemon, Program, alone, can_run, children, cpu_ms, stat_field, wait_until};

const PROMISE: &str = "sched-groups/g/cpu.promise";
/// Sleeps for longer than the account goes back and than anybody looks at an idle group, then computes for a moment.
const NOW_AND_THEN: &str = "while :; do sleep 12; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; done";

/// What it says that the group got in the last ten seconds, by the daemon and by the worker, in milliseconds.
fn got(daemon: &Daemon) -> (f64, f64) {
    got_of(daemon, PROMISE)
}

fn got_of(daemon: &Daemon, path: &str) -> (f64, f64) {
    let text = daemon.read(path);
    let number = |key: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {key} in {text}"))
    };
    (number("got") / 1e3, number("worker_got") / 1e3)
}

fn agrees(mode: Option<&str>) {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::with_mode(mode);
    daemon.group("g", 5_000);
    let _outside = Program::spin();
    let members = [Program::shell(NOW_AND_THEN), Program::shell(NOW_AND_THEN)];
    let pids = members.each_ref().map(Program::pid);
    let sleep = |pid: i32| !children(pid).is_empty();
    for &pid in &pids {
        wait_until(5, "it to sleep", || sleep(pid));
        daemon.join("g", pid).expect("joined");
    }

    let mut seen = Vec::new();
    for _ in 0..3 {
        let used = || pids.iter().map(|&pid| cpu_ms(pid)).sum::<f64>();
        let before = used();
        wait_until(30, "them to compute", || used() > before + 50.0);
        let started = Instant::now();
        wait_until(60, "them to sleep again", || pids.iter().all(|&pid| sleep(pid)));
        let (by_daemon, by_worker) = got(&daemon);
        let (used, took) = (used() - before, started.elapsed());
        seen.push((used, by_daemon, by_worker, took));
        // On a slow machine it may have begun too long ago.
        let near = |got: f64| (got - used).abs() < 0.03 * used + 20.0;
        if took < Duration::from_secs(8) && near(by_daemon) && near(by_worker) {
            return;
        }
    }
    panic!("/proc, daemon, worker: {seen:?}");
}

#[test]
fn daemon_and_worker_agree_with_proc() {
    agrees(None);
}

#[test]
fn daemon_and_worker_agree_with_proc_without_cgroups() {
    agrees(Some("park=stop"));
}

/// What short children have used is counted after they have ended.
#[test]
fn children_that_have_ended_are_counted() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 5_000);
    let child = "sh -c 'i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done'";
    let parent =
        Program::shell(&format!("while :; do sleep 12; for i in 1 2 3 4 5 6 7 8; do {child}; done; done"));
    daemon.join("g", parent.pid()).expect("joined");
    // Of the parent and of children that were waited for, in ticks of 10 ms.
    let used = || {
        let ticks = (11..15).filter_map(|at| stat_field(parent.pid(), at)?.parse::<f64>().ok());
        10.0 * ticks.sum::<f64>()
    };
    let is_asleep = || children(parent.pid()).iter().any(|&c| support::comm(c).as_deref() == Some("sleep"));

    let mut seen = Vec::new();
    for _ in 0..3 {
        let before = used();
        wait_until(30, "it to compute", || used() > before + 50.0);
        let started = Instant::now();
        wait_until(60, "it to sleep again", is_asleep);
        let (by_daemon, _) = got(&daemon);
        let (used, took) = (used() - before, started.elapsed());
        seen.push((used, by_daemon, took));
        if took < Duration::from_secs(8) && (by_daemon - used).abs() < 0.1 * used + 40.0 {
            return;
        }
    }
    panic!("/proc, daemon: {seen:?}");
}

#[test]
fn members_of_a_nested_group_count_for_the_one_around_it() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("outer", 5_000);
    daemon.group("inner", 5_000);
    let (own, nested) = (Program::spin(), Program::spin());
    daemon.nest("inner", "outer").expect("nested");
    let used = || cpu_ms(own.pid()) + cpu_ms(nested.pid());
    let before = used();
    daemon.join("outer", own.pid()).expect("joined");
    daemon.join("inner", nested.pid()).expect("joined");
    std::thread::sleep(Duration::from_secs(4));

    let (by_daemon, by_worker) = got_of(&daemon, "sched-groups/outer/cpu.promise");

    let used = used() - before;
    let near = |got: f64| (got - used).abs() < 0.1 * used + 100.0;
    assert!(near(by_daemon) && near(by_worker), "/proc {used}, daemon {by_daemon}, worker {by_worker}");
    let (inner, _) = got_of(&daemon, "sched-groups/inner/cpu.promise");
    assert!(inner < 0.8 * by_daemon, "{inner} of {by_daemon}");
}
