//! Nice and policy of members are the guest's; the host sees the group's, and gets the member's own back.

mod support;

use support::{
    Daemon, Program, alone, assert_shares, can_run, has, nice, policy, sh, stat_field, wait_until,
};

const NORMAL: i32 = 0;
const FIFO: i32 = 1;
const BATCH: i32 = 3;

#[test]
fn guest_nice_0_against_19_is_100_to_5() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let (outside, a, b) = (Program::spin(), Program::spin(), Program::spin());
    for p in [&a, &b] {
        daemon.join("g", p.pid()).expect("joined");
    }

    daemon.write(&format!("sched-groups/g/{}/nice", b.pid()), "19").expect("a nice value");

    assert_eq!((nice(a.pid()), nice(b.pid())), (Some(0), Some(0)), "the host's");
    // Slices of 100 and 5 ms, whatever the group gets.
    assert_shares(&[a.pid(), b.pid()], &[95.2, 4.8], 1.5, 5);
    assert_shares(&[outside.pid(), a.pid(), b.pid()], &[50.0, 47.6, 2.4], 3.0, 4);
}

#[test]
fn nice_that_a_member_has_is_its_guest_nice_and_comes_back() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let p = Program::start(&["nice", "-n", "7", "sh", "-c", "while :; do :; done"]);
    wait_until(5, "the nice value", || nice(p.pid()) == Some(7));

    daemon.join("g", p.pid()).expect("joined");

    assert_eq!(daemon.read(&format!("sched-groups/g/{}/nice", p.pid())), "7\n");
    assert_eq!(nice(p.pid()), Some(0));
    daemon.write("sched-groups/g/nice", "4").expect("the group's nice");
    wait_until(5, "the group's nice on the host", || nice(p.pid()) == Some(4));

    daemon.rename("g", "0", p.pid()).expect("left");

    assert_eq!(nice(p.pid()), Some(7));
}

#[test]
fn renice_from_outside_is_meant_for_the_guest() {
    if !can_run() || !has("renice") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let (hog, p) = (Program::spin(), Program::spin());
    for p in [&hog, &p] {
        daemon.join("g", p.pid()).expect("joined");
    }

    assert!(sh(&format!("renice -n 10 -p {}", p.pid())).status.success());

    let file = format!("sched-groups/g/{}/nice", p.pid());
    wait_until(10, "the guest's nice", || daemon.read(&file) == "10\n");
    wait_until(10, "the host's nice", || nice(p.pid()) == Some(0));
    daemon.rename("g", "0", p.pid()).expect("left");
    assert_eq!(nice(p.pid()), Some(10));
}

#[test]
fn policy_of_the_host_becomes_the_guests_and_comes_back() {
    if !can_run() || !has("chrt") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let hog = Program::spin();
    daemon.join("g", hog.pid()).expect("joined");
    for (words, guest, host) in [(["-f", "5"], "fifo 5\n", (FIFO, 5)), (["-b", "0"], "batch\n", (BATCH, 0))] {
        let p = Program::start(&["chrt", words[0], words[1], "sleep", "1000"]);
        wait_until(5, "the policy", || policy(p.pid()) == Some(host));

        daemon.join("g", p.pid()).expect("joined");

        assert_eq!(daemon.read(&format!("sched-groups/g/{}/policy", p.pid())), guest);
        assert_eq!(policy(p.pid()), Some((NORMAL, 0)));

        daemon.rename("g", "0", p.pid()).expect("left");

        assert_eq!(policy(p.pid()), Some(host));
    }
}

#[test]
fn slice_and_reset_on_fork_come_back() {
    if !can_run() || !has("chrt") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 5_000);
    let hog = Program::spin();
    daemon.join("g", hog.pid()).expect("joined");
    let get = |p: &Program| host_sys::sched::get(p.pid()).expect("parameters");
    let plain = Program::spin();
    let usual = get(&plain);
    let sliced = Program::spin();
    let wished = host_sys::sched::Attr { nice: 3, runtime: 7_000_000, ..Default::default() };
    host_sys::sched::set(sliced.pid(), &wished).expect("a slice");
    let resetting = Program::start(&["chrt", "-R", "-r", "5", "sleep", "1000"]);
    wait_until(5, "the policy", || get(&resetting).flags & host_sys::sched::RESET_ON_FORK != 0);
    let before = [&plain, &sliced, &resetting].map(get);

    for p in [&plain, &sliced, &resetting] {
        daemon.join("g", p.pid()).expect("joined");
        assert_eq!(get(p).flags, 0);
    }
    // A later worker has it from the earlier one.
    let (_, worker) = daemon.keeper_and_worker();
    support::kill9(worker);
    wait_until(10, "another worker", || daemon.keeper_and_worker().1 != worker);
    wait_until(10, "all members to be back", || daemon.members("g").len() == 4);
    for p in [&plain, &sliced, &resetting] {
        wait_until(10, "it to leave", || daemon.rename("g", "0", p.pid()).is_ok());
    }

    assert_eq!([&plain, &sliced, &resetting].map(get), before);
    assert!(before[1].runtime == 7_000_000 || usual.runtime == 0, "kernels before 6.12 know of no slices");
}

#[test]
fn guest_fifo_member_runs_before_the_others() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 5_000);
    let (outside, a, b) = (Program::spin(), Program::spin(), Program::spin());
    for p in [&a, &b] {
        daemon.join("g", p.pid()).expect("joined");
    }

    daemon.write(&format!("sched-groups/g/{}/policy", b.pid()), "fifo 10").expect("a policy");

    assert_eq!(policy(b.pid()), Some((NORMAL, 0)), "the host's");
    assert_shares(&[outside.pid(), a.pid(), b.pid()], &[50.0, 0.0, 50.0], 3.0, 3);
    daemon.write(&format!("sched-groups/g/{}/policy", b.pid()), "normal").expect("a policy");
    assert_shares(&[outside.pid(), a.pid(), b.pid()], &[50.0, 25.0, 25.0], 4.0, 3);
    assert_eq!(stat_field(b.pid(), 16).as_deref(), Some("0"));
}
