//! `schedulers/`: a file per policy, whose readers make and hold groups.

use std::ffi::OsStr;
use std::sync::Arc;

use guest_sched::POLICIES;
use parking_lot::Mutex;

use super::SCHEDULERS;
use crate::errno::{Refusal, Why};
use crate::groups::{Caller, Controller, GroupId};
use crate::tree::Inode;
use crate::tree::room::{Attr, Entry, Kind, Opened, Room, Stream};

const DIR: u64 = 0;

pub(super) struct Schedulers {
    controller: Arc<Controller>,
}

impl Schedulers {
    pub(super) fn new(controller: Arc<Controller>) -> Self {
        Self { controller }
    }
}

fn policy(file: u64) -> Result<&'static str, Refusal> {
    let index = usize::try_from(file).ok().and_then(|n| n.checked_sub(1));
    let name = index.and_then(|i| POLICIES.get(i));
    name.copied().ok_or_else(|| Refusal::new(Why::Missing, "there is no such policy"))
}

impl Room for Schedulers {
    fn stat(&self, node: u64) -> Result<Attr, Refusal> {
        if node == DIR { Ok(Attr::dir(0o755)) } else { policy(node).map(|_| Attr::file(0o444)) }
    }

    fn path(&self, node: u64) -> String {
        policy(node).map_or_else(|_| "schedulers".into(), |name| format!("schedulers/{name}"))
    }

    fn lookup(&self, dir: u64, name: &OsStr) -> Result<Inode, Refusal> {
        match POLICIES.iter().position(|policy| dir == DIR && name == *policy) {
            Some(i) => Ok(Inode::new(SCHEDULERS, i as u64 + 1)),
            None => Err(Refusal::new(Why::Missing, "there is no such policy")),
        }
    }

    fn list(&self, _dir: u64) -> Result<Vec<Entry>, Refusal> {
        let entry = |(i, name): (usize, &&str)| Entry {
            name: (*name).to_owned(),
            inode: Inode::new(SCHEDULERS, i as u64 + 1),
            kind: Kind::File,
        };
        Ok(POLICIES.iter().enumerate().map(entry).collect())
    }

    fn open(&self, file: u64, _caller: &Caller) -> Result<Opened, Refusal> {
        let policy = policy(file)?;
        Ok(Opened::Stream(Arc::new(Hold {
            controller: self.controller.clone(),
            policy,
            state: Mutex::default(),
        })))
    }
}

/// An open file of a policy. The group is made by the first *read*, not by the opening: `find` and the like open and do not read.
struct Hold {
    controller: Arc<Controller>,
    policy: &'static str,
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

impl Stream for Hold {
    fn read(&self, caller: &Caller, max: usize) -> Result<Option<Vec<u8>>, Refusal> {
        let mut state = self.state.lock();
        if matches!(*state, HoldState::Fresh) {
            let group = self.controller.create_held(caller, self.policy)?;
            let line = format!("Created sched_group {} ('{}')\n", group.name, self.policy).into_bytes();
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
