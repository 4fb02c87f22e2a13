//! Threads are tasks of the guest scheduler, new ones too, and leaving gives all of them back.

mod support;

use std::io::Write;
use std::time::Duration;

use support::{
    Daemon, Program, alone, assert_near, assert_shares, can_run, cgroup_of, percent, thread_cpu_ms, threads,
    wait_until,
};

fn cgroups(pid: i32) -> Vec<String> {
    let of = |tid| std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/cgroup")).unwrap_or_default();
    threads(pid).into_iter().map(of).collect()
}

#[test]
fn threads_are_tasks_of_their_own() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 10_000);
    let (outside, one, three) = (Program::spin(), Program::spin(), Program::actor("threads 3"));
    wait_until(10, "three threads", || threads(three.pid()).len() == 3);
    for p in [&one, &three] {
        daemon.join("g", p.pid()).expect("joined");
    }

    assert_shares(&[outside.pid(), one.pid(), three.pid()], &[50.0, 12.5, 37.5], 4.0, 4);
    assert_near(&[33.3, 33.3, 33.3], 4.0, || {
        let tids = threads(three.pid());
        let before: Vec<f64> = tids.iter().map(|&t| thread_cpu_ms(three.pid(), t)).collect();
        std::thread::sleep(Duration::from_secs(3));
        let used: Vec<f64> =
            tids.iter().zip(before).map(|(&t, b)| thread_cpu_ms(three.pid(), t) - b).collect();
        percent(&used)
    });
}

#[test]
fn threads_started_later_share_the_group_too() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 10_000);
    let (outside, one) = (Program::spin(), Program::spin());
    let mut late = Program::actor_with_stdin("late-threads 3");
    wait_until(10, "two threads", || threads(late.pid()).len() == 2);
    for p in [&one, &late] {
        daemon.join("g", p.pid()).expect("joined");
    }
    assert_shares(&[outside.pid(), one.pid(), late.pid()], &[50.0, 25.0, 25.0], 4.0, 2);

    late.0.stdin.as_mut().expect("a pipe").write_all(b"x").expect("written");

    wait_until(10, "three threads", || threads(late.pid()).len() == 3);
    assert_shares(&[outside.pid(), one.pid(), late.pid()], &[50.0, 12.5, 37.5], 4.0, 3);
}

#[test]
fn leaving_gives_every_thread_back() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 5_000);
    let (outside, hog) = (Program::spin(), Program::spin());
    let mut late = Program::actor_with_stdin("late-threads 4");
    wait_until(10, "two threads", || threads(late.pid()).len() == 2);
    let before = cgroups(late.pid());
    daemon.join("g", hog.pid()).expect("joined");
    daemon.join("g", late.pid()).expect("joined");
    wait_until(5, "cgroups of its own", || cgroup_of(late.pid()).contains("compartment."));

    daemon.rename("g", "0", late.pid()).expect("left");

    assert_eq!(cgroups(late.pid()), before);
    // Threads that are started now are nobody's.
    late.0.stdin.as_mut().expect("a pipe").write_all(b"x").expect("written");
    wait_until(10, "four threads", || threads(late.pid()).len() == 4);
    assert!(cgroups(late.pid()).iter().all(|c| *c == before[0]), "{:?}", cgroups(late.pid()));
    // Six on the CPU by the host's own scheduler, of which one is the group.
    assert_shares(&[outside.pid(), hog.pid(), late.pid()], &[16.7, 16.7, 66.7], 4.0, 3);
}

#[test]
fn process_of_many_threads_is_one_task_where_they_cannot_be_parked_alone() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::with_mode(Some("park=stop"));
    daemon.group("g", 10_000);
    let (outside, one, three) = (Program::spin(), Program::spin(), Program::actor("threads 3"));
    wait_until(10, "three threads", || threads(three.pid()).len() == 3);
    for p in [&one, &three] {
        daemon.join("g", p.pid()).expect("joined");
    }

    assert!(daemon.read("sched-groups/g/mode").starts_with("park=stop "));
    // Within the group the two processes are equal; while the one with threads runs, the host sees three of its threads.
    assert_near(&[50.0, 50.0], 4.0, || support::shares(&[one.pid(), three.pid()], 4));
    assert!(support::shares(&[outside.pid(), one.pid()], 2)[0] > 25.0);
}

#[test]
fn nice_of_every_thread_comes_back() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    for mode in [None, Some("park=stop")] {
        let daemon = Daemon::with_mode(mode);
        daemon.group("g", 5_000);
        let (hog, p) = (Program::spin(), Program::actor("threads 3"));
        wait_until(10, "three threads", || threads(p.pid()).len() == 3);
        for tid in threads(p.pid()) {
            assert!(support::sh(&format!("renice -n 6 -p {tid}")).status.success());
        }
        let all_have = |nice| threads(p.pid()).into_iter().all(|tid| support::nice(tid) == Some(nice));
        assert!(all_have(6));

        for p in [&hog, &p] {
            daemon.join("g", p.pid()).expect("joined");
        }
        assert!(all_have(0), "{mode:?}: the group's");
        daemon.write("sched-groups/g/nice", "2").expect("a nice value");
        wait_until(5, "the group's new one", || all_have(2));
        daemon.rename("g", "0", p.pid()).expect("left");

        assert!(all_have(6), "{mode:?}: its own");
    }
}
