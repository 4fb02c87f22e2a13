//! The members: they read and write, and change their mappings.

use crate::sim::world::host::{Done, Event, Page, World, wrong};
use crate::table::State;
use crate::types::{Access, Nanos, Outcome, Resolution, SpaceId, Vpn};

impl World {
    /// Faults once; says whether the member may try again, or gets no frame.
    fn fault(&mut self, space: SpaceId, vpn: Vpn, access: Access, finish: bool) -> Done<bool> {
        let mut loads = Vec::new();
        let result = self.call(|vm| vm.fault(space, vpn, access, Nanos(0), &mut loads))?;
        let resolution = Self::must(result)?;
        self.note(|| format!("fault {space:?} {vpn:?} {access:?}: {resolution:?} {loads:?}"));
        match resolution {
            Resolution::Wake => {
                if access != Access::WriteProtected && !self.host.contains_key(&(space, vpn)) {
                    return wrong(format!("{space:?} {vpn:?} should be in place"));
                }
            }
            Resolution::Unprotect | Resolution::Unshare => {
                let frame = self.new_frame();
                let Some(page) = self.host.get_mut(&(space, vpn)) else {
                    return wrong(format!("{space:?} {vpn:?} cannot be unprotected"));
                };
                page.is_protected = false;
                page.frame = frame;
            }
            resolution @ (Resolution::Zero { .. } | Resolution::Load | Resolution::Rescue { .. }) => {
                self.moved_loads.remove(&loads[0].frame);
                if matches!(resolution, Resolution::Rescue { copy: false, .. }) {
                    self.moved_loads.insert(loads[0].frame);
                }
                if finish {
                    for load in loads {
                        self.complete_load(load)?;
                    }
                } else {
                    self.loads.extend(loads);
                }
            }
            Resolution::Wait => self.finish()?,
            Resolution::NeedFrames(n) => {
                self.finish()?;
                self.reclaim(n)?;
            }
            Resolution::OutOfMemory => return Ok(false),
        }
        Ok(true)
    }

    /// Lets a member fault, and leaves what follows for later.
    pub(super) fn touch_later(&mut self, space: SpaceId, vpn: Vpn, is_write: bool) -> Done {
        if !self.host.contains_key(&(space, vpn)) {
            self.fault(space, vpn, if is_write { Access::Write } else { Access::Read }, false)?;
        }
        Ok(())
    }

    /// Lets a member read or write a page, and waits for it.
    pub(super) fn touch(&mut self, space: SpaceId, vpn: Vpn, write: Option<u64>) -> Done {
        for _ in 0..200 {
            let access = match self.host.get_mut(&(space, vpn)) {
                Some(page) if write.is_none() || !page.is_protected => {
                    let expected = self.expected.get(&(space, vpn)).copied().unwrap_or(0);
                    if page.data != expected {
                        return wrong(format!("{space:?} {vpn:?}: {} instead of {expected}", page.data));
                    }
                    if let Some(data) = write {
                        page.data = data;
                        self.expected.insert((space, vpn), data);
                    }
                    return Ok(());
                }
                Some(_) => Access::WriteProtected,
                None if write.is_some() => Access::Write,
                None => Access::Read,
            };
            if !self.fault(space, vpn, access, true)? {
                self.nr_oom += 1;
                return Ok(());
            }
        }
        // Failures may go on for long; but not without them.
        if self.with_failures {
            Ok(())
        } else {
            wrong(format!("{space:?} {vpn:?}: no end; {:?} {:?}", self.config, self.vm.stats()))
        }
    }

    /// A page that is touched before the pool knows its mapping.
    pub(super) fn touch_unseen(&mut self, space: SpaceId, vpn: Vpn, data: u64) -> Done {
        let is_known = self.expected.contains_key(&(space, vpn)) || self.host.contains_key(&(space, vpn));
        let is_loading = self.loads.iter().any(|load| self.vm.destination(load.frame) == Some((space, vpn)));
        let is_free = |pte: crate::table::Pte| pte.state() == State::None && (is_loading || !pte.is_busy());
        if is_known || !self.vm.entry(space, vpn).is_ok_and(is_free) {
            return Ok(());
        }
        let frame = self.new_frame();
        self.host.insert((space, vpn), Page { data, is_protected: false, frame });
        self.expected.insert((space, vpn), data);
        let result = self.call_exceeding(|vm| vm.found(space, vpn, false))?;
        Self::must(result)
    }

