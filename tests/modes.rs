//! Each combination of the driver's parts that this host can have.

mod support;

use guest_sched::host::cgroup;
use support::{
    Daemon, Program, alone, assert_shares, can_run, children, is_free, kill9, need, state, wait_for,
    wait_until,
};

fn works(mode: &str, tolerance: f64) {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (outside, b, c) = (Program::spin(), Program::spin(), Program::spin());
    works_for(mode, tolerance, [outside.pid(), b.pid(), c.pid()]);
}

/// One program outside, two in the group.
fn works_for(mode: &str, tolerance: f64, [outside, b, c]: [i32; 3]) {
    let daemon = Daemon::with_mode(Some(mode));
    daemon.group("g", 20_000);
    for pid in [b, c] {
        daemon.join("g", pid).expect("joined");
    }

    let shown = daemon.read("sched-groups/g/mode");
    assert!(mode.split(' ').all(|part| shown.contains(part)), "{shown} instead of {mode}");
    assert_shares(&[outside, b, c], &[50.0, 25.0, 25.0], tolerance, 3);

    let (_, worker) = daemon.keeper_and_worker();
    kill9(worker);
    for pid in [b, c] {
        wait_until(2, "the members to be resumed", || is_free(pid));
    }
    wait_for(10, "another worker", || (daemon.keeper_and_worker().1 != worker).then_some(()));
    assert_shares(&[outside, b, c], &[50.0, 25.0, 25.0], tolerance, 3);

    drop(daemon);
    for pid in [b, c] {
        wait_until(2, "the members to run free", || is_free(pid) && state(pid) == Some('R'));
    }
}

/// Two busy loops in a session of their own, which an idle shell leads.
fn session() -> (Program, [i32; 2]) {
    let spin = "sh -c 'while :; do :; done' &";
    let leader = Program::start(&["setsid", "sh", "-c", &format!("{spin} {spin} wait")]);
    let pids = wait_for(5, "two busy loops", || <[i32; 2]>::try_from(children(leader.pid())).ok());
    (leader, pids)
}

fn has_autogroups() -> bool {
    let is_on = std::fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled");
    need("autogroups", is_on.is_ok_and(|text| text.trim() == "1"))
        && need("no cpu cgroup around the tests", !cgroup::has_cpu_cgroup(std::process::id() as i32))
}

fn works_in_an_autogroup(mode: &str, tolerance: f64) {
    if !can_run() || !has_autogroups() {
        return;
    }
    let _alone = alone();
    let outside = Program::start(&["setsid", "sh", "-c", "while :; do :; done"]);
    let (_leader, [b, c]) = session();
    works_for(mode, tolerance, [outside.pid(), b, c]);
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

#[test]
fn freeze_strict_tracepoint_cgroup() {
    works("park=freeze handover=strict sensor=tracepoint envelope=cgroup", 4.0);
}

#[test]
fn freeze_overlap_switch_cgroup() {
    works("park=freeze handover=overlap sensor=switch envelope=cgroup", 6.0);
}

#[test]
fn stop_overlap_tracepoint_cgroup() {
    works("park=stop handover=overlap sensor=tracepoint envelope=cgroup", 5.0);
}

#[test]
fn freeze_overlap_tracepoint_autogroup() {
    works_in_an_autogroup("park=freeze handover=overlap sensor=tracepoint envelope=autogroup", 5.0);
}

#[test]
fn stop_overlap_switch_autogroup() {
    works_in_an_autogroup("park=stop handover=overlap sensor=switch envelope=autogroup", 6.0);
}

#[test]
fn autogroup_has_the_weight_of_the_group_and_is_given_up_for_members_of_several() {
    if !can_run() || !has_autogroups() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::with_mode(Some("envelope=autogroup"));
    daemon.group("g", 20_000);
    let (leader, members) = session();
    let stranger = Program::start(&["setsid", "sh", "-c", "while :; do :; done"]);
    let autogroup =
        || std::fs::read_to_string(format!("/proc/{}/autogroup", leader.pid())).expect("autogroup");
    let mode = || daemon.read("sched-groups/g/mode");
    for pid in members {
        daemon.join("g", pid).expect("joined");
    }
    daemon.write("sched-groups/g/nice", "7").expect("a weight");
    wait_until(5, "the weight", || autogroup().trim().ends_with("nice 7"));
    assert!(mode().contains("handover=overlap") && mode().contains("envelope=autogroup"), "{}", mode());

    daemon.join("g", stranger.pid()).expect("joined");

    wait_until(5, "the envelope to be given up", || mode().contains("handover=strict sensor"));
    assert!(mode().contains("envelope=none"), "{}", mode());
    assert!(autogroup().trim().ends_with("nice 0"), "{}", autogroup());
}
