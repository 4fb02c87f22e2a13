//! A program with jobs: it shows them as tasks, does what it is told about them, and says so, a line each.
//!
//! `jobs [NR]`: so many jobs, 3 by default; SIGTERM ends one, SIGSTOP and SIGCONT stop it and let it go on, another nice is taken. It ends when the
//! last job has ended, or when standard input is closed.

use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

use guest_task::{Accepts, Action, Options, Registry, Task, TaskId, TaskSpec, TaskState};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn main() -> Result<(), guest_task::ConnectError> {
    let nr: u32 = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(3);
    let registry = Registry::connect(Options::default())?;
    let takes = Accepts::NONE.signal(15).signal(19).signal(18).nice();
    let mut jobs: HashMap<TaskId, (String, Task)> = HashMap::new();
    let boss = registry.publish(TaskSpec::new("boss").state(TaskState::Sleeping));
    for i in 1..=nr {
        let name = format!("job-{i}");
        let cmdline = format!("job\0--number\0{i}\0");
        let spec = TaskSpec::new(&name).cmdline(&cmdline).owner("alice").parent(boss.id()).accepts(takes);
        let task = registry.publish(spec.cpu_time_ns(u64::from(i) * 1_500_000).memory_bytes(4096));
        jobs.insert(task.id(), (name, task));
    }
    println!("{:?}", registry.wait_answer(Duration::from_secs(5)));
    let stdin = std::io::stdin();
    while !jobs.is_empty() {
        let mut fds = [
            PollFd::new(registry.event_fd(), PollFlags::POLLIN),
            PollFd::new(std::os::fd::AsFd::as_fd(&stdin), PollFlags::POLLIN),
        ];
        let _ = poll(&mut fds, PollTimeout::NONE);
        if fds[1].any() == Some(true) && matches!(stdin.lock().read(&mut [0]), Ok(0) | Err(_)) {
            break;
        }
        while let Some(event) = registry.next_event() {
            let Some((name, task)) = jobs.get(&event.task) else { continue };
            println!("{name} {:?}", event.action);
            match event.action {
                Action::Signal(15) => drop(jobs.remove(&event.task)),
                Action::Signal(19) => task.set_state(TaskState::Stopped),
                Action::Signal(_) => task.set_state(TaskState::Running),
                Action::Nice(nice) => task.set_nice(nice),
            }
        }
    }
    Ok(())
}