    /// Has a change of mappings happen: from now on it is there to be read.
    fn raise(&mut self, event: Event) -> u64 {
        let number = self.next_event;
        self.next_event += 1;
        self.event = Some((number, event));
        number
    }

    /// Hands a change of mappings in.
    fn hand_in(&mut self, event: Event) -> Done {
        let number = self.raise(event);
        self.hand_in_as(number, event)
    }

    fn hand_in_as(&mut self, number: u64, event: Event) -> Done {
        self.note(|| format!("{event:?}"));
        if !self.call(|vm| vm.begin_event(number))? {
            return wrong("a new event is taken for an old one");
        }
        self.apply(event)?;
        self.call(crate::Vm::end_event)?;
        self.event = None;
        Ok(())
    }

    pub(super) fn apply(&mut self, event: Event) -> Done {
        let result = self.call(|vm| match event {
            Event::Unmap { space, first, nr } => vm.unmap(space, first, nr),
            Event::Remap { space, from, to, nr } => vm.remap(space, from, to, nr),
            Event::Fork { parent, child } => vm.fork(parent, child),
            Event::Exit { space } => match vm.remove_space(space) {
                Err(crate::VmError::NoSuchSpace(_)) => Ok(()),
                result => result,
            },
        })?;
        Self::must(result)?;
        self.after_event(event);
        Ok(())
    }

    /// What the driver does when an event was applied.
    pub(super) fn after_event(&mut self, event: Event) {
        if let Event::Fork { parent, child } = event {
            for ((space, _), page) in &mut self.host {
                page.is_protected |= *space == parent || *space == child;
            }
        }
    }

    pub(super) fn unmap(&mut self, space: SpaceId, first: Vpn, nr: u64) -> Done {
        let range = (space, first)..(space, Vpn(first.0 + nr));
        self.host.retain(|key, _| !range.contains(key));
        self.expected.retain(|key, _| !range.contains(key));
        self.hand_in(Event::Unmap { space, first, nr })
    }

    pub(super) fn remap(&mut self, space: SpaceId, from: Vpn, to: Vpn, nr: u64) -> Done {
        if from.0 < to.0 + nr && to.0 < from.0 + nr {
            return Ok(());
        }
        let target = (space, to)..(space, Vpn(to.0 + nr));
        self.host.retain(|key, _| !target.contains(key));
        self.expected.retain(|key, _| !target.contains(key));
        for i in 0..nr {
            let (old, new) = ((space, Vpn(from.0 + i)), (space, Vpn(to.0 + i)));
            if let Some(page) = self.host.remove(&old) {
                self.host.insert(new, page);
            }
            if let Some(data) = self.expected.remove(&old) {
                self.expected.insert(new, data);
            }
        }
        self.hand_in(Event::Remap { space, from, to, nr })
    }

    pub(super) fn fork(&mut self, parent: SpaceId, child: SpaceId) -> Done {
        if self.spaces.contains(&child) || self.spaces.len() >= 6 {
            return Ok(());
        }
        let copies: Vec<_> =
            self.host.iter().filter(|((s, _), _)| *s == parent).map(|(k, p)| (k.1, *p)).collect();
        self.host.extend(copies.into_iter().map(|(vpn, page)| ((child, vpn), page)));
        let copies: Vec<_> =
            self.expected.iter().filter(|((s, _), _)| *s == parent).map(|(k, d)| (k.1, *d)).collect();
        self.expected.extend(copies.into_iter().map(|(vpn, data)| ((child, vpn), data)));
        self.spaces.push(child);
        // What was done before is told, what was not is begun anew.
        let number = self.raise(Event::Fork { parent, child });
        self.tell_moves()?;
        self.tell_loads()?;
        while let Some(load) = self.loads.pop() {
            let result = self.call(|vm| vm.installed(load.frame, Outcome::Again))?;
            Self::must(result)?;
        }
        while let Some(write) = self.writes.pop() {
            self.complete_write(write)?;
        }
        self.hand_in_as(number, Event::Fork { parent, child })
    }

    pub(super) fn exit(&mut self, space: SpaceId) -> Done {
        if self.spaces.len() < 2 {
            return Ok(());
        }
        self.spaces.retain(|other| *other != space);
        self.host.retain(|(other, _), _| *other != space);
        self.expected.retain(|(other, _), _| *other != space);
        self.hand_in(Event::Exit { space })
    }
}
