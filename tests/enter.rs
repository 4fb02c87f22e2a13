//! In an entered shell guest tasks are processes to the programs that everybody uses, and processes are what they always are; whatever dies there,
//! nothing hangs.

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::app::App;
use support::{
    Daemon, EXE, Program, USERS, alone, can_run, children, comm, has, in_terminal, kill9, need, signal,
    wait_for, wait_until,
};

/// A Python that the system's packages belong to.
const PYTHON: &str = "/usr/bin/python3";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `compartment enter -- CMD`.
fn enter(daemon: &Daemon, words: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "60", EXE, "--mount"]).arg(&daemon.mount).args(["enter", "--"]).args(words);
    command.stdin(Stdio::null());
    command
}

/// Runs a script in an entered shell, with arguments, and gives what it wrote to both outputs.
fn inside(daemon: &Daemon, script: &str, args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = enter(daemon, &[&["bash", "-c", script, "bash"], args].concat())
        .env("LC_ALL", "C")
        .output()
        .expect("the command");
    (status.code(), text(&stdout) + &text(&stderr))
}

/// An entered shell that reads its commands from us.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    fn of(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let (tx, lines) = channel();
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tx.send(line)));
        let stdin = child.stdin.take().expect("a pipe");
        Self { child, stdin, lines }
    }

    fn new(daemon: &Daemon) -> Self {
        Self::of(enter(daemon, &["bash"]))
    }

    /// Runs commands that write one line together.
    fn ask(&mut self, commands: &str) -> String {
        self.tell(commands);
        self.lines.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("no answer to {commands}"))
    }

    fn tell(&mut self, commands: &str) {
        writeln!(self.stdin, "{commands}").expect("the shell reads");
    }

    fn pid(&mut self) -> i32 {
        self.ask("echo $$").parse().expect("a PID")
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All processes there are.
fn processes() -> HashSet<String> {
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

/// The supervisors of a daemon's shells.
fn supervisors(daemon: &Daemon) -> Vec<i32> {
    let is_one = |pid: &i32| {
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = cmdline.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&&b"enter-supervisor"[..])
            && words.get(3).is_some_and(|root| *root == daemon.mount.as_os_str().as_encoded_bytes())
    };
    processes().iter().filter_map(|name| name.parse().ok()).filter(is_one).collect()
}

#[test]
fn programs_see_guest_tasks_beside_processes() {
    if !can_run() || !["ps", "top", "pgrep", "pidof"].iter().all(|program| has(program)) {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let app = App::jobs(&daemon);
    let (boss, job) = (app.task(&daemon, "boss").to_string(), app.task(&daemon, "job-2").to_string());
    let program = Program::spin_anywhere();
    let own = program.pid().to_string();

    let before = processes();
    let (code, ps) = inside(&daemon, "ps aux", &[]);
    assert_eq!(code, Some(0), "{ps}");
    let line = ps.lines().find(|line| line.contains("job --number 2")).unwrap_or_else(|| panic!("{ps}"));
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        (cells[0], cells[1], &cells[4..8]),
        ("root", job.as_str(), &["4", "4", "?", "R"][..]),
        "{line}"
    );
    // All processes, but for those that come and go.
    let shown: HashSet<&str> = ps.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    let lasting = processes().into_iter().filter(|pid| before.contains(pid));
    assert_eq!(lasting.filter(|pid| !shown.contains(pid.as_str())).collect::<Vec<_>>(), [""; 0]);
    assert!(before.len() > 2 && shown.contains(own.as_str()), "{ps}");

    let (_, forest) = inside(&daemon, "ps -ef --forest", &[]);
    let below = forest.lines().skip_while(|line| !line.contains("[boss]")).nth(1).unwrap_or_default();
    assert!(below.contains("\\_ job --number 1"), "{forest}");
    let (_, top) = inside(&daemon, "top -b -n 1 -w 200", &[]);
    assert!(top.lines().any(|line| line.ends_with(" job-3") || line.contains(" job-3 ")), "{top}");
    assert_eq!(inside(&daemon, "pgrep -x -P $1 job-2", &[&boss]).1.trim(), job);
    let (_, comms) =
        inside(&daemon, "cat /proc/$1/comm /proc/$1/task/$1/comm; ls /proc/$1/task /proc/$1/fd", &[&job]);
    assert_eq!(comms.split_whitespace().collect::<Vec<_>>()[..2], ["job-2", "job-2"], "{comms}");
    let (_, fields) = inside(&daemon, "wc -w < /proc/$1/stat; wc -w < /proc/$1/environ", &[&job]);
    assert_eq!(fields, "52\n0\n");
    // 3 ms of CPU time are less than a tick; the clock's start is right.
    let (_, times) = inside(&daemon, "ps -o etimes=,time=,ni=,pgid=,ppid= -p $1", &[&job]);
    let cells: Vec<&str> = times.split_whitespace().collect();
    assert!(cells[0].parse::<u32>().is_ok_and(|age| age < 300), "{times}");
    assert_eq!(cells[1..], ["00:00:00", "0", &job, &boss], "{times}");

    // What is the host's is the host's own.
    let (_, links) = inside(
        &daemon,
        "echo x > /dev/stdout; readlink /proc/self/fd/0; cat /proc/self/comm; readlink /proc/$1/exe; \
         cat /proc/sys/kernel/pid_max; readlink /proc/self; echo $BASHPID; ls /proc/thread-self/ns/pid; \
         grep -c ' /proc ' /proc/mounts; (cd /proc/$$/cwd && pwd -P); grep ^NoNewPrivs /proc/self/status",
        &[&own],
    );
    let lines: Vec<&str> = links.lines().collect();
    let exe = fs::read_link(format!("/proc/{own}/exe")).expect("alive").display().to_string();
    assert_eq!(lines[..4], ["x", "/dev/null", "cat", &exe], "{links}");
    let limit = fs::read_to_string("/proc/sys/kernel/pid_max").expect("a number");
    assert_eq!(lines[4], limit.trim());
    assert!(lines[5].parse::<i32>().is_ok_and(|pid| pid > 1 && pid < 4_194_304), "{links}");
    assert_eq!(lines[7], "/proc/thread-self/ns/pid");
    assert_eq!(lines[10], "NoNewPrivs:\t0", "setuid programs go on working: {links}");
}

#[test]
fn libraries_and_full_screens_see_guest_tasks() {
    if !can_run() || !has("htop") || !has("script") {
        return;
    }
    let has_psutil = Command::new(PYTHON).args(["-c", "import psutil"]).status().is_ok_and(|s| s.success());
    if !need("python3-psutil", has_psutil) {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let app = App::jobs(&daemon);
    let job = app.task(&daemon, "job-1").to_string();

    let psutil = "import psutil, sys\n\
        guest = psutil.Process(int(sys.argv[1]))\n\
        d = guest.as_dict()\n\
        print(d['name'], d['cmdline'], d['status'], d['username'], d['memory_info'].rss, d['nice'], d['num_threads'])\n\
        assert guest.parent().name() == 'boss' and guest.is_running()\n\
        assert guest.pid in psutil.pids() and 1 in psutil.pids()\n\
        for p in psutil.process_iter(): p.as_dict(['name', 'cmdline', 'status', 'cpu_times'])\n\
        print(psutil.Process().exe().startswith('/usr/bin/python3'))";
    let (code, said) = inside(&daemon, "exec /usr/bin/python3 -c \"$1\" $2", &[psutil, &job]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said, "job-1 ['job', '--number', '1'] running root 4096 0 1\nTrue\n");

    let exe = std::env::current_exe().expect("our own binary");
    let script = "COMPARTMENTS_ACTOR=\"proc-view $1\" exec \"$2\"";
    let (code, said) = inside(&daemon, script, &[&job, exe.to_str().expect("UTF-8")]);
    assert_eq!((code, said.trim()), (Some(0), "job-1 Running 1"), "the crate procfs: {said}");

    let mut screen = enter(&daemon, &["htop", "--delay=5", "--no-color"]);
    screen.env("TERM", "xterm").env("LINES", "400").env("COLUMNS", "150");
    let line = format!("stty rows 2000 cols 150; exec {}", shell_words(&screen));
    let mut htop = in_terminal(&line);
    htop.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut htop = htop.spawn().expect("script");
    std::thread::sleep(Duration::from_secs(2));
    let _ = htop.stdin.take().expect("a pipe").write_all(b"q");
    let mut shown = String::new();
    let mut bytes = Vec::new();
    htop.stdout.take().expect("a pipe").read_to_end(&mut bytes).expect("readable");
    shown.push_str(&text(&bytes));
    let _ = htop.wait();
    assert!(shown.contains("job --number 1") && shown.contains(&job), "{shown}");
}

fn shell_words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| format!("'{}'", word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

#[test]
fn signals_and_priorities_reach_guest_tasks() {
    if !can_run() || !["pkill", "killall", "renice", "chrt", "taskset"].iter().all(|program| has(program)) {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let mut nine = Command::new(support::app::examples().join("jobs"));
    nine.arg("9");
    let app = App::spawn(nine, &daemon);
    assert_eq!(app.line(), "Connected");
    let job = |number: u32| app.task(&daemon, &format!("job-{number}")).to_string();
    let boss = app.task(&daemon, "boss").to_string();

    for (script, said) in [
        ("kill -STOP $1", "job-1 Signal(19)"),
        ("/bin/kill -s CONT $1", "job-1 Signal(18)"),
        ("kill -STOP -- -$1", "job-1 Signal(19)"),
        ("pkill -CONT -x -P $2 job-1", "job-1 Signal(18)"),
        ("renice -n 5 -p $1 > /dev/null", "job-1 Nice(5)"),
        ("kill $1", "job-1 Signal(15)"),
    ] {
        let (code, output) = inside(&daemon, script, &[&job(1), &boss]);
        assert_eq!((code, output.as_str()), (Some(0), ""), "{script}");
        assert_eq!(app.line(), said, "{script}");
    }
    // Nobody else has a task, or a process, of that name.
    let name = format!("cmpt-{}", std::process::id());
    let mut other = App::verb(&daemon, &["--name", &name, "--on", "TERM", "echo ended"]);
    other.task(&daemon, &name);
    assert_eq!(inside(&daemon, "killall -TERM $1", &[&name]), (Some(0), String::new()));
    assert_eq!(other.line(), "ended");
    assert_eq!(other.code(), Some(0));

    let (code, shown) =
        inside(&daemon, "chrt -p $1; taskset -p $1; chrt -o -p 0 $1 && ionice -p $1", &[&job(2)]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("SCHED_OTHER") && shown.contains("affinity mask: "), "{shown}");
    // By the words of the C library: ESRCH, EOPNOTSUPP.
    let refused = [
        ("kill -USR1 $1", "not supported"),
        ("kill $2", "not supported"),
        ("renice -n 1 -p $2", "not supported"),
        ("chrt -f -p 5 $1", "not supported"),
        ("taskset -p 1 $1", "not supported"),
        ("kill 2000000000", "No such process"),
        ("kill -0 2000000000", "No such process"),
    ];
    for (script, why) in refused {
        let (code, output) = inside(&daemon, script, &[&job(2), &boss]);
        assert!(code != Some(0) && output.to_lowercase().contains(&why.to_lowercase()), "{script}: {output}");
    }
    assert_eq!(inside(&daemon, "kill -0 $1", &[&job(2)]).0, Some(0));

    // Signals to processes, by every way that there is, one of them a directory of /proc.
    let real = "sleep 60 & kill $!; wait $!; echo $?; sleep 60 & /bin/kill -s HUP $!; wait $!; echo $?; \
        cp \"$(command -v sleep)\" \"$1/$2\"; \"$1/$2\" 60 & killall \"$2\"; wait $!; echo $?; \
        exec /usr/bin/python3 -c 'import os, signal, subprocess\n\
p = subprocess.Popen([\"sleep\", \"60\"])\n\
signal.pidfd_send_signal(os.pidfd_open(p.pid), signal.SIGKILL)\n\
print(p.wait())'";
    let dir = daemon.mount.parent().expect("the daemon's directory").display().to_string();
    let (code, said) = inside(&daemon, real, &[&dir, &format!("s{}", std::process::id())]);
    let ends: Vec<&str> = said.lines().filter(|line| line.parse::<i32>().is_ok()).collect();
    assert_eq!((code, &ends[..]), (Some(0), &["143", "129", "143", "-9"][..]), "{said}");

    let pidfd = "import os, select, signal, sys\n\
fd = os.pidfd_open(int(sys.argv[1]))\n\
ended = select.poll(); ended.register(fd, select.POLLIN)\n\
assert ended.poll(300) == [], 'it lives'\n\
signal.pidfd_send_signal(fd, 0)\n\
try: signal.pidfd_send_signal(fd, signal.SIGUSR1)\n\
except OSError as e: print(e.errno)\n\
signal.pidfd_send_signal(fd, signal.SIGTERM)\n\
assert ended.poll(10000) != [], 'it has ended'\n\
try: signal.pidfd_send_signal(fd, signal.SIGTERM)\n\
except ProcessLookupError: print('gone')\n\
try: os.pidfd_open(int(sys.argv[1]))\n\
except ProcessLookupError: print('gone')";
    let (code, said) = inside(&daemon, "exec /usr/bin/python3 -c \"$1\" $2", &[pidfd, &job(3)]);
    assert_eq!((code, said), (Some(0), format!("{}\ngone\ngone\n", libc::EOPNOTSUPP)));
    assert_eq!(app.line(), "job-3 Signal(15)");
}

#[test]
fn shell_is_a_shell() {
    if !can_run() || !has("script") {
        return;
    }
    let _alone = alone();
    // Whoever runs the tests in the background has these ignored, and so would the shell's jobs.
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP] {
        host_sys::process::set_handler(signal, nix::sys::signal::SigHandler::SigDfl).expect("the default");
    }
    let daemon = Daemon::start();
    assert_eq!(inside(&daemon, "exit 7", &[]).0, Some(7));
    let killed = enter(&daemon, &["bash", "-c", "kill -TERM $$"]).output().expect("a shell");
    assert_eq!(killed.status.signal(), Some(libc::SIGTERM));
    let none = enter(&daemon, &["/nonexistent"]).output().expect("a shell");
    assert_eq!(none.status.code(), Some(127), "{}", text(&none.stderr));
    // In an entered shell, another one is the same.
    let nested =
        format!("{EXE} --mount {} enter -- sh -c 'grep -c . /proc/self/comm'", daemon.mount.display());
    assert_eq!(inside(&daemon, &nested, &[]), (Some(0), "1\n".into()));

    // A terminal: ^C and ^Z go to the job, and the shell goes on.
    let line =
        shell_words(&enter(&daemon, &["bash", "--norc", "-i"])).replace("'timeout' '-k' '5' '60' ", "");
    let mut command = in_terminal(&format!("exec {line}"));
    command.env("TERM", "dumb").env("PS1", "$ ");
    let mut shell = Shell::of(command);
    let wait_line = |shell: &Shell, mark: &str| {
        wait_for(20, mark, || {
            let line =
                shell.lines.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("no {mark}"));
            line.trim_end().ends_with(mark).then_some(())
        });
    };
    shell.tell("echo rea''dy $(ps -o tty= -p $$ | tr -d ' ?' | grep -c .)");
    wait_line(&shell, "ready 1");
    let shell_pid = wait_for(10, "the shell", || {
        let below = children(shell.child.id() as i32);
        below.into_iter().find(|pid| comm(*pid).as_deref() == Some("bash"))
    });
    for (key, status) in [(b"\x03", 130), (b"\x1a", 148)] {
        shell.tell("sleep 61");
        wait_until(10, "the job", || {
            children(shell_pid).iter().any(|pid| comm(*pid).as_deref() == Some("sleep"))
        });
        shell.stdin.write_all(key).expect("a terminal");
        shell.tell("echo sta''tus $?");
        wait_line(&shell, &format!("status {status}"));
    }
    shell.tell("kill -KILL %1");
    wait_until(10, "the job's end", || children(shell_pid).is_empty());
    // A shell that has not heard of that yet has to be told twice.
    shell.tell("exit 9");
    let _ = writeln!(shell.stdin, "exit 9");
    let status = wait_for(20, "the shell's end", || shell.child.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(9));
    wait_until(10, "the supervisors to end", || supervisors(&daemon).is_empty());
}

#[test]
fn entered_shells_outlive_the_daemon() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let mut daemon = Daemon::start();
    let app = App::jobs(&daemon);
    let guest = |daemon: &Daemon| app.task(daemon, "job-1").to_string();
    let (mut one, mut two) = (Shell::new(&daemon), Shell::new(&daemon));
    for round in 0..2 {
        let before = guest(&daemon);
        for shell in [&mut one, &mut two] {
            assert_eq!(shell.ask(&format!("cat /proc/{before}/comm")), "job-1", "round {round}");
        }
        if round == 0 {
            daemon.kill()
        } else {
            daemon.stop()
        }
        for shell in [&mut one, &mut two] {
            // At once an answer of some kind, and soon the host's own.
            let _ = shell.ask("cat /proc/uptime > /dev/null 2>&1; echo $?");
            wait_until(10, "the host's /proc", || {
                shell.ask("stat -f -c %T /proc 2>/dev/null || echo dead") == "proc"
            });
            assert_eq!(shell.ask("cat /proc/$$/comm"), "bash");
            assert_eq!(shell.ask(&format!("kill {before} 2>/dev/null; echo $?")), "1");
            assert_eq!(shell.ask("sleep 60 & kill $!; wait $! 2>/dev/null; echo $?"), "143");
        }
        daemon.restart();
        let again = guest(&daemon);
        for shell in [&mut one, &mut two] {
            wait_until(10, "guest tasks again", || {
                shell.ask(&format!("cat /proc/{again}/comm 2>/dev/null || echo none")) == "job-1"
            });
            assert_eq!(shell.ask(&format!("kill -0 {again}; echo $?")), "0");
        }
    }
    let job = guest(&daemon);
    assert_eq!(one.ask(&format!("kill {job}; echo $?")), "0");
    assert_eq!(app.line(), "job-1 Signal(15)");
    assert_eq!(two.ask(&format!("kill {job} 2>/dev/null; echo $?")), "1");
}

#[test]
fn nothing_hangs_when_a_shell_or_its_supervisor_is_killed() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let app = App::jobs(&daemon);
    let job = app.task(&daemon, "job-1");
    let mut shell = Shell::new(&daemon);
    let mut other = Shell::new(&daemon);
    let (pid, other_pid) = (shell.pid(), other.pid());

    // What a killed shell leaves behind is still served.
    let mut orphan = shell.ask(&format!(
        "(trap '' TERM; while sleep 0.1; do kill -0 {job} || break; done) > /dev/null 2>&1 & echo $!"
    ));
    let orphan: i32 = std::mem::take(&mut orphan).parse().expect("a PID");
    kill9(pid);
    std::thread::sleep(Duration::from_millis(500));
    assert!(fs::read_to_string(format!("/proc/{orphan}/comm")).is_ok(), "its kill -0 was answered");
    assert_eq!(supervisors(&daemon).len(), 2);
    kill9(orphan);
    wait_until(10, "the shell's supervisor to end", || supervisors(&daemon).len() == 1);

    kill9(supervisors(&daemon)[0]);
    wait_until(10, "the supervisor to end", || supervisors(&daemon).is_empty());
    let said = other.ask(&format!("kill -0 {job} 2>&1 | head -1; :"));
    assert!(said.contains("Function not implemented"), "{said}");
    assert_eq!(other.ask("sleep 60 & kill $!; wait $! 2>/dev/null; echo $?"), "143");
    assert_eq!(other.ask(&format!("cat /proc/{job}/comm")), "job-1");
    assert!(comm(other_pid).is_some());
}

