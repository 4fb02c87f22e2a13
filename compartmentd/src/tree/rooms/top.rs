//! The top directory and its files: `version`, `events`, `error_log`, `rules`.

use std::ffi::OsStr;
use std::sync::Arc;

use super::TOP;
use crate::errno::{Refusal, Why};
use crate::groups::rules::Rules;
use crate::groups::{Caller, Controller};
use crate::tree::Inode;
use crate::tree::room::{Attr, Entry, Kind, Opened, Room};

/// The number that changes when the tree changes in a way that its users notice.
const ABI: u32 = 1;

const ROOT: u64 = 1;
const VERSION: u64 = 2;
const EVENTS: u64 = 3;
const ERROR_LOG: u64 = 4;
const RULES: u64 = 5;

const FILES: [(&str, u64, u16); 4] = [
    ("version", VERSION, 0o444),
    ("events", EVENTS, 0o444),
    ("error_log", ERROR_LOG, 0o444),
    ("rules", RULES, 0o644),
];

pub(super) struct Top {
    controller: Arc<Controller>,
    rules: Arc<Rules>,
    doors: Vec<(&'static str, Inode, Kind)>,
}

impl Top {
    pub(super) fn new(
        controller: Arc<Controller>,
        rules: Arc<Rules>,
        doors: Vec<(&'static str, Inode, Kind)>,
    ) -> Self {
        Self { controller, rules, doors }
    }

    fn entries(&self) -> impl Iterator<Item = (&'static str, Inode, Kind)> {
        let files = FILES.into_iter().map(|(name, node, _)| (name, Inode::new(TOP, node), Kind::File));
        files.chain(self.doors.iter().copied())
    }
}

fn missing<T>() -> Result<T, Refusal> {
    Err(Refusal::new(Why::Missing, "no such entry"))
}

impl Room for Top {
    fn stat(&self, node: u64) -> Result<Attr, Refusal> {
        match FILES.iter().find(|file| file.1 == node) {
            // An unprivileged daemon's rules would be its user's own; there are none.
            Some((_, _, mode)) => Ok(Attr::file(*mode)),
            None if node == ROOT => Ok(Attr::dir(0o755)),
            None => missing(),
        }
    }

    fn path(&self, node: u64) -> String {
        FILES.iter().find(|file| file.1 == node).map_or("", |file| file.0).to_owned()
    }

    fn lookup(&self, dir: u64, name: &OsStr) -> Result<Inode, Refusal> {
        match self.entries().find(|entry| dir == ROOT && entry.0 == name) {
            Some((_, inode, _)) => Ok(inode),
            None => missing(),
        }
    }

    fn list(&self, dir: u64) -> Result<Vec<Entry>, Refusal> {
        if dir != ROOT {
            return missing();
        }
        Ok(self.entries().map(|(name, inode, kind)| Entry::new(name, inode, kind)).collect())
    }

    fn open(&self, file: u64, caller: &Caller) -> Result<Opened, Refusal> {
        match file {
            EVENTS => Ok(Opened::Stream(self.controller.journal().open_events(caller.uid))),
            _ => Ok(Opened::Value),
        }
    }

    fn read(&self, file: u64, caller: &Caller) -> Result<String, Refusal> {
        match file {
            VERSION => Ok(format!("compartments {} abi {ABI}\n", env!("CARGO_PKG_VERSION"))),
            ERROR_LOG => Ok(self.controller.journal().errors_for(caller.uid)),
            RULES => Ok(self.rules.text()),
            _ => missing(),
        }
    }

    fn write(&self, file: u64, caller: &Caller, value: &[u8]) -> Result<(), Refusal> {
        match file {
            RULES => self.rules.replace(caller, value),
            _ => Err(Refusal::new(Why::NotAllowed, "this file cannot be written")),
        }
    }

    fn is_emptied_by_cutting(&self, file: u64) -> bool {
        file == RULES
    }
}
