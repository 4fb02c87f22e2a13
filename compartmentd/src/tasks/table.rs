//! Reading a table that its application writes at the same time, and that may be anything.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{Ordering, fence};

use guest_task::layout::{
    self, FIRST_SLOTS, ID_AT, MAGIC, SEQ_AT, SLOT_BYTES, SlotView, is_live, segment_slots, segment_start,
};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};

/// How often a slot is looked at that changes all the time. An application that stands still in the middle of a change gets no more: what is
/// there then is shown as it is.
const TRIES: usize = 16;
/// Slots read at once when all are looked for.
const CHUNK: usize = 1_024;

/// Checks that a descriptor is a table's file: memory of the kind that cannot shrink, of exactly the size of segment `index`.
///
/// # Errors
/// What is wrong, for the application.
pub fn check_segment(file: &File, index: usize) -> Result<(), &'static str> {
    // First: it is refused by every other kind of file without asking whoever serves it.
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).map_err(|_| "a segment is a memfd")?;
    let needed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    if !SealFlag::from_bits_retain(seals).contains(needed) {
        return Err("a segment is sealed against growing and shrinking");
    }
    let kind = nix::sys::statfs::fstatfs(file).map_err(|_| "a segment is a memfd")?.filesystem_type();
    if kind != nix::sys::statfs::TMPFS_MAGIC {
        return Err("a segment is of ordinary pages");
    }
    let len = u64::from(segment_slots(index)) * SLOT_BYTES as u64;
    if file.metadata().map_or(0, |meta| meta.len()) != len {
        return Err("a segment has the size that its number says");
    }
    let mut head = [0; 8];
    file.read_exact_at(&mut head, 0).map_err(|_| "a segment can be read")?;
    if index == 0 && u64::from_ne_bytes(head) != MAGIC {
        return Err("the first segment begins with the table's mark");
    }
    Ok(())
}

