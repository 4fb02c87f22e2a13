//! The worker's book of tasks: which host thread is which task, and what the driver knows of it.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use host_sys::process::{self, SchedStat};

use crate::host::table::HostParams;
use crate::types::{Nanos, TaskId};

/// Where a task's CPU time is read.
#[derive(Debug)]
enum Source {
    /// The clock of a whole process: exact at any moment.
    Process(i32),
    /// A thread's `schedstat`: exact when the thread is not running, up to a host tick late otherwise.
    Thread(SchedStat),
    /// What another worker reports of its group.
    Reported(Rc<Cell<u64>>),
}

impl Source {
    fn read(&self) -> io::Result<u64> {
        match self {
            Self::Process(pid) => process::cpu_time(*pid),
            Self::Thread(stat) => stat.read().map(|(cpu, _)| cpu),
            Self::Reported(usage) => Ok(usage.get()),
        }
    }
}

/// A task's CPU time, read in steps.
#[derive(Debug)]
pub struct CpuClock {
    source: Source,
    last: u64,
}

impl CpuClock {
    /// Starts from what a process has used so far.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn process(pid: i32) -> io::Result<Self> {
        let source = Source::Process(pid);
        Ok(Self { last: source.read()?, source })
    }

    /// Starts from what a thread has used so far.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn thread(pid: i32, tid: i32) -> io::Result<Self> {
        let source = Source::Thread(SchedStat::open(pid, tid)?);
        Ok(Self { last: source.read()?, source })
    }

    /// Starts from zero with a time that somebody else keeps, in nanoseconds.
    pub fn reported(usage: Rc<Cell<u64>>) -> Self {
        Self { last: 0, source: Source::Reported(usage) }
    }

    /// Gives what was used since the last call; nothing for a task that is gone.
    pub fn step(&mut self) -> Nanos {
        let Ok(now) = self.source.read() else { return Nanos::ZERO };
        let ran = now.saturating_sub(self.last);
        // A thread that executes a program takes the first one's number, and its time is less.
        self.last = now;
        Nanos(ran)
    }

    /// Whether it counts the whole process.
    pub fn is_process(&self) -> bool {
        matches!(self.source, Source::Process(_))
    }
}

/// One task of the group.
#[derive(Debug)]
pub struct Task {
    /// Its process.
    pub pid: i32,
    /// Its thread, or the first of its threads.
    pub tid: i32,
    /// Its process's start time.
    pub start_time: u64,
    /// What the host gave it before.
    pub host: HostParams,
    /// Its CPU time.
    pub clock: CpuClock,
    /// CPU time used as a member.
    pub usage: Nanos,
    /// Time for which it was runnable and not on the host's runqueue.
    pub wait: Nanos,
    /// How often it was resumed.
    pub nr_switches: u64,
    /// Since when it is parked.
    pub parked_since: Option<Nanos>,
    /// When it was told to leave the runqueue, and how often it was looked at since.
    pub leaving_since: Nanos,
    /// When it was charged last while it ran.
    pub charged_at: Nanos,
    /// How many of its threads are on the host's runqueue.
    pub nr_runnable: u32,
    /// How many threads it has.
    pub nr_threads: u32,
    /// Whether the host was told that it wants short slices, for a soon turn.
    pub has_short_slice: bool,
    /// Told to leave, it left in another way than the told do: whether being resumed wakes it is not known.
    pub is_doubtful: bool,
    /// From when to when it was being resumed last.
    pub resumed_at: (Nanos, Nanos),
    /// It is being made ready for parking, and is not scheduled by the policy before that is done.
    pub is_arriving: bool,
}

/// One host thread.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// Its task.
    pub task: TaskId,
    /// Its process.
    pub pid: i32,
    /// Whether it is on the host's runqueue.
    pub is_runnable: bool,
    /// The time of the last record about it.
    pub last_record: Nanos,
    /// From when on its wake-ups are known.
    pub watched_since: Nanos,
}

/// The book.
#[derive(Debug, Default)]
pub struct Members {
    tasks: Vec<Option<Task>>,
    free: Vec<u32>,
    threads: HashMap<i32, Thread>,
    /// The threads of each process, in no order.
    processes: HashMap<i32, Vec<i32>>,
}

impl Members {
    /// Gives a free number; `None` when there are `limit` tasks.
    pub fn reserve(&mut self, limit: usize) -> Option<TaskId> {
        match self.free.pop() {
            Some(index) => Some(TaskId(index)),
            None if self.tasks.len() < limit => {
                self.tasks.push(None);
                Some(TaskId(self.tasks.len() as u32 - 1))
            }
            None => None,
        }
    }

    /// Gives back a number that was reserved and not used.
    pub fn unreserve(&mut self, id: TaskId) {
        self.free.push(id.0);
    }

    /// Enters a task with its first thread.
    pub fn insert(&mut self, id: TaskId, task: Task) {
        let (pid, tid, is_runnable) = (task.pid, task.tid, task.nr_runnable > 0);
        self.tasks[id.index()] = Some(task);
        self.insert_thread(
            tid,
            Thread { task: id, pid, is_runnable, last_record: Nanos::ZERO, watched_since: Nanos::ZERO },
        );
    }

    /// Enters a thread of a task that is there.
    pub fn insert_thread(&mut self, tid: i32, thread: Thread) {
        self.threads.insert(tid, thread);
        self.processes.entry(thread.pid).or_default().push(tid);
    }

    /// Strikes out a thread.
    pub fn remove_thread(&mut self, tid: i32) -> Option<Thread> {
        let thread = self.threads.remove(&tid)?;
        if let Some(tids) = self.processes.get_mut(&thread.pid) {
            tids.retain(|&t| t != tid);
            if tids.is_empty() {
                self.processes.remove(&thread.pid);
            }
        }
        Some(thread)
    }

    /// Strikes out a task whose threads are struck out.
    pub fn remove(&mut self, id: TaskId) -> Option<Task> {
        let task = self.tasks.get_mut(id.index())?.take()?;
        self.free.push(id.0);
        Some(task)
    }

    /// Gives a task.
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(id.index())?.as_ref()
    }

    /// Gives a task to change.
    pub fn task_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(id.index())?.as_mut()
    }

    /// Gives a thread.
    pub fn thread(&self, tid: i32) -> Option<Thread> {
        self.threads.get(&tid).copied()
    }

    /// Gives a thread to change.
    pub fn thread_mut(&mut self, tid: i32) -> Option<&mut Thread> {
        self.threads.get_mut(&tid)
    }

    /// Gives the threads of a process, none if it is no member.
    pub fn threads_of(&self, pid: i32) -> &[i32] {
        self.processes.get(&pid).map_or(&[], Vec::as_slice)
    }

    /// Gives the tasks of a process.
    pub fn tasks_of(&self, pid: i32) -> Vec<TaskId> {
        let mut ids: Vec<TaskId> =
            self.threads_of(pid).iter().filter_map(|t| Some(self.thread(*t)?.task)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Gives the member processes.
    pub fn processes(&self) -> impl Iterator<Item = i32> + '_ {
        self.processes.keys().copied()
    }

    /// How many processes are members.
    pub fn nr_processes(&self) -> usize {
        self.processes.len()
    }

    /// Gives the tasks with their numbers.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        self.tasks.iter().enumerate().filter_map(|(i, t)| Some((TaskId(i as u32), t.as_ref()?)))
    }

    /// How many task numbers were ever used at once.
    pub fn nr_slots(&self) -> usize {
        self.tasks.len()
    }
}
