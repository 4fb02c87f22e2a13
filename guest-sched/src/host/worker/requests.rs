//! What the daemon asks.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use host_sys::SeqPacket;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::join::{Refusal, to_class};
use super::{End, Worker};
use crate::host::proto::{GroupConfig, MESSAGE_MAX, Message, Request};
use crate::types::{Nanos, Nice, Vcpu};

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    socket: SeqPacket,
    /// Answers that did not fit into the socket: its daemon waits for each of them.
    unsent: VecDeque<Vec<u8>>,
}

impl Client {
    /// Reports something. A daemon that does not read loses events, and finds the truth in the table.
    pub(super) fn tell(&self, bytes: &[u8]) {
        if self.unsent.is_empty() {
            let _ = self.socket.try_send(bytes);
        }
    }

    /// Answers a request, now or when there is room.
    fn answer(&mut self, bytes: Vec<u8>, epoll: &Epoll) {
        self.unsent.push_back(bytes);
        self.send_unsent(epoll);
    }

    fn send_unsent(&mut self, epoll: &Epoll) {
        while let Some(bytes) = self.unsent.front() {
            match self.socket.try_send(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                _ => drop(self.unsent.pop_front()),
            }
        }
        let waits = if self.unsent.is_empty() { EpollFlags::empty() } else { EpollFlags::EPOLLOUT };
        let token = self.socket.as_fd().as_raw_fd() as u64;
        let _ = epoll.modify(&self.socket, &mut EpollEvent::new(EpollFlags::EPOLLIN | waits, token));
    }
}

impl Worker {
    /// Takes a connection. There is normally one; a new daemon may come before the old one's end is noticed.
    pub(super) fn accept(&mut self) {
        let Ok(client) = self.listener.accept() else { return };
        let event = EpollEvent::new(EpollFlags::EPOLLIN, client.as_fd().as_raw_fd() as u64);
        if self.epoll.add(&client, event).is_ok() {
            self.clients.push(Client { socket: client, unsent: VecDeque::new() });
            if let Some(event) = self.restarted.take() {
                self.report(event);
            }
        }
    }

    /// Reads and answers what a connection has sent.
    pub(super) fn hear(&mut self, fd: i32) {
        let Some(at) = self.clients.iter().position(|c| c.socket.as_fd().as_raw_fd() == fd) else { return };
        if !self.clients[at].unsent.is_empty() {
            self.clients[at].send_unsent(&self.epoll);
        }
        let mut buf = vec![0; MESSAGE_MAX];
        let (request, link) = match self.clients[at].socket.try_recv(&mut buf) {
            Ok((0, _)) => {
                self.hang_up(at);
                return;
            }
            Ok((len, link)) => (serde_json::from_slice(&buf[..len]), link),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {
                self.hang_up(at);
                return;
            }
        };
        let result = match request {
            Ok(request) => self.carry_out(request, link),
            Err(error) => Err(Refusal::new(libc::EBADMSG, format!("unreadable request: {error}"))),
        };
        if self.end == Some(End::Dissolved) {
            // Answered when it is done.
            return;
        }
        let message = match result {
            Ok(()) => Message::Done,
            Err(Refusal { errno, reason }) => Message::Refused { errno, reason },
        };
        if let (Ok(bytes), Some(client)) = (serde_json::to_vec(&message), self.clients.get_mut(at)) {
            client.answer(bytes, &self.epoll);
        }
    }

    fn hang_up(&mut self, at: usize) {
        let client = self.clients.swap_remove(at);
        let _ = self.epoll.delete(&client.socket);
    }

    /// Sends a message to every connection.
    pub(super) fn answer_all(&self, message: &Message) {
        if let Ok(bytes) = serde_json::to_vec(message) {
            for client in &self.clients {
                let _ = client.socket.try_send(&bytes);
            }
        }
    }

