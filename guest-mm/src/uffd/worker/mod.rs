//! The worker: serves the faults of one group's members, and keeps the group inside its pool.
//!
//! One thread, one loop over descriptors: userfaultfds, perf rings, the daemon's connection, the members' pidfds. Each verb is a module.
//!
//! A worker may be killed between any two instructions. What it has to know again is in the memory files of [`super::held`], changed in an
//! order that leaves every page's data somewhere; [`recover`] puts it together.

mod account;
mod evict;
mod fault;
mod fork;
mod leave;
mod members;
mod oom;
mod pressure;
mod recover;
mod requests;
mod space;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use host_sys::reads::Reader;
use host_sys::{Listener, Pidfd, SeqPacket};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, alarm};

use self::account::Counters;
use self::fault::Fault;
use self::fork::Parting;
use self::members::Member;
use self::pressure::Pressure;
use self::space::{STAGING_PAGES, Space};
use super::held::{Held, Journal, TableMemory};
use super::proto::{Event, MESSAGE_MAX, MemConfig, Message, SOCKET};
use super::sensor::{Record, Sensor};
use super::store::{Pages, Store};
use super::table::MemTable;
use super::writer::Writer;
use crate::{Config, Load, Nanos, PAGE_SIZE, SpaceId, Victim, Vm, Write};

/// How a worker ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The group is no more.
    Dissolved,
    /// Its keeper died.
    KeeperDied,
    /// It could not start.
    Failed,
}

/// What an event of the loop is about: a kind above, a number below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Keeper,
    Listener,
    Connection,
    Ring,
    Writer,
    Space(SpaceId),
    Process(i32),
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, number) = match self {
            Self::Keeper => (0, 0),
            Self::Listener => (1, 0),
            Self::Connection => (2, 0),
            Self::Ring => (3, 0),
            Self::Writer => (6, 0),
            Self::Space(id) => (4, u64::from(id.0)),
            Self::Process(pid) => (5, u64::from(pid.cast_unsigned())),
        };
        kind << 32 | number
    }

    fn decode(data: u64) -> Option<Self> {
        let number = data as u32;
        Some(match data >> 32 {
            0 => Self::Keeper,
            1 => Self::Listener,
            2 => Self::Connection,
            3 => Self::Ring,
            4 => Self::Space(SpaceId(number as u16)),
            5 => Self::Process(number.cast_signed()),
            6 => Self::Writer,
            _ => return None,
        })
    }
}

/// While anything happened in the last second, levels are measured this often.
const TICK: Duration = Duration::from_millis(100);
/// After so long without a fault nothing is measured any more.
const QUIET_NS: u64 = 1_000_000_000;
/// Pages of the limit that only those get whose pages cannot be evicted before: what is needed to make room is not above the limit.
const RESERVE: u64 = 64;
/// A worker that does not come round for so long, in seconds, is ended by an alarm; the next one goes on with what it was at.
const ALARM_S: u32 = 20;
/// How often the alarm is set again, in ns.
const ALARM_EVERY_NS: u64 = 1_000_000_000;
/// Faults of one turn before other work gets its turn.
const EVENTS: usize = 64;

struct Worker {
    config: MemConfig,
    table: MemTable,
    journal: Journal,
    vm: Vm<TableMemory>,
    store: Store,
    spaces: BTreeMap<SpaceId, Space>,
    members: BTreeMap<i32, Member>,
    /// Forked children's spaces whose processes are not known yet, by the parent, oldest first.
    unborn: VecDeque<(i32, SpaceId)>,
    partings: Vec<Parting>,
    sensor: Sensor,
    records: Vec<Record>,
    epoll: Epoll,
    listener: Listener,
    connection: Option<SeqPacket>,
    is_dissolved: bool,
    /// Threads that were asked to stop in vain have not been let go yet.
    has_strays: bool,
    /// Which space's staging area a page is in.
    stage_space: Vec<Option<SpaceId>>,
    faults: VecDeque<Fault>,
    /// The last installation came to nothing.
    was_gone: bool,
    /// Staging places that hold what nobody needs.
    leftovers: Vec<(SpaceId, u32)>,
    /// Agents that do not answer.
    lost_agents: Vec<SpaceId>,
    // Buffers.
    loads: Vec<Load>,
    victims: Vec<Victim>,
    writes: Vec<Write>,
    pages: Pages,
    spare_pages: Vec<Pages>,
    writer: Writer,
    reader: Reader,
    counters: Counters,
    pressure: Pressure,
    keeper: i32,
    /// When the alarm was set; 0 if it is not.
    alarm_at: u64,
    /// When something happened last.
    active_at: u64,
    measured_at: u64,
}

