//! Programs in C and Python show tasks as those in Rust do.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use support::app::App;
use support::{Daemon, alone, can_run, has, wait_until};

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-task").join(path)
}

/// The directory in which the C library is.
fn library() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let done = Command::new(env!("CARGO")).args(["build", "--quiet", "-p", "guest-task-c"]).status();
        assert!(done.is_ok_and(|status| status.success()), "the library is built");
        let exe = std::env::current_exe().expect("our own binary");
        exe.parent().and_then(|deps| deps.parent()).expect("a target directory").to_owned()
    };
    BUILT.get_or_init(build).clone()
}

fn ok(command: &mut Command) -> String {
    let output = command.output().expect("the command");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the example `jobs` of each language does.
fn check(daemon: &Daemon, mut app: App) {
    assert_eq!(app.line(), "answer 1");
    let (boss, worker) = (app.task(daemon, "boss"), app.task(daemon, "worker"));
    let path = |name: &str| format!("sched-groups/{}/{worker}/{name}", app.group());
    assert_eq!(
        (daemon.read(&path("cmdline")), daemon.read(&path("owner"))),
        ("worker --fast\0".into(), "bob\n".into())
    );
    let stat = |key| daemon.key(&path("stat"), key);
    assert_eq!(
        (stat("usage_usec"), stat("memory_bytes"), stat("ppid")),
        (Some("2000".into()), Some("8192".into()), Some(boss.to_string()))
    );
    daemon.write(&path("nice"), "-4").expect("it takes another nice");
    assert_eq!(app.line(), "worker nice -4");
    wait_until(5, "the nice to be shown", || daemon.read(&path("nice")) == "-4\n");
    daemon.write(&path("signal"), "USR1").expect("it takes the signal");
    assert_eq!(app.line(), "worker signal 10");
    wait_until(5, "the texts to be shown", || {
        daemon.read(&path("comm")) == "worker2\n" && daemon.read(&path("cmdline")) == "worker --faster\0"
    });
    assert!(daemon.write(&path("signal"), "HUP").is_err());
    daemon.write(&path("signal"), "TERM").expect("it takes the signal");
    assert_eq!(app.line(), "worker signal 15");
    assert_eq!(app.code(), Some(0));
    wait_until(5, "the group to vanish", || !daemon.path(&format!("sched-groups/{}", app.group())).exists());
}

#[test]
fn c_program_found_by_pkg_config_shows_tasks() {
    if !can_run() || !has("cc") || !has("pkg-config") {
        return;
    }
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let prefix = dir.path().join("prefix");
    ok(Command::new(source("capi/install.sh")).arg(&prefix).arg(library()));
    let mut pkg_config = Command::new("pkg-config");
    pkg_config.args(["--cflags", "--libs", "guesttask"]).env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    let flags = ok(&mut pkg_config);
    let exe = dir.path().join("jobs");
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-D_POSIX_C_SOURCE=200809L", "-o"])
        .arg(&exe);
    ok(cc.arg(source("capi/examples/jobs.c")).args(flags.split_whitespace()));
    let daemon = Daemon::start();
    let mut command = Command::new(&exe);
    command.env("LD_LIBRARY_PATH", prefix.join("lib"));

    check(&daemon, App::spawn(command, &daemon));
}

fn python(script: &Path) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(script)
        .env("PYTHONPATH", source("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("GUEST_TASK_LIBRARY", library().join("libguesttask.so"));
    command
}

#[test]
fn python_program_shows_tasks() {
    if !can_run() || !has("python3") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();

    check(&daemon, App::spawn(python(&source("python/examples/jobs.py")), &daemon));
}

#[test]
fn python_package_passes_its_own_tests() {
    if !has("python3") {
        return;
    }
    ok(&mut python(&source("python/tests/test_guest_task.py")));
}

#[test]
fn tasks_vanish_with_their_process_though_a_child_holds_the_socket() {
    if !can_run() || !has("python3") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("forks.py");
    // The child has every descriptor of its parent; it ends when the pipe of our end does.
    let text = "import os, sys, guest_task\nr = guest_task.Registry()\nr.wait(5)\nt = r.publish('kept')\npid = os.fork()\nif pid: print(pid, flush=True)\nsys.stdin.read()\n";
    std::fs::write(&script, text).expect("written");
    let app = App::spawn(python(&script), &daemon);
    let child: i32 = app.line().parse().expect("a PID");
    app.task(&daemon, "kept");

    support::kill9(app.pid());

    wait_until(5, "the group to vanish", || !daemon.path(&format!("sched-groups/{}", app.group())).exists());
    assert!(support::state(child).is_some(), "the child lives on");
}
