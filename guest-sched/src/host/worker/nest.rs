//! Groups inside groups: the worker of the inner group is, for the outer one's, a task like others.
//!
//! The two talk through a socket that the daemon has handed them. The inner one says when somebody in its group wants to run and when
//! nobody does, the outer one when the group may run and when not. Every message of the inner worker carries the CPU time used so
//! far. While it is nested, an inner group has one vcpu: it is one task.
//!
//! If the socket breaks, the inner group runs on by itself until the daemon nests it again.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use host_sys::{SeqPacket, process};
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::join::Refusal;
use super::members::{CpuClock, Task};
use super::{MAX_TASKS, Worker};
use crate::host::table::HostParams;
use crate::types::{Nanos, Sleep, TaskId, TaskParams, Waker};

/// What the two workers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    /// Outer: the group may run.
    Run = 1,
    /// Outer: it may not.
    Stop = 2,
    /// Outer: how much CPU time was used?
    Query = 3,
    /// Inner: somebody wants to run.
    Runnable = 4,
    /// Inner: nobody wants to run.
    Idle = 5,
    /// Inner: after `Stop`, nobody of the group is on the host's runqueue any more.
    Out = 6,
    /// Inner: the answer to `Query`.
    Usage = 7,
}

const MESSAGE: usize = 16;

fn send(link: &SeqPacket, word: Word, usage: Nanos) {
    let mut bytes = [0u8; MESSAGE];
    bytes[0] = word as u8;
    bytes[8..].copy_from_slice(&usage.0.to_ne_bytes());
    // A link that is broken is noticed by reading it.
    let _ = link.try_send(&bytes);
}

fn parse(bytes: &[u8]) -> Option<(Word, Nanos)> {
    let words = [Word::Run, Word::Stop, Word::Query, Word::Runnable, Word::Idle, Word::Out, Word::Usage];
    let word = words.into_iter().find(|&w| Some(w as u8) == bytes.first().copied())?;
    let usage = u64::from_ne_bytes(bytes.get(8..MESSAGE)?.try_into().ok()?);
    Some((word, Nanos(usage)))
}

/// The outer worker's end: a group that is a task here.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) id: TaskId,
    link: SeqPacket,
    usage: Rc<Cell<u64>>,
    is_asked: bool,
}

/// The inner worker's end.
#[derive(Debug)]
pub(super) struct Gate {
    link: SeqPacket,
    pub(super) is_open: bool,
    has_told_runnable: bool,
    owes_out: bool,
}

