//! Members that leave: everything of theirs is brought back.

use super::Worker;
use super::members::{Kind, Refused, refused};
use crate::{Nanos, SpaceId, Vpn};

/// So often nothing may come of asking for the next page that is to be brought back.
const IDLE_MAX: u32 = 10_000;

impl Worker {
    /// Lets a process go, everything brought back.
    pub(super) fn leave(&mut self, pid: i32, now: u64) -> Result<(), Refused> {
        let Some(member) = self.members.get(&pid) else {
            return refused(libc::ESRCH, "no member of this group");
        };
        if let Kind::Sharing(_) = member.kind {
            return refused(libc::EBUSY, "the process has another's address space, as after vfork");
        }
        if let Kind::Managed(id) = member.kind {
            if self.members.values().any(|m| m.kind == Kind::Sharing(id)) {
                return refused(libc::EBUSY, "another process has its address space, as after vfork");
            }
            self.bring_back(id, now)?;
            if let Some(mut space) = self.spaces.remove(&id) {
                if let Err(error) = space.release() {
                    tracing::warn!(pid, %error, "something of ours stays in an address space");
                }
                self.journal.clear_space(usize::from(id.0));
            }
            self.drop_space(id);
        }
        self.members.remove(&pid);
        // Those who go on being watched by events that it passed on get their own.
        self.sensor.forget(pid);
        let orphans: Vec<i32> = self.members.iter().filter(|(_, m)| m.root == pid).map(|(p, _)| *p).collect();
        for orphan in orphans {
            if self.sensor.watch(orphan).is_ok()
                && let Some(member) = self.members.get_mut(&orphan)
            {
                member.root = orphan;
            }
        }
        Ok(())
    }

    /// Brings every page of a space back, and gives up what is there: the host pages it from now on.
    fn bring_back(&mut self, id: SpaceId, now: u64) -> Result<(), Refused> {
        let refuse =
            |e: crate::VmError| (libc::ENOMEM, format!("the process's memory cannot be brought back: {e}"));
        let mut residents = Vec::new();
        let mut restores = Vec::new();
        loop {
            // What is in place needs no frame of ours any more.
            let mut from = Vpn(0);
            loop {
                self.vm.residents(id, from, 256, &mut residents).map_err(refuse)?;
                let Some(last) = residents.last() else { break };
                from = Vpn(last.vpn.0 + 1);
                for page in &residents {
                    let _ = self.vm.unmap(id, page.vpn, 1);
                }
            }
            let mut from = Some(Vpn(0));
            let mut any = false;
            let mut idle = 0;
            while let Some(at) = from {
                self.comes_round(host_sys::process::now());
                from = match self.vm.swapped_in(id, at, 32, &mut restores) {
                    Ok(next) => next,
                    Err(crate::VmError::NoFrames) => {
                        if !self.make_room(32, Nanos(now)) {
                            return refused(
                                libc::ENOMEM,
                                "there is no frame to bring the process's memory back through",
                            );
                        }
                        Some(at)
                    }
                    Err(error) => return Err(refuse(error)),
                };
                // Something is under way with the next page: it has to end first.
                idle = if restores.is_empty() { idle + 1 } else { 0 };
                if idle > IDLE_MAX {
                    return refused(libc::EBUSY, "a page of the process does not come to rest");
                }
                if restores.is_empty() && from.is_some() {
                    self.finish_writes(true);
                }
                for restore in std::mem::take(&mut restores) {
                    any = true;
                    let vpn = restore.load.vpn;
                    self.restore(restore);
                    let _ = self.vm.unmap(id, vpn, 1);
                }
                self.take_released();
                self.on_messages(id);
                self.serve_faults(Nanos(now));
            }
            if !any {
                return Ok(());
            }
        }
    }
}
