//! Members that wait are left alone: no wait ends early, no tracer is disturbed, whatever the group does.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::{Daemon, EXE, Program, alone, can_run, has, sh, signal, state, wait_until};

fn waits_are_never_interrupted(mode: Option<&str>) {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::with_mode(mode);
    daemon.group("g", 3_000);
    let hogs = [Program::spin(), Program::spin()];
    let mut waiter = Program::actor("waits 5");
    for p in hogs.iter().chain([&waiter]) {
        daemon.join("g", p.pid()).expect("joined");
    }

    let status = waiter.wait(40);

    assert_eq!(status.code(), Some(0), "interrupted waits");
    assert!(daemon.number("sched-groups/g/cpu.stat", "nr_switches") > 100.0);
}

#[test]
fn waits_are_never_interrupted_by_default() {
    waits_are_never_interrupted(None);
}

#[test]
fn waits_are_never_interrupted_with_switch_records() {
    waits_are_never_interrupted(Some("sensor=switch"));
}

#[test]
fn waits_are_never_interrupted_by_joining_and_leaving() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 3_000);
    let hogs = [Program::spin(), Program::spin()];
    let mut waiter = Program::actor("waits 5");
    for p in &hogs {
        daemon.join("g", p.pid()).expect("joined");
    }

    let mut nr_joins = 0;
    while daemon.join("g", waiter.pid()).is_ok() {
        nr_joins += 1;
        std::thread::sleep(Duration::from_millis(nr_joins % 30));
        if daemon.rename("g", "0", waiter.pid()).is_err() {
            break;
        }
    }

    assert_eq!(waiter.wait(40).code(), Some(0), "interrupted waits, {nr_joins} joins");
    assert!(nr_joins > 20, "{nr_joins}");
}

#[test]
fn tracer_and_traced_member_work_on() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 3_000);
    let hog = Program::spin();
    let mut tracer = Program::actor("trace 300");
    for p in [&hog, &tracer] {
        daemon.join("g", p.pid()).expect("joined");
    }

    assert_eq!(tracer.wait(60).code(), Some(0));
    wait_until(5, "only the hog to be left", || daemon.members("g") == [hog.pid()]);
}

#[test]
fn strace_and_gdb_see_a_member_as_ever() {
    if !can_run() || !has("strace") || !has("gdb") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 3_000);
    let (hog, p) = (Program::spin(), Program::spin());
    for p in [&hog, &p] {
        daemon.join("g", p.pid()).expect("joined");
    }

    let run = format!("{EXE} --mount {} run --group g --", daemon.mount.display());
    let output = sh(&format!("{run} strace -f -o /dev/null sh -c 'echo a | cat; exit 7'"));
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(7), &b"a\n"[..]), "{output:?}");
    let output = sh(&format!("timeout 60 gdb -p {} -batch -ex 'info registers rip' 2>&1", p.pid()));
    assert!(String::from_utf8_lossy(&output.stdout).contains("rip"), "{output:?}");

    let before = support::cpu_ms(p.pid());
    wait_until(5, "it to go on", || support::cpu_ms(p.pid()) > before + 20.0);
}

#[test]
fn job_control_works_as_ever() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.group("g", 3_000);
    let (hog, mut sleeper) = (Program::spin(), Program::start(&["sleep", "1000"]));
    for p in [&hog, &sleeper] {
        daemon.join("g", p.pid()).expect("joined");
    }

    for _ in 0..20 {
        // Not SIGTSTP, which means nothing to a process group without a shell.
        signal(sleeper.pid(), Signal::SIGSTOP);
        wait_until(5, "the stop", || state(sleeper.pid()) == Some('T'));
        signal(sleeper.pid(), Signal::SIGCONT);
        wait_until(5, "the continuation", || state(sleeper.pid()) == Some('S'));
        signal(hog.pid(), Signal::SIGSTOP);
        wait_until(5, "the stop", || state(hog.pid()) == Some('T'));
        signal(hog.pid(), Signal::SIGCONT);
        wait_until(5, "the continuation", || state(hog.pid()) != Some('T'));
    }
    signal(sleeper.pid(), Signal::SIGTERM);

    assert_eq!(sleeper.wait(5).signal(), Some(15));
}
