//! The session: one busy loop outside a group and two inside get 50, 25 and 25 % of a CPU, typed with `cat` and `mv`.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use support::{Daemon, Program, alone, assert_shares, can_run, wait_for};

#[test]
fn session_with_cat_and_mv_gives_half_and_two_quarters() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let (a, b, c) = (Program::spin(), Program::spin(), Program::spin());
    let mut cat = Command::new("cat")
        .arg(daemon.path("schedulers/guest_o1_scheduler"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("cat");
    let id = cat.id().to_string();
    let mut line = String::new();
    BufReader::new(cat.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert_eq!(line, format!("Created sched_group {id} ('guest_o1_scheduler')\n"));
    daemon.write(&format!("sched-groups/{id}/slice_usec"), "10000\n").expect("a slice");

    for pid in [b.pid(), c.pid()] {
        let tree = daemon.path("sched-groups");
        let (from, to) = (tree.join("0").join(pid.to_string()), tree.join(&id));
        let status = Command::new("mv").arg(from).arg(to).status().expect("mv");
        assert!(status.success());
    }

    assert_eq!(daemon.members(&id), {
        let mut m = vec![b.pid(), c.pid()];
        m.sort_unstable();
        m
    });
    assert_shares(&[a.pid(), b.pid(), c.pid()], &[50.0, 25.0, 25.0], 2.0, 4);
    let error: f64 = daemon
        .key(&format!("sched-groups/{id}/cpu.promise"), "error_pct")
        .expect("a key")
        .parse()
        .expect("a number");
    assert!(error.abs() < 5.0, "the group's own account is off by {error} %");

    // The group ends with its holder, and gives its members back.
    cat.kill().expect("killed");
    cat.wait().expect("reaped");
    wait_for(5, "the group to end", || (!daemon.path("sched-groups").join(&id).exists()).then_some(()));
    wait_for(5, "the members to be where they came from", || {
        (!support::cgroup_of(b.pid()).contains("compartment.")).then_some(())
    });
    assert_shares(&[a.pid(), b.pid(), c.pid()], &[33.3, 33.3, 33.3], 3.0, 3);
}

#[test]
fn guest_nice_divides_the_group_and_not_the_host() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("nice");
    daemon.write("sched-groups/nice/slice_usec", "20000").expect("a slice");
    let (a, b, c) = (Program::spin(), Program::spin(), Program::spin());
    for p in [&b, &c] {
        daemon.join("nice", p.pid()).expect("joined");
    }

    daemon.write(&format!("sched-groups/nice/{}/nice", c.pid()), "10").expect("a nice value");

    assert_eq!(support::stat_field(c.pid(), 16).as_deref(), Some("0"), "the host sees the group's nice");
    // Slices of nice 0 and 10 are as 100 to 50.
    assert_shares(&[a.pid(), b.pid(), c.pid()], &[50.0, 33.3, 16.7], 2.5, 5);
}

#[test]
fn two_groups_of_different_size_get_the_same() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("one");
    daemon.mkdir("five");
    daemon.write("sched-groups/five/slice_usec", "10000").expect("a slice");
    let one = Program::spin();
    let five: Vec<Program> = (0..5).map(|_| Program::spin()).collect();
    daemon.join("one", one.pid()).expect("joined");
    for p in &five {
        daemon.join("five", p.pid()).expect("joined");
    }
    let mut pids = vec![one.pid()];
    pids.extend(five.iter().map(Program::pid));

    assert_shares(&pids, &[50.0, 10.0, 10.0, 10.0, 10.0, 10.0], 3.0, 5);
}
