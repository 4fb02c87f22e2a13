//! A nested group is one task of the outer one.

mod support;

use std::process::{Command, Stdio};

use support::{Daemon, Program, alone, assert_shares, can_run, errno, is_free, kill9, wait_until};

/// Groups `outer` with one member and `inner` with two, nested into it, beside one loop outside: that loop, and the three members.
fn nested() -> (Daemon, [Program; 4]) {
    let daemon = Daemon::start();
    daemon.group("outer", 10_000);
    daemon.group("inner", 10_000);
    let programs = [Program::spin(), Program::spin(), Program::spin(), Program::spin()];
    daemon.join("outer", programs[1].pid()).expect("joined");
    for p in &programs[2..] {
        daemon.join("inner", p.pid()).expect("joined");
    }
    daemon.nest("inner", "outer").expect("nested");
    (daemon, programs)
}

fn pids(programs: &[Program; 4]) -> [i32; 4] {
    [0, 1, 2, 3].map(|i| programs[i].pid())
}

#[test]
fn nested_group_counts_like_one_member_of_the_outer_one() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (daemon, programs) = nested();

    assert_shares(&pids(&programs), &[50.0, 25.0, 12.5, 12.5], 3.0, 4);
    assert!(daemon.members("outer").contains(&daemon.representative("inner")));
    assert!(!daemon.members("inner").contains(&daemon.representative("inner")));
    assert_eq!(errno(daemon.nest("outer", "inner")), libc::ELOOP, "no circle");
    assert_eq!(errno(daemon.nest("outer", "outer")), libc::ELOOP, "not into itself");

    // The inner group goes back to the host: two groups and a loop then share alike.
    daemon.rename("outer", "0", daemon.representative("inner")).expect("taken out");
    wait_until(5, "the representative to be gone", || daemon.members("outer") == [programs[1].pid()]);
    assert_shares(&pids(&programs), &[33.3, 33.3, 16.7, 16.7], 4.0, 4);
}

#[test]
fn nested_group_and_the_one_around_it_are_busy_until_emptied() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (daemon, programs) = nested();
    let [_, a, b, c] = pids(&programs);

    assert_eq!(errno(daemon.rmdir("inner")), libc::EBUSY, "it has members");
    daemon.rename("outer", "0", a).expect("left");
    assert_eq!(errno(daemon.rmdir("outer")), libc::EBUSY, "it has a group in it");
    for pid in [b, c] {
        daemon.rename("inner", "0", pid).expect("left");
    }
    // A nested group without members may go, and its place with it.
    daemon.rmdir("inner").expect("removed");
    wait_until(5, "the representative to be gone", || daemon.members("outer").is_empty());
    daemon.rmdir("outer").expect("removed");

    assert_shares(&pids(&programs), &[25.0, 25.0, 25.0, 25.0], 4.0, 2);
}

#[test]
fn circle_of_three_is_refused_and_nothing_changes() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    for name in ["a", "b", "c"] {
        daemon.mkdir(name);
    }
    daemon.nest("b", "a").expect("nested");
    daemon.nest("c", "b").expect("nested");
    let members = || {
        ["0", "a", "b", "c"].map(|g| {
            let of = ["a", "b", "c"].map(|of| daemon.representative(of));
            daemon.members(g).into_iter().filter(|pid| of.contains(pid)).collect::<Vec<_>>()
        })
    };
    let before = members();

    assert_eq!(errno(daemon.nest("a", "c")), libc::ELOOP);
    assert_eq!(errno(daemon.nest("a", "b")), libc::ELOOP);

    assert_eq!(members(), before);
    let log = daemon.read("error_log");
    assert_eq!(log.lines().filter(|l| l.contains("errno=ELOOP")).count(), 2, "{log}");
}

#[test]
fn members_of_a_held_group_go_to_the_group_around_it() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("outer", 10_000);
    let mut cat = Program(
        Command::new("cat")
            .arg(daemon.path("schedulers/guest_o1_scheduler"))
            .stdout(Stdio::null())
            .spawn()
            .expect("cat"),
    );
    let id = cat.pid().to_string();
    wait_until(5, "the group", || {
        std::fs::read_to_string(daemon.path(&format!("sched-groups/{id}/mode"))).is_ok()
    });
    let (outside, a, b) = (Program::spin(), Program::spin(), Program::spin());
    for p in [&a, &b] {
        daemon.join(&id, p.pid()).expect("joined");
    }
    assert_eq!(daemon.representative(&id), cat.pid(), "the reader stands for the group");
    daemon.nest(&id, "outer").expect("nested");
    assert!(daemon.members("outer").contains(&cat.pid()));

    cat.0.kill().expect("killed");
    cat.0.wait().expect("reaped");

    wait_until(5, "the members to be in the outer group", || {
        let mut expected = vec![a.pid(), b.pid()];
        expected.sort_unstable();
        daemon.members("outer") == expected
    });
    wait_until(5, "the group to end", || !daemon.path("sched-groups").join(&id).exists());
    assert_shares(&[outside.pid(), a.pid(), b.pid()], &[50.0, 25.0, 25.0], 3.0, 3);
}

#[test]
fn dissolved_nest_leaves_nobody_parked() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (mut daemon, programs) = nested();

    daemon.stop();

    for pid in pids(&programs) {
        assert!(is_free(pid));
        assert!(!support::cgroup_of(pid).contains("compartment."));
    }
    assert_shares(&pids(&programs), &[25.0, 25.0, 25.0, 25.0], 4.0, 2);
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
