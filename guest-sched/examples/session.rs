//! The driver without a daemon: one busy loop outside, some inside a group, their shares after a while.
//!
//! `session [SECONDS] [MEMBERS] [key=value of the configuration ...]`, all on CPU 1.

use std::process::{Child, Command, ExitCode};
use std::sync::mpsc::channel;
use std::time::Duration;

use guest_sched::host::{GroupConfig, Worker, client, keeper};
use host_sys::process;

fn spin() -> std::io::Result<Child> {
    Command::new("taskset").args(["-c", "1", "sh", "-c", "while :; do :; done"]).spawn()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == client::KEEPER_ARG) {
        return keeper::main(args[2].as_ref());
    }
    let seconds = args.get(1).and_then(|a| a.parse().ok()).unwrap_or(5u64);
    let nr_members = args.get(2).and_then(|a| a.parse().ok()).unwrap_or(2usize);
    let mut config = GroupConfig { name: "session".into(), ..GroupConfig::default() };
    for option in args.iter().skip(3) {
        match option.split_once('=') {
            Some(("slice", v)) => config.slice_us = v.parse().ok(),
            Some(("vcpus", v)) => config.vcpus = v.parse().unwrap_or(1),
            Some(("quota", v)) => config.cpu_max.quota_us = v.parse().ok(),
            Some(("policy", v)) => config.policy = v.into(),
            _ => config.forced = option.replace(',', " ").parse().expect("a mode"),
        }
    }
    let dir = std::env::temp_dir().join(format!("session-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let (events, heard) = channel();
    let exe = std::env::current_exe().expect("our own path");
    let worker = Worker::spawn(&exe, &dir, &config, events).expect("a worker");
    let mut outside = spin().expect("a process");
    let mut members: Vec<Child> = (0..nr_members).map(|_| spin().expect("a process")).collect();
    std::thread::sleep(Duration::from_millis(300));
    for m in &members {
        let pid = m.id() as i32;
        worker.join(pid, process::stat(pid).expect("alive").start_time).expect("joined");
    }
    std::thread::sleep(Duration::from_millis(500 + 6 * nr_members as u64));
    let usage = |c: &Child| process::cpu_time(c.id() as i32).unwrap_or(0);
    let all: Vec<u64> = std::iter::once(&outside).chain(&members).map(usage).collect();
    worker.sync().expect("synced");
    let before = worker.stat();
    let started = process::now();
    std::thread::sleep(Duration::from_secs(seconds));
    let used: Vec<u64> = std::iter::once(&outside)
        .chain(&members)
        .map(usage)
        .zip(&all)
        .map(|(now, then)| now - then)
        .collect();
    let wall = process::now() - started;
    worker.sync().expect("synced");
    let stat = worker.stat();
    let total: u64 = used.iter().sum();
    let percent = |v: u64| 100.0 * v as f64 / total as f64;
    println!("{}", guest_sched::host::table::unpack_mode(stat.mode).expect("a mode"));
    println!("outside {:.2} %  group {:.2} %", percent(used[0]), percent(total - used[0]));
    let each: Vec<String> = used[1..].iter().take(10).map(|&u| format!("{:.2}", percent(u))).collect();
    println!("members {}", each.join(" "));
    println!(
        "total {:.2} % of a CPU, group {:.3} %, worker {:.3} %, switches/s {:.0}, excess {:.3} ms/10s worst {:.3} ms",
        100.0 * total as f64 / wall as f64,
        100.0 * (total - used[0]) as f64 / wall as f64,
        100.0 * (stat.worker_ns - before.worker_ns) as f64 / wall as f64,
        (stat.nr_switches - before.nr_switches) as f64 * 1e9 / wall as f64,
        stat.excess_ns as f64 / 1e6,
        stat.worst_window_ns as f64 / 1e6,
    );
    println!(
        "asked {:.1} ms got {:.1} ms longest park {:.1} ms",
        stat.asked_ns as f64 / 1e6,
        stat.got_ns as f64 / 1e6,
        stat.longest_park_ns as f64 / 1e6
    );
    worker.dissolve().expect("dissolved");
    for c in members.iter_mut().chain([&mut outside]) {
        let _ = c.kill();
        let _ = c.wait();
    }
    while let Ok(event) = heard.try_recv() {
        println!("{event:?}");
    }
    let _ = std::fs::remove_dir_all(&dir);
    ExitCode::SUCCESS
}
