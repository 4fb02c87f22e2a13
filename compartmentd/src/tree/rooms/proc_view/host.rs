//! What is asked of the host's `/proc`.

use std::fs;
use std::os::unix::fs::MetadataExt;

use parking_lot::RwLock;

use crate::errno::{Refusal, Why, no_process};
use crate::groups::Caller;
use crate::groups::host::ProcFs;

/// The names of the host's `/proc`. Every process has the same files.
#[derive(Debug)]
pub(super) struct Names {
    process: Vec<String>,
    thread: Vec<String>,
    /// What is no process. Modules of the kernel may add some; none is ever taken away, so that numbers stay.
    others: RwLock<Vec<String>>,
}

/// More files than there are bits for are left out.
const FILES_MAX: usize = 256;
/// More names of what is no process are not remembered.
const OTHERS_MAX: usize = 4_096;

impl Names {
    pub(super) fn of_host() -> Self {
        let names = |dir: &str| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).take(FILES_MAX).collect()
        };
        Self { process: names("/proc/self"), thread: names("/proc/thread-self"), others: RwLock::default() }
    }

    pub(super) fn process(&self) -> &[String] {
        &self.process
    }

    pub(super) fn thread(&self) -> &[String] {
        &self.thread
    }

    pub(super) fn of_process(&self, file: u8) -> Option<&str> {
        self.process.get(usize::from(file)).map(String::as_str)
    }

    pub(super) fn of_thread(&self, file: u8) -> Option<&str> {
        self.thread.get(usize::from(file)).map(String::as_str)
    }

    pub(super) fn find_of_process(&self, name: &str) -> Option<u8> {
        super::position(&self.process, |file| file == name)
    }

    pub(super) fn find_of_thread(&self, name: &str) -> Option<u8> {
        super::position(&self.thread, |file| file == name)
    }

    pub(super) fn other(&self, number: u32) -> Option<String> {
        self.others.read().get(number as usize).cloned()
    }

    /// Gives the number of what is no process, if it is there.
    pub(super) fn find_other(&self, name: &str) -> Option<u32> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return None;
        }
        fs::symlink_metadata(format!("/proc/{name}")).ok()?;
        let known = |names: &[String]| names.iter().position(|other| other == name).map(|at| at as u32);
        if let Some(number) = known(&self.others.read()) {
            return Some(number);
        }
        let mut others = self.others.write();
        known(&others).or_else(|| {
            (others.len() < OTHERS_MAX).then(|| {
                others.push(name.to_owned());
                others.len() as u32 - 1
            })
        })
    }
}

/// Whose a directory of a process is; nothing if there is none.
pub(super) fn owner(dir: &str) -> Option<(u32, u32)> {
    fs::metadata(dir).ok().map(|meta| (meta.uid(), meta.gid()))
}

/// Lists processes, and what is none.
///
/// # Errors
/// Those of listing `/proc`.
pub(super) fn list() -> Result<(Vec<i32>, Vec<String>), Refusal> {
    let (mut pids, mut others) = (Vec::new(), Vec::new());
    for entry in fs::read_dir("/proc")? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        match name.parse() {
            Ok(pid) => pids.push(pid),
            Err(_) => others.push(name),
        }
    }
    Ok((pids, others))
}

/// Reads a file of a process that everybody may read.
///
/// # Errors
/// ESRCH.
pub(super) fn read(pid: i32, file: &str) -> Result<String, Refusal> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|_| no_process(pid))
}

/// Gives the caller's process.
///
/// # Errors
/// ENOENT if it is in a PID namespace that we do not see.
pub(super) fn own(caller: &Caller) -> Result<i32, Refusal> {
    match caller.pid(&ProcFs) {
        0 => Err(Refusal::new(Why::Missing, "the caller is in another PID namespace")),
        pid => Ok(pid),
    }
}

/// Gives the text of `exe`, `cwd` or `root`. Where the path alone leads to the same file, it is the path; else the link in the host's `/proc`, which
/// always does. No file is looked at for that: whoever serves it might take its time.
///
/// # Errors
/// EACCES if the caller may not know, and those of `readlink(2)`.
pub(super) fn place(real: &str, pid: i32, name: &str, caller: &Caller) -> Result<String, Refusal> {
    caller.check_controls(&ProcFs, pid).map_err(|why| match why.why {
        Why::NotAllowed => Refusal::new(Why::Other(libc::EACCES), why.reason),
        _ => Refusal::new(Why::Missing, why.reason),
    })?;
    let read = |path: String| Ok::<_, Refusal>(fs::read_link(path)?.to_string_lossy().into_owned());
    let text = read(format!("/proc/{pid}/{name}"))?;
    let mounts = read(format!("/proc/{pid}/ns/mnt"))?;
    let is_namesake = [format!("/proc/{}/ns/mnt", caller.tid), "/proc/thread-self/ns/mnt".to_owned()]
        .into_iter()
        .any(|other| read(other).is_ok_and(|other| other == mounts));
    let is_below_top = name == "root" || read(format!("/proc/{pid}/root"))? == "/";
    let is_path = text.starts_with('/') && !text.ends_with(" (deleted)");
    if is_namesake && is_below_top && is_path && (name != "root" || text == "/") {
        Ok(text)
    } else {
        Ok(format!("{real}/{pid}/{name}"))
    }
}
