//! One directory of `sched-groups` or `mem-groups`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use super::values;
use super::{Tree, TreeError};

/// The name or number of a group: one path component.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct GroupName(OsString);

impl GroupName {
    /// Group 0: every process in no group.
    pub(crate) fn host() -> Self {
        Self("0".into())
    }

    pub(super) fn of_entry(name: OsString) -> Self {
        Self(name)
    }

    pub(crate) fn is_host(&self) -> bool {
        self.0 == "0"
    }
}

impl FromStr for GroupName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(OsStr::new(text))
    }
}

impl TryFrom<&OsStr> for GroupName {
    type Error = String;

    fn try_from(text: &OsStr) -> Result<Self, String> {
        match text.as_bytes() {
            b"" => Err("a group's name is not empty".into()),
            b"." | b".." => Err("a group's name is not . or ..".into()),
            bytes if bytes.contains(&b'/') => Err("a group's name has no slash".into()),
            bytes if bytes.len() > 255 => Err("a group's name has at most 255 bytes".into()),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// Bytes that would upset a terminal are shown escaped.
impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&values::printable(&self.0.to_string_lossy()))
    }
}

/// A half of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// `sched-groups`.
    Sched,
    /// `mem-groups`.
    Mem,
}

impl Side {
    /// Gives its directory.
    pub(crate) const fn dir(self) -> &'static str {
        match self {
            Self::Sched => "sched-groups",
            Self::Mem => "mem-groups",
        }
    }
}

/// A group of a tree; holds no file open.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    tree: Tree,
    side: Side,
    name: GroupName,
}

impl Group {
    pub(super) fn new(tree: Tree, side: Side, name: GroupName) -> Self {
        Self { tree, side, name }
    }

    /// Gives its name.
    pub(crate) fn name(&self) -> &GroupName {
        &self.name
    }

    /// Gives the half of the tree that it is in.
    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// Gives its directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.tree.root().join(self.side.dir()).join(&self.name.0)
    }

    /// Gives a member's directory.
    pub(crate) fn member_path(&self, pid: i32) -> PathBuf {
        self.path().join(pid.to_string())
    }

    /// Whether there is such a group.
    ///
    /// # Errors
    /// [`TreeError::Io`] if that cannot be told.
    pub(crate) fn exists(&self) -> Result<bool, TreeError> {
        let path = self.path();
        path.try_exists().map_err(|e| TreeError::io("look at", &path, e))
    }

    /// Whether it shows that process or guest task.
    pub(crate) fn has_member(&self, pid: i32) -> bool {
        fs::symlink_metadata(self.member_path(pid)).is_ok_and(|m| m.is_dir())
    }

    /// Lists its members in order of their number.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub(crate) fn members(&self) -> Result<Vec<i32>, TreeError> {
        let dir = self.path();
        let mut pids = Vec::new();
        for entry in fs::read_dir(&dir).map_err(|e| TreeError::io("list", &dir, e))? {
            let entry = entry.map_err(|e| TreeError::io("list", &dir, e))?;
            if let Some(pid) = entry.file_name().to_str().and_then(parse_pid) {
                pids.push(pid);
            }
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// Reads an attribute, of a member as `PID/attribute`, without its last newline.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub(crate) fn read(&self, attribute: &str) -> Result<String, TreeError> {
        let path = self.path().join(attribute);
        let bytes = fs::read(&path).map_err(|e| TreeError::io("read", &path, e))?;
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if text.ends_with('\n') {
            text.pop();
        }
        Ok(text)
    }

    /// Writes an attribute in one write.
    ///
    /// # Errors
    /// [`TreeError::Io`] with the tree's reason.
    pub(crate) fn write(&self, attribute: &str, value: &str) -> Result<(), TreeError> {
        let path = self.path().join(attribute);
        write_once(&path, value).map_err(|e| TreeError::refused(&self.tree, "write", &path, e))
    }

    /// Removes the group, which must be empty.
    ///
    /// # Errors
    /// [`TreeError::Io`] with the tree's reason.
    pub(crate) fn remove(&self) -> Result<(), TreeError> {
        let path = self.path();
        fs::remove_dir(&path).map_err(|e| TreeError::refused(&self.tree, "remove", &path, e))
    }
}

/// `echo value > path`: never makes a file.
fn write_once(path: &std::path::Path, value: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(path)?;
    let line = format!("{value}\n");
    match file.write(line.as_bytes())? {
        written if written == line.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Parses a process number as the tree writes it.
pub(crate) fn parse_pid(text: &str) -> Option<i32> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if is_plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake;

    #[test]
    fn group_name_with_slash_or_dots_is_refused() {
        for bad in ["", ".", "..", "a/b", &"x".repeat(256)] {
            assert!(bad.parse::<GroupName>().is_err(), "{bad:?}");
        }
        assert_eq!("a\tb".parse::<GroupName>().expect("odd but allowed").to_string(), "a\\tb");
    }

    #[test]
    fn write_of_unknown_attribute_makes_no_file() {
        let (_dir, tree) = fake::tree();
        let web = tree.group(&"web".parse().expect("a name"));

        assert!(web.write("nothing", "1").is_err());
        assert!(!web.path().join("nothing").exists());
        web.write("nice", "7").expect("exists");
        assert_eq!(web.read("nice").expect("readable"), "7");
    }

    #[test]
    fn members_are_directories_with_plain_numbers() {
        assert_eq!(parse_pid("41"), Some(41));
        for bad in ["041", "+1", "", "99999999999", "cpu.max"] {
            assert_eq!(parse_pid(bad), None, "{bad:?}");
        }
    }
}
