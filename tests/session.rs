//! The session: one busy loop outside a group and two inside get 50, 25 and 25 % of a CPU, typed with `cat` and `mv`.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use support::{Daemon, Program, alone, assert_shares, can_run, wait_until};

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
    let error = daemon.number(&format!("sched-groups/{id}/cpu.promise"), "error_pct");
    assert!(error.abs() < 5.0, "the group's own account is off by {error} %");

    // The group ends with its holder, and gives its members back.
    cat.kill().expect("killed");
    cat.wait().expect("reaped");
    wait_until(5, "the group to end", || !daemon.path("sched-groups").join(&id).exists());
    wait_until(5, "the members to be where they came from", || {
        [&b, &c].iter().all(|p| !support::cgroup_of(p.pid()).contains("compartment."))
    });
    assert_shares(&[a.pid(), b.pid(), c.pid()], &[33.3, 33.3, 33.3], 3.0, 3);
}

/// The same typed into a shell, with a lasting group.
#[test]
fn session_typed_into_a_shell() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let (a, b, c) = (Program::spin(), Program::spin(), Program::spin());
    let script = format!(
        "set -e; cd {tree}; mkdir web; echo 2000 > web/slice_usec; cat web/slice_usec; mv 0/{b} 0/{c} web; \
         ls web | grep -c '^[0-9]'; cat web/{b}/comm; echo 5 > web/{c}/nice; cat web/{c}/nice; echo 0 > web/{c}/nice",
        tree = daemon.path("sched-groups").display(),
        b = b.pid(),
        c = c.pid()
    );
    let output = support::sh(&script);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2000\n2\nsh\n5\n", "{output:?}");

    assert_shares(&[a.pid(), b.pid(), c.pid()], &[50.0, 25.0, 25.0], 2.0, 3);

    let script = format!(
        "set -e; cd {tree}; rmdir web 2>/dev/null && exit 9; mv web/{b} web/{c} 0; rmdir web; ls",
        tree = daemon.path("sched-groups").display(),
        b = b.pid(),
        c = c.pid()
    );
    let output = support::sh(&script);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{output:?}");
    assert_shares(&[a.pid(), b.pid(), c.pid()], &[33.3, 33.3, 33.3], 3.0, 3);
}

#[test]
fn guest_nice_divides_the_group_and_not_the_host() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("nice", 20_000);
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
    daemon.group("five", 10_000);
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
