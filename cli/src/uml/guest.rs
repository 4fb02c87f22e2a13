//! The guest's processes as guest tasks.

use std::collections::HashMap;

use guest_task::{Accepts, Registry, Task, TaskId, TaskSpec, TaskState};

use super::answers::{Listing, Process, Words};

/// Of a tick, as programs see it on every architecture of user-mode-linux.
const TICK_NS: u64 = 10_000_000;
const PAGE_BYTES: u64 = 4096;

/// All processes that are shown.
#[derive(Debug)]
pub(crate) struct Guest {
    registry: Registry,
    /// The instance's process on the host.
    host_pid: i32,
    boot: String,
    shown: HashMap<u32, Shown>,
    by_task: HashMap<TaskId, u32>,
}

#[derive(Debug)]
struct Shown {
    task: Task,
    process: Process,
    cmdline: String,
    user: String,
    /// Whether its command line and user were asked for since its name is this.
    is_known: bool,
}

impl Guest {
    /// Shows nothing yet.
    pub(crate) fn new(registry: Registry, host_pid: i32) -> Self {
        Self { registry, host_pid, boot: String::new(), shown: HashMap::new(), by_task: HashMap::new() }
    }

    /// Shows nothing any more.
    pub(crate) fn clear(&mut self) {
        self.shown.clear();
        self.by_task.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Gives PID and start of the process that a task stands for.
    pub(crate) fn process_of(&self, task: TaskId) -> Option<(u32, u64)> {
        let pid = *self.by_task.get(&task)?;
        Some((pid, self.shown.get(&pid)?.process.start))
    }

    /// Gives some of the processes whose command lines are not known.
    pub(crate) fn unknown(&self, at_most: usize) -> Vec<u32> {
        let unknown = self.shown.iter().filter(|(_, shown)| !shown.is_known);
        unknown.map(|(pid, _)| *pid).take(at_most).collect()
    }

    /// Shows what is there now, `now_ns` being the host's monotonic time. Gives false, and changes nothing, if the listing cannot be right: it lacks who has made it.
    pub(crate) fn show(&mut self, mut listing: Listing, now_ns: u64) -> bool {
        if !listing.processes.contains_key(&listing.agent) {
            return false;
        }
        if listing.boot != self.boot {
            self.clear();
            self.boot = listing.boot;
        }
        // What the agent runs is there because we look; who has ended and was not waited for has ended.
        let agent = listing.agent;
        listing.processes.retain(|_, process| process.parent != agent && !b"ZX".contains(&process.state));
        let now = &listing.processes;
        let is_over = |pid: &u32, shown: &Shown| {
            now.get(pid).is_none_or(|process| process.start != shown.process.start)
        };
        self.shown.retain(|pid, shown| {
            let is_over = is_over(pid, shown);
            if is_over {
                self.by_task.remove(&shown.task.id());
            }
            !is_over
        });
        let boot_ns = now_ns.saturating_sub((listing.uptime * 1e9) as u64);
        let mut moved = Vec::new();
        for (pid, process) in listing.processes {
            match self.shown.get_mut(&pid) {
                Some(shown) => {
                    if shown.process.parent != process.parent {
                        moved.push((pid, process.parent));
                    }
                    shown.change(process);
                }
                None => {
                    moved.push((pid, process.parent));
                    let start_ns = boot_ns.saturating_add(process.start.saturating_mul(TICK_NS));
                    let shown = Shown::new(&self.registry, process, start_ns, self.host_pid);
                    self.by_task.insert(shown.task.id(), pid);
                    self.shown.insert(pid, shown);
                }
            }
        }
        for (pid, parent) in moved {
            let parent = self.shown.get(&parent).map(|shown| shown.task.id());
            if let (Some(parent), Some(shown)) = (parent, self.shown.get_mut(&pid)) {
                shown.task.set_parent(parent);
            }
        }
        true
    }

    /// Shows command lines and users of those that were asked for; of whom nothing is told, nothing is to be had.
    pub(crate) fn show_words(&mut self, asked: &[u32], mut words: Words) {
        for pid in asked {
            let Some(shown) = self.shown.get_mut(pid) else { continue };
            shown.is_known = true;
            shown.cmdline = words.cmdlines.remove(pid).unwrap_or_default();
            shown.user = words.users.get(pid).map_or_else(String::new, u32::to_string);
            shown.task.set_texts(&shown.process.comm, &shown.user, &shown.cmdline);
        }
    }
}

impl Shown {
    fn new(registry: &Registry, process: Process, start_ns: u64, host_pid: i32) -> Self {
        let accepts = if process.is_kernel { Accepts::NONE } else { Accepts::ALL };
        let spec = TaskSpec::new(&process.comm)
            .state(state(process.state))
            .nice(process.nice)
            .start_ns(start_ns)
            .cpu_time_ns(process.cpu_ticks.saturating_mul(TICK_NS))
            .memory_bytes(process.pages.saturating_mul(PAGE_BYTES))
            .parent_pid(host_pid)
            .accepts(accepts);
        let task = registry.publish(spec);
        // The kernel's own have none.
        let is_known = process.is_kernel;
        Self { task, process, cmdline: String::new(), user: String::new(), is_known }
    }

