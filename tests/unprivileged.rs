//! Everything by an ordinary user alone: no right is needed but that to open `/dev/fuse`.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use support::{
    EXE, Program, USERS, alone, assert_shares, can_run, drivers, has, is_free, kill9, signal, state,
    wait_until,
};

const USER: u32 = USERS[0];

/// A mount namespace in which everybody may open `/dev/fuse`, as on most hosts, and a directory of the user's.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("cmpt-user-").tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        let home = dir.path().join("home");
        fs::create_dir(&home).expect("a directory");
        fs::create_dir(home.join("tree")).expect("a mount point");
        let script = format!(
            "mknod -m 666 {dir}/fuse c 10 229 && chown -R {USER}:{USER} {home}",
            dir = dir.path().display(),
            home = home.display()
        );
        assert!(support::sh(&script).status.success());
        Self { dir }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A command of the user's in a new namespace.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        let script = r#"mount --bind "$0" /dev/fuse && exec "$@""#;
        command.args(["-m", "--propagation", "private", "sh", "-c", script]);
        command.arg(self.dir.path().join("fuse"));
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}")];
        command.args(["setpriv", &ids[0], &ids[1], "--clear-groups"]).args(words);
        command.env("XDG_RUNTIME_DIR", self.home()).env_remove("COMPARTMENTS_MOUNT").stdin(Stdio::null());
        command
    }
}

/// The user's daemon, seen from its namespace.
struct UsersDaemon {
    program: Program,
    place: Place,
}

impl UsersDaemon {
    fn start() -> Self {
        let place = Place::new();
        let (tree, state) = (place.home().join("tree"), place.home().join("state"));
        let words = [EXE, "daemon", "--foreground", "--dissolve-on-exit", "--mount"];
        let mut command = place.command(&words);
        command.arg(&tree).arg("--state").arg(&state);
        let log = fs::File::create(place.dir.path().join("log")).expect("a log");
        let child = command.stderr(log).stdout(Stdio::null()).spawn().expect("unshare from util-linux");
        let daemon = Self { program: Program(child), place };
        wait_until(15, "the daemon to serve", || daemon.sh("cat TREE/version").status.success());
        daemon
    }

    /// Runs a script as the user where the tree is.
    fn sh(&self, script: &str) -> Output {
        let tree = self.place.home().join("tree");
        let script = script.replace("TREE", &tree.display().to_string());
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}")];
        Command::new("nsenter")
            .args(["-t", &self.program.pid().to_string(), "-m", "setpriv", &ids[0], &ids[1]])
            .args(["--clear-groups", "sh", "-c", &script])
            .stdin(Stdio::null())
            .output()
            .expect("nsenter from util-linux")
    }

    fn text(&self, script: &str) -> String {
        let output = self.sh(script);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn state(&self) -> PathBuf {
        self.place.home().join("state")
    }
}

impl Drop for UsersDaemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.place.dir.path().join("log")).unwrap_or_default());
        }
        signal(self.program.pid(), Signal::SIGTERM);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while self.program.0.try_wait().is_ok_and(|s| s.is_none()) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let left = drivers(&self.state());
        while !drivers(&self.state()).is_empty() && std::time::Instant::now() < deadline {
            drivers(&self.state()).into_iter().for_each(kill9);
        }
        assert!(std::thread::panicking() || left.is_empty(), "the daemon has left {left:?}");
    }
}

fn can_run_as_user() -> bool {
    can_run() && has("unshare") && has("nsenter") && has("setpriv") && has("fusermount3")
}

