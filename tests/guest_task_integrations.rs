//! Requests of an axum server, spans of tracing and jobs of a rayon pool are shown as tasks, and are reached.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use support::app::{App, examples};
use support::{Daemon, alone, can_run, wait_for, wait_until};

fn start(daemon: &Daemon, example: &str) -> App {
    let app = App::spawn(Command::new(examples().join(example)), daemon);
    assert_eq!(app.line(), "Connected");
    app
}

/// A file of a task of an application.
fn path(app: &App, task: i32, file: &str) -> String {
    format!("sched-groups/{}/{task}/{file}", app.group())
}

fn number(daemon: &Daemon, app: &App, task: i32, key: &str) -> u64 {
    daemon.key(&path(app, task, "stat"), key).and_then(|text| text.parse().ok()).expect("a number")
}

fn ask(port: &str, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    stream
}

fn all(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn http_requests_of_an_axum_server_are_tasks_and_are_cancelled() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let app = start(&daemon, "axum_server");
    let port = app.line();
    let none = || wait_until(5, "no request to be shown", || daemon.members(&app.group()).is_empty());

    assert!(all(ask(&port, "/")).starts_with("HTTP/1.1 200"));
    none();

    // Before the response: cancelled, and the client is told.
    let waiting = ask(&port, "/wait/7?token=secret");
    let task = app.task(&daemon, "GET /wait/7");
    assert_eq!(daemon.read(&path(&app, task, "cmdline")), "GET /wait/7\0");
    wait_until(5, "it to wait", || daemon.read(&path(&app, task, "state")) == "waiting\n");
    let age = number(&daemon, &app, task, "age_usec");
    wait_until(5, "it to grow older", || number(&daemon, &app, task, "age_usec") > age + 20_000);
    daemon.write(&path(&app, task, "signal"), "TERM").expect("it is cancelled");
    assert!(all(waiting).starts_with("HTTP/1.1 503"));
    none();

    // In the middle of the body: stopped, let go on, and broken off.
    let mut stream = ask(&port, "/stream");
    let task = app.task(&daemon, "GET /stream");
    let sent = || number(&daemon, &app, task, "memory_bytes");
    wait_until(5, "bytes to be counted", || sent() > 10_000);
    stream.read_exact(&mut [0; 8_000]).expect("bytes");
    assert!(number(&daemon, &app, task, "usage_usec") > 0);
    daemon.write(&path(&app, task, "signal"), "STOP").expect("it is stopped");
    wait_until(5, "it to stand still", || daemon.read(&path(&app, task, "state")) == "stopped\n");
    let still = sent();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(sent(), still);
    daemon.write(&path(&app, task, "signal"), "CONT").expect("it goes on");
    wait_until(5, "it to go on", || sent() > still);
    daemon.write(&path(&app, task, "signal"), "KILL").expect("it is cancelled");
    // The chunk that would end the body is missing.
    assert!(!all(stream).ends_with("0\r\n\r\n"));
    none();

    // A client that goes away takes its task with it.
    drop(ask(&port, "/wait/8"));
    none();
    assert!(all(ask(&port, "/compute")).ends_with("computed\n"));
}

#[test]
fn spans_are_tasks_below_each_other() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let mut app = start(&daemon, "spans");
    assert_eq!(app.line(), "open");
    let (import, parse) = (app.task(&daemon, "import"), app.task(&daemon, "parse"));

    assert_eq!(daemon.members(&app.group()).len(), 2, "the span of a lower level is not shown");
    assert_eq!(daemon.read(&path(&app, import, "cmdline")), "spans file=users.csv rows=42\0");
    assert_eq!(number(&daemon, &app, parse, "ppid"), import as u64);
    let states = [import, parse].map(|task| daemon.read(&path(&app, task, "state")));
    assert_eq!(states, ["running\n", "waiting\n"]);
    // It computed for 30 ms, of which the machine may have taken some.
    assert!((1_000..40_000).contains(&number(&daemon, &app, parse, "usage_usec")));

    let stdin = app.stdin.as_mut().expect("a pipe");
    stdin.write_all(b"\n").expect("read");
    assert_eq!(app.line(), "closed");
    assert!(daemon.members(&app.group()).is_empty());
}

#[test]
fn jobs_of_a_thread_pool_have_their_true_cpu_time() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let mut app = start(&daemon, "rayon_jobs");
    let jobs: Vec<i32> = (1..=3).map(|i| app.task(&daemon, &format!("job-{i}"))).collect();
    let state = |task: i32| daemon.read(&path(&app, task, "state"));
    let in_state =
        |of: &str| jobs.iter().copied().filter(|task| state(*task).trim_end() == of).collect::<Vec<_>>();
    let (running, queued) = wait_for(5, "two jobs to run", || {
        let (running, queued) = (in_state("running"), in_state("queued"));
        (running.len() == 2 && queued.len() == 1).then_some((running, queued))
    });

    // Against what the kernel says of the process, of which the jobs are nearly all.
    let used = || running.iter().map(|task| number(&daemon, &app, *task, "usage_usec")).sum::<u64>();
    let field =
        |at| support::stat_field(app.pid(), at).and_then(|text| text.parse::<u64>().ok()).expect("alive");
    let ticks = || field(11) + field(12);
    let (jobs_before, process_before) = (used(), ticks());
    wait_until(20, "a second of CPU time", || used() > jobs_before + 1_000_000);
    let (by_jobs, by_kernel) = (used() - jobs_before, (ticks() - process_before) * 10_000);
    assert!(by_jobs.abs_diff(by_kernel) < 150_000, "jobs {by_jobs} µs, process {by_kernel} µs");
    assert_eq!(number(&daemon, &app, queued[0], "usage_usec"), 0);

    daemon.write(&path(&app, running[0], "signal"), "TERM").expect("it ends");
    assert!(app.line().ends_with("ended"));
    wait_until(5, "the next one to run", || state(queued[0]) == "running\n");
    for task in [running[1], queued[0]] {
        daemon.write(&path(&app, task, "signal"), "TERM").expect("it ends");
    }
    assert_eq!(app.code(), Some(0));
}
