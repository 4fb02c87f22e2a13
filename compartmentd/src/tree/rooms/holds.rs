//! `schedulers/` and `memories/`: a file per guest, whose readers make and hold groups.

use std::ffi::OsStr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::errno::{Refusal, Why};
use crate::groups::{Caller, Controller, GroupId, Kind};
use crate::tree::Inode;
use crate::tree::room::{Attr, Entry, Kind as EntryKind, Opened, Room, Stream};

const DIR: u64 = 0;

pub(super) struct Holds<K: Kind> {
    room: usize,
    name: &'static str,
    controller: Arc<Controller<K>>,
}

impl<K: Kind> Holds<K> {
    /// Makes the room with this number and name.
    pub(super) fn new(room: usize, name: &'static str, controller: Arc<Controller<K>>) -> Self {
        Self { room, name, controller }
    }
}

fn guest<K: Kind>(file: u64) -> Result<&'static str, Refusal> {
    let index = usize::try_from(file).ok().and_then(|n| n.checked_sub(1));
    index.and_then(|i| K::GUESTS.get(i)).copied().map_or_else(missing::<K, _>, Ok)
}

fn missing<K: Kind, T>() -> Result<T, Refusal> {
    Err(Refusal::new(Why::Missing, format!("there is no such {}", K::GUEST_KEY)))
}

impl<K: Kind> Room for Holds<K> {
    fn stat(&self, node: u64) -> Result<Attr, Refusal> {
        if node == DIR { Ok(Attr::dir(0o755)) } else { guest::<K>(node).map(|_| Attr::file(0o444)) }
    }

    fn path(&self, node: u64) -> String {
        guest::<K>(node).map_or_else(|_| self.name.into(), |name| format!("{}/{name}", self.name))
    }

    fn lookup(&self, dir: u64, name: &OsStr) -> Result<Inode, Refusal> {
        match K::GUESTS.iter().position(|guest| dir == DIR && name == *guest) {
            Some(i) => Ok(Inode::new(self.room, i as u64 + 1)),
            None => missing::<K, _>(),
        }
    }

    fn list(&self, _dir: u64) -> Result<Vec<Entry>, Refusal> {
        let entry = |(i, name): (usize, &&str)| {
            Entry::new(*name, Inode::new(self.room, i as u64 + 1), EntryKind::File)
        };
        Ok(K::GUESTS.iter().enumerate().map(entry).collect())
    }

    fn open(&self, file: u64, _caller: &Caller) -> Result<Opened, Refusal> {
        let guest = guest::<K>(file)?;
        Ok(Opened::Stream(Arc::new(Hold {
            controller: self.controller.clone(),
            guest,
            state: Mutex::default(),
        })))
    }
}

/// An open file of a guest. The group is made by the first *read*, not by the opening: `find` and the like open and do not read.
struct Hold<K: Kind> {
    controller: Arc<Controller<K>>,
    guest: &'static str,
    state: Mutex<HoldState>,
}

/// `Fresh` → `Held` by the first read, → `Closed` by the last close.
#[derive(Default)]
enum HoldState {
    #[default]
    Fresh,
    Held {
        group: GroupId,
        /// What of the line is still to be read.
        line: Vec<u8>,
    },
    Closed,
}

impl<K: Kind> Stream for Hold<K> {
    fn read(&self, caller: &Caller, max: usize) -> Result<Option<Vec<u8>>, Refusal> {
        let mut state = self.state.lock();
        if matches!(*state, HoldState::Fresh) {
            let group = self.controller.create_held(caller, self.guest)?;
            let line = format!("Created {} {} ('{}')\n", K::NOUN, group.name, self.guest).into_bytes();
            *state = HoldState::Held { group: group.id, line };
        }
        match &mut *state {
            HoldState::Held { line, .. } if !line.is_empty() => {
                Ok(Some(line.drain(..max.min(line.len())).collect()))
            }
            _ => Ok(None),
        }
    }

    fn is_ready(&self) -> bool {
        match &*self.state.lock() {
            HoldState::Held { line, .. } => !line.is_empty(),
            _ => true,
        }
    }

    fn close(&self) {
        if let HoldState::Held { group, .. } = std::mem::replace(&mut *self.state.lock(), HoldState::Closed) {
            // Letting many members go takes its time; the thread that answers requests is not for that.
            let controller = self.controller.clone();
            let spawned =
                std::thread::Builder::new().name("release".into()).spawn(move || controller.release(group));
            if spawned.is_err() {
                self.controller.release(group);
            }
        }
    }
}
