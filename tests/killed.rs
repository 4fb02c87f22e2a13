//! Whatever of ours is killed with -9: nobody stays parked, nobody is lost.

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Daemon, Program, alone, assert_shares, can_run, is_free, state, wait_for};

fn kill9(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// A group `g` with busy members beside one busy loop outside.
fn group(mode: Option<&str>, members: usize) -> (Daemon, Program, Vec<Program>) {
    let daemon = Daemon::with_mode(mode);
    daemon.mkdir("g");
    daemon.write("sched-groups/g/slice_usec", "5000").expect("a slice");
    let outside = Program::spin();
    let programs: Vec<Program> = (0..members).map(|_| Program::spin()).collect();
    for p in &programs {
        daemon.join("g", p.pid()).expect("joined");
    }
    (daemon, outside, programs)
}

/// The members were all seen running or free to run at some moment of the 100 ms after the death. A new worker may
/// have parked them again by then, so each is looked at until it was free once.
fn assert_resumed(members: &[Program], what: &str) {
    let deadline =
        Instant::now() + Duration::from_millis(if std::env::var_os("CI").is_some() { 500 } else { 200 });
    let mut waiting: Vec<i32> = members.iter().map(Program::pid).collect();
    while !waiting.is_empty() {
        waiting.retain(|&pid| !is_free(pid));
        assert!(
            Instant::now() < deadline || waiting.is_empty(),
            "{waiting:?} stay parked after the death of {what}"
        );
    }
}

fn assert_scheduled(daemon: &Daemon, outside: &Program, members: &[Program]) {
    wait_for(10, "all members to be in the group", || {
        (daemon.members("g").len() == members.len()).then_some(())
    });
    let mut pids = vec![outside.pid()];
    pids.extend(members.iter().map(Program::pid));
    let each = 50.0 / members.len() as f64;
    let mut expected = vec![50.0];
    expected.extend(members.iter().map(|_| each));
    assert_shares(&pids, &expected, 4.0, 2);
}

#[test]
fn worker_killed_resumes_members_and_is_replaced() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    for mode in [None, Some("park=stop")] {
        let (daemon, outside, members) = group(mode, 3);
        for _ in 0..5 {
            let (_, worker) = daemon.keeper_and_worker();
            kill9(worker);
            assert_resumed(&members, "the worker");
            wait_for(10, "another worker", || (daemon.keeper_and_worker().1 != worker).then_some(()));
        }
        assert_scheduled(&daemon, &outside, &members);
    }
}

#[test]
fn keeper_killed_is_replaced() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (daemon, outside, members) = group(None, 3);
    for _ in 0..3 {
        let (keeper, _) = daemon.keeper_and_worker();
        kill9(keeper);
        wait_for(10, "another keeper", || (daemon.keeper_and_worker().0 != keeper).then_some(()));
    }
    assert_scheduled(&daemon, &outside, &members);
}

#[test]
fn keeper_and_worker_killed_together_are_made_good_by_the_daemon() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (daemon, outside, members) = group(None, 3);
    for _ in 0..3 {
        let (keeper, worker) = daemon.keeper_and_worker();
        kill9(keeper);
        kill9(worker);
        wait_for(10, "another pair", || {
            let (k, w) = daemon.keeper_and_worker();
            (k != keeper && w != worker).then_some(())
        });
    }
    assert_scheduled(&daemon, &outside, &members);
}

#[test]
fn daemon_killed_leaves_groups_running_and_the_next_adopts_them() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (mut daemon, outside, members) = group(None, 2);
    for _ in 0..2 {
        daemon.kill();
        let mut pids = vec![outside.pid()];
        pids.extend(members.iter().map(Program::pid));
        assert_shares(&pids, &[50.0, 25.0, 25.0], 4.0, 2);

        daemon.restart();

        assert_scheduled(&daemon, &outside, &members);
        assert_eq!(daemon.read("sched-groups/g/slice_usec"), "5000\n");
    }
}

#[test]
fn everything_killed_is_made_good_by_recover() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    for mode in [None, Some("park=stop")] {
        let (mut daemon, _outside, members) = group(mode, 3);
        let (keeper, worker) = daemon.keeper_and_worker();
        daemon.kill();
        kill9(keeper);
        kill9(worker);

        let output = std::process::Command::new(support::EXE)
            .arg("recover")
            .arg("--state")
            .arg(&daemon.state)
            .output()
            .expect("recover");

        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for m in &members {
            assert!(is_free(m.pid()));
            assert!(!support::cgroup_of(m.pid()).contains("compartment."));
        }
        daemon.restart();
    }
}

#[test]
fn parked_member_dies_at_once_when_killed() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (daemon, _outside, mut members) = group(None, 4);
    wait_for(10, "a parked member", || members.iter().any(|m| !is_free(m.pid())).then_some(()));
    for m in &mut members {
        let started = Instant::now();
        m.0.kill().expect("killed");
        m.0.wait().expect("reaped");
        assert!(started.elapsed() < Duration::from_secs(1));
    }
    wait_for(5, "the group to be empty", || daemon.members("g").is_empty().then_some(()));
}

#[test]
fn user_stop_stays_a_stop() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (daemon, outside, members) = group(None, 2);
    let stopped = Pid::from_raw(members[0].pid());

    kill(stopped, Signal::SIGSTOP).expect("stopped");

    wait_for(5, "the stop", || (state(stopped.as_raw()) == Some('T')).then_some(()));
    assert_shares(&[outside.pid(), members[0].pid(), members[1].pid()], &[50.0, 0.0, 50.0], 4.0, 2);
    assert_eq!(state(stopped.as_raw()), Some('T'));
    kill(stopped, Signal::SIGCONT).expect("continued");
    assert_scheduled(&daemon, &outside, &members);
}