#[test]
fn flood_of_calls_is_answered() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let app = App::jobs(&daemon);
    let job = app.task(&daemon, "job-1").to_string();
    let begin = Instant::now();
    // 40 at a time, some of them killed in the middle of it; nobody is kept.
    let script = "for i in $(seq 40); do (for j in $(seq 50); do kill -0 $1; kill -0 2000000000; done) 2>/dev/null & done; \
        kill -9 %3 %9 %21; wait; echo done";
    let (code, said) = inside(&daemon, script, &[&job]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("done"), "{said}");
    assert!(begin.elapsed() < Duration::from_secs(50));
    wait_until(10, "the supervisor to end", || supervisors(&daemon).is_empty());
}

#[test]
fn caller_has_the_callers_rights() {
    if !can_run() || !has("setpriv") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let (own, other) = (App::jobs_of(&daemon, USERS[0]), App::jobs(&daemon));
    let (job, roots) = (own.task(&daemon, "job-1").to_string(), other.task(&daemon, "job-1").to_string());
    // In root's shell, another user's program.
    let as_user = |uid: u32, script: &str| {
        format!("setpriv --reuid={uid} --regid={uid} --clear-groups bash -c '{script}'")
    };
    let try_as = |uid, script: String| inside(&daemon, &as_user(uid, &script), &[]);
    for script in [
        format!("kill {roots}"),
        format!("renice -n 5 -p {roots}"),
        format!("echo 15 > /proc/{roots}/signal"),
    ] {
        let (code, said) = try_as(USERS[0], script);
        assert!(code != Some(0) && said.contains("not permitted"), "{said}");
    }
    assert!(try_as(USERS[1], format!("kill {job}")).1.contains("not permitted"));
    assert_eq!(try_as(USERS[0], format!("renice -n 5 -p {job} >/dev/null")), (Some(0), String::new()));
    assert_eq!(own.line(), "job-1 Nice(5)");
    // Nor is anything of others' shown that /proc would not.
    let (_, said) =
        try_as(USERS[0], "cat /proc/1/environ; readlink /proc/1/exe; ls /proc/1/fd; echo end".into());
    assert!(said.starts_with("end\n") && said.matches("ermission denied").count() >= 2, "{said}");

    // The user's own shell: in a user namespace, where only its own user has a name.
    let copy = daemon.mount.parent().expect("the daemon's directory").join("compartment");
    fs::copy(EXE, &copy).expect("a copy");
    let mut command = Command::new(&copy);
    command.arg("--mount").arg(&daemon.mount).args(["enter", "--", "bash", "-c"]);
    command.arg(format!(
        "ps -o comm= -p {job} -p 1 | wc -l; kill {roots} 2>&1 | tail -1; sleep 60 & kill $!; wait $!; echo $?; kill {job}; exit 5"
    ));
    let output = command.uid(USERS[0]).gid(USERS[0]).env("LC_ALL", "C").output().expect("the command");
    let said = text(&output.stdout) + &text(&output.stderr);
    let is_refused = said.contains("cannot make a user namespace");
    if need("user namespaces for all", !is_refused) {
        assert_eq!(output.status.code(), Some(5), "{said}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!((lines[0], lines[2]), ("2", "143"), "{said}");
        assert!(lines[1].contains("not permitted"), "{said}");
        assert_eq!(own.line(), "job-1 Signal(15)");
    }
    signal(own.pid(), Signal::SIGTERM);
}
