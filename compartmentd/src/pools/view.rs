//! A mem_group as its worker published it.

use std::collections::HashMap;

use guest_mm::uffd::table::{MemSnapshot, MemStat, MemberStat};

use crate::groups::Members;

/// Counters and members.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemView {
    /// Counters.
    pub stat: MemStat,
    /// Members by PID.
    pub members: HashMap<i32, MemberStat>,
}

impl From<MemSnapshot> for MemView {
    fn from(snapshot: MemSnapshot) -> Self {
        let members = snapshot.members.into_iter().map(|m| (m.pid, m)).collect();
        Self { stat: snapshot.stat, members }
    }
}

impl Members for MemView {
    fn members(&self) -> Vec<(i32, u64)> {
        self.members.values().map(|m| (m.pid, m.start_time)).collect()
    }

    fn start_time(&self, pid: i32) -> Option<u64> {
        self.members.get(&pid).map(|m| m.start_time)
    }
}
