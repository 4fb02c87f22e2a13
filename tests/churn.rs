//! Members that fork, vfork, execute, thread and exit at any moment.

mod support;

use std::io::Write;
use std::time::{Duration, SystemTime};

use support::{
    Daemon, Program, alone, assert_near, assert_shares, can_run, cpu_ms, kill9, percent, wait_for, wait_until,
};

#[test]
fn children_are_members_and_share_the_group() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 10_000);
    let outside = Program::spin();
    let parent = Program::shell("sleep 0.5; for i in 1 2 3; do sh -c 'while :; do :; done' & done; wait");
    daemon.join("g", parent.pid()).expect("joined");
    let children = wait_for(10, "three children", || {
        let all = daemon.members("g");
        (all.len() == 4).then(|| all.into_iter().filter(|&p| p != parent.pid()).collect::<Vec<_>>())
    });
    let mut pids = vec![outside.pid()];
    pids.extend(&children);

    assert_shares(&pids, &[50.0, 16.7, 16.7, 16.7], 4.0, 4);

    children.into_iter().for_each(kill9);
    wait_until(5, "the group to be empty", || daemon.members("g").is_empty());
}

#[test]
fn short_lived_children_end_as_they_should() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 5_000);
    let hog = Program::spin();
    daemon.join("g", hog.pid()).expect("joined");
    let dir = tempfile::tempdir().expect("a directory");
    let done = dir.path().join("done");
    let mut busy = Program::shell(&format!(
        "sleep 0.3; i=0; while [ $i -lt 150 ]; do /bin/true; echo x | cat | cat >/dev/null; i=$((i+1)); done; echo ok > {}",
        done.display()
    ));
    daemon.join("g", busy.pid()).expect("joined");

    let status = busy.wait(60);

    assert!(status.success());
    assert_eq!(std::fs::read_to_string(done).expect("written"), "ok\n");
    wait_until(5, "only the hog to be left", || daemon.members("g") == [hog.pid()]);
}

#[test]
fn pipeline_gives_what_it_gives_outside() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 3_000);
    let hog = Program::spin();
    daemon.join("g", hog.pid()).expect("joined");
    let dir = tempfile::tempdir().expect("a directory");
    let script = "seq 1 300000 | sort -r | tr 0-9 a-j | cksum";
    let expected = support::sh(script).stdout;
    let out = dir.path().join("out");
    let mut program = Program::shell(&format!("sleep 0.3; {script} > {}", out.display()));
    daemon.join("g", program.pid()).expect("joined");

    assert!(program.wait(60).success());

    assert_eq!(std::fs::read(out).expect("written"), expected);
}

#[test]
fn exec_by_a_thread_that_is_not_the_first_changes_nothing() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 5_000);
    let (outside, hog) = (Program::spin(), Program::spin());
    let mut actor = Program::actor_with_stdin("exec-spin");
    for p in [&hog, &actor] {
        daemon.join("g", p.pid()).expect("joined");
    }
    let pids = [outside.pid(), hog.pid(), actor.pid()];
    assert_shares(&pids, &[50.0, 25.0, 25.0], 4.0, 2);

    actor.0.stdin.as_mut().expect("a pipe").write_all(b"x").expect("written");

    wait_until(10, "the exec", || {
        std::fs::read_to_string(format!("/proc/{}/comm", actor.pid())).is_ok_and(|c| c == "sh\n")
    });
    assert_shares(&pids, &[50.0, 25.0, 25.0], 4.0, 3);
}

#[test]
fn members_that_change_all_the_time_end_well() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    for mode in [None, Some("park=stop"), Some("sensor=switch")] {
        eprintln!("mode {mode:?}");
        let daemon = Daemon::with_mode(mode);
        daemon.group("g", 4_000);
        let (outside, hog) = (Program::spin(), Program::spin());
        daemon.join("g", hog.pid()).expect("joined");
        let end = SystemTime::now() + Duration::from_secs(5);
        let end_ms = end.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis();
        let mut actors: Vec<Program> = (0..3).map(|_| Program::actor(&format!("churn {end_ms}"))).collect();
        for a in &actors {
            daemon.join("g", a.pid()).unwrap_or_else(|e| panic!("{mode:?}: {e}"));
        }

        for a in &mut actors {
            assert_eq!(a.wait_or(20, || daemon.tell("g")).code(), Some(0), "{mode:?}");
        }

        wait_until(5, "only the hog to be left", || daemon.members("g") == [hog.pid()]);
        assert_shares(&[outside.pid(), hog.pid()], &[50.0, 50.0], 4.0, 2);
    }
}

#[test]
fn fork_storm_stays_in_its_share() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 5_000);
    let outside = Program::spin();
    assert_near(&[50.0, 50.0], 6.0, || {
        let usage = || daemon.number("sched-groups/g/cpu.stat", "usage_usec") / 1000.0;
        // 511 shells, of which 256 compute a little.
        let mut storm = Program::shell(
            "sleep 0.3; f() { if [ $1 -le 0 ]; then i=0; while [ $i -lt 9000 ]; do i=$((i+1)); done; return; fi; \
             f $(($1-1)) & f $(($1-1)) & wait; }; f 8",
        );
        daemon.join("g", storm.pid()).expect("joined");
        wait_until(10, "the storm", || daemon.members("g").len() > 1);
        let before = (cpu_ms(outside.pid()), usage());
        assert!(storm.wait(60).success());
        percent(&[cpu_ms(outside.pid()) - before.0, usage() - before.1])
    });
    wait_until(10, "the group to be empty", || daemon.members("g").is_empty());
}
