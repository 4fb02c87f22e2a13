//! The command against a daemon: each verb, its exit code, what it prints.

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::{
    Daemon, EXE, Program, USERS, alone, assert_near, can_run, has, is_free, signal, state, wait_until,
};

/// Runs `compartment` on the daemon's tree.
fn compartment(daemon: &Daemon, args: &[&str]) -> Output {
    command(args).env("COMPARTMENTS_MOUNT", &daemon.mount).output().expect("compartment")
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(EXE);
    command.args(args).env_remove("COMPARTMENTS_MOUNT").env_remove("XDG_RUNTIME_DIR").stdin(Stdio::null());
    command
}

/// What it prints, if it ends with this code.
fn prints(daemon: &Daemon, code: i32, args: &[&str]) -> String {
    let output = compartment(daemon, args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(err.is_empty(), code == 0, "{args:?}: messages where something is wrong only: {err}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(daemon: &Daemon, args: &[&str]) -> Value {
    let text = prints(daemon, 0, args);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
}

#[test]
fn verbs_do_what_the_tree_does() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let (p, q) = (Program::spin(), Program::spin());
    let (pid, other) = (p.pid().to_string(), q.pid().to_string());

    assert_eq!(prints(&daemon, 0, &["create", "web", "--cpu", "1.5", "--nice", "3", "--slice", "5000"]), "");
    for (file, value) in [("vcpus", "2"), ("cpu.max", "150000 100000"), ("nice", "3"), ("slice_usec", "5000")]
    {
        assert_eq!(daemon.read(&format!("sched-groups/web/{file}")), format!("{value}\n"));
    }
    prints(&daemon, 1, &["create", "web"]);

    assert_eq!(prints(&daemon, 0, &["mv", &pid, &other, "web"]), "");
    assert_eq!(daemon.members("web").len(), 2);
    let nice = format!("{pid}/nice=7");
    assert_eq!(prints(&daemon, 0, &["set", "web", "cpu.max=max", "vcpus=1", &nice]), "");
    assert_eq!(daemon.read("sched-groups/web/cpu.max"), "max 100000\n");
    assert_eq!(daemon.read(&format!("sched-groups/web/{pid}/nice")), "7\n");
    // All or none.
    prints(&daemon, 1, &["set", "web", "vcpus=4", "nice=99"]);
    assert_eq!(daemon.read("sched-groups/web/vcpus"), "1\n");

    let shown = prints(&daemon, 0, &["show", "web"]);
    for word in ["guest_o1_scheduler", "slice_usec", "cpu.promise", "error_pct", &pid, "sh"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert!(prints(&daemon, 0, &["show", "web", &pid]).contains("static_prio"));
    let listed = prints(&daemon, 0, &["ps"]);
    assert!(listed.lines().any(|l| l.contains(&pid) && l.contains("web")), "{listed}");
    let top = prints(&daemon, 0, &["top", "--batch", "-n", "2", "-d", "0.3"]);
    assert!(top.matches("GROUP").count() >= 2 && top.contains(&pid), "{top}");

    prints(&daemon, 1, &["rm", "web"]);
    assert_eq!(prints(&daemon, 0, &["kill", "-s", "STOP", &pid]), "");
    wait_until(5, "the stop", || state(p.pid()) == Some('T'));
    assert_eq!(prints(&daemon, 0, &["kill", "-s", "CONT", &pid]), "");
    assert_eq!(prints(&daemon, 0, &["kill", &pid]), "");
    wait_until(5, "the end", || matches!(state(p.pid()), None | Some('Z')));
    assert_eq!(prints(&daemon, 0, &["rm", "--force", "web"]), "");
    assert!(!daemon.path("sched-groups/web").exists());
    assert!(daemon.members("0").contains(&q.pid()));
    wait_until(2, "it to run free", || is_free(q.pid()));
}

#[test]
fn json_has_what_scripts_look_for() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let p = Program::spin();
    let pid = p.pid().to_string();
    prints(&daemon, 0, &["create", "web", "--nice", "-3"]);
    prints(&daemon, 0, &["create", "empty"]);
    prints(&daemon, 0, &["mv", &pid, "web"]);

    let all = json(&daemon, &["ps", "--json"]);
    let web = json(&daemon, &["show", "web", "--json"]);
    let member = json(&daemon, &["show", "web", &pid, "--json"]);

    let names: Vec<&str> =
        all.as_array().expect("a list").iter().filter_map(|g| g["group"].as_str()).collect();
    assert_eq!(names, ["empty", "web"], "{all}");
    assert_eq!(web["group"], "web", "{web}");
    assert_eq!(web["scheduler"], "guest_o1_scheduler");
    assert_eq!(web["members"][0]["pid"], p.pid());
    assert_eq!(web["members"][0]["comm"], "sh");
    assert_eq!((&member["pid"], &member["group"]), (&p.pid().into(), &"web".into()), "{member}");
    assert_eq!(member["comm"], "sh");
    assert!(member["stat"]["usage_usec"].is_u64() && member["sched"]["static_prio"].is_u64(), "{member}");
    assert_eq!(member["cmdline"][0], "sh");
}

#[test]
fn exit_codes_tell_failed_usage_unreachable_and_denied_apart() {
    if !can_run() || !has("setpriv") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let p = Program::spin();
    let pid = p.pid().to_string();
    daemon.mkdir("web");

    for args in [
        &["show", "nobody"][..],
        &["mv", "2", "web"],
        &["mv", &pid, "nobody"],
        &["rm", "nobody"],
        &["create", "123"],
        &["create", "a b"],
    ] {
        prints(&daemon, 1, args);
    }
    for args in [&["create", "a/b"][..], &["rm", "0"], &["set", "web", "vcpus"], &["frob"]] {
        prints(&daemon, 2, args);
    }
    let nowhere = daemon.path("../nowhere");
    for args in [&["ps"][..], &["create", "x"], &["run", "--", "true"]] {
        let output = command(args).env("COMPARTMENTS_MOUNT", &nowhere).output().expect("compartment");
        assert_eq!(output.status.code(), Some(3), "{args:?}: {output:?}");
    }
    let user = |args: &[&str]| {
        // Copied where the user may execute it.
        let exe = daemon.path("../compartment");
        if !exe.exists() {
            fs::copy(EXE, &exe).expect("a copy");
        }
        let mut command = Command::new(exe);
        command.args(args).env("COMPARTMENTS_MOUNT", &daemon.mount).stdin(Stdio::null());
        command.uid(USERS[0]).gid(USERS[0]).output().expect("compartment")
    };
    for args in [&["mv", &pid, "web"][..], &["set", "web", "nice=1"], &["rm", "web"], &["kill", &pid]] {
        let output = user(args);
        assert_eq!(output.status.code(), Some(4), "{args:?}: {output:?}");
    }
    let output = user(&["create", "theirs"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(state(p.pid()).is_some_and(|s| s != 'Z'));
}

#[test]
fn refused_move_says_why() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("web");

    let output = compartment(&daemon, &["mv", "2", "web"]);

    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("kernel"), "the reason of error_log: {err}");
}

#[test]
fn run_passes_the_status_on_and_leaves_no_group() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let inside =
        format!("ls -d {}/sched-groups/job/$$ >/dev/null && echo inside; exit 7", daemon.mount.display());

    let output = compartment(&daemon, &["run", "--name", "job", "--cpu", "0.5", "--", "sh", "-c", &inside]);

    assert_eq!((output.status.code(), &output.stdout[..]), (Some(7), &b"inside\n"[..]), "{output:?}");
    assert!(!daemon.path("sched-groups/job").exists());
    let killed = compartment(&daemon, &["run", "--", "sh", "-c", "kill -KILL $$"]);
    assert_eq!(killed.status.code(), Some(128 + 9), "{killed:?}");
    let missing = compartment(&daemon, &["run", "--", "/no/such/program"]);
    assert!(missing.status.code().is_some_and(|c| c != 0), "{missing:?}");
    daemon.mkdir("lasting");
    let output = compartment(&daemon, &["run", "--group", "lasting", "--", "true"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(daemon.path("sched-groups/lasting").exists());
    let groups: Vec<_> = fs::read_dir(daemon.path("sched-groups")).expect("groups").flatten().collect();
    assert_eq!(groups.len(), 2, "{groups:?}");
}

#[test]
fn run_needs_no_daemon() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let home = tempfile::Builder::new().prefix("cmpt-run-").tempdir().expect("a directory");
    let run = |args: &[&str]| {
        let mut command = command(&[&["run"], args].concat());
        command.env("XDG_RUNTIME_DIR", home.path()).env("TMPDIR", home.path());
        command
    };

    let output = run(&["--cpu", "0.5", "--", "sh", "-c", "exit 7"]).output().expect("compartment");

    assert_eq!(output.status.code(), Some(7), "{output:?}");

    // Its cap holds, and a signal ends it together with what it has brought along.
    let child = run(&["--cpu", "0.5", "--", "sh", "-c", "echo $$ > \"$TMPDIR/pid\"; while :; do :; done"])
        .spawn()
        .expect("compartment");
    let mut runner = Program(child);
    let pid: i32 = support::wait_for(10, "the command", || {
        fs::read_to_string(home.path().join("pid")).ok()?.trim().parse().ok()
    });
    wait_until(5, "the group", || support::cpu_ms(pid) > 100.0);
    let percent = || vec![support::used_ms(&[pid], std::time::Duration::from_secs(2))[0] / 20.0];
    assert_near(&[50.0], 4.0, percent);
    signal(runner.pid(), Signal::SIGTERM);
    let status = runner.wait(10);
    assert!(!status.success());
    assert!(state(pid).is_none_or(|s| s == 'Z'));
}

#[test]
fn top_ends_with_its_terminal_and_by_a_signal() {
    if !can_run() || !has("script") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    for is_hang_up in [true, false] {
        let typed = format!("exec {EXE} top --mount {}", daemon.mount.display());
        let mut script = support::in_terminal(&typed);
        script.stdin(Stdio::piped()).stdout(Stdio::null());
        let script = Program(script.spawn().expect("script from util-linux"));
        let top = support::wait_for(10, "top", || {
            support::children(script.pid()).into_iter().find(|&pid| {
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                comm.trim() == "compartment" && support::voluntary_switches(pid) > 5
            })
        });

        if is_hang_up {
            support::kill9(script.pid());
        } else {
            signal(top, Signal::SIGTERM);
        }

        let is_over = || matches!(state(top), None | Some('Z'));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !is_over() && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let is_ended = is_over();
        if !is_ended {
            support::kill9(top);
        }
        assert!(is_ended, "top goes on, hang-up: {is_hang_up}");
    }
}

#[test]
fn mv_tree_takes_descendants_along() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("web");
    let top = Program::shell("sh -c 'sleep 1000 & wait' & sleep 1000 & wait");
    let family = |pid: i32| {
        let mut pids = vec![pid];
        let mut at = 0;
        while at < pids.len() {
            pids.extend(support::children(pids[at]));
            at += 1;
        }
        pids.sort_unstable();
        pids
    };
    wait_until(5, "the family to be there", || family(top.pid()).len() == 4);
    let pid = top.pid().to_string();

    assert_eq!(prints(&daemon, 0, &["mv", &pid, "web"]), "");
    assert_eq!(daemon.members("web"), [top.pid()]);
    assert_eq!(prints(&daemon, 0, &["mv", "--tree", &pid, "web"]), "");
    assert_eq!(daemon.members("web"), family(top.pid()));

    assert_eq!(prints(&daemon, 0, &["mv", "--tree", &pid, "0"]), "");
    assert!(daemon.members("web").is_empty());
}
