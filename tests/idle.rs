//! Where nobody wants to run, nobody of ours wakes up.

mod support;

use std::time::{Duration, Instant};

use support::{Daemon, Program, alone, can_run, is_free, state, voluntary_switches, wait_until};

#[test]
fn group_of_sleepers_wakes_nobody() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let sleepers = [Program::start(&["sleep", "1000"]), Program::start(&["sleep", "1000"])];
    for p in &sleepers {
        daemon.join("g", p.pid()).expect("joined");
    }
    let (keeper, worker) = daemon.keeper_and_worker();
    std::thread::sleep(Duration::from_secs(1));
    let count = || -> u64 { [daemon.pid(), keeper, worker].iter().map(|&pid| voluntary_switches(pid)).sum() };

    let before = count();
    std::thread::sleep(Duration::from_secs(3));

    assert!(count() - before <= 3, "{} wake-ups in 3 s", count() - before);
}

#[test]
fn sleepers_are_left_alone_and_end_in_time() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 5_000);
    let started = Instant::now();
    let (mut short, long) = (Program::start(&["sleep", "2"]), Program::start(&["sleep", "1000"]));
    // Beside one that is parked again and again.
    let (busy, other) = (Program::spin(), Program::spin());
    for p in [&short, &long, &busy, &other] {
        daemon.join("g", p.pid()).expect("joined");
    }
    wait_until(5, "it to be seen asleep", || {
        daemon.read(&format!("sched-groups/g/{}/state", long.pid())) == "sleeping\n"
    });
    let before = voluntary_switches(long.pid());

    while short.0.try_wait().expect("a child").is_none() {
        assert!(is_free(long.pid()) && state(long.pid()) == Some('S'), "parked while asleep");
        assert!(started.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }

    let took = started.elapsed().as_secs_f64();
    assert!((1.99..2.3).contains(&took), "sleep 2 took {took} s");
    assert_eq!(voluntary_switches(long.pid()), before, "woken");
    wait_until(5, "its end to be seen", || daemon.members("g").len() == 3);
}

/// Wake-ups are seen wherever they happen: also while somebody who is no member has the CPU.
#[test]
fn sleeper_that_wakes_beside_others_is_seen() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 5_000);
    let _outside = Program::spin();
    let late: Vec<Program> =
        (0..4).map(|i| Program::shell(&format!("sleep 1.{i}; while :; do :; done"))).collect();
    for p in &late {
        daemon.join("g", p.pid()).expect("joined");
    }
    let state = |p: &Program| daemon.read(&format!("sched-groups/g/{}/state", p.pid()));
    for p in &late {
        wait_until(5, "it to be seen asleep", || state(p) == "sleeping\n");
    }

    for p in &late {
        let before = support::cpu_ms(p.pid());
        wait_until(5, "its end of sleep", || support::cpu_ms(p.pid()) > before + 10.0);

        // Not only by the look that is taken now and then.
        assert_ne!(state(p), "sleeping\n");
    }
}

#[test]
fn empty_groups_and_an_idle_daemon_wake_nobody() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    for name in ["a", "b", "c"] {
        daemon.mkdir(name);
    }
    let pids = [&daemon.drivers()[..], &[daemon.pid()]].concat();
    std::thread::sleep(Duration::from_secs(1));
    let count = || -> u64 { pids.iter().map(|&pid| voluntary_switches(pid)).sum() };

    let before = count();
    std::thread::sleep(Duration::from_secs(2));

    assert_eq!(count() - before, 0, "wake-ups in 2 s");
}

#[test]
fn held_group_costs_five_wake_ups_a_second_at_most() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let cat = std::process::Command::new("cat")
        .arg(daemon.path("schedulers/guest_o1_scheduler"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("cat");
    let held = Program(cat);
    let (keeper, worker) = daemon.keeper_and_worker();
    std::thread::sleep(Duration::from_secs(1));
    let count = |pids: &[i32]| -> u64 { pids.iter().map(|&pid| voluntary_switches(pid)).sum() };

    let before = (count(&[keeper, worker]), count(&[daemon.pid()]));
    std::thread::sleep(Duration::from_secs(2));

    assert_eq!(count(&[keeper, worker]) - before.0, 0, "wake-ups of the group's own");
    // A look five times a second whether the reader has a signal to see to.
    assert!(count(&[daemon.pid()]) - before.1 <= 12, "{} in 2 s", count(&[daemon.pid()]) - before.1);
    drop(held);
}
