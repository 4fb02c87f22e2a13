//! Why the control tree refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{GroupName, Tree};
use crate::exit::{Exit, describe, exit_of};

/// A failed operation on the control tree.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    /// There is no tree, or nobody serves it.
    #[error("no control tree at {}: {why} (start compartmentd, or name another by --mount)", .root.display())]
    Unreachable {
        /// Where it should be.
        root: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is no such group.
    #[error("no group {0}")]
    NoGroup(GroupName),
    /// The name stands for a group in the other half of the tree only.
    #[error("{name} has no {part}")]
    NoPart {
        /// The name.
        name: GroupName,
        /// What it does not have.
        part: &'static str,
    },
    /// There is no such process or guest task.
    #[error("no process or guest task {0}")]
    NoTask(i32),
    /// An operation failed.
    #[error("cannot {op} {}: {}{}", .path.display(), describe(.source), reason_in_words(.reason))]
    Io {
        /// The operation.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
        /// Why, from the tree's `error_log`.
        reason: Option<String>,
    },
}

fn reason_in_words(reason: &Option<String>) -> String {
    reason.as_ref().map_or_else(String::new, |words| format!(" ({words})"))
}

impl TreeError {
    /// An operation that failed, and that the tree keeps no record of.
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { op, path: path.to_owned(), source, reason: None }
    }

    /// An operation that the tree refused: looks for its reason.
    pub(crate) fn refused(tree: &Tree, op: &'static str, path: &Path, source: io::Error) -> Self {
        // A server that has died has no log either, and EROFS and the like did not come from it.
        let reason = (exit_of(&source) != Exit::Unreachable).then(|| logged_reason(tree)).flatten();
        Self::Io { op, path: path.to_owned(), source, reason }
    }

    /// Gives the exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Io { source, .. } => exit_of(source),
            Self::NoGroup(_) | Self::NoPart { .. } | Self::NoTask(_) => Exit::Failed,
        }
    }

    /// Whether the process is gone, which is no failure where many are handled.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::NoTask(_) => true,
            Self::Io { source, .. } => {
                matches!(source.raw_os_error().map(Errno::from_raw), Some(Errno::ESRCH | Errno::ENOENT))
            }
            _ => false,
        }
    }
}

/// The reason in the newest line of `error_log` that is about this process.
fn logged_reason(tree: &Tree) -> Option<String> {
    let log = fs::read_to_string(tree.root().join("error_log")).ok()?;
    let own = std::process::id().to_string();
    log.lines()
        .rev()
        .find(|line| field(line, "pid").as_deref() == Some(&own))
        .and_then(|line| field(line, "reason"))
}

/// Takes the value of `key` out of a line of escaped `key=value` pairs.
fn field(line: &str, key: &str) -> Option<String> {
    line.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')).map(unescape)
}

/// Undoes the escapes `\n`, `\t`, `\\`, `\xHH` and the kernel's `\OOO`; anything else stays as it is.
pub(crate) fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let (byte, used) = escape_at(&text[at..]).unwrap_or((bytes[at], 1));
        out.push(byte);
        at += used;
        while !text.is_char_boundary(at) {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn escape_at(text: &str) -> Option<(u8, usize)> {
    let rest = text.strip_prefix('\\')?;
    let first = *rest.as_bytes().first()?;
    match first {
        b'n' => Some((b'\n', 2)),
        b't' => Some((b'\t', 2)),
        b'r' => Some((b'\r', 2)),
        b's' => Some((b' ', 2)),
        b'\\' | b'"' => Some((first, 2)),
        b'x' => Some((u8::from_str_radix(rest.get(1..3)?, 16).ok()?, 4)),
        b'0'..=b'3' => Some((u8::from_str_radix(rest.get(..3)?, 8).ok()?, 4)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_escaped_is_given_in_words() {
        let line = r"time=1 pid=77 path=sched-groups/a/nice value=99\n reason=nice\x20must\040be\x20-20..19";

        assert_eq!(field(line, "reason").as_deref(), Some("nice must be -20..19"));
        assert_eq!(field(line, "value").as_deref(), Some("99\n"));
        assert_eq!(field(line, "uid"), None);
    }

    #[test]
    fn unescape_of_odd_text_keeps_it() {
        assert_eq!(unescape(r"ä\q\x4"), r"ä\q\x4");
        assert_eq!(unescape(r"\\x41"), r"\x41");
    }

    #[test]
    fn refused_write_carries_the_logged_reason() {
        let (dir, tree) = super::super::fake::tree();
        let line = format!("time=1 pid={} path=x value=y reason=a\\x20circle\n", std::process::id());
        fs::write(dir.path().join("error_log"), line).expect("a file");

        let error = TreeError::refused(&tree, "move", Path::new("x"), Errno::ELOOP.into());

        assert!(error.to_string().ends_with("(a circle)"), "{error}");
    }
}
