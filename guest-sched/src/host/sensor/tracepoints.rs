//! The numbers and field offsets of the scheduler's tracepoints, from tracefs.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A tracepoint: its number, and where the field that is read lies in its raw data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tracepoint {
    /// Its number, `config` of a perf event.
    pub id: u64,
    /// The offset of the field in bytes.
    pub field: usize,
}

/// The two tracepoints of the sensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tracepoints {
    /// `sched:sched_switch` with `prev_state`.
    pub switch: Tracepoint,
    /// `sched:sched_wakeup` with `pid`.
    pub wakeup: Tracepoint,
}

impl Tracepoints {
    /// Reads them from tracefs where it is mounted, else from a mount that is gone again when this returns.
    ///
    /// # Errors
    /// `EACCES`, `EPERM`, `ENOENT` where there is no tracefs; `EOPNOTSUPP` in a PID namespace, whose numbers tracepoints do not use.
    pub fn find() -> io::Result<Self> {
        if !in_first_pid_namespace() {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        for root in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
            let root = Path::new(root);
            if root.join("events/sched").is_dir() {
                return Self::read(root);
            }
        }
        let root = open_tracefs()?;
        Self::read(Path::new(&format!("/proc/self/fd/{}", root.as_raw_fd())))
    }

    fn read(root: &Path) -> io::Result<Self> {
        Ok(Self {
            switch: read_one(root, "sched_switch", "prev_state")?,
            wakeup: read_one(root, "sched_wakeup", "pid")?,
        })
    }
}

/// The first PID namespace has a fixed inode number (`PROC_PID_INIT_INO`).
fn in_first_pid_namespace() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|m| m.ino() == 0xEFFF_FFFC)
}

fn read_one(root: &Path, event: &str, field: &str) -> io::Result<Tracepoint> {
    let text = std::fs::read_to_string(root.join("events/sched").join(event).join("format"))?;
    parse(&text, field).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(format: &str, field: &str) -> Option<Tracepoint> {
    let id = format.lines().find_map(|l| l.strip_prefix("ID:"))?.trim().parse().ok()?;
    let line = format.lines().find(|l| {
        l.trim_start()
            .strip_prefix("field:")
            .and_then(|l| l.split(';').next())
            .is_some_and(|decl| decl.rsplit(' ').next() == Some(field))
    })?;
    let offset = line.split(';').find_map(|part| part.trim().strip_prefix("offset:"))?;
    Some(Tracepoint { id, field: offset.parse().ok()? })
}

/// Opens a tracefs that is mounted nowhere: it is attached only until it is open, since a worker may be killed at any moment.
fn open_tracefs() -> io::Result<File> {
    let since_boot = host_sys::process::now();
    let at = std::env::temp_dir().join(format!("compartment-tracefs-{}-{since_boot}", std::process::id()));
    // Fails for what others have put there, links too.
    std::fs::create_dir(&at)?;
    let none: Option<&str> = None;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let root = match mount(none, &at, Some("tracefs"), flags, none) {
        Ok(()) => {
            let root = File::open(&at);
            let _ = umount2(&at, MntFlags::MNT_DETACH);
            root
        }
        Err(e) => Err(e.into()),
    };
    let _ = std::fs::remove_dir(&at);
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_gives_number_and_offset() {
        let text = "name: sched_wakeup\nID: 318\nformat:\n\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
                    \tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\tfield:pid_t pid;\toffset:24;\tsize:4;\tsigned:1;\n";

        assert_eq!(parse(text, "pid"), Some(Tracepoint { id: 318, field: 24 }));
        assert_eq!(parse(text, "prio"), None);
    }
}