    fn change(&mut self, process: Process) {
        self.task.set_state(state(process.state));
        self.task.set_nice(process.nice);
        self.task.set_cpu_time_ns(process.cpu_ticks.saturating_mul(TICK_NS));
        self.task.set_memory_bytes(process.pages.saturating_mul(PAGE_BYTES));
        if process.comm != self.process.comm {
            self.task.set_texts(&process.comm, &self.user, &self.cmdline);
            self.is_known = process.is_kernel;
        }
        self.process = process;
    }
}

fn state(letter: u8) -> TaskState {
    match letter {
        b'R' => TaskState::Running,
        b'D' => TaskState::Waiting,
        b'T' | b't' => TaskState::Stopped,
        _ => TaskState::Sleeping,
    }
}

#[cfg(test)]
mod tests {
    use guest_task::Options;

    use super::*;

    fn guest() -> Guest {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options::default().socket(dir.path().join("none.sock"));
        Guest::new(Registry::connect(options).expect("memory"), 77)
    }

    fn process(comm: &str, parent: u32, start: u64) -> Process {
        let comm = comm.to_owned();
        Process { comm, state: b'S', parent, is_kernel: false, cpu_ticks: 1, nice: 0, start, pages: 2 }
    }

    fn listing(boot: &str, processes: &[(u32, Process)]) -> Listing {
        let agent = (2, process("agent", 1, 5));
        let processes = processes.iter().cloned().chain([agent]).collect();
        Listing { boot: boot.into(), agent: 2, uptime: 10.0, processes }
    }

    fn task(guest: &Guest, pid: u32) -> TaskId {
        guest.shown[&pid].task.id()
    }

    #[test]
    fn processes_come_and_go_and_a_pid_used_again_is_another_task() {
        let mut guest = guest();
        assert!(guest.show(listing("a", &[(1, process("init", 0, 1)), (9, process("sh", 1, 8))]), 0));
        let (init, sh) = (task(&guest, 1), task(&guest, 9));
        assert_eq!(guest.process_of(sh), Some((9, 8)));

        guest.show(listing("a", &[(1, process("init", 0, 1)), (9, process("sh", 1, 30))]), 0);

        assert_eq!((task(&guest, 1), guest.process_of(sh)), (init, None));
        assert_eq!(guest.process_of(task(&guest, 9)), Some((9, 30)));
        guest.show(listing("b", &[(1, process("init", 0, 1))]), 0);
        assert_eq!(guest.process_of(init), None, "a guest that was booted anew is another one");
        guest.clear();
        assert!(guest.is_empty() && guest.by_task.is_empty());
    }

    #[test]
    fn what_has_ended_and_what_the_agent_runs_is_not_shown() {
        let mut guest = guest();
        let zombie = Process { state: b'Z', ..process("sh", 1, 8) };

        guest.show(listing("a", &[(9, zombie), (10, process("cat", 2, 9))]), 0);

        assert_eq!(guest.shown.keys().collect::<Vec<_>>(), [&2]);
        let without_agent = Listing { agent: 3, ..listing("a", &[]) };
        assert!(!guest.show(without_agent, 0) && guest.shown.contains_key(&2));
    }

    #[test]
    fn words_are_wanted_once_for_each_name() {
        let mut guest = guest();
        guest.show(listing("a", &[(9, process("sh", 1, 8))]), 0);
        guest.show_words(&[2], Words::default());
        assert_eq!(guest.unknown(10), [9], "the agent was asked for, and nothing told");
        let words = || Words { cmdlines: HashMap::from([(9, "sh\0x\0".into())]), ..Words::default() };
        guest.show_words(&[9], words());
        assert_eq!((&guest.shown[&9].cmdline[..], guest.unknown(10)), ("sh\0x\0", vec![]));

        guest.show(listing("a", &[(9, process("cat", 1, 8))]), 0);

        assert_eq!(guest.unknown(10), [9], "it has executed another program");
    }
}
