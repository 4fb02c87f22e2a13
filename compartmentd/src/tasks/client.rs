//! One connection of an application.

use std::fs::File;
use std::io;
use std::sync::Arc;

use guest_task::layout::{self, SlotView};
use guest_task::wire::ToApplication;
use guest_task::{Action, Event, TaskId};
use host_sys::SeqPacket;
use parking_lot::RwLock;

use super::table;
use crate::errno::{Refusal, Why};

/// A connection whose application has handed its table over.
#[derive(Debug)]
pub struct Client {
    /// The application's process.
    pub pid: i32,
    /// Its user, as the socket says.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    socket: Arc<SeqPacket>,
    segments: RwLock<Vec<File>>,
}

impl Client {
    pub(super) fn new((pid, uid, gid): (i32, u32, u32), socket: Arc<SeqPacket>, first: File) -> Self {
        Self { pid, uid, gid, socket, segments: RwLock::new(vec![first]) }
    }

    pub(super) fn add_segment(&self, file: File) {
        self.segments.write().push(file);
    }

    pub(super) fn nr_segments(&self) -> usize {
        self.segments.read().len()
    }

    fn segment<T>(&self, slot: u32, read: impl FnOnce(&File, usize) -> io::Result<T>) -> Option<T> {
        if slot == 0 || slot >= layout::SLOTS_MAX {
            return None;
        }
        let (index, at) = layout::locate(slot);
        read(self.segments.read().get(index)?, at).ok()
    }

    /// Reads a task's slot, if it is still that task's.
    pub fn view(&self, slot: u32, id: u64) -> Option<SlotView> {
        self.segment(slot, table::read_slot).flatten().filter(|view| view.id == id)
    }

    /// Gives the identity of the task that a slot holds now.
    pub fn id_now(&self, slot: u32) -> Option<u64> {
        self.segment(slot, table::read_id).filter(|id| layout::is_live(*id))
    }

    /// Lists the tasks there are.
    pub fn live_slots(&self) -> Vec<(u32, u64)> {
        table::live_slots(&self.segments.read())
    }

    /// Tells how many slots it says that it ever used.
    pub fn nr_used(&self) -> u32 {
        table::nr_used(&self.segments.read())
    }

    /// Reads all tasks there are.
    pub fn live_views(&self) -> Vec<(u32, SlotView)> {
        table::live_views(&self.segments.read())
    }

    /// Tells the application what somebody wants of a task. Does not wait for it.
    ///
    /// # Errors
    /// EAGAIN if it has not taken many earlier ones; ESRCH if it is gone.
    pub fn send(&self, slot: u32, id: u64, action: Action) -> Result<(), Refusal> {
        let task = TaskId::from_word((id >> 1) << 32 | u64::from(slot));
        let message = ToApplication::Event(Event { task, action }).encode();
        self.socket.try_send(&message).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => {
                Refusal::new(Why::Other(libc::EAGAIN), "the application does not take what is sent to it")
            }
            _ => Refusal::new(Why::NoProcess, "the application is gone"),
        })
    }

    pub(super) fn socket(&self) -> &SeqPacket {
        &self.socket
    }
}
