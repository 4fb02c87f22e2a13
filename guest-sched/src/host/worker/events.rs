//! What the sensor's records mean for the members.

use std::io;

use host_sys::process;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::members::{CpuClock, Task, Thread};
use super::{MAX_TASKS, Worker};
use crate::host::mode;
use crate::host::park::Target;
use crate::host::proto::Event;
use crate::host::sensor::{Record, What};
use crate::policy::Fork;
use crate::types::{Class, Nanos, Nice, Sleep, TaskId, Waker};

/// How long a sensor that talks of nothing but our own doings is not listened to.
const DEAF: Nanos = Nanos::from_millis(1);
/// The same while somebody is on the way out.
const DEAF_TO_LEAVING: Nanos = Nanos::from_micros(200);

/// The rings as the loop waits for them. Switch records tell of every preemption of a member, also of those by the worker
/// itself: on one CPU that is a storm, each wake-up making the next. So after records without news the loop is deaf for a while.
#[derive(Debug)]
pub(super) struct Ears {
    rings: Epoll,
    listen_again: Option<Nanos>,
}

impl Ears {
    pub(super) fn new(rings: Epoll) -> Self {
        Self { rings, listen_again: None }
    }

    pub(super) fn listen_again(&self) -> Option<Nanos> {
        self.listen_again
    }

    /// Listens from now on, if it did not.
    pub(super) fn open(&mut self, outer: &Epoll) {
        if self.listen_again.take().is_some() {
            self.set(outer, true);
        }
    }

    fn set(&mut self, outer: &Epoll, is_open: bool) {
        let flags = if is_open { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        let _ = outer.modify(&self.rings.0, &mut EpollEvent::new(flags, super::TOKEN_SENSOR));
    }
}

impl Worker {
    /// Takes in all records that wait.
    pub(super) fn hear_sensor(&mut self) {
        if self.ears.listen_again.is_some_and(|at| at <= self.now) {
            self.ears.open(&self.epoll);
        }
        let (mut nr_records, mut has_news) = (0, false);
        // Bounded, so that members that do nothing but switch cannot keep the worker from its other work.
        for _ in 0..8 {
            if !self.parts.sensor.has_records() {
                break;
            }
            let mut records = std::mem::take(&mut self.records);
            records.clear();
            self.parts.sensor.drain(&mut records);
            nr_records += records.len();
            for record in &records {
                has_news |= self.is_news(record);
                self.handle(record);
            }
            self.records = records;
            self.tick_now();
        }
        let is_storm = nr_records > 0 && !has_news && self.parts.mode.sensor == mode::Sensor::Switch;
        if is_storm && self.ears.listen_again.is_none() {
            // With somebody on the way out, the record of that is waited for, and comes soon. But several would never get away
            // if each of their turns were cut short by our hearing of it.
            let pause = if self.dispatch.leaving().is_empty() { DEAF } else { DEAF_TO_LEAVING };
            self.ears.listen_again = Some(self.now + pause);
            self.ears.set(&self.epoll, false);
        }
    }

    /// Whether a record says something that was not known.
    fn is_news(&self, record: &Record) -> bool {
        let is_runnable = |tid| self.members.thread(tid).map(|t| t.is_runnable);
        match record.what {
            What::Out { tid, .. } => is_runnable(tid) == Some(true),
            What::Wake { tid } => is_runnable(tid) == Some(false),
            _ => true,
        }
    }

    fn handle(&mut self, record: &Record) {
        match record.what {
            What::Out { tid, how, may_be_parked } => {
                if may_be_parked && self.was_resumed_since(tid, record.time) {
                    return;
                }
                self.note_doubt(tid, may_be_parked);
                self.thread_out(tid, how, record);
            }
            What::Wake { tid } => self.thread_woke(tid, record),
            What::Fork { pid, tid, ppid, ptid } => self.forked(pid, tid, ppid, ptid, record.time),
            What::Exit { pid, tid } => self.thread_exit(pid, tid),
            What::Exec { pid, .. } => self.executed(pid),
            What::Lost => self.audit.hurry(self.now),
        }
    }

