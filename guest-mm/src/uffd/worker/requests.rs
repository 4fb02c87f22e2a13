//! What the daemon asks.

use std::os::fd::AsFd;

use super::super::maps;
use super::super::proto::{MESSAGE_MAX, MemConfig, Message, Request, UnmanagedRange};
use super::members::{Kind, Refused};
use super::{Token, Worker, core_config};
use crate::{Nanos, PAGE_SIZE};

/// Ranges of one answer: more would not fit into a message.
const RANGES_MAX: usize = 400;

impl Worker {
    /// A daemon connects; it takes the place of the one before.
    pub(super) fn accept(&mut self) {
        let Ok(connection) = self.listener.accept() else { return };
        if self.watch(connection.as_fd(), Token::Connection).is_ok() {
            self.connection = Some(connection);
        }
    }

    /// Answers one request.
    pub(super) fn on_connection(&mut self, now: u64) {
        let Some(connection) = &self.connection else { return };
        let mut buf = vec![0; MESSAGE_MAX];
        let request = match connection.try_recv(&mut buf) {
            Ok((0, _)) => {
                self.connection = None;
                return;
            }
            Ok((len, _)) => serde_json::from_slice::<Request>(&buf[..len]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(_) => {
                self.connection = None;
                return;
            }
        };
        self.active_at = now;
        let answer = match request {
            Ok(request) => self.answer(request, now),
            Err(error) => Message::Refused { errno: libc::EPROTO, reason: error.to_string() },
        };
        let Some(connection) = &self.connection else { return };
        let sent = serde_json::to_vec(&answer).map_err(std::io::Error::from);
        if let Err(error) = sent.and_then(|bytes| connection.send(&bytes, None)) {
            tracing::warn!(%error, "the daemon gets no answer");
            self.connection = None;
        }
    }

    fn answer(&mut self, request: Request, now: u64) -> Message {
        let done = match request {
            Request::Join { pid, start_time } => self.join(pid, start_time, now),
            Request::Leave { pid } => self.leave(pid, now),
            Request::Configure(config) => self.configure(config, now),
            Request::Reclaim { bytes } => self.reclaim_bytes(bytes, now),
            Request::Unmanaged { pid } => match self.unmanaged(pid) {
                Ok(ranges) => return Message::Unmanaged(ranges),
                Err(refused) => Err(refused),
            },
            Request::Sync => {
                self.measure(now);
                Ok(())
            }
            Request::Dissolve => self.dissolve(now),
        };
        self.measure(now);
        match done {
            Ok(()) => Message::Done,
            Err((errno, reason)) => Message::Refused { errno, reason },
        }
    }

    fn configure(&mut self, config: MemConfig, now: u64) -> Result<(), Refused> {
        let refused =
            |e: std::io::Error, what: String| (e.raw_os_error().unwrap_or(libc::EIO), format!("{what}: {e}"));
        let tiers = self
            .store
            .configure(&self.journal, &config.tiers)
            .map_err(|(tier, e)| refused(e, format!("the tier {tier:?} cannot be had")))?;
        if let Err(error) = self.vm.configure(core_config(&config, tiers)) {
            // The tiers as they were.
            let _ = self.store.configure(&self.journal, &self.config.tiers);
            return Err((libc::EINVAL, error.to_string()));
        }
        self.config = config;
        self.counters.is_stuck = false;
        self.drain_excess(now);
        Ok(())
    }

    fn reclaim_bytes(&mut self, bytes: u64, now: u64) -> Result<(), Refused> {
        let before = self.vm.stats().anon;
        let wanted = bytes.div_ceil(PAGE_SIZE);
        loop {
            let done = before.saturating_sub(self.vm.stats().anon);
            if done >= wanted {
                return Ok(());
            }
            if !self.make_room(wanted - done, Nanos(now)) {
                return Err((libc::EAGAIN, format!("only {} bytes could be evicted", done * PAGE_SIZE)));
            }
        }
    }

    fn dissolve(&mut self, now: u64) -> Result<(), Refused> {
        for pid in self.members.keys().copied().collect::<Vec<_>>() {
            match self.leave(pid, now) {
                Ok(()) | Err((libc::ESRCH, _)) => {}
                Err(refused) => return Err(refused),
            }
        }
        self.table.set_dissolved();
        self.is_dissolved = true;
        Ok(())
    }

    fn unmanaged(&self, pid: i32) -> Result<Vec<UnmanagedRange>, Refused> {
        let gone = |_| (libc::ESRCH, "the process is gone".to_owned());
        let Some(member) = self.members.get(&pid) else {
            return Err((libc::ESRCH, "no member of this group".into()));
        };
        let space = match member.kind {
            Kind::Managed(id) | Kind::Sharing(id) => self.spaces.get(&id),
            Kind::Unmanaged(_) => None,
        };
        let pagemap = host_sys::pagemap::Pagemap::open(pid).map_err(gone)?;
        let mut ranges = Vec::new();
        for mapping in maps::read(pid).map_err(gone)? {
            let reason = match (&member.kind, mapping.kind) {
                (_, maps::Kind::Special | maps::Kind::Agent) => continue,
                (Kind::Unmanaged(reason), _) => reason,
                (_, maps::Kind::FilePrivate) => "file-private",
                (_, maps::Kind::Shared) => "shared",
                (_, maps::Kind::Anonymous) => match space {
                    // All of it can be paged but what was left out on purpose.
                    Some(space)
                        if space.clip(mapping.start, mapping.end).eq([(mapping.start, mapping.end)]) =>
                    {
                        continue;
                    }
                    _ => "special",
                },
            };
            let paged: Vec<(u64, u64)> = match (space, mapping.kind) {
                (Some(space), maps::Kind::Anonymous) => space.clip(mapping.start, mapping.end).collect(),
                _ => Vec::new(),
            };
            let mut resident = 0;
            let counts_files = mapping.kind == maps::Kind::Shared;
            let _ = pagemap.present(mapping.start, mapping.end, |region| {
                if region.is_file == counts_files && !region.is_zero {
                    let all = region.end - region.start;
                    let overlap =
                        |(a, b): &(u64, u64)| region.end.min(*b).saturating_sub(region.start.max(*a));
                    resident += all - paged.iter().map(overlap).sum::<u64>().min(all);
                }
            });
            if resident > 0 {
                let (start, end) = (mapping.start, mapping.end);
                ranges.push(UnmanagedRange { start, end, resident, reason: reason.into() });
            }
        }
        ranges.sort_by_key(|r| std::cmp::Reverse(r.resident));
        ranges.truncate(RANGES_MAX);
        Ok(ranges)
    }
}
