//! The table as it lies in memory: segments of slots, each slot 32 words of 64 bits in the machine's byte order.
//!
//! ```text
//! word   0      sequence: odd while the texts are written
//!        1      identity: birth << 1 | live. A slot that is used again has another birth
//!        2      state          3  nice           4  signals it takes, bit n-1 for signal n
//!        5      start, ns      6  CPU time, ns   7  memory, bytes
//!        8      lengths of name, owner, command line: 8 bits each; bit 24: takes another nice
//!        9      parent: birth << 32 | slot; PID << 32 for one of another application; 0 is the application itself
//!        10-13  name           14-17  owner      18-31  command line
//! ```
//! Words 2 to 7 are changed singly, by single stores; the rest, and a new identity, only under an odd sequence. Retiring stores word 1.
//!
//! Slot 0 is no task: word 0 is [`MAGIC`], word 1 the number of slots that were ever used.
//!
//! A reader has to expect anything: [`parse`] is total, and gives text that is safe to show.

/// Words of a slot.
pub const SLOT_WORDS: usize = 32;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = SLOT_WORDS * 8;
/// The longest name, in bytes.
pub const NAME_BYTES: usize = 32;
/// The longest owner text, in bytes.
pub const OWNER_BYTES: usize = 32;
/// The longest command line, in bytes.
pub const CMDLINE_BYTES: usize = 112;
/// Slots of the first segment; each following one has twice as many as the one before.
pub const FIRST_SLOTS: u32 = 4096;
/// The most segments.
pub const SEGMENTS: usize = 12;
/// All slots of all segments.
pub const SLOTS_MAX: u32 = FIRST_SLOTS * ((1 << SEGMENTS) - 1);
/// Word 0 of slot 0.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"cmptask1");

pub(crate) const SEQ: usize = 0;
pub(crate) const ID: usize = 1;
pub(crate) const STATE: usize = 2;
pub(crate) const NICE: usize = 3;
pub(crate) const ACCEPTS: usize = 4;
pub(crate) const START: usize = 5;
pub(crate) const CPU: usize = 6;
pub(crate) const MEMORY: usize = 7;
pub(crate) const LENGTHS: usize = 8;
pub(crate) const PARENT: usize = 9;
pub(crate) const NAME: usize = 10;
pub(crate) const OWNER: usize = 14;
pub(crate) const CMDLINE: usize = 18;
pub(crate) const TAKES_NICE: u64 = 1 << 24;

/// Where the sequence of a slot lies, in bytes from the slot's start.
pub const SEQ_AT: usize = SEQ * 8;
/// Where the identity of a slot lies, in bytes from the slot's start.
pub const ID_AT: usize = ID * 8;

/// Gives the slots of a segment.
pub const fn segment_slots(segment: usize) -> u32 {
    FIRST_SLOTS << segment
}

/// Gives the segment of a slot, and the slot's number in it. The slot is below [`SLOTS_MAX`].
pub const fn locate(slot: u32) -> (usize, usize) {
    let segment = (slot / FIRST_SLOTS + 1).ilog2();
    let start = FIRST_SLOTS * ((1 << segment) - 1);
    (segment as usize, (slot - start) as usize)
}

/// Gives the first slot of a segment.
pub const fn segment_start(segment: usize) -> u32 {
    FIRST_SLOTS * ((1 << segment) - 1)
}

/// A slot's task as whoever wrote it claims it to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotView {
    /// Identity word: never 0, and another one for the slot's next task.
    pub id: u64,
    /// One of the states; unknown ones read as sleeping.
    pub state: crate::TaskState,
    /// -20 to 19.
    pub nice: i8,
    /// Signals it takes, bit n-1 for signal n.
    pub signals: u64,
    /// Whether it takes another nice.
    pub takes_nice: bool,
    /// When it began, nanoseconds of `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// CPU time used.
    pub cpu_ns: u64,
    /// Memory used.
    pub memory_bytes: u64,
    /// Its parent; none is the application.
    pub parent: Option<crate::TaskId>,
    /// One line.
    pub name: String,
    /// One line.
    pub owner: String,
    /// Arguments separated by zero bytes, or one line; ends with a zero byte unless empty.
    pub cmdline: String,
}

