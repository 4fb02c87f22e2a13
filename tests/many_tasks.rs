//! Very many tasks, very many applications, and more of these than the daemon has descriptors for.

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{PipeWriter, pipe};
use std::process::{Child, Command, Stdio};

use guest_task::{Options, Registry, Task, TaskSpec};
use support::app::{App, examples};
use support::{Daemon, alone, can_run, has, wait_for, wait_until};

const TASKS: usize = 200_000;
const APPLICATIONS: usize = 1_000;

/// Bytes of memory.
fn rss(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn nr_descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("alive").count()
}

/// Many applications of three jobs and a boss each, ended with the value: their standard input is one pipe.
struct Crowd {
    children: Vec<Child>,
    input: Option<PipeWriter>,
}

impl Crowd {
    fn start(daemon: &Daemon, nr: usize) -> Self {
        let (reader, writer) = pipe().expect("a pipe");
        let mut crowd = Self { children: Vec::new(), input: Some(writer) };
        for _ in 0..nr {
            let child = Command::new(examples().join("jobs"))
                .env("COMPARTMENTS_SOCKET", daemon.path("").with_extension("sock"))
                .stdin(reader.try_clone().expect("a descriptor"))
                .stdout(Stdio::null())
                .spawn();
            crowd.children.push(child.expect("the program"));
        }
        crowd
    }

    fn end(&mut self) {
        drop(self.input.take());
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.children.iter_mut().for_each(|child| drop(child.kill()));
        self.end();
    }
}

#[test]
fn tasks_and_applications_by_the_thousand_are_served() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let pid = daemon.pid();
    let before = rss(pid);

    let options = Options::default().socket(daemon.path("").with_extension("sock"));
    let registry = Registry::connect(options).expect("a registry");
    let spec = TaskSpec::new("request").cmdline("GET /index");
    let tasks: Vec<Task> = (0..TASKS).map(|_| registry.publish(spec)).collect();
    let own = std::process::id().to_string();
    let stat = |group: &str| {
        fs::read_to_string(daemon.path(&format!("sched-groups/{group}/tasks.stat"))).unwrap_or_default()
    };
    let shows = |group: &str, nr: usize| stat(group).starts_with(&format!("nr_tasks {nr}\n"));
    wait_until(60, "all tasks to be known", || shows(&own, TASKS));
    assert_eq!(daemon.members(&own).len(), TASKS, "each has a number");
    assert_eq!(daemon.read(&format!("sched-groups/{own}/tasks")).lines().count(), TASKS);
    // What long listings and values took is given back, or used for the next.
    let a_task = rss(pid).saturating_sub(before) / TASKS as u64;
    assert!(a_task < 512, "the daemon has grown by {a_task} bytes a task");

    let (before, had) = (rss(pid), nr_descriptors(pid));
    let mut crowd = Crowd::start(&daemon, APPLICATIONS);
    let pids: Vec<String> = crowd.children.iter().map(|child| child.id().to_string()).collect();
    wait_until(120, "all applications to be shown", || {
        let groups = fs::read_dir(daemon.path("sched-groups")).expect("a directory").flatten();
        let names: HashMap<_, ()> =
            groups.filter_map(|entry| Some((entry.file_name().into_string().ok()?, ()))).collect();
        pids.iter().all(|pid| names.contains_key(pid))
    });
    wait_until(60, "the tasks of each", || pids.iter().all(|pid| shows(pid, 4)));
    let an_application = rss(pid).saturating_sub(before) / APPLICATIONS as u64;
    assert!(an_application < 64 * 1024, "the daemon has grown by {an_application} bytes an application");
    assert!(nr_descriptors(pid) <= had + 3 * APPLICATIONS + 16, "{} descriptors", nr_descriptors(pid));
    assert!(shows(&own, TASKS), "the others are not disturbed");

    // Somebody in the middle is reached.
    let one = &pids[APPLICATIONS / 2];
    let job = wait_for(10, "a job", || {
        let has_name = |pid: &i32| daemon.read(&format!("sched-groups/{one}/{pid}/comm")) == "job-2\n";
        daemon.members(one).into_iter().find(has_name)
    });
    daemon.write(&format!("sched-groups/{one}/{job}/signal"), "TERM").expect("it takes the signal");
    wait_until(10, "the job to end", || shows(one, 3));

    crowd.end();
    wait_until(60, "all applications to go", || nr_descriptors(pid) <= had);
    wait_until(10, "none of them to be shown", || {
        pids.iter().all(|pid| !daemon.path(&format!("sched-groups/{pid}")).exists())
    });
    drop(tasks);
    wait_until(60, "all tasks to go", || shows(&own, 0));
    assert!(daemon.members(&own).is_empty());
}

#[test]
fn application_without_a_descriptor_is_told_so_and_served_later() {
    /// Half of these are kept for other things, three make a connection.
    const DESCRIPTORS: u32 = 240;
    const ROOM: usize = 40;
    if !can_run() || !has("prlimit") {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::with_descriptors(DESCRIPTORS);
    let mut crowd = Crowd::start(&daemon, ROOM);
    let pids: Vec<u32> = crowd.children.iter().map(Child::id).collect();
    let is_shown = |pid: u32| daemon.path(&format!("sched-groups/{pid}")).exists();
    wait_until(60, "those for whom there is room", || pids.iter().all(|pid| is_shown(*pid)));

    let late = App::spawn(Command::new(examples().join("jobs")), &daemon);
    let said = late.line();
    assert!(said.starts_with("Refused(") && said.contains("too many"), "{said}");
    assert!(!is_shown(late.pid() as u32) && pids.iter().all(|pid| is_shown(*pid)));

    crowd.end();
    wait_until(60, "the late one to be served", || is_shown(late.pid() as u32));
    assert_eq!(daemon.members(&late.group()).len(), 4);
}