    fn carry_out(&mut self, request: Request, link: Option<OwnedFd>) -> Result<(), Refusal> {
        match request {
            Request::Join { pid, start_time } => self.take_in(pid, start_time, None),
            Request::Leave { pid } => {
                self.member(pid)?;
                self.release(pid);
                Ok(())
            }
            Request::SetNice { pid, nice } => {
                self.member(pid)?;
                let nice = Nice::new(i32::from(nice))
                    .ok_or_else(|| Refusal::new(libc::EINVAL, "nice is -20..=19"))?;
                for id in self.members.tasks_of(pid) {
                    self.charge(id);
                    self.dispatch
                        .set_nice(id, nice, self.now)
                        .map_err(|e| Refusal::new(libc::EINVAL, e.to_string()))?;
                    self.publish_task(id);
                }
                Ok(())
            }
            Request::SetClass { pid, class } => {
                self.member(pid)?;
                let class = to_class(class)
                    .ok_or_else(|| Refusal::new(libc::EINVAL, "real-time priorities are 1..=99"))?;
                for id in self.members.tasks_of(pid) {
                    self.charge(id);
                    self.dispatch
                        .set_class(id, class, self.now)
                        .map_err(|e| Refusal::new(libc::EINVAL, e.to_string()))?;
                    self.publish_task(id);
                }
                Ok(())
            }
            Request::Configure(config) => self.configure(config),
            Request::Sync => {
                self.publish();
                Ok(())
            }
            Request::Dissolve => {
                self.end = Some(End::Dissolved);
                Ok(())
            }
            Request::Nest { pid } => self.nest(pid, link),
            Request::Gate { has_link } if has_link == link.is_some() => self.set_gate(link),
            Request::Gate { .. } => Err(Refusal::new(libc::EBADF, "no socket came with the request")),
        }
    }

    fn member(&self, pid: i32) -> Result<(), Refusal> {
        if self.members.threads_of(pid).is_empty() {
            Err(Refusal::new(libc::ESRCH, "the process is no member"))
        } else {
            Ok(())
        }
    }

    fn configure(&mut self, config: GroupConfig) -> Result<(), Refusal> {
        if !(1..=Vcpu::LIMIT).contains(&config.vcpus) {
            return Err(Refusal::new(libc::EINVAL, format!("vcpus is 1..={}", Vcpu::LIMIT)));
        }
        if Nice::new(i32::from(config.nice)).is_none() {
            return Err(Refusal::new(libc::EINVAL, "nice is -20..=19"));
        }
        self.charge_running();
        if config.policy != self.config.policy {
            if self.members.nr_processes() > 0 {
                return Err(Refusal::new(
                    libc::EBUSY,
                    "the scheduler can be changed while the group is empty",
                ));
            }
            let policy = crate::policy_by_name(&config.policy, config.vcpus)
                .ok_or_else(|| Refusal::new(libc::EINVAL, "no such scheduler"))?;
            self.dispatch = super::Dispatch::new(policy, self.parts.mode.handover);
        }
        let limit = config.cpu_max.quota_us.map(|quota| (quota, config.cpu_max.period_us));
        if config.cpu_max != self.config.cpu_max {
            self.bandwidth
                .set_limit(limit, self.now)
                .map_err(|e| Refusal::new(libc::EINVAL, e.to_string()))?;
            self.meter.settle_cap(self.now);
        }
        self.bandwidth.set_vcpus(config.vcpus);
        if self.gate.is_none() && config.vcpus != self.dispatch.policy().vcpus() {
            self.dispatch
                .set_vcpus(config.vcpus, self.now)
                .map_err(|e| Refusal::new(libc::EINVAL, e.to_string()))?;
        }
        self.dispatch.set_slice(config.slice_us.map(Nanos::from_micros));
        let nice_changed = config.nice != self.config.nice;
        self.config = config;
        if nice_changed {
            self.apply_group_nice();
        }
        Ok(())
    }
}
