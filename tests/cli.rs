//! The command: what each verb does to real groups, and the status it ends with.

mod support;

use std::process::{Command, Output, Stdio};

use support::{Daemon, EXE, Program, USERS, alone, as_user, can_run, errno, has, used_ms, wait_until};

fn compartment(daemon: &Daemon, args: &[&str]) -> Output {
    let mut command = Command::new(EXE);
    command.arg("--mount").arg(&daemon.mount).args(args);
    command.stdin(Stdio::null()).output().expect("our own binary")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn verbs_work_on_real_groups() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let mut p = Program::spin();
    let pid = p.pid().to_string();

    text(&compartment(&daemon, &["create", "web", "--nice", "2", "--cpu", "0.5"]));
    assert_eq!(daemon.read("sched-groups/web/cpu.max"), "50000 100000\n");
    assert_eq!(daemon.read("sched-groups/web/nice"), "2\n");
    text(&compartment(&daemon, &["mv", &pid, "web"]));
    assert_eq!(daemon.members("web"), [p.pid()]);
    text(&compartment(&daemon, &["set", "web", "slice_usec=3000", "cpu=max"]));
    assert_eq!(daemon.read("sched-groups/web/slice_usec"), "3000\n");
    assert!(text(&compartment(&daemon, &["show", "web"])).contains("3000"));
    let shown: serde_json::Value =
        serde_json::from_str(&text(&compartment(&daemon, &["ps", "--json"]))).expect("JSON");
    assert_eq!(shown[0]["members"][0]["pid"], p.pid());
    assert!(text(&compartment(&daemon, &["ps"])).contains(&pid));
    assert!(text(&compartment(&daemon, &["top", "--batch", "-n", "2", "-d", "0.2"])).contains("web"));
    assert_eq!(compartment(&daemon, &["rm", "web"]).status.code(), Some(1), "it has a member");
    text(&compartment(&daemon, &["kill", "-s", "TERM", &pid]));
    assert!(!p.wait(5).success());
    wait_until(5, "the member to be gone", || daemon.members("web").is_empty());
    text(&compartment(&daemon, &["rm", "web"]));
    assert_eq!(errno(std::fs::metadata(daemon.path("sched-groups/web"))), libc::ENOENT);
}

#[test]
fn statuses_tell_what_went_wrong() {
    if !can_run() || !has("setpriv") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("web");
    let p = Program::spin();
    let pid = p.pid().to_string();
    for (code, args) in [
        (1, &["show", "none"][..]),
        (1, &["create", "web"]),
        (1, &["mv", "2", "web"]),
        (2, &["set", "web", "vcpus=x"]),
        (2, &["frobnicate"]),
    ] {
        let output = compartment(&daemon, args);
        assert!(
            output.status.code() == Some(code) || (code == 2 && output.status.code() == Some(1)),
            "{args:?}: {output:?}"
        );
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}: {output:?}");
    }
    let mount = daemon.mount.to_str().expect("UTF-8");
    for args in [&["mv", &pid, "web"][..], &["set", "web", "nice=5"], &["rm", "web"]] {
        let words = [&[EXE, "--mount", mount], args].concat();
        let output = as_user(USERS[0], &words).output().expect("setpriv");
        assert_eq!(output.status.code(), Some(4), "{args:?}: {output:?}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let output = Command::new(EXE).arg("--mount").arg(dir.path()).arg("ps").output().expect("ours");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn run_holds_a_command_to_its_share_and_passes_its_status_on() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let run = |args: &[&str]| compartment(&daemon, &[&["run"], args].concat());
    assert_eq!(run(&["--", "sh", "-c", "exit 42"]).status.code(), Some(42));
    assert_eq!(run(&["--", "sh", "-c", "kill -TERM $$"]).status.code(), Some(143));
    assert_eq!(text(&run(&["--", "echo", "hello"])), "hello\n");

    let mount = daemon.mount.to_str().expect("UTF-8");
    let spin = "while :; do :; done";
    let words = [EXE, "--mount", mount, "run", "--cpu", "0.25", "--name", "quarter", "--", "sh", "-c", spin];
    let mut command = Program::start(&words);
    let member = support::wait_for(10, "the member", || daemon.members("quarter").first().copied());

    // Of the CPU's time, whatever others use of it.
    let second = std::time::Duration::from_secs(1);
    support::assert_near(&[25.0], 1.5, || vec![used_ms(&[member], 3 * second)[0] / 30.0]);

    support::kill9(member);
    assert_eq!(command.wait(10).code(), Some(137));
    wait_until(5, "the group to be gone", || !daemon.path("sched-groups/quarter").exists());
}