    /// Gives the thread if the record is news of it.
    fn news(&mut self, tid: i32, record: &Record) -> Option<&mut Thread> {
        let thread = self.members.thread_mut(tid)?;
        let thread_task = thread.task;
        if record.time < thread.last_record {
            return None;
        }
        thread.last_record = record.time;
        if self.members.task(thread_task).is_some_and(|t| t.is_arriving) {
            return None;
        }
        self.members.thread_mut(tid)
    }

    /// Whoever is told to leave and leaves in another way than the told do has fallen asleep, or was stopped, by itself: being resumed
    /// will not wake it.
    fn note_doubt(&mut self, tid: i32, may_be_parked: bool) {
        let Some(thread) = self.members.thread(tid) else { return };
        if self.dispatch.host_state(thread.task) == Some(super::HostState::Leaving)
            && let Some(task) = self.members.task_mut(thread.task)
        {
            task.is_doubtful = !may_be_parked;
        }
    }

    /// Whether a thread was resumed after it had left the runqueue as the told do: its record came late, and it is on the runqueue again.
    fn was_resumed_since(&self, tid: i32, time: Nanos) -> bool {
        let Some(thread) = self.members.thread(tid) else { return false };
        let Some((begun, done)) = self.members.task(thread.task).map(|task| task.resumed_at) else {
            return false;
        };
        // What happened in the course of it may have been before or after.
        time < begun
            || time <= done && process::thread_stat(thread.pid, tid).is_ok_and(|stat| stat.is_runnable())
    }

    /// A task was resumed, begun at that time: if it had left, it is on the runqueue again. The sensor does not say so.
    pub(super) fn note_resumed(&mut self, id: TaskId, begun: Nanos) {
        if self.parts.mode.sensor != mode::Sensor::Tracepoint || !self.parts.parker.is_per_thread() {
            return;
        }
        let Some(task) = self.members.task_mut(id) else { return };
        if std::mem::take(&mut task.is_doubtful) {
            return;
        }
        (task.resumed_at, task.nr_runnable) = ((begun, Nanos(process::now())), 1);
        let tid = task.tid;
        if let Some(thread) = self.members.thread_mut(tid) {
            thread.is_runnable = true;
        }
    }

    fn thread_out(&mut self, tid: i32, how: Sleep, record: &Record) {
        if self.news(tid, record).is_some() && !self.is_awake_again(tid, record) {
            self.follow.saw(record.cpu);
            self.set_thread_runnable(tid, false, how);
            // From then until now nobody ran in its place.
            let places = usize::from(self.dispatch.policy().vcpus());
            if self.dispatch.is_open()
                && self.dispatch.nr_on_host() < self.dispatch.policy().nr_running().min(places)
            {
                self.meter.missed(self.now, self.now.saturating_sub(record.time).0);
            }
        }
    }

    /// A thread that was born just now may have slept and woken up before its wake-ups were watched.
    fn is_awake_again(&self, tid: i32, record: &Record) -> bool {
        let Some(thread) = self.members.thread(tid) else { return false };
        record.time < thread.watched_since
            && process::thread_stat(thread.pid, tid).is_ok_and(|stat| stat.is_runnable())
    }

    fn thread_woke(&mut self, tid: i32, record: &Record) {
        if self.news(tid, record).is_some() {
            self.set_thread_runnable(tid, true, Sleep::default());
        }
    }

    /// A thread came on or left the host's runqueue; its task follows when that was its first or last one there.
    pub(super) fn set_thread_runnable(&mut self, tid: i32, is_runnable: bool, how: Sleep) {
        let Some(thread) = self.members.thread_mut(tid) else { return };
        let id = thread.task;
        if std::mem::replace(&mut thread.is_runnable, is_runnable) != is_runnable
            && let Some(task) = self.members.task_mut(id)
        {
            task.nr_runnable =
                if is_runnable { task.nr_runnable + 1 } else { task.nr_runnable.saturating_sub(1) };
        }
        let Some(nr_runnable) = self.members.task(id).map(|t| t.nr_runnable) else { return };
        if is_runnable {
            // Else it runs, after it was resumed: switch records tell of that.
            if self.dispatch.host_state(id) == Some(super::HostState::Asleep) {
                if let Some(task) = self.members.task_mut(id) {
                    task.charged_at = self.now;
                }
                if let Err(error) = self.dispatch.woke(id, Waker::Task, self.now) {
                    tracing::debug!(%error, "wake");
                }
                self.tune_slice(id, true);
            }
            self.close_check();
        } else if nr_runnable == 0 {
            self.went_out(id, how);
        }
    }

