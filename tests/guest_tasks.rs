//! Applications show their tasks in the control tree, and are told what others want of them; whatever they are or do, nobody else is disturbed.

mod support;

use std::fs;
use std::io::Write;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use support::app::{App, examples};
use support::{Daemon, EXE, Program, USERS, alone, can_run, errno, has, kill9, sh, sh_as, wait_until};

fn compartment(daemon: &Daemon, args: &[&str]) -> Output {
    Command::new(EXE).arg("--mount").arg(&daemon.mount).args(args).output().expect("the command")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn tasks_are_shown_and_reached_through_the_tree() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let mut app = App::jobs(&daemon);
    let group = format!("sched-groups/{}", app.group());
    let listed: Vec<String> = fs::read_dir(daemon.path("sched-groups"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert!(listed.contains(&app.group()) && listed.contains(&"0".to_owned()), "{listed:?}");
    assert_eq!(daemon.read(&format!("{group}/representative")).trim(), app.group());
    assert_eq!(daemon.key(&format!("{group}/tasks.stat"), "nr_tasks").as_deref(), Some("4"));

    let (boss, job) = (app.task(&daemon, "boss"), app.task(&daemon, "job-2"));
    let lines = daemon.read(&format!("{group}/tasks"));
    let line = lines.lines().find(|line| line.starts_with(&format!("pid={job} "))).expect("a line for each");
    assert!(
        line.contains(&format!(" ppid={boss} state=running nice=0 usage_usec=3000 memory_bytes=4096 ")),
        "{line}"
    );
    assert!(line.ends_with(" comm=job-2 cmdline=job\\x00--number\\x002\\x00 owner=alice"), "{line}");
    assert!(daemon.members(&app.group()).iter().all(|pid| *pid >= 4_194_304));
    let file = |pid: i32, name: &str| format!("{group}/{pid}/{name}");
    assert_eq!(daemon.read(&file(job, "cmdline")), "job\0--number\x002\0");
    assert_eq!(daemon.read(&file(job, "owner")), "alice\n");
    assert_eq!(
        (daemon.read(&file(job, "nice")), daemon.read(&file(job, "state"))),
        ("0\n".into(), "running\n".into())
    );
    assert_eq!(daemon.read(&file(boss, "state")), "sleeping\n");
    let stat = |key| daemon.key(&file(job, "stat"), key).and_then(|v| v.parse::<i64>().ok());
    assert_eq!(
        (stat("usage_usec"), stat("memory_bytes"), stat("ppid")),
        (Some(3_000), Some(4_096), Some(boss.into()))
    );
    assert!(stat("age_usec").is_some_and(|age| (0..60_000_000).contains(&age)));

    daemon.write(&file(job, "nice"), "7\n").expect("it takes another nice");
    assert_eq!(app.line(), "job-2 Nice(7)");
    wait_until(5, "the nice to be shown", || daemon.read(&file(job, "nice")) == "7\n");
    for (signal, said, state) in
        [("STOP", "job-2 Signal(19)", "stopped\n"), ("CONT", "job-2 Signal(18)", "running\n")]
    {
        daemon.write(&file(job, "signal"), signal).expect("it takes the signal");
        assert_eq!(app.line(), said);
        wait_until(5, "the state to be shown", || daemon.read(&file(job, "state")) == state);
    }
    assert_eq!(errno(daemon.write(&file(job, "signal"), "USR1")), libc::EOPNOTSUPP);
    assert_eq!(errno(daemon.write(&file(boss, "signal"), "TERM")), libc::EOPNOTSUPP);
    assert_eq!(errno(daemon.write(&file(boss, "nice"), "1")), libc::EOPNOTSUPP);
    assert_eq!(errno(daemon.write(&file(job, "signal"), "nonsense")), libc::EINVAL);
    assert!(daemon.read("error_log").contains("does\\x20not\\x20take\\x20that\\x20signal"));

    // An open file is still that task's when it has ended.
    let held = fs::File::options().write(true).open(daemon.path(&file(job, "signal"))).expect("open");
    daemon.write(&file(job, "signal"), "TERM").expect("it takes the signal");
    assert_eq!(app.line(), "job-2 Signal(15)");
    wait_until(5, "the task to vanish", || !daemon.members(&app.group()).contains(&job));
    assert_eq!(errno((&held).write(b"TERM")), libc::ESRCH);

    let process = Program::spin_anywhere();
    assert_eq!(errno(daemon.rename("0", &app.group(), process.pid())), libc::EOPNOTSUPP);
    assert_eq!(errno(daemon.rename(&app.group(), "0", boss)), libc::EOPNOTSUPP);
    assert_eq!(errno(daemon.rmdir(&app.group())), libc::EOPNOTSUPP);

    drop(app.stdin.take());
    assert_eq!(app.code(), Some(0));
    wait_until(5, "the group to vanish", || !daemon.path(&group).exists());
}

#[test]
fn verbs_show_and_reach_guest_tasks() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let app = App::jobs(&daemon);
    let job = app.task(&daemon, "job-3");
    let word = job.to_string();

    let ps = text(&compartment(&daemon, &["ps"]).stdout);
    let line = ps.lines().find(|line| line.contains("job-3")).unwrap_or_else(|| panic!("{ps}"));
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells[..4], [&word, &app.group(), "running", "0"]);
    let top = text(&compartment(&daemon, &["top", "-b", "-n", "1", "-d", "0.1"]).stdout);
    assert!(top.contains("job-3") && top.contains(&word), "{top}");
    let show = text(&compartment(&daemon, &["show", &app.group()]).stdout);
    assert!(show.contains("application"), "{show}");
    assert!(compartment(&daemon, &["kill", "-s", "TERM", &word]).status.success());
    assert_eq!(app.line(), "job-3 Signal(15)");
    wait_until(5, "the task to vanish", || !daemon.members(&app.group()).contains(&job));
    let again = compartment(&daemon, &["kill", &word]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
}

#[test]
fn tasks_vanish_with_their_owner_and_come_back_with_the_daemon() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let mut daemon = Daemon::start();
    let (killed, app) = (App::jobs(&daemon), App::jobs(&daemon));
    let (gone, kept) = (killed.task(&daemon, "job-1"), app.task(&daemon, "job-1"));
    assert_ne!(gone, kept);

    kill9(killed.pid());
    wait_until(5, "the group to vanish", || {
        !daemon.path(&format!("sched-groups/{}", killed.group())).exists()
    });
    assert_eq!(daemon.members(&app.group()).len(), 4);

    for _ in 0..2 {
        daemon.kill();
        daemon.restart();
        let again = app.task(&daemon, "job-1");
        assert!(again > kept, "a number of before is nobody's");
        assert!(!daemon.path(&format!("sched-groups/{}/{kept}", app.group())).exists());
    }
    let job = app.task(&daemon, "job-1");
    daemon.write(&format!("sched-groups/{}/{job}/signal", app.group()), "TERM").expect("it takes the signal");
    assert_eq!(app.line(), "job-1 Signal(15)");
}

