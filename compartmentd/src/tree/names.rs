//! Which names groups may have, and which entries are processes.

use std::ffi::OsStr;

use crate::errno::{Refusal, Why};

/// The longest name of a group, in bytes.
pub const NAME_MAX: usize = 64;

/// Checks the name of a lasting group: UTF-8, at most [`NAME_MAX`] bytes, no white space and no control characters, not
/// all digits (those name groups made by reading), nothing that reads as an option or a hidden file.
///
/// # Errors
/// EINVAL with what is wrong.
pub fn parse_group_name(name: &OsStr) -> Result<&str, Refusal> {
    let bad = |what: &str| Err(Refusal::new(Why::Malformed, format!("a group's name {what}")));
    let Some(text) = name.to_str() else { return bad("is UTF-8") };
    if text.is_empty() || text.len() > NAME_MAX {
        return bad("has 1 to 64 bytes");
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return bad("is not all digits");
    }
    if text.starts_with(['-', '.']) {
        return bad("does not begin with - or .");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || is_odd(c)) {
        return bad("has no white space, control characters, = / \\ or quotes");
    }
    Ok(text)
}

fn is_odd(c: char) -> bool {
    // The last two ranges: marks that reorder or hide text on a terminal.
    matches!(c, '=' | '/' | '\\' | '"' | '\'' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Reads a PID as it is written in the tree: decimal, without sign or leading zero.
pub fn parse_pid(name: &OsStr) -> Option<i32> {
    let text = name.to_str()?;
    let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn group_names_that_are_fine_are_taken() {
        for name in ["web", "a", "make-j8", "Büro_2", "x.y:z", "9lives"] {
            assert_eq!(parse_group_name(OsStr::new(name)), Ok(name));
        }
    }

    #[test]
    fn group_names_that_are_odd_are_malformed() {
        let long = "x".repeat(65);
        for name in ["", "12", "a b", "a\n", "-rf", ".x", "..", "a\u{7}", "a=b", "q\"", "a\u{202e}b", &long] {
            assert_eq!(
                parse_group_name(OsStr::new(name)).map_err(|e| e.errno()),
                Err(libc::EINVAL),
                "{name:?}"
            );
        }
        assert!(parse_group_name(OsStr::from_bytes(b"a\xff")).is_err());
    }

    #[test]
    fn pids_are_plain_numbers() {
        assert_eq!(parse_pid(OsStr::new("293")), Some(293));
        for name in ["", "0", "007", "+1", "-1", "1 ", "99999999999", "x"] {
            assert_eq!(parse_pid(OsStr::new(name)), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_as_a_name_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_group_name(OsStr::from_bytes(&bytes));
            let _ = parse_pid(OsStr::from_bytes(&bytes));
        }
    }
}
