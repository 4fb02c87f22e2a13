//! Programs that show tasks to a daemon.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::{Daemon, EXE, as_user, wait_for};

/// The directory of the examples of `guest-task`, built when first asked for, where users other than root can execute them.
pub fn examples() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let done = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "guest-task", "--examples", "--all-features"])
            .status();
        assert!(done.is_ok_and(|status| status.success()), "the examples are built");
        let exe = std::env::current_exe().expect("our own binary");
        exe.parent().and_then(|deps| deps.parent()).expect("a target directory").join("examples")
    };
    BUILT.get_or_init(build).clone()
}

/// A program that is connected to a daemon, ended with the value.
pub struct App {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl App {
    pub fn spawn(mut command: Command, daemon: &Daemon) -> Self {
        command.env("COMPARTMENTS_SOCKET", daemon.path("").with_extension("sock"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program");
        let (tx, lines) = channel();
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tx.send(line)));
        let stdin = child.stdin.take();
        Self { child, stdin, lines }
    }

    /// The example `jobs` with three jobs.
    pub fn jobs(daemon: &Daemon) -> Self {
        let app = Self::spawn(Command::new(examples().join("jobs")), daemon);
        assert_eq!(app.line(), "Connected");
        app
    }

    /// The same as another user, who may not be able to reach the target directory.
    pub fn jobs_of(daemon: &Daemon, uid: u32) -> Self {
        let copy = daemon.mount.parent().expect("the daemon's directory").join("jobs");
        fs::copy(examples().join("jobs"), &copy).expect("a copy");
        let app = Self::spawn(as_user(uid, &[copy.to_str().expect("UTF-8")]), daemon);
        assert_eq!(app.line(), "Connected");
        app
    }

    pub fn verb(daemon: &Daemon, args: &[&str]) -> Self {
        let mut command = Command::new(EXE);
        command.arg("--mount").arg(&daemon.mount).args(["task", "publish"]).args(args);
        Self::spawn(command, daemon)
    }

    pub fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(10)).expect("a line of the program")
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn group(&self) -> String {
        self.pid().to_string()
    }

    /// The guest PID of the task with that name.
    pub fn task(&self, daemon: &Daemon, name: &str) -> i32 {
        let has_name = |pid: &i32| {
            let comm = daemon.path(&format!("sched-groups/{}/{pid}/comm", self.group()));
            fs::read_to_string(comm).is_ok_and(|comm| comm.trim_end() == name)
        };
        wait_for(10, &format!("the task {name}"), || daemon.members(&self.group()).into_iter().find(has_name))
    }

    pub fn code(&mut self) -> Option<i32> {
        wait_for(10, "the program's end", || self.child.try_wait().expect("a child")).code()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