#[test]
fn only_the_user_and_root_reach_a_users_tasks() {
    if !can_run() || !has("setpriv") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let app = App::jobs_of(&daemon, USERS[0]);
    let job = app.task(&daemon, "job-1");
    let path =
        |name: &str| daemon.path(&format!("sched-groups/{}/{job}/{name}", app.group())).display().to_string();
    let try_as = |uid: u32, script: &str| {
        let output = sh_as(uid, script);
        (output.status.success(), text(&output.stderr))
    };

    for script in [format!("echo TERM > {}", path("signal")), format!("echo 5 > {}", path("nice"))] {
        let (done, said) = try_as(USERS[1], &script);
        assert!(!done, "{said}");
    }
    assert!(daemon.read("error_log").contains("is\\x20another\\x20user"));
    assert!(try_as(USERS[1], &format!("cat {}", path("comm"))).0, "as ps(1) shows everybody's");
    let (done, said) = try_as(USERS[0], &format!("echo 5 > {}", path("nice")));
    assert!(done, "{said}");
    assert_eq!(app.line(), "job-1 Nice(5)");
    let (done, said) = try_as(USERS[0], &format!("echo TERM > {}", path("signal")));
    assert!(done, "{said}");
    assert_eq!(app.line(), "job-1 Signal(15)");
    let other = app.task(&daemon, "job-2");
    daemon.write(&format!("sched-groups/{}/{other}/signal", app.group()), "TERM").expect("root may");
    assert_eq!(app.line(), "job-2 Signal(15)");
}

fn rss_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn lies_and_floods_disturb_nobody() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let app = App::jobs(&daemon);
    let job = app.task(&daemon, "job-1");
    let liar = App::spawn(Command::new(examples().join("liar")), &daemon);
    assert_eq!(liar.line(), "lying");
    let mut flood = Command::new(examples().join("liar"));
    flood.arg("flood");
    let flood = App::spawn(flood, &daemon);
    assert_eq!(flood.line(), "flooding");
    let before = rss_kib(daemon.pid());

    // 200 full looks at noise that changes under them, while the door is being stormed.
    let end = Instant::now() + Duration::from_secs(30);
    for round in 0..200 {
        let pids = daemon.members(&liar.group());
        for pid in pids.iter().take(5) {
            for name in ["comm", "cmdline", "owner", "nice", "state", "stat"] {
                let path = daemon.path(&format!("sched-groups/{}/{pid}/{name}", liar.group()));
                if let Ok(text) = fs::read_to_string(path) {
                    assert!(text.len() < 1_000, "{text}");
                }
            }
        }
        assert_eq!(daemon.members(&app.group()).len(), 4, "round {round}");
        assert!(Instant::now() < end, "the daemon has become slow: round {round}");
    }
    daemon.write(&format!("sched-groups/{}/{job}/signal", app.group()), "TERM").expect("it takes the signal");
    assert_eq!(app.line(), "job-1 Signal(15)");
    let grown = rss_kib(daemon.pid()).saturating_sub(before);
    assert!(grown < 64 * 1024, "the daemon has grown by {grown} KiB");
    let fds = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("alive").count();
    assert!(fds < 1_000, "the daemon has {fds} descriptors");

    let group = format!("sched-groups/{}", liar.group());
    kill9(liar.pid());
    wait_until(10, "the liar's group to vanish", || !daemon.path(&group).exists());
}

