//! The autogroup as an envelope: the kernel gives each session the weight of one program, whatever runs in it.
//!
//! Nobody can be put into an autogroup, so all members must be in one already, and should be all that runs in it: somebody else in the
//! session shares the group's weight. It counts only for tasks in no cpu cgroup.

use std::collections::BTreeSet;
use std::io;

use super::EnvelopeError;
use crate::host::cgroup;

/// The autogroup of the members' session.
#[derive(Debug)]
pub(crate) struct Autogroup {
    nice: i8,
    /// Its name, and the nice value that it had, once there is a first member.
    found: Option<(String, i8)>,
    members: BTreeSet<i32>,
}

impl Autogroup {
    /// Prepares it.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the kernel has none, or has them switched off.
    pub(super) fn new(nice: i8) -> io::Result<Self> {
        let is_on = std::fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled")
            .is_ok_and(|text| text.trim() == "1");
        if !is_on {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(Self { nice, found: None, members: BTreeSet::new() })
    }

    pub(super) fn enter(&mut self, pid: i32) -> Result<(), EnvelopeError> {
        let (name, before) = read(pid)?;
        if cgroup::has_cpu_cgroup(pid) {
            return Err(EnvelopeError::OtherOrigin("a cpu cgroup".into()));
        }
        match &self.found {
            Some((ours, _)) if *ours != name => return Err(EnvelopeError::OtherOrigin(name)),
            Some(_) => drop(self.members.insert(pid)),
            None => {
                self.found = Some((name, before));
                self.members.insert(pid);
                self.set_nice(self.nice)?;
            }
        }
        Ok(())
    }

    pub(super) fn holds(&self, pid: i32) -> bool {
        // One that has ended is no matter.
        let (Some((ours, _)), Ok((name, _))) = (&self.found, read(pid)) else { return true };
        *ours == name
    }

    pub(super) fn leave(&mut self, pid: i32) {
        // A child that was born in it is not listed, but may be the last.
        self.members.insert(pid);
        if self.members.len() == 1 {
            self.dissolve();
        }
        self.members.remove(&pid);
    }

    pub(super) fn set_nice(&mut self, nice: i8) -> io::Result<()> {
        self.nice = nice;
        self.write(nice)
    }

    /// Gives the autogroup the nice value that it had.
    pub(super) fn dissolve(&mut self) {
        if let Some((_, before)) = self.found {
            let _ = self.write(before);
            self.found = None;
        }
    }

    /// Writes through any member that is there.
    fn write(&mut self, nice: i8) -> io::Result<()> {
        let Some((ours, _)) = &self.found else { return Ok(()) };
        let mut result = Ok(());
        for &pid in &self.members {
            match read(pid) {
                Ok((name, now)) if name == *ours => {
                    if now == nice {
                        return Ok(());
                    }
                    result = std::fs::write(format!("/proc/{pid}/autogroup"), nice.to_string());
                    if result.is_ok() {
                        return result;
                    }
                }
                _ => {}
            }
        }
        result
    }
}

/// Gives the name and the nice value of a process's autogroup.
fn read(pid: i32) -> io::Result<(String, i8)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/autogroup"))?;
    parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(text: &str) -> Option<(String, i8)> {
    let (name, nice) = text.trim().split_once(" nice ")?;
    Some((name.to_owned(), nice.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_gives_name_and_nice() {
        assert_eq!(parse("/autogroup-32 nice -5\n"), Some(("/autogroup-32".into(), -5)));
        assert_eq!(parse("/autogroup-32\n"), None);
    }
}