/// Runs a worker until its group, or its keeper, ends.
pub(super) fn run(state_dir: &Path, keeper: i32, table: &MemTable, held: &Held) -> End {
    table.set_worker_pid(std::process::id() as i32);
    favour(0);
    let mut worker = match Worker::start(state_dir, held) {
        Ok(worker) => worker,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "a memory worker cannot start");
            return End::Failed;
        }
    };
    let end = worker.serve_until_end(keeper);
    alarm::cancel();
    // A keeper has one thread.
    worker.writer.stop();
    worker.spaces.values_mut().for_each(Space::stop_entering);
    // Everything it has open is for a later worker, or goes with the process.
    std::mem::forget(worker);
    end
}

impl Worker {
    fn start(state_dir: &Path, held: &Held) -> io::Result<Self> {
        let config = super::client::read_config(state_dir)?;
        let journal = held.journal()?;
        let is_later = journal.is_used();
        let mut store = Store::default();
        if is_later {
            store.recover(&journal, &config.tiers);
        }
        let tiers = match store.configure(&journal, &config.tiers) {
            Ok(tiers) => tiers,
            Err((tier, error)) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("cannot open the swap tier {tier:?}: {error}"),
                ));
            }
        };
        let core = core_config(&config, tiers);
        let memory = held.tables()?;
        let vm = if is_later { Vm::recover(memory, core) } else { Vm::new(memory, core) };
        let vm = vm.map_err(io::Error::other)?;
        let sensor = Sensor::new()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let worker = Self {
            config,
            table: MemTable::create(state_dir).map_err(io::Error::other)?,
            journal,
            vm,
            store,
            spaces: BTreeMap::new(),
            members: BTreeMap::new(),
            unborn: VecDeque::new(),
            partings: Vec::new(),
            sensor,
            records: Vec::new(),
            epoll,
            listener: Listener::bind(&state_dir.join(SOCKET))?,
            connection: None,
            is_dissolved: false,
            has_strays: false,
            stage_space: vec![None; STAGING_PAGES as usize],
            faults: VecDeque::new(),
            was_gone: false,
            leftovers: Vec::new(),
            lost_agents: Vec::new(),
            loads: Vec::with_capacity(256),
            victims: Vec::with_capacity(256),
            writes: Vec::with_capacity(256),
            pages: Pages::new(256),
            spare_pages: Vec::new(),
            writer: Writer::new()?,
            reader: Reader::new(),
            counters: Counters::default(),
            pressure: Pressure::default(),
            keeper: 0,
            alarm_at: 0,
            active_at: host_sys::process::now(),
            measured_at: 0,
        };
        for ring in worker.sensor.fds() {
            worker.watch(ring, Token::Ring)?;
        }
        worker.watch(worker.listener.as_fd(), Token::Listener)?;
        worker.watch(worker.writer.as_fd(), Token::Writer)?;
        Ok(worker).map(|mut worker| {
            if is_later {
                worker.recover();
            }
            worker.publish();
            worker
        })
    }

    fn watch(&self, fd: std::os::fd::BorrowedFd<'_>, token: Token) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token.encode()))?)
    }

    fn serve_until_end(&mut self, keeper: i32) -> End {
        self.keeper = keeper;
        let keeper = match Pidfd::open(keeper) {
            Ok(keeper) if self.watch(keeper.as_fd(), Token::Keeper).is_ok() => keeper,
            _ => return End::KeeperDied,
        };
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut end = None;
        while end.is_none() {
            let timeout = self.timeout();
            if timeout.is_none() {
                self.alarm_at = 0;
                alarm::cancel();
            }
            let nr = host_sys::process::epoll_wait(self.epoll.0.as_fd(), &mut events, timeout);
            let nr = nr.unwrap_or_else(|error| {
                tracing::error!(%error, "waiting fails");
                0
            });
            let now = host_sys::process::now();
            self.comes_round(now);
            for event in &events[..nr] {
                match Token::decode(event.data()) {
                    Some(Token::Keeper) => end = Some(End::KeeperDied),
                    Some(Token::Listener) => self.accept(),
                    Some(Token::Connection) => self.on_connection(now),
                    Some(Token::Writer) => drop(self.finish_writes(false)),
                    Some(Token::Ring) | None => {}
                    Some(Token::Space(id)) => {
                        self.active_at = now;
                        self.counters.is_stuck = false;
                        self.on_messages(id);
                    }
                    Some(Token::Process(pid)) => self.on_exit(pid),
                }
            }
            self.turn(now);
            if self.is_dissolved {
                end = Some(End::Dissolved);
            }
        }
        drop(keeper);
        end.unwrap_or(End::Failed)
    }

    /// Says that we do not hang; and sees to it that the keeper is not stopped, who would not notice our end.
    fn comes_round(&mut self, now: u64) {
        if self.alarm_at != 0 && now < self.alarm_at + ALARM_EVERY_NS {
            return;
        }
        self.alarm_at = now;
        alarm::set(ALARM_S);
        if self.keeper != 0 && host_sys::process::stat(self.keeper).is_ok_and(|stat| stat.state == b'T') {
            tracing::warn!(keeper = self.keeper, "the keeper was stopped, and is made to go on");
            let _ = kill(Pid::from_raw(self.keeper), Signal::SIGCONT);
        }
    }

    /// Everything that follows from what was told.
    fn turn(&mut self, now: u64) {
        self.has_strays = host_sys::tracee::release_strays();
        self.finish_entering();
        self.part_forked();
        self.on_records(now);
        self.serve_faults(Nanos(now));
        self.replace_agents();
        if self.vm.reclaim_target() > 0 {
            self.enter_forked();
        }
        let progress = self.reclaim_ahead(Nanos(now));
        let excess = self.vm.excess();
        if !progress {
            // Until something changes.
            self.counters.is_stuck = true;
            if excess > 0 {
                self.stuck(excess);
            }
        }
        if now.saturating_sub(self.measured_at) >= TICK.as_nanos() as u64 {
            self.measure(now);
        }
    }

    /// How long the loop may sleep: not at all while there is something to be evicted, for a tick while anything goes on, else for ever.
    fn timeout(&mut self) -> Option<Duration> {
        let wants_more = self.vm.reclaim_target() > self.writer.nr_pages();
        if self.sensor.has_records() || wants_more && !self.counters.is_stuck {
            return Some(Duration::ZERO);
        }
        let is_entering = self.spaces.values().any(Space::is_entering);
        if !self.faults.is_empty() || self.has_strays || is_entering {
            return Some(Duration::from_millis(1));
        }
        if self.vm.excess() > 0 && !self.is_out_of_patience() {
            return Some(Duration::from_millis(5));
        }
        let is_quiet = host_sys::process::now().saturating_sub(self.active_at) > QUIET_NS;
        (!is_quiet).then_some(TICK)
    }

    /// Hears of agents that were made.
    fn finish_entering(&mut self) {
        let entering: Vec<SpaceId> = self.spaces.values().filter(|s| s.is_entering()).map(|s| s.id).collect();
        for id in entering {
            let _ = self.spaces.get_mut(&id).and_then(|space| space.ensure_inside(&self.journal));
            self.note_reach(id);
        }
        let new: Vec<SpaceId> =
            self.spaces.values_mut().filter_map(|s| s.take_new().then_some(s.id)).collect();
        for id in new {
            self.note_reach(id);
            let _ = self.register_all(id);
        }
    }

    fn tell(&mut self, event: Event) {
        tracing::info!(?event);
        if let Some(connection) = &self.connection
            && let Ok(bytes) = serde_json::to_vec(&Message::Event(event))
            && bytes.len() <= MESSAGE_MAX
            && connection.try_send(&bytes).is_err()
        {
            tracing::warn!("the daemon does not hear what happens");
        }
    }
}

/// Has a thread run soon after it is woken, with the weight of those who wait for it.
pub(super) fn favour(tid: i32) {
    use host_sys::sched::{Attr, set};
    if let Err(error) = set(tid, &Attr { runtime: 100_000, ..Attr::default() }) {
        tracing::debug!(tid, %error, "no short slice");
    }
}

/// What the core is to know of a configuration. The drop zone and the agents' own pages are outside of it, and
/// so is a reserve.
fn core_config(config: &MemConfig, tiers: Vec<crate::TierConfig>) -> Config {
    let limit_pages = config.max.map(|bytes| bytes / PAGE_SIZE).map(|pages| pages - RESERVE.min(pages / 16));
    let staging =
        limit_pages.map_or(STAGING_PAGES.into(), |limit| (limit / 8).clamp(16, STAGING_PAGES.into()));
    Config {
        limit_pages,
        swap_max_pages: config.swap_max.map(|bytes| bytes / PAGE_SIZE),
        tiers,
        staging_pages: staging as u32,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        for token in [
            Token::Keeper,
            Token::Ring,
            Token::Writer,
            Token::Space(SpaceId(4095)),
            Token::Process(4_194_303),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }
}
