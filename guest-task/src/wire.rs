//! The messages between application and daemon: one packet each, words of 32 bits in the machine's byte order.
//!
//! ```text
//! application                              daemon
//!   HELLO version, segments       ->
//!   SEGMENT 0 + descriptor        ->
//!                                 <-       WELCOME version, most slots        or  REFUSED version, why; then it hangs up
//!   SEGMENT 1 + descriptor        ->       as the table grows, in order
//!                                 <-       EVENT task, what
//! ```
//! The first three words of HELLO, WELCOME and REFUSED (magic, kind, version) are the same in all versions.

use crate::events::{Action, Event};
use crate::task::TaskId;

/// The version of messages and table.
pub const VERSION: u32 = 1;
/// The longest message.
pub const MESSAGE_MAX: usize = 256;

const MAGIC: u32 = u32::from_ne_bytes(*b"cmpt");
const HELLO: u32 = 1;
const SEGMENT: u32 = 2;
const WELCOME: u32 = 3;
const REFUSED: u32 = 4;
const EVENT: u32 = 5;

const SIGNAL: u32 = 1;
const NICE: u32 = 2;

/// What is wrong with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// It is none of ours.
    Foreign,
    /// It has a length that its kind does not have.
    Length,
    /// It says something that it may not.
    Value,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Foreign => "not a message of guest tasks",
            Self::Length => "a message of a wrong length",
            Self::Value => "a message with a wrong value",
        })
    }
}

impl std::error::Error for WireError {}

/// From the application.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToDaemon {
    /// The first message.
    Hello {
        /// The application's version.
        version: u32,
    },
    /// A part of the table; a descriptor comes with it.
    Segment {
        /// Which.
        index: u32,
    },
}

/// From the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToApplication {
    /// The table is taken.
    Welcome {
        /// The daemon's version.
        version: u32,
        /// How many slots the daemon looks at.
        slots_max: u32,
    },
    /// It is not, and the daemon hangs up.
    Refused {
        /// The daemon's version.
        version: u32,
        /// Why.
        reason: String,
    },
    /// Somebody wants something.
    Event(Event),
}

fn encode(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// The words after the magic; what is left over at the end is no whole word.
fn decode(bytes: &[u8]) -> Result<(u32, Vec<u32>, &[u8]), WireError> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    let mut words = chunks.iter().map(|chunk| u32::from_ne_bytes(*chunk));
    match (words.next(), words.next()) {
        (Some(MAGIC), Some(kind)) if bytes.len() <= MESSAGE_MAX => Ok((kind, words.collect(), rest)),
        _ => Err(WireError::Foreign),
    }
}

impl ToDaemon {
    /// Gives the bytes.
    pub fn encode(&self) -> Vec<u8> {
        match *self {
            Self::Hello { version } => encode(&[MAGIC, HELLO, version]),
            Self::Segment { index } => encode(&[MAGIC, SEGMENT, index]),
        }
    }

    /// Reads the bytes. A HELLO of another version may be longer.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (kind, words, rest) = decode(bytes)?;
        match (kind, &words[..], rest) {
            (HELLO, [version, ..], _) if *version != VERSION => Ok(Self::Hello { version: *version }),
            (HELLO, [version], []) => Ok(Self::Hello { version: *version }),
            (SEGMENT, [index], []) if (*index as usize) < crate::layout::SEGMENTS => {
                Ok(Self::Segment { index: *index })
            }
            (SEGMENT, [_], []) => Err(WireError::Value),
            (HELLO | SEGMENT, ..) => Err(WireError::Length),
            _ => Err(WireError::Foreign),
        }
    }
}

impl ToApplication {
    /// Gives the bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Welcome { version, slots_max } => encode(&[MAGIC, WELCOME, *version, *slots_max]),
            Self::Refused { version, reason } => {
                let mut bytes = encode(&[MAGIC, REFUSED, *version]);
                let room = MESSAGE_MAX - bytes.len();
                bytes.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(room)]);
                bytes
            }
            Self::Event(Event { task, action }) => {
                let word = task.word();
                let (what, value) = match *action {
                    Action::Signal(number) => (SIGNAL, number),
                    Action::Nice(nice) => (NICE, i32::from(nice)),
                };
                encode(&[MAGIC, EVENT, word as u32, (word >> 32) as u32, what, value.cast_unsigned()])
            }
        }
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (kind, words, rest) = decode(bytes)?;
        match (kind, &words[..], rest) {
            (WELCOME, [version, slots_max], []) => {
                Ok(Self::Welcome { version: *version, slots_max: *slots_max })
            }
            (REFUSED, [version, ..], _) => Ok(Self::Refused {
                version: *version,
                reason: String::from_utf8_lossy(&bytes[12..]).into_owned(),
            }),
            (EVENT, [slot, birth, what, value], []) => {
                let task = TaskId::from_word(u64::from(*birth) << 32 | u64::from(*slot));
                let action = match (*what, value.cast_signed()) {
                    (SIGNAL, number @ 1..=64) => Action::Signal(number),
                    (NICE, nice @ -20..=19) => Action::Nice(nice as i8),
                    _ => return Err(WireError::Value),
                };
                Ok(Self::Event(Event { task, action }))
            }
            (WELCOME | REFUSED | EVENT, ..) => Err(WireError::Length),
            _ => Err(WireError::Foreign),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        for message in [
            ToDaemon::Hello { version: VERSION },
            ToDaemon::Hello { version: 9 },
            ToDaemon::Segment { index: 11 },
        ] {
            assert_eq!(ToDaemon::decode(&message.encode()), Ok(message));
        }
        let task = TaskId::from_word(7 << 32 | 33);
        for message in [
            ToApplication::Welcome { version: 1, slots_max: 5 },
            ToApplication::Refused { version: 2, reason: "too old".into() },
            ToApplication::Event(Event { task, action: Action::Signal(15) }),
            ToApplication::Event(Event { task, action: Action::Nice(-20) }),
        ] {
            assert_eq!(ToApplication::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn truncated_or_foreign_messages_are_errors() {
        let hello = ToDaemon::Hello { version: VERSION }.encode();
        for len in 0..hello.len() {
            assert!(ToDaemon::decode(&hello[..len]).is_err(), "{len}");
        }
        assert_eq!(ToDaemon::decode(&ToDaemon::Segment { index: 12 }.encode()), Err(WireError::Value));
        assert_eq!(ToDaemon::decode(b"GET / HTTP/1.1\r\n"), Err(WireError::Foreign));
        assert_eq!(ToDaemon::decode(&[&hello[..], &[0; 4]].concat()), Err(WireError::Length));
    }

    #[test]
    fn long_reasons_fit_into_a_message() {
        let message = ToApplication::Refused { version: 1, reason: "ä".repeat(500) }.encode();

        assert!(message.len() <= MESSAGE_MAX);
        assert!(matches!(ToApplication::decode(&message), Ok(ToApplication::Refused { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = ToDaemon::decode(&bytes);
            let _ = ToApplication::decode(&bytes);
            let mut ours = MAGIC.to_ne_bytes().to_vec();
            ours.extend_from_slice(&bytes);
            let _ = ToDaemon::decode(&ours);
            let _ = ToApplication::decode(&ours);
        }
    }
}