#[test]
fn shell_command_shows_a_task_and_acts_on_signals() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let signal = |app: &App, task: i32, name: &str| {
        daemon.write(&format!("sched-groups/{}/{task}/signal", app.group()), name)
    };
    let args = [
        "--name",
        "backup@far",
        "--cmdline",
        "backup --all",
        "--owner",
        "ops",
        "--on",
        "USR1",
        "echo got $COMPARTMENT_SIGNAL",
        "--on",
        "TERM",
        "echo ended",
    ];
    let mut app = App::verb(&daemon, &args);
    let task = app.task(&daemon, "backup@far");
    let read = |name: &str| daemon.read(&format!("sched-groups/{}/{task}/{name}", app.group()));
    assert_eq!((read("cmdline"), read("owner")), ("backup --all\0".into(), "ops\n".into()));
    assert_eq!(errno(signal(&app, task, "HUP")), libc::EOPNOTSUPP);
    signal(&app, task, "USR1").expect("there is a command for it");
    assert_eq!(app.line(), "got USR1");
    signal(&app, task, "TERM").expect("there is a command for it");
    assert_eq!(app.line(), "ended");
    assert_eq!(app.code(), Some(0), "whom TERM has ended is no longer shown");

    // With a command of its own.
    let parent = std::process::id().to_string();
    let mut app = App::verb(
        &daemon,
        &[
            "--name",
            "job",
            "--parent",
            &parent,
            "--",
            "sh",
            "-c",
            "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done",
        ],
    );
    assert_eq!(app.line(), "ready");
    let task = app.task(&daemon, "job");
    assert_eq!(daemon.key(&format!("sched-groups/{}/{task}/stat", app.group()), "ppid"), Some(parent));
    signal(&app, task, "STOP").expect("it goes to the command");
    let state = format!("sched-groups/{}/{task}/state", app.group());
    wait_until(5, "it to be stopped", || daemon.read(&state) == "stopped\n");
    signal(&app, task, "CONT").expect("it goes to the command");
    signal(&app, task, "TERM").expect("it goes to the command");
    assert_eq!(app.code(), Some(7), "the command's status is passed on");
    wait_until(5, "the group to vanish", || !daemon.path(&format!("sched-groups/{}", app.group())).exists());
}

#[test]
fn proxies_stand_for_tasks_in_every_shell() {
    if !can_run() || !has("ps") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let app = App::jobs(&daemon);
    let jobs = ["job-1", "job-2", "job-3"].map(|name| app.task(&daemon, name).to_string());
    let mut command = Command::new(EXE);
    command.arg("--mount").arg(&daemon.mount).args(["task", "proxy"]).args(&jobs);
    let mut verb = App::spawn(command, &daemon);
    let proxies = jobs.each_ref().map(|job| {
        let line = verb.line();
        let (proxy, task) = line.split_once(' ').expect("two numbers");
        assert_eq!(task, job);
        proxy.parse::<i32>().expect("a PID")
    });
    let ps = |pid: i32| text(&sh(&format!("ps -o comm=,args= -p {pid}")).stdout);
    wait_until(5, "the names", || (0..3).all(|i| ps(proxies[i]).contains(&format!("job-{} ", i + 1))));
    assert!(ps(proxies[0]).ends_with(" job --number 1\n"), "{}", ps(proxies[0]));

    // kill(1) of a shell, which knows of no guest tasks.
    for (name, said) in
        [("STOP", "job-1 Signal(19)"), ("CONT", "job-1 Signal(18)"), ("TERM", "job-1 Signal(15)")]
    {
        assert!(sh(&format!("kill -{name} {}", proxies[0])).status.success());
        assert_eq!(app.line(), said);
    }
    wait_until(5, "the proxy to end with its task", || ps(proxies[0]).is_empty());
    // The jobs do not take this one, but whoever kills a proxy gets rid of that.
    kill9(proxies[1]);
    drop(app);
    assert_eq!(verb.code(), Some(0), "with the last task");
    assert!(proxies.iter().all(|pid| ps(*pid).is_empty()));
}

#[test]
fn shell_command_does_not_need_a_daemon() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = Command::new(EXE)
        .args(["task", "publish", "--name", "x", "--", "sh", "-c", "exit 3"])
        .env("COMPARTMENTS_SOCKET", dir.path().join("none.sock"))
        .output()
        .expect("the command");

    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}
