//! `rules` put programs into groups as they are executed.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use support::{Daemon, Program, USERS, alone, assert_shares, can_run, errno, has, sh, sh_as, wait_until};

/// A copy of the shell under a name of its own, so that a rule is about nobody else.
struct Shell {
    dir: tempfile::TempDir,
}

impl Shell {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("cmpt-rules-").tempdir().expect("a directory");
        let shell = Self { dir };
        fs::copy(fs::canonicalize("/bin/sh").expect("a shell"), shell.path()).expect("a copy");
        shell
    }

    fn path(&self) -> PathBuf {
        // As the kernel names it.
        fs::canonicalize(self.dir.path()).expect("a directory").join("shell")
    }

    fn spin(&self) -> Program {
        Program::start(&[self.path().to_str().expect("UTF-8"), "-c", "while :; do :; done"])
    }
}

#[test]
fn program_is_put_into_the_group_of_the_first_rule_about_it() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let shell = Shell::new();
    daemon.group("builds", 10_000);
    daemon.mkdir("other");
    let early = shell.spin();
    let text = format!("exe={exe} sched=builds\nexe={exe} sched=other\n", exe = shell.path().display());

    daemon.write("rules", &text).expect("rules");

    assert_eq!(daemon.read("rules"), text);
    daemon.write("rules", &text).expect("what is read can be written back");
    let (outside, b, c) = (Program::spin(), shell.spin(), shell.spin());
    let mut both = vec![b.pid(), c.pid()];
    both.sort_unstable();
    wait_until(5, "both to be placed", || daemon.members("builds") == both);
    assert!(daemon.members("other").is_empty());
    assert!(daemon.members("0").contains(&early.pid()), "who ran before stays");
    drop(early);
    assert_shares(&[outside.pid(), b.pid(), c.pid()], &[50.0, 25.0, 25.0], 4.0, 2);

    // A write replaces all.
    let text = format!("exe={} sched=other\n", shell.path().display());
    daemon.write("rules", &text).expect("rules");
    let d = shell.spin();
    wait_until(5, "it to be placed", || daemon.members("other") == [d.pid()]);
    assert_eq!(daemon.members("builds"), both, "whom a rule has placed stays");
    // Cutting is as good as writing nothing, but a refused value leaves what was there.
    assert!(!sh(&format!("echo bad > {}", daemon.path("rules").display())).status.success());
    assert_eq!(daemon.read("rules"), text);
    assert!(sh(&format!(": > {}", daemon.path("rules").display())).status.success());
    wait_until(5, "no rules", || daemon.read("rules").is_empty());
    daemon.write("rules", &text).expect("rules");
    // An empty text is no rules.
    daemon.write("rules", "\n").expect("no rules");
    assert_eq!(daemon.read("rules"), "");
    let e = shell.spin();
    std::thread::sleep(Duration::from_millis(300));
    assert!(daemon.members("0").contains(&e.pid()));
}

#[test]
fn who_was_moved_by_hand_is_left_there() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let shell = Shell::new();
    daemon.mkdir("hand");
    daemon.mkdir("rule");
    daemon.write("rules", &format!("exe={} sched=rule", shell.path().display())).expect("rules");
    let mut p = Program(
        Command::new("sh")
            .args(["-c", "read line; exec \"$0\" -c 'while :; do :; done'"])
            .arg(shell.path())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("sh"),
    );
    daemon.join("hand", p.pid()).expect("joined");

    drop(p.0.stdin.take());

    let exe = format!("/proc/{}/exe", p.pid());
    wait_until(5, "it to be executed", || fs::read_link(&exe).is_ok_and(|e| e == shell.path()));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(daemon.members("hand"), [p.pid()]);
    assert!(daemon.members("rule").is_empty());
}

#[test]
fn processes_of_a_user_are_placed_and_the_next_daemon_knows_the_rules() {
    if !can_run() || !has("setpriv") {
        return;
    }
    let _alone = alone();
    let mut daemon = Daemon::start();
    daemon.mkdir("users");
    let text = format!("user={} sched=users\n", USERS[1]);
    daemon.write("rules", &text).expect("rules");
    let a = Program::spin_as(USERS[1]);
    wait_until(5, "it to be placed", || daemon.members("users") == [a.pid()]);

    daemon.kill();
    daemon.restart();

    assert_eq!(daemon.read("rules"), text);
    let b = Program::spin_as(USERS[1]);
    wait_until(10, "both to be there", || {
        let mut both = vec![a.pid(), b.pid()];
        both.sort_unstable();
        daemon.members("users") == both
    });
}

#[test]
fn rule_that_is_none_or_not_roots_is_refused_and_the_old_ones_stay() {
    if !can_run() || !has("setpriv") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let text = "exe=/usr/bin/none sched=builds\n";
    daemon.write("rules", text).expect("a group that is not there yet");
    let bad = [
        "nonsense",
        "sched=builds",
        "exe=/usr/bin/make",
        "exe=make sched=builds",
        "user=no-such-user sched=x",
        "user=99999999999 sched=x",
        "user=1 sched=a sched=b",
        "user=1 sched=a/b",
        "user=1 nice=3 sched=a",
    ];
    for (nr, bad) in bad.into_iter().enumerate() {
        assert_eq!(errno(daemon.write("rules", &format!("user=1 sched=a\n{bad}\n"))), libc::EINVAL, "{bad}");
        let log = daemon.read("error_log");
        assert_eq!(log.lines().count(), nr + 1);
        assert!(
            log.lines().last().is_some_and(|l| l.contains("path=rules") && l.contains("line\\x202")),
            "{log}"
        );
    }

    let script = format!("echo user=1 sched=a > {}", daemon.path("rules").display());
    let output = sh_as(USERS[0], &script);

    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("denied"),
        "{output:?}"
    );
    assert_eq!(daemon.read("rules"), text);
}