#[test]
fn session_by_an_ordinary_user_alone() {
    if !can_run_as_user() {
        return;
    }
    let _alone = alone();
    let daemon = UsersDaemon::start();
    let (a, b, c) = (Program::spin_as(USER), Program::spin_as(USER), Program::spin_as(USER));
    let roots = Program::spin_anywhere();

    daemon.text("mkdir TREE/sched-groups/g && echo 20000 > TREE/sched-groups/g/slice_usec");
    daemon.text(&format!("cd TREE/sched-groups && mv 0/{} 0/{} g", b.pid(), c.pid()));

    let mode = daemon.text("cat TREE/sched-groups/g/mode");
    assert!(mode.starts_with("park=stop ") && mode.contains(" sensor=switch "), "{mode}");
    assert_shares(&[a.pid(), b.pid(), c.pid()], &[50.0, 25.0, 25.0], 6.0, 4);
    assert!(
        !daemon.sh(&format!("mv TREE/sched-groups/0/{} TREE/sched-groups/g", roots.pid())).status.success()
    );

    // Its worker dies: nobody stays stopped, and another one goes on.
    let before = drivers(&daemon.state());
    let worker = *before.iter().find(|&&p| support::children(p).is_empty()).expect("a worker");
    kill9(worker);
    for p in [&b, &c] {
        wait_until(2, "the member to go on", || is_free(p.pid()));
    }
    wait_until(10, "another worker", || {
        let now = drivers(&daemon.state());
        now.len() == 2 && !now.contains(&worker)
    });
    assert_shares(&[a.pid(), b.pid(), c.pid()], &[50.0, 25.0, 25.0], 6.0, 4);

    drop(daemon);
    for p in [&b, &c] {
        wait_until(2, "the member to run free", || state(p.pid()) == Some('R'));
    }
}

#[test]
fn run_by_an_ordinary_user_needs_no_daemon() {
    if !can_run_as_user() {
        return;
    }
    let _alone = alone();
    let place = Place::new();
    let run = |words: &[&str]| {
        place.command(&[&[EXE, "run"], words].concat()).output().expect("unshare from util-linux")
    };

    let output = run(&["--cpu", "0.5", "--", "sh", "-c", "echo out; id -u; exit 7"]);

    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("out\n{USER}\n"));
    let left = fs::read_dir(place.home().join("compartments-embedded"));
    assert_eq!(left.map_or(0, Iterator::count), 0);
}

#[test]
fn users_daemon_shows_the_users_guest_tasks() {
    if !can_run() || !has("setpriv") || !has("unshare") || !has("nsenter") {
        return;
    }
    let _alone = alone();
    let daemon = UsersDaemon::start();
    let script = r#"
        EXE --mount TREE task publish --name mine --on TERM 'echo ended' & app=$!
        while ! grep -qs mine TREE/sched-groups/$app/tasks; do sleep 0.05; done
        EXE --mount TREE ps | grep -q "running .* mine" || exit 1
        task=$(basename TREE/sched-groups/$app/[0-9]*)
        EXE --mount TREE kill -s TERM $task && wait $app
    "#;

    assert_eq!(
        daemon.text(&format!("timeout 20 sh -c '{}'", script.replace("EXE", EXE).replace('\'', "'\\''"))),
        "ended\n"
    );
}

#[test]
fn user_enters_the_users_tree() {
    if !can_run() || !has("setpriv") || !has("unshare") || !has("nsenter") || !has("ps") {
        return;
    }
    let _alone = alone();
    let daemon = UsersDaemon::start();
    let can_make_namespaces = daemon.sh("unshare -U true").status.success();
    if !support::need("user namespaces for all", can_make_namespaces) {
        return;
    }
    let script = r#"
        EXE --mount TREE task publish --name mine --on TERM 'echo ended' & app=$!
        while ! grep -qs mine TREE/sched-groups/$app/tasks; do sleep 0.05; done
        task=$(basename TREE/sched-groups/$app/[0-9]*)
        EXE --mount TREE enter -- sh -c "ps -o comm= -p $task -p $$; readlink TREE/proc/$app/stat; kill $task" && wait $app
    "#;

    let said =
        daemon.text(&format!("timeout 20 sh -c '{}'", script.replace("EXE", EXE).replace('\'', "'\\''")));

    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.contains(&"mine") && lines.contains(&"sh") && lines.contains(&"ended"), "{said}");
    assert!(lines.iter().any(|line| line.contains("/home/tree.host/proc/")), "{said}");
}
