//! Each combination of the driver's parts that this host can have.

mod support;

use support::{Daemon, Program, alone, assert_shares, can_run, is_free, kill9, state, wait_for, wait_until};

fn works(mode: &str, tolerance: f64) {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::with_mode(Some(mode));
    daemon.group("g", 20_000);
    let (outside, b, c) = (Program::spin(), Program::spin(), Program::spin());
    for p in [&b, &c] {
        daemon.join("g", p.pid()).expect("joined");
    }

    let shown = daemon.read("sched-groups/g/mode");
    assert!(mode.split(' ').all(|part| shown.contains(part)), "{shown} instead of {mode}");
    assert_shares(&[outside.pid(), b.pid(), c.pid()], &[50.0, 25.0, 25.0], tolerance, 3);

    let (_, worker) = daemon.keeper_and_worker();
    kill9(worker);
    for p in [&b, &c] {
        wait_until(2, "the members to be resumed", || is_free(p.pid()));
    }
    wait_for(10, "another worker", || (daemon.keeper_and_worker().1 != worker).then_some(()));
    assert_shares(&[outside.pid(), b.pid(), c.pid()], &[50.0, 25.0, 25.0], tolerance, 3);

    drop(daemon);
    for p in [&b, &c] {
        wait_until(2, "the members to run free", || is_free(p.pid()) && state(p.pid()) == Some('R'));
    }
}

#[test]
fn freeze_strict_tracepoint_none() {
    works("park=freeze handover=strict sensor=tracepoint envelope=none", 3.0);
}

#[test]
fn freeze_overlap_tracepoint_cgroup() {
    works("park=freeze handover=overlap sensor=tracepoint envelope=cgroup", 4.0);
}

#[test]
fn freeze_strict_switch_none() {
    works("park=freeze handover=strict sensor=switch envelope=none", 6.0);
}

#[test]
fn stop_strict_tracepoint_none() {
    works("park=stop handover=strict sensor=tracepoint envelope=none", 4.0);
}

#[test]
fn stop_strict_switch_none() {
    works("park=stop handover=strict sensor=switch envelope=none", 6.0);
}
