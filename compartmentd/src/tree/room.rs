//! What a part of the tree must be able to do.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use super::Inode;
use crate::errno::{Refusal, Why};
use crate::groups::Caller;

/// What kind of thing an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file with a value.
    File,
    /// A symbolic link.
    Link,
}

/// How long the kernel may remember an entry if its room does not say otherwise.
pub const TTL: Duration = Duration::from_secs(1);

/// What `stat` shows of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Directory, file or link.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// The length of a link's text; 0 for all else.
    pub size: u64,
}

impl Attr {
    /// Makes what `stat` shows of root's directory.
    pub const fn dir(mode: u16) -> Self {
        Self { kind: Kind::Directory, mode, uid: 0, gid: 0, size: 0 }
    }

    /// Makes what `stat` shows of root's file.
    pub const fn file(mode: u16) -> Self {
        Self { kind: Kind::File, mode, uid: 0, gid: 0, size: 0 }
    }

    /// Makes what `stat` shows of root's link with a text of that length.
    pub const fn link(size: u64) -> Self {
        Self { kind: Kind::Link, mode: 0o777, uid: 0, gid: 0, size }
    }

    /// Gives it to somebody.
    pub const fn owned(self, (uid, gid): (u32, u32)) -> Self {
        Self { uid, gid, ..self }
    }
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its inode.
    pub inode: Inode,
    /// Directory, file or link.
    pub kind: Kind,
    /// What `stat` shows of it, where that costs next to nothing to tell with the list: then the kernel need not ask for each.
    pub attr: Option<Attr>,
}

impl Entry {
    /// Makes an entry without attributes.
    pub fn new(name: impl Into<String>, inode: Inode, kind: Kind) -> Self {
        Self { name: name.into(), inode, kind, attr: None }
    }
}

/// An open file whose reads may have to wait.
pub trait Stream: Send + Sync {
    /// Gives what there is for the reader, up to `max` bytes; `None` if the reader has to wait.
    ///
    /// # Errors
    /// The first read may be refused, as what it asks for may be.
    fn read(&self, caller: &Caller, max: usize) -> Result<Option<Vec<u8>>, Refusal>;

    /// Says whether a read would not wait.
    fn is_ready(&self) -> bool;

    /// Is called once, when the last descriptor of the open file is closed.
    fn close(&self);
}

/// What there is to tell whoever waits with `poll(2)` on a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// Nothing.
    None,
    /// What was waited for has happened: POLLPRI.
    Event,
    /// The value has changed since it was read: POLLPRI and POLLERR, as for the files of cgroups.
    Changed,
}

/// An open value that may be waited for.
pub trait Watched: Send + Sync {
    /// Takes what the open file is told, which is no value.
    ///
    /// # Errors
    /// Any; then nothing has changed.
    fn write(&self, caller: &Caller, value: &[u8]) -> Result<(), Refusal>;

    /// Says what there is to tell now, and waits for more.
    fn poll(&self) -> Urgency;

    /// Says whether there is something to tell.
    fn is_due(&self) -> bool;

    /// Is called when the value was read.
    fn was_read(&self);
}

/// How a file is open.
pub enum Opened {
    /// A value: read as a whole, written as a whole.
    Value,
    /// A stream.
    Stream(Arc<dyn Stream>),
    /// A value that may be waited for.
    Watched(Arc<dyn Watched>),
}

fn not_there<T>() -> Result<T, Refusal> {
    Err(Refusal::new(Why::Missing, "no such entry"))
}

fn not_allowed<T>(what: &str) -> Result<T, Refusal> {
    Err(Refusal::new(Why::NotAllowed, what))
}

/// A part of the tree. `u64` arguments are the local part of an inode of this room.
///
/// The kernel has checked modes and owners ([`Room::stat`]) before anything else is called; what they do not tell, the room checks
/// itself. All calls may come from several threads at once.
pub trait Room: Send + Sync {
    /// Gives what `stat` shows.
    ///
    /// # Errors
    /// ENOENT if the entry is gone.
    fn stat(&self, node: u64) -> Result<Attr, Refusal>;

    /// Says how long the kernel may remember the entry and what `stat` shows of it.
    fn ttl(&self, _node: u64) -> Duration {
        TTL
    }

    /// Says how long the kernel may remember that a directory has no entry of some name.
    fn missing_ttl(&self, _dir: u64) -> Duration {
        Duration::ZERO
    }

    /// Says whether reading (or writing, renaming or removing, if `is_change`) this entry may take longer than the seconds that a worker may take to
    /// answer.
    fn is_slow(&self, _node: u64, _is_change: bool) -> bool {
        false
    }

    /// Names the entry for messages, from the top of the tree.
    fn path(&self, node: u64) -> String;

    /// Finds an entry.
    ///
    /// # Errors
    /// ENOENT.
    fn lookup(&self, _dir: u64, _name: &OsStr) -> Result<Inode, Refusal> {
        not_there()
    }

    /// Lists a directory, `.` and `..` left out.
    ///
    /// # Errors
    /// ENOENT if it is gone.
    fn list(&self, _dir: u64) -> Result<Vec<Entry>, Refusal> {
        not_there()
    }

    /// Gives a link's text, which the kernel remembers as long as the inode.
    ///
    /// # Errors
    /// Any.
    fn readlink(&self, _link: u64, _caller: &Caller) -> Result<String, Refusal> {
        not_there()
    }

    /// Opens a file.
    ///
    /// # Errors
    /// Any.
    fn open(&self, _file: u64, _caller: &Caller) -> Result<Opened, Refusal> {
        Ok(Opened::Value)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// ESRCH or ENOENT if what it tells of is gone.
    fn read(&self, _file: u64, _caller: &Caller) -> Result<String, Refusal> {
        not_there()
    }

    /// Writes a value.
    ///
    /// # Errors
    /// Any; then nothing has changed.
    fn write(&self, _file: u64, _caller: &Caller, _value: &[u8]) -> Result<(), Refusal> {
        not_allowed("this file cannot be written")
    }

    /// Says whether a file that is cut (`: > FILE`) and not written has an empty value from then on. Cutting alone changes no other.
    fn is_emptied_by_cutting(&self, _file: u64) -> bool {
        false
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Any; then nothing has changed.
    fn mkdir(&self, _dir: u64, _name: &OsStr, _caller: &Caller) -> Result<Inode, Refusal> {
        not_allowed("directories are made among groups only")
    }

    /// Removes a directory.
    ///
    /// # Errors
    /// Any; then nothing has changed.
    fn rmdir(&self, _dir: u64, _name: &OsStr, _caller: &Caller) -> Result<(), Refusal> {
        not_allowed("this directory cannot be removed")
    }

    /// Moves an entry to another directory of this room.
    ///
    /// # Errors
    /// Any; then nothing has changed.
    fn rename(&self, _caller: &Caller, _from: u64, _to: u64, _name: &OsStr) -> Result<(), Refusal> {
        not_allowed("only processes are moved, and only between groups")
    }

    /// Says why nothing is moved into this room from another one, or out of it.
    fn apart(&self) -> Option<Refusal> {
        None
    }

    /// Gives an entry to another owner.
    ///
    /// # Errors
    /// Any; then nothing has changed.
    fn chown(
        &self,
        _node: u64,
        _caller: &Caller,
        _uid: Option<u32>,
        _gid: Option<u32>,
    ) -> Result<(), Refusal> {
        not_allowed("only a group has an owner of its own")
    }
}
