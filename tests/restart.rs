//! A daemon that dies leaves its groups running; the next one takes them over as they are.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Daemon, EXE, Program, alone, assert_shares, can_run, errno, kill9, nice, sh, wait_until};

#[test]
fn groups_are_taken_over_as_they_are() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let mut daemon = Daemon::start();
    daemon.group("g", 7_000);
    daemon.group("inner", 3_000);
    daemon.mkdir("empty");
    let (outside, b, c) = (Program::spin(), Program::spin(), Program::spin());
    daemon.join("g", b.pid()).expect("joined");
    daemon.join("inner", c.pid()).expect("joined");
    daemon.nest("inner", "g").expect("nested");
    for (file, value) in [
        ("g/vcpus", "2"),
        ("g/nice", "3"),
        ("inner/cpu.max", "90000 50000"),
        ("empty/scheduler", "guest_fair_scheduler"),
    ] {
        daemon.write(&format!("sched-groups/{file}"), value).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    daemon.write("sched-groups/g/vcpus", "1").expect("one");
    daemon.write(&format!("sched-groups/g/{}/nice", b.pid()), "4").expect("a guest nice");
    daemon.write(&format!("sched-groups/g/{}/nice", b.pid()), "0").expect("a guest nice");
    daemon.write(&format!("sched-groups/inner/{}/policy", c.pid()), "batch").expect("a guest policy");
    daemon.write("rules", "exe=/nonexistent/x sched=g\n").expect("rules");
    let files = [
        "g/slice_usec",
        "g/vcpus",
        "g/nice",
        "g/scheduler",
        "g/representative",
        "inner/slice_usec",
        "inner/cpu.max",
        "empty/scheduler",
    ];
    let settings = |daemon: &Daemon| -> Vec<String> {
        let mut all: Vec<_> = files.iter().map(|f| daemon.read(&format!("sched-groups/{f}"))).collect();
        all.push(daemon.read(&format!("sched-groups/inner/{}/policy", c.pid())));
        all.push(daemon.read("rules"));
        all
    };
    let before = (settings(&daemon), daemon.members("g"), daemon.members("inner"));

    daemon.kill();

    // What is left of the mount says so, and the groups go on.
    assert_eq!(errno(std::fs::read(daemon.path("version"))), libc::ENOTCONN);
    let status = Command::new(EXE).arg("--mount").arg(&daemon.mount).arg("ps").output().expect("ps");
    assert_eq!(status.status.code(), Some(3), "{status:?}");

    daemon.restart();

    assert_eq!((settings(&daemon), daemon.members("g"), daemon.members("inner")), before);
    assert_eq!(nice(b.pid()), Some(3), "the group's nice on the host");
    daemon.write("sched-groups/g/nice", "0").expect("a nice");
    daemon.write("sched-groups/inner/cpu.max", "max").expect("no cap");
    assert_shares(&[outside.pid(), b.pid(), c.pid()], &[50.0, 25.0, 25.0], 4.0, 3);
    // And it is the new one that is asked.
    daemon.rename("g", "0", b.pid()).expect("left");
    daemon.rename("g", "0", daemon.representative("inner")).expect("taken out");
    assert_eq!(daemon.members("g"), Vec::<i32>::new());
    daemon.rmdir("g").expect("removed");
    daemon.rmdir("empty").expect("removed");
}

#[test]
fn held_group_becomes_a_lasting_one() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let mut daemon = Daemon::start();
    let mut cat = Command::new("cat")
        .arg(daemon.path("schedulers/guest_o1_scheduler"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("cat");
    let id = cat.id().to_string();
    let mut line = String::new();
    BufReader::new(cat.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let p = Program::spin();
    daemon.join(&id, p.pid()).expect("joined");

    daemon.kill();
    let _ = cat.wait();
    daemon.restart();

    assert_eq!(daemon.members(&id), [p.pid()]);
    daemon.rename(&id, "0", p.pid()).expect("left");
    daemon.rmdir(&id).expect("a lasting group is removed");
}

#[test]
fn second_daemon_on_the_same_places_is_refused() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let second = |mount: &str, state: &str| {
        sh(&format!("timeout 20 {EXE} daemon --foreground --mount {mount} --state {state} </dev/null"))
    };
    let elsewhere = tempfile::tempdir().expect("a directory");
    let (mount, state) = (daemon.mount.display().to_string(), daemon.state.display().to_string());
    let other = |name: &str| elsewhere.path().join(name).display().to_string();

    for output in [second(&mount, &other("state")), second(&other("mount"), &state)] {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }

    assert_eq!(daemon.read("sched-groups/g/nice"), "0\n");
}

#[test]
fn members_that_died_meanwhile_are_not_taken_over() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let mut daemon = Daemon::start();
    daemon.mkdir("g");
    let (mut a, b) = (Program::spin(), Program::spin());
    for p in [&a, &b] {
        daemon.join("g", p.pid()).expect("joined");
    }

    daemon.kill();
    kill9(a.pid());
    a.0.wait().expect("reaped");
    daemon.restart();

    wait_until(5, "the living member only", || daemon.members("g") == [b.pid()]);
}

/// Speaks with a daemon as systemd does.
#[test]
fn service_manager_is_told_of_readiness_life_and_end() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let dir = tempfile::Builder::new().prefix("cmpt-test-").tempdir().expect("a directory");
    let manager = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let mount = dir.path().join("tree");
    std::fs::create_dir(&mount).expect("a mount point");
    // The variable names the process that is to show life.
    let child = Command::new("sh")
        .args(["-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh", EXE])
        .args(["daemon", "--foreground", "--dissolve-on-exit", "--mount"])
        .arg(&mount)
        .arg("--state")
        .arg(dir.path().join("state"))
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("WATCHDOG_USEC", "400000")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the daemon");
    let mut daemon = Program(child);
    let hear = || {
        let mut buf = [0; 1024];
        let len = manager.recv(&mut buf).expect("a message");
        String::from_utf8_lossy(&buf[..len]).into_owned()
    };

    let ready = hear();
    assert!(ready.lines().any(|line| line == "READY=1"), "{ready}");
    assert!(mount.join("version").exists(), "ready and not served");
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(hear().trim(), "WATCHDOG=1");
        assert!(asked.elapsed() < Duration::from_millis(400), "{:?}", asked.elapsed());
    }
    support::signal(daemon.pid(), nix::sys::signal::Signal::SIGTERM);
    wait_until(10, "its end to be told", || hear().lines().any(|line| line == "STOPPING=1"));
    assert!(daemon.wait(10).success());
}

#[test]
fn unit_file_is_what_systemd_takes() {
    if !std::path::Path::new("/usr/bin/systemd-analyze").exists() {
        eprintln!("SKIPPED: needs systemd-analyze");
        return;
    }
    let text = include_str!("../compartmentd/systemd/compartmentd.service");
    let dir = tempfile::tempdir().expect("a directory");
    let unit = dir.path().join("compartmentd.service");
    // The command has to be there for the check.
    std::fs::write(&unit, text.replace("/usr/bin/compartmentd", EXE)).expect("a unit");

    let output =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().expect("run");

    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("compartmentd.service"), "{said}");
}