/// Says whether an identity word is that of a living task.
pub const fn is_live(id: u64) -> bool {
    id & 1 == 1
}

/// Gives a word of a copied slot.
fn word(slot: &[u8; SLOT_BYTES], at: usize) -> u64 {
    let (words, _) = slot.as_chunks::<8>();
    u64::from_ne_bytes(words[at])
}

/// Reads the copy of a slot; `None` if it holds no task. The copy was made between two looks at an even, equal sequence.
pub fn parse(slot: &[u8; SLOT_BYTES]) -> Option<SlotView> {
    let id = word(slot, ID);
    if !is_live(id) {
        return None;
    }
    let lengths = word(slot, LENGTHS);
    let text = |at: usize, max: usize, shift: u32| {
        let len = ((lengths >> shift & 0xff) as usize).min(max);
        &slot[at * 8..at * 8 + len]
    };
    let parent = word(slot, PARENT);
    let mut cmdline = clean(text(CMDLINE, CMDLINE_BYTES, 16), true);
    if !cmdline.is_empty() && !cmdline.ends_with('\0') {
        cmdline.push('\0');
    }
    Some(SlotView {
        id,
        state: crate::TaskState::from_word(word(slot, STATE)),
        nice: word(slot, NICE).cast_signed().clamp(-20, 19) as i8,
        signals: word(slot, ACCEPTS),
        takes_nice: lengths & TAKES_NICE != 0,
        start_ns: word(slot, START),
        cpu_ns: word(slot, CPU),
        memory_bytes: word(slot, MEMORY),
        parent: (parent != 0).then(|| crate::TaskId::from_word(parent)),
        name: clean(text(NAME, NAME_BYTES, 0), false),
        owner: clean(text(OWNER, OWNER_BYTES, 8), false),
        cmdline,
    })
}

/// Makes text that can be shown: what is no UTF-8, moves a cursor or reorders a line becomes U+FFFD.
fn clean(bytes: &[u8], keeps_zero: bool) -> String {
    let is_bad = |c: char| {
        (c.is_control() && !(keeps_zero && c == '\0'))
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if is_bad(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_follow_each_other_over_segments() {
        assert_eq!(locate(0), (0, 0));
        assert_eq!(locate(4095), (0, 4095));
        assert_eq!(locate(4096), (1, 0));
        assert_eq!(locate(4096 + 8191), (1, 8191));
        assert_eq!(locate(4096 + 8192), (2, 0));
        assert_eq!(locate(SLOTS_MAX - 1), (SEGMENTS - 1, segment_slots(SEGMENTS - 1) as usize - 1));
        for segment in 0..SEGMENTS {
            assert_eq!(locate(segment_start(segment)), (segment, 0));
        }
    }

    #[test]
    fn text_that_moves_the_cursor_is_replaced() {
        assert_eq!(clean(b"a\x1b[2J\nb\xff\0", false), "a\u{fffd}[2J\u{fffd}b\u{fffd}\u{fffd}");
        assert_eq!(clean("x\0\u{202e}y".as_bytes(), true), "x\0\u{fffd}y");
    }

    proptest! {
        #[test]
        fn any_bytes_as_a_slot_are_read_within_bounds(bytes in prop::array::uniform32(any::<u64>())) {
            let mut slot = [0; SLOT_BYTES];
            for (to, from) in slot.chunks_mut(8).zip(bytes) {
                to.copy_from_slice(&from.to_ne_bytes());
            }
            if let Some(view) = parse(&slot) {
                prop_assert!(is_live(view.id) && (-20..=19).contains(&view.nice));
                prop_assert!(view.name.chars().count() <= NAME_BYTES && !view.name.contains(char::is_control));
                prop_assert!(view.cmdline.chars().count() <= CMDLINE_BYTES + 1);
            }
        }
    }
}