fn word(file: &File, at: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Reads one slot of a segment; `None` if it holds no task. At most 16 looks, each of three reads.
///
/// # Errors
/// Those of reading; none for a file that [`check_segment`] has let pass.
pub fn read_slot(file: &File, at: usize) -> io::Result<Option<SlotView>> {
    let start = (at * SLOT_BYTES) as u64;
    let mut slot = [0; SLOT_BYTES];
    for _ in 0..TRIES {
        let before = word(file, start + SEQ_AT as u64)?;
        fence(Ordering::Acquire);
        file.read_exact_at(&mut slot, start)?;
        fence(Ordering::Acquire);
        if before & 1 == 0 && word(file, start + SEQ_AT as u64)? == before {
            break;
        }
        std::hint::spin_loop();
    }
    Ok(layout::parse(&slot))
}

/// Reads the identity word of one slot.
///
/// # Errors
/// Those of reading.
pub fn read_id(file: &File, at: usize) -> io::Result<u64> {
    word(file, (at * SLOT_BYTES + ID_AT) as u64)
}

/// Lists the slots that hold a task, with their identities: one pass over what the application says it ever used.
pub fn live_slots(segments: &[File]) -> Vec<(u32, u64)> {
    let used = nr_used(segments);
    let mut live = Vec::new();
    let mut chunk = vec![0; CHUNK * SLOT_BYTES];
    for (index, file) in segments.iter().enumerate() {
        let first = segment_start(index);
        for start in (first..first + segment_slots(index)).step_by(CHUNK).take_while(|start| *start < used) {
            let at = u64::from(start - first) * SLOT_BYTES as u64;
            if file.read_exact_at(&mut chunk, at).is_err() {
                return live;
            }
            let (slots, _) = chunk.as_chunks::<SLOT_BYTES>();
            live.extend((start..used).zip(slots).filter_map(|(number, slot)| {
                let id = u64::from_ne_bytes(slot[ID_AT..ID_AT + 8].first_chunk().copied()?);
                // Slot 0 is the head.
                (is_live(id) && number != 0).then_some((number, id))
            }));
        }
    }
    live
}

/// Reads all tasks, each as [`read_slot`] does, but many at once.
pub fn live_views(segments: &[File]) -> Vec<(u32, SlotView)> {
    let mut views = Vec::new();
    let mut copies = [(); 3].map(|()| vec![0; CHUNK * SLOT_BYTES]);
    let used = nr_used(segments);
    for (index, file) in segments.iter().enumerate() {
        let first = segment_start(index);
        for start in (first..first + segment_slots(index)).step_by(CHUNK).take_while(|start| *start < used) {
            let at = u64::from(start - first) * SLOT_BYTES as u64;
            // The sequences of the first copy were there before, those of the last one after all of the second was read.
            for copy in &mut copies {
                if file.read_exact_at(copy, at).is_err() {
                    return views;
                }
                fence(Ordering::Acquire);
            }
            let [before, slots, after] = copies.each_ref().map(|copy| copy.as_chunks::<SLOT_BYTES>().0);
            for (i, (number, slot)) in (start..used).zip(slots).enumerate() {
                let seq =
                    |copy: &[[u8; SLOT_BYTES]]| copy[i].first_chunk::<8>().map(|b| u64::from_ne_bytes(*b));
                let is_whole = seq(before) == seq(after) && seq(before).is_some_and(|seq| seq & 1 == 0);
                let view = match is_whole {
                    true => layout::parse(slot),
                    false => read_slot(file, (number - first) as usize).ok().flatten(),
                };
                views.extend(view.filter(|_| number != 0).map(|view| (number, view)));
            }
        }
    }
    views
}

/// How many slots the application says that it ever used, as far as there are so many.
pub fn nr_used(segments: &[File]) -> u32 {
    let nr_slots: u32 = (0..segments.len()).map(segment_slots).sum();
    let used = segments.first().and_then(|first| word(first, 8).ok()).unwrap_or(0);
    u32::try_from(used).unwrap_or(u32::MAX).min(nr_slots)
}

const _: () = assert!(SEQ_AT == 0);
const _: () = assert!((FIRST_SLOTS as usize).is_multiple_of(CHUNK));

#[cfg(test)]
mod tests {
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    fn segment(seals: SealFlag) -> File {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"test", flags).expect("memory"));
        file.set_len(u64::from(FIRST_SLOTS) * SLOT_BYTES as u64).expect("memory");
        file.write_all_at(&MAGIC.to_ne_bytes(), 0).expect("memory");
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("sealed");
        file
    }

    fn good() -> File {
        segment(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)
    }

    #[test]
    fn file_that_is_no_segment_is_refused() {
        assert_eq!(check_segment(&good(), 0), Ok(()));
        assert!(check_segment(&good(), 1).is_err(), "wrong size");
        assert!(check_segment(&segment(SealFlag::F_SEAL_GROW), 0).is_err(), "can shrink");
        assert!(check_segment(&File::open("/proc/self/exe").expect("a file"), 0).is_err());
        assert!(check_segment(&File::open("/dev/zero").expect("a file"), 0).is_err());
        let no_mark = good();
        no_mark.write_all_at(&[0; 8], 0).expect("memory");
        assert!(check_segment(&no_mark, 0).is_err());
    }

    #[test]
    fn slot_in_the_middle_of_a_change_is_read_in_the_end() {
        let file = good();
        let at = SLOT_BYTES as u64;
        file.write_all_at(&7u64.to_ne_bytes(), at + SEQ_AT as u64).expect("memory");
        file.write_all_at(&3u64.to_ne_bytes(), at + ID_AT as u64).expect("memory");

        assert_eq!(read_slot(&file, 1).expect("a read").map(|view| view.id), Some(3));
        assert_eq!(read_slot(&file, 2).expect("a read"), None);
    }

    #[test]
    fn table_that_claims_more_than_it_has_is_read_to_its_end() {
        let file = good();
        file.write_all_at(&u64::MAX.to_ne_bytes(), 8).expect("memory");
        let last = FIRST_SLOTS as usize - 1;
        for slot in [0, 1, last] {
            file.write_all_at(&5u64.to_ne_bytes(), (slot * SLOT_BYTES + ID_AT) as u64).expect("memory");
        }
        file.write_all_at(&u64::MAX.to_ne_bytes(), 8).expect("memory");

        let segments = [file];
        assert_eq!(live_slots(&segments), [(1, 5), (last as u32, 5)]);
        let views: Vec<_> = live_views(&segments).into_iter().map(|(slot, view)| (slot, view.id)).collect();
        assert_eq!(views, [(1, 5), (last as u32, 5)]);
        assert!(live_slots(&[]).is_empty() && live_views(&[]).is_empty());
    }
}
