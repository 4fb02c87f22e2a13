//! The kind of group that a guest VM serves.

use std::io;
use std::path::Path;
use std::sync::Arc;

use guest_mm::uffd::client::read_config;
use guest_mm::uffd::proto::{Event, MemConfig};

use super::driver::MemDriver;
use super::view::MemView;
use crate::groups::{Journal, Kind, Told};
use crate::notices::{Notices, Side};
use crate::supervise::StateRoot;

/// The guest VMs there are.
pub const GUESTS: &[&str] = &["guest_vm"];

/// Groups of processes that one guest VM serves from one pool of frames.
#[derive(Clone, Copy, Debug)]
pub struct Mem;

impl Kind for Mem {
    type Config = MemConfig;
    type Event = Event;
    type View = MemView;
    type Driver = dyn MemDriver;
    type Beside = ();

    const SIDE: Side = Side::Mem;
    const NOUN: &'static str = "mem_group";
    const GUESTS: &'static [&'static str] = GUESTS;
    const GUEST_KEY: &'static str = "vm";
    const GOES_BACK_UNANSWERED: bool = false;
    const IS_GIVEN_UP: bool = false;

    fn beside(_journal: &Arc<Journal>, _notices: &Notices, _state: &StateRoot) {}

    fn load(dir: &Path) -> io::Result<MemConfig> {
        read_config(dir)
    }

    fn name(config: &MemConfig) -> &str {
        &config.name
    }

    fn config(template: &MemConfig, name: &str, guest: &str) -> MemConfig {
        MemConfig { name: name.into(), vm: guest.into(), ..template.clone() }
    }
}

impl From<Event> for Told {
    fn from(event: Event) -> Self {
        match event {
            Event::Forked { parent, child } => Self::Forked { parent, child },
            Event::Exited { pid } => Self::Exited { pid },
            Event::Executed { pid } => Self::Executed { pid },
            Event::Escaped { pid, reason } => Self::Escaped { pid, reason },
            Event::OomKill { pid, resident, reason } => {
                Self::Killed { event: "oom_kill", pid, resident: Some(resident), reason }
            }
            Event::Killed { pid, reason } => Self::Killed { event: "killed", pid, resident: None, reason },
            Event::Restarted { members } => Self::Restarted { members },
            Event::Degraded { reason } => Self::Degraded { reason },
        }
    }
}