    fn forked(&mut self, pid: i32, tid: i32, ppid: i32, ptid: i32, time: Nanos) {
        if self.members.thread(tid).is_some() {
            return;
        }
        let Some(parent) = self.members.thread(ptid).or_else(|| {
            let tid = *self.members.threads_of(ppid).first()?;
            self.members.thread(tid)
        }) else {
            return;
        };
        self.parts.sensor.inherit(ptid, tid);
        let is_thread = pid == ppid;
        if is_thread && !self.parts.parker.is_per_thread() {
            let watched_since = Nanos(process::now());
            self.members.insert_thread(
                tid,
                Thread { task: parent.task, pid, is_runnable: true, last_record: time, watched_since },
            );
            if let Some(task) = self.members.task_mut(parent.task) {
                task.nr_threads += 1;
                task.nr_runnable += 1;
            }
            return;
        }
        if let Err(error) = self.adopt(parent.task, pid, tid, is_thread, time) {
            self.parts.sensor.exited(tid);
            if error.raw_os_error() != Some(libc::ESRCH) {
                tracing::warn!(pid, %error, "a child escapes the group");
                self.report(Event::Escaped { pid, reason: error.to_string() });
            }
        }
    }

    /// Takes in a thread or process that a member has started.
    fn adopt(&mut self, parent: TaskId, pid: i32, tid: i32, is_thread: bool, time: Nanos) -> io::Result<()> {
        if is_thread {
            self.split_clock(parent, pid)?;
        }
        let stat = process::thread_stat(pid, tid)?;
        let (host, start_time) = match self.members.task(parent) {
            Some(p) if is_thread => (p.host.forked(), p.start_time),
            Some(p) => (p.host.forked(), stat.start_time),
            None => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
        };
        let clock = if is_thread { CpuClock::thread(pid, tid)? } else { CpuClock::process(pid)? };
        let id = self.members.reserve(MAX_TASKS).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        let is_parked = self.parts.parker.forked(parent, Target { id, pid, tid });
        let how = if is_thread { Fork::Thread } else { Fork::Process };
        if let Err(error) = self.dispatch.fork(parent, id, how, is_parked, self.now) {
            self.parts.parker.detach(id);
            self.members.unreserve(id);
            return Err(io::Error::other(error));
        }
        self.reset_on_fork(parent, id);
        let now = self.now;
        self.members.insert(
            id,
            Task {
                pid,
                tid,
                start_time,
                host,
                clock,
                usage: Nanos::ZERO,
                wait: Nanos::ZERO,
                nr_switches: 0,
                parked_since: is_parked.then_some(now),
                leaving_since: now,
                charged_at: now,
                nr_runnable: 1,
                nr_threads: 1,
                is_arriving: false,
                has_short_slice: false,
                is_doubtful: false,
                resumed_at: (Nanos::ZERO, Nanos::ZERO),
            },
        );
        if let Some(thread) = self.members.thread_mut(tid) {
            (thread.last_record, thread.watched_since) = (time, Nanos(process::now()));
        }
        self.publish_task(id);
        if !is_thread {
            let parent = self.members.task(parent).map_or(0, |p| p.pid);
            self.report(Event::Forked { parent, child: pid });
        }
        Ok(())
    }

    /// Children of a task that the host was told to reset on fork are ordinary ones in the guest too.
    fn reset_on_fork(&mut self, parent: TaskId, child: TaskId) {
        if !self.members.task(parent).is_some_and(|p| p.host.is_reset_on_fork) {
            return;
        }
        let Ok(params) = self.dispatch.info(child).map(|i| i.params) else { return };
        let is_real_time = matches!(params.class, Class::Fifo(_) | Class::Rr(_));
        let class = if is_real_time { Class::Normal } else { params.class };
        let nice = if is_real_time { Nice::default() } else { params.nice.max(Nice::default()) };
        let reset = self.dispatch.set_class(child, class, self.now);
        if let Err(error) = reset.and_then(|()| self.dispatch.set_nice(child, nice, self.now)) {
            tracing::debug!(%error, "reset on fork");
        }
    }

