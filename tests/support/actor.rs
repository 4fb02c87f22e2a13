//! Programs with parts: the test binary itself, executed again with a role in its environment, which it plays instead of any test.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio, exit};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::sys::wait_on_semaphore;

/// Holds the role.
pub const ROLE: &str = "COMPARTMENTS_ACTOR";

/// Plays the role in the environment, if there is one, and ends the process.
pub fn play_if_asked() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    let role = role.to_string_lossy().into_owned();
    let words: Vec<&str> = role.split(' ').collect();
    let number = |at: usize| words.get(at).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
    match words[0] {
        "threads" => threads(number(1)),
        "late-threads" => late_threads(number(1)),
        "churn" => churn(number(1)),
        "exec-spin" => exec_spin(),
        "waits" => waits(Duration::from_secs(number(1))),
        "trace" => trace(number(1)),
        "pages" => super::pages::play(&words[1..]),
        "proc-view" => proc_view(number(1) as i32),
        "spin-for" => spin(Duration::from_millis(number(1))),
        _ => exit(99),
    }
    exit(0)
}

/// Looks at a process with the crate `procfs`.
fn proc_view(pid: i32) {
    let process = procfs::process::Process::new(pid).expect("a process");
    let (stat, status) = (process.stat().expect("stat"), process.status().expect("status"));
    assert_eq!((stat.pid, status.pid, status.name.as_str()), (pid, pid, stat.comm.as_str()));
    assert_eq!(process.cmdline().expect("cmdline").join(" "), "job --number 1");
    assert!(
        process.statm().is_ok()
            && process.io().is_ok()
            && process.limits().is_ok()
            && process.cgroups().is_ok()
    );
    assert_eq!(process.fd().expect("fd").count(), 0);
    let all = procfs::process::all_processes().expect("all").flatten().map(|p| p.pid).collect::<Vec<_>>();
    assert!(all.contains(&pid) && all.contains(&1));
    println!("{} {:?} {}", stat.comm, stat.state().expect("a state"), stat.num_threads);
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

fn spin_forever() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// So many threads that only compute, the first one included.
fn threads(nr: u64) -> ! {
    for _ in 1..nr {
        std::thread::spawn(|| spin_forever());
    }
    spin_forever()
}

/// Computes alone until a byte can be read, then with so many threads.
fn late_threads(nr: u64) -> ! {
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        for _ in 2..nr {
            std::thread::spawn(|| spin_forever());
        }
        spin_forever()
    });
    spin_forever()
}

/// Computes until a byte can be read; then a thread that is not the first one executes a busy loop.
fn exec_spin() -> ! {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        let error = Command::new("sh").args(["-c", "while :; do :; done"]).env_remove(ROLE).exec();
        panic!("{error}");
    });
    spin_forever()
}

/// Until that time of day in milliseconds: forks, vforks, threads, waits, and executes itself, the last from either thread.
fn churn(end: u64) {
    let mut seed = u64::from(std::process::id()) ^ now_ms() | 1;
    while now_ms() < end {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        match seed % 8 {
            // By vfork.
            0 | 1 => assert!(Command::new("/bin/true").env_remove(ROLE).status().is_ok_and(|s| s.success())),
            // By fork: a shell, with children of its own.
            2 => {
                let script =
                    "i=0; (while [ $i -lt 300 ]; do i=$((i+1)); done) & echo a | cat >/dev/null; wait";
                let status = Command::new("sh").args(["-c", script]).env_remove(ROLE).status();
                assert!(status.is_ok_and(|s| s.success()));
            }
            3 | 4 => {
                let threads: Vec<_> = (0..seed % 5)
                    .map(|i| std::thread::spawn(move || spin(Duration::from_micros(300 * (i + 1)))))
                    .collect();
                threads.into_iter().for_each(|t| t.join().expect("no panic"));
            }
            5 => std::thread::sleep(Duration::from_micros(seed % 3000)),
            6 => spin(Duration::from_micros(seed % 5000)),
            _ => {
                let again = move || {
                    let error = Command::new("/proc/self/exe").env(ROLE, format!("churn {end}")).exec();
                    panic!("{error}");
                };
                if seed & 256 == 0 {
                    again();
                } else {
                    let _ = std::thread::spawn(again).join();
                }
            }
        }
    }
}

/// Waits in every way that a signal would end with `EINTR`. The status tells how many did.
fn waits(time: Duration) {
    let interrupted = Arc::new(AtomicU32::new(0));
    let end = Instant::now() + time;
    let start = Arc::new(Barrier::new(4));
    let watch = |wait: fn() -> bool| {
        let (interrupted, start) = (interrupted.clone(), start.clone());
        std::thread::spawn(move || {
            start.wait();
            while Instant::now() < end {
                if wait() {
                    interrupted.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
    };
    let all = [
        watch(|| {
            let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll set");
            let mut events = [EpollEvent::empty(); 1];
            epoll.wait(&mut events, EpollTimeout::from(7u8)) == Err(Errno::EINTR)
        }),
        watch(|| wait_on_semaphore(Duration::from_millis(11)).raw_os_error() == Some(libc::EINTR)),
        watch(|| {
            let time = nix::sys::time::TimeSpec::from_duration(Duration::from_millis(5));
            let clock = nix::time::ClockId::CLOCK_MONOTONIC;
            nix::time::clock_nanosleep(clock, nix::time::ClockNanosleepFlags::empty(), &time)
                == Err(Errno::EINTR)
        }),
        watch(|| {
            // Is raised by itself after the time, like a pipe that somebody writes into.
            let timer = nix::sys::timerfd::TimerFd::new(
                nix::sys::timerfd::ClockId::CLOCK_MONOTONIC,
                nix::sys::timerfd::TimerFlags::empty(),
            )
            .expect("a timer");
            let time = nix::sys::time::TimeSpec::from_duration(Duration::from_millis(9));
            timer
                .set(
                    nix::sys::timerfd::Expiration::OneShot(time),
                    nix::sys::timerfd::TimerSetTimeFlags::empty(),
                )
                .expect("a time");
            timer.wait() == Err(Errno::EINTR)
        }),
    ];
    all.into_iter().for_each(|t| t.join().expect("no panic"));
    exit(interrupted.load(Ordering::SeqCst).min(90) as i32)
}

/// Follows a busy child as a debugger does: stops it, looks at it, lets it go on; so many times.
fn trace(times: u64) {
    let mut child = Command::new("sh")
        .args(["-c", "while :; do :; done"])
        .env_remove(ROLE)
        .stdin(Stdio::null())
        .spawn()
        .expect("sh");
    let pid = Pid::from_raw(child.id() as i32);
    ptrace::seize(pid, ptrace::Options::empty()).expect("seized");
    for _ in 0..times {
        ptrace::interrupt(pid).expect("interrupted");
        loop {
            match waitpid(pid, None).expect("a child") {
                WaitStatus::PtraceEvent(_, _, event) if event == libc::PTRACE_EVENT_STOP => break,
                // A stop signal would be passed on.
                WaitStatus::Stopped(_, signal) => ptrace::cont(pid, signal).expect("continued"),
                other => panic!("{other:?}"),
            }
        }
        ptrace::getregs(pid).expect("registers");
        ptrace::cont(pid, None).expect("continued");
        spin(Duration::from_millis(2));
    }
    let _ = child.kill();
    let _ = child.wait();
}