impl Worker {
    fn watch(&self, link: &SeqPacket) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, link.as_fd().as_raw_fd() as u64);
        Ok(self.epoll.add(link, event)?)
    }

    /// Takes in the group at the other end of `link` as one task, which `pid` stands for.
    pub(super) fn nest(&mut self, pid: i32, link: Option<OwnedFd>) -> Result<(), Refusal> {
        let link = SeqPacket::from_fd(
            link.ok_or_else(|| Refusal::new(libc::EBADF, "no socket came with the request"))?,
        );
        if !self.members.threads_of(pid).is_empty() {
            return Err(Refusal::new(libc::EEXIST, "the representative is a member already"));
        }
        let start_time = process::stat(pid)?.start_time;
        self.watch(&link)?;
        let id = self
            .members
            .reserve(MAX_TASKS)
            .ok_or_else(|| Refusal::new(libc::ENOSPC, format!("a group has at most {MAX_TASKS} tasks")))?;
        if let Err(e) = self.dispatch.add(id, TaskParams::default(), false, self.now) {
            self.members.unreserve(id);
            return Err(Refusal::new(libc::EINVAL, e.to_string()));
        }
        let usage = Rc::new(Cell::new(0));
        let now = self.now;
        let task = Task {
            pid,
            tid: pid,
            start_time,
            host: HostParams::default(),
            clock: CpuClock::reported(Rc::clone(&usage)),
            usage: Nanos::ZERO,
            wait: Nanos::ZERO,
            nr_switches: 0,
            parked_since: None,
            leaving_since: now,
            charged_at: now,
            nr_runnable: 0,
            nr_threads: 1,
            is_arriving: false,
            has_short_slice: false,
            is_doubtful: false,
            resumed_at: (Nanos::ZERO, Nanos::ZERO),
        };
        self.members.insert(id, task);
        self.inners.push(Inner { id, link, usage, is_asked: false });
        self.publish_task(id);
        Ok(())
    }

    /// Is scheduled by another worker from now on, or by nobody any more.
    pub(super) fn set_gate(&mut self, link: Option<OwnedFd>) -> Result<(), Refusal> {
        if let Some(gate) = self.gate.take() {
            let _ = self.epoll.delete(&gate.link);
        }
        let vcpus = match link {
            None => self.config.vcpus,
            Some(link) => {
                let link = SeqPacket::from_fd(link);
                self.watch(&link)?;
                self.gate = Some(Gate { link, is_open: false, has_told_runnable: false, owes_out: false });
                1
            }
        };
        self.dispatch.set_vcpus(vcpus, self.now).map_err(|e| Refusal::new(libc::EINVAL, e.to_string()))
    }

    /// Tells the outer worker what has changed. Called at the end of each round.
    pub(super) fn tell_outer(&mut self) {
        let wants = self.dispatch.policy().nr_running() > 0 && !self.is_throttled;
        let is_off = self.dispatch.nr_on_host() == 0;
        let usage = self.usage;
        let Some(gate) = &mut self.gate else { return };
        if gate.owes_out && is_off {
            gate.owes_out = false;
            send(&gate.link, Word::Out, usage);
        }
        if std::mem::replace(&mut gate.has_told_runnable, wants) != wants {
            send(&gate.link, if wants { Word::Runnable } else { Word::Idle }, usage);
        }
    }

    /// Reads a message if `fd` is a nesting link. Says whether it was.
    pub(super) fn hear_link(&mut self, fd: i32) -> bool {
        let mut buf = [0u8; MESSAGE];
        if let Some(gate) = &mut self.gate
            && gate.link.as_fd().as_raw_fd() == fd
        {
            match gate.link.try_recv(&mut buf) {
                Ok((len, _)) if len > 0 => match parse(&buf[..len]) {
                    Some((Word::Run, _)) => {
                        gate.is_open = true;
                        gate.owes_out = false;
                    }
                    Some((Word::Stop, _)) => {
                        gate.is_open = false;
                        gate.owes_out = true;
                    }
                    Some((Word::Query, _)) => {
                        self.charge_running();
                        if let Some(gate) = &self.gate {
                            send(&gate.link, Word::Usage, self.usage);
                        }
                    }
                    _ => {}
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                _ => {
                    tracing::info!("the outer group's worker is gone; this group runs by itself");
                    let _ = self.set_gate(None);
                }
            }
            return true;
        }
        let Some(at) = self.inners.iter().position(|i| i.link.as_fd().as_raw_fd() == fd) else {
            return false;
        };
        match self.inners[at].link.try_recv(&mut buf) {
            Ok((len, _)) if len > 0 => {
                if let Some((word, usage)) = parse(&buf[..len]) {
                    self.inner_said(at, word, usage);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            _ => {
                let pid = self.members.task(self.inners[at].id).map(|t| t.pid);
                if let Some(pid) = pid {
                    self.unnest(pid);
                }
            }
        }
        true
    }

    fn inner_said(&mut self, at: usize, word: Word, usage: Nanos) {
        let inner = &mut self.inners[at];
        let id = inner.id;
        inner.usage.set(inner.usage.get().max(usage.0));
        match word {
            Word::Runnable => {
                if let Err(error) = self.dispatch.woke(id, Waker::Task, self.now) {
                    tracing::debug!(%error, "a group woke");
                }
                // Those who woke in it may be on the runqueue: whatever is decided, the inner worker is told.
                if self.dispatch.host_state(id) == Some(super::HostState::On) {
                    self.inner_resumed(id);
                }
            }
            Word::Idle => self.went_out(id, Sleep::Interruptible),
            Word::Out => self.went_out(id, Sleep::Interruptible),
            Word::Usage => {
                inner.is_asked = false;
                self.charge(id);
            }
            Word::Run | Word::Stop | Word::Query => {}
        }
    }

    fn inner(&mut self, id: TaskId) -> Option<&mut Inner> {
        self.inners.iter_mut().find(|i| i.id == id)
    }

    /// Whether the task is a nested group.
    pub(super) fn is_inner(&self, id: TaskId) -> bool {
        self.inners.iter().any(|i| i.id == id)
    }

    /// Whether the task is a nested group that has not answered yet what it has used.
    pub(super) fn is_asked(&self, id: TaskId) -> bool {
        self.inners.iter().any(|i| i.id == id && i.is_asked)
    }

    fn inner_resumed(&mut self, id: TaskId) {
        if let Some(inner) = self.inner(id) {
            send(&inner.link, Word::Run, Nanos::ZERO);
        }
    }

    /// Lets a nested group run or not, if the task is one. Says whether it is.
    pub(super) fn steer_inner(&mut self, id: TaskId, may_run: bool) -> bool {
        let Some(inner) = self.inner(id) else { return false };
        send(&inner.link, if may_run { Word::Run } else { Word::Stop }, Nanos::ZERO);
        true
    }

    /// Asks how much a nested group has used, if the task is one. Says whether it is.
    pub(super) fn query_inner(&mut self, id: TaskId) -> bool {
        let Some(inner) = self.inner(id) else { return false };
        if !std::mem::replace(&mut inner.is_asked, true) {
            send(&inner.link, Word::Query, Nanos::ZERO);
        }
        true
    }

    /// Lets a nested group go. Says whether `pid` stands for one.
    pub(super) fn unnest(&mut self, pid: i32) -> bool {
        let id = self.members.thread(pid).map(|t| t.task);
        let Some(at) = self.inners.iter().position(|i| Some(i.id) == id) else { return false };
        let inner = self.inners.swap_remove(at);
        let _ = self.epoll.delete(&inner.link);
        self.charge(inner.id);
        if let Err(error) = self.dispatch.remove(inner.id, self.now) {
            tracing::debug!(%error, "unnest");
        }
        self.members.remove_thread(pid);
        self.members.remove(inner.id);
        self.table.clear(inner.id.index());
        self.report(crate::host::proto::Event::Exited { pid });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_sent_is_parsed() {
        let (a, b) = SeqPacket::pair().expect("a pair");
        send(&a, Word::Out, Nanos(7));
        let mut buf = [0u8; MESSAGE];
        let (len, _) = b.try_recv(&mut buf).expect("a message");

        assert_eq!(parse(&buf[..len]), Some((Word::Out, Nanos(7))));
        assert_eq!(parse(&[9; MESSAGE]), None);
        assert_eq!(parse(&[1]), None);
    }
}
