//! A nested group is one task of the outer one.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use support::{Daemon, Program, alone, assert_shares, can_run, errno, is_free, kill9, wait_until};

#[test]
fn nested_group_counts_like_one_member_of_the_outer_one() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("outer", 10_000);
    daemon.group("inner", 10_000);
    let (outside, a) = (Program::spin(), Program::spin());
    let (b, c) = (Program::spin(), Program::spin());
    daemon.join("outer", a.pid()).expect("joined");
    for p in [&b, &c] {
        daemon.join("inner", p.pid()).expect("joined");
    }

    daemon.nest("inner", "outer").expect("nested");

    assert_shares(&[outside.pid(), a.pid(), b.pid(), c.pid()], &[50.0, 25.0, 12.5, 12.5], 3.0, 4);
    assert!(daemon.members("outer").contains(&daemon.representative("inner")));
    assert_eq!(errno(daemon.nest("outer", "inner")), libc::ELOOP, "no circle");

    // The inner group goes back to the host: two groups and a loop then share alike.
    daemon.rename("outer", "0", daemon.representative("inner")).expect("taken out");
    wait_until(5, "the representative to be gone", || daemon.members("outer") == [a.pid()]);
    assert_shares(&[outside.pid(), a.pid(), b.pid(), c.pid()], &[33.3, 33.3, 16.7, 16.7], 4.0, 4);
}

#[test]
fn circles_are_refused() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    for name in ["a", "b", "c"] {
        daemon.mkdir(name);
    }
    let rep = |name| daemon.representative(name);

    assert_eq!(errno(daemon.nest("a", "a")), libc::ELOOP);
    daemon.nest("b", "a").expect("nested");
    daemon.nest("c", "b").expect("nested");
    assert_eq!(errno(daemon.nest("a", "c")), libc::ELOOP);
    assert_eq!(errno(daemon.nest("a", "b")), libc::ELOOP);

    assert!(daemon.read("error_log").lines().filter(|l| l.contains("errno=ELOOP")).count() >= 3);
    assert_eq!((daemon.members("a"), daemon.members("b")), (vec![rep("b")], vec![rep("c")]));
    assert_eq!(errno(daemon.rmdir("a")), libc::EBUSY, "a group is nested in it");
    daemon.rename("a", "0", rep("b")).expect("taken out");
    daemon.nest("a", "c").expect("no circle any more");
}

#[test]
fn members_of_a_held_group_return_to_the_one_it_was_nested_in() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("outer", 5_000);
    let mut cat = Command::new("cat")
        .arg(daemon.path("schedulers/guest_o1_scheduler"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("cat");
    let id = cat.id().to_string();
    let mut line = String::new();
    BufReader::new(cat.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert_eq!(daemon.representative(&id).to_string(), id, "the holder stands for the group");
    let (outside, a, b) = (Program::spin(), Program::spin(), Program::spin());
    daemon.join("outer", a.pid()).expect("joined");
    daemon.join(&id, b.pid()).expect("joined");
    daemon.nest(&id, "outer").expect("nested");
    assert_shares(&[outside.pid(), a.pid(), b.pid()], &[50.0, 25.0, 25.0], 4.0, 3);

    cat.kill().expect("killed");
    cat.wait().expect("reaped");

    let mut expected = vec![a.pid(), b.pid()];
    expected.sort_unstable();
    wait_until(10, "the member to be in the outer group", || daemon.members("outer") == expected);
    assert_shares(&[outside.pid(), a.pid(), b.pid()], &[50.0, 25.0, 25.0], 4.0, 3);
}

#[test]
fn nesting_outlives_the_workers() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("outer", 5_000);
    daemon.group("inner", 5_000);
    let (outside, a, b, c) = (Program::spin(), Program::spin(), Program::spin(), Program::spin());
    daemon.join("outer", a.pid()).expect("joined");
    for p in [&b, &c] {
        daemon.join("inner", p.pid()).expect("joined");
    }
    daemon.nest("inner", "outer").expect("nested");
    let pids = [outside.pid(), a.pid(), b.pid(), c.pid()];
    for name in ["inner", "outer"] {
        let worker = daemon.representative(name);

        kill9(worker);

        for p in [&a, &b, &c] {
            wait_until(5, "the members to be free once", || is_free(p.pid()));
        }
        wait_until(20, "it to be nested again", || {
            let inner = std::fs::read_to_string(daemon.path("sched-groups/inner/representative"));
            let inner = inner.ok().and_then(|t| t.trim().parse().ok());
            daemon.representative(name) != worker
                && inner.is_some_and(|pid: i32| daemon.members("outer").contains(&pid))
        });
        assert_shares(&pids, &[50.0, 25.0, 12.5, 12.5], 4.0, 3);
    }
}