    /// A process that was one task with the process's clock gets a second thread: from now on its clock counts its first thread only.
    fn split_clock(&mut self, parent: TaskId, pid: i32) -> io::Result<()> {
        for id in self.members.tasks_of(pid) {
            if self.members.task(id).is_some_and(|t| t.clock.is_process()) {
                self.charge(id);
                if let Some(task) = self.members.task_mut(id) {
                    task.clock = CpuClock::thread(task.pid, task.tid)?;
                }
            }
        }
        debug_assert!(self.members.task(parent).is_some());
        Ok(())
    }

    fn thread_exit(&mut self, pid: i32, tid: i32) {
        let Some(thread) = self.members.thread(tid) else { return };
        if process::thread_stat(pid, tid).is_ok_and(|s| !s.is_exiting()) {
            // It lives: the kernel stops watching a process that executes a setuid program.
            if let Err(error) = self.parts.sensor.attach(tid) {
                if error.raw_os_error() == Some(libc::ESRCH) {
                    self.strike_out(tid, thread);
                    return;
                }
                tracing::warn!(pid, %error, "a member cannot be watched any more and leaves the group");
                self.report(Event::Escaped { pid, reason: format!("it cannot be watched: {error}") });
                self.release(pid);
            }
            return;
        }
        self.strike_out(tid, thread);
    }

    /// Forgets a thread that ended, and its task and process with the last one.
    pub(super) fn strike_out(&mut self, tid: i32, thread: Thread) {
        let id = thread.task;
        self.charge(id);
        self.members.remove_thread(tid);
        self.parts.sensor.exited(tid);
        if let Some(task) = self.members.task_mut(id) {
            task.nr_threads = task.nr_threads.saturating_sub(1);
            if thread.is_runnable {
                task.nr_runnable = task.nr_runnable.saturating_sub(1);
            }
            if task.nr_threads > 0 {
                if task.nr_runnable == 0 {
                    self.went_out(id, Sleep::Interruptible);
                }
                return;
            }
        }
        let parent = self.parent_task(thread.pid);
        if let Err(error) = self.dispatch.exit(id, parent, self.now) {
            tracing::debug!(%error, "exit");
        }
        self.parts.parker.exited(id);
        self.members.remove(id);
        self.table.clear(id.index());
        if self.members.threads_of(thread.pid).is_empty() {
            self.report(Event::Exited { pid: thread.pid });
        }
    }

    /// The task of the process that started `pid`, if it is a member.
    fn parent_task(&self, pid: i32) -> Option<TaskId> {
        let ppid = process::stat(pid).ok()?.ppid;
        let tid = *self.members.threads_of(ppid).first()?;
        Some(self.members.thread(tid)?.task)
    }

    /// A process executed another program: its other threads are gone, and a thread that was not the first one now has the first one's number.
    fn executed(&mut self, pid: i32) {
        if self.members.threads_of(pid).is_empty() {
            return;
        }
        let Ok(alive) = process::threads(pid) else { return };
        // The end of each thread that ended was told before; who is missing all the same has another number now.
        match self.members.threads_of(pid).iter().copied().find(|tid| !alive.contains(tid)) {
            Some(renamed) => self.retake(pid, renamed),
            None => self.adopt_unknown(pid, &alive),
        }
        self.report(Event::Executed { pid });
    }

    /// Takes in those of a member's threads that are not known.
    pub(super) fn adopt_unknown(&mut self, pid: i32, alive: &[i32]) {
        for &tid in alive {
            if self.members.thread(tid).is_some() {
                continue;
            }
            let known =
                self.members.threads_of(pid).first().and_then(|&t| Some(self.members.thread(t)?.task));
            if let Some(known) = known
                && self.parts.sensor.attach(tid).is_ok()
                && let Err(error) = self.adopt(known, pid, tid, true, self.now)
            {
                tracing::debug!(pid, tid, %error, "a thread is not taken in");
            }
        }
    }
}
