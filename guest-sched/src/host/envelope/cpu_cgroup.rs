//! The cpu cgroup as an envelope.
//!
//! Only where the cpu controller has a v1 hierarchy of its own: there a member can be put into a child of the cgroup that it
//! came from without leaving a limit of any other controller. The envelope is a child of the first member's cgroup;
//! a member from another one keeps the limits of its own only outside, so the group then gives the envelope up.

use std::io;
use std::path::PathBuf;

use super::EnvelopeError;
use crate::host::cgroup;

/// The kernel's weights of the nice values -20..=19 (`sched_prio_to_weight`).
const WEIGHTS: [u32; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906, 3121,
    2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29,
    23, 18, 15,
];

/// The cpu cgroup around a group.
#[derive(Debug)]
pub(crate) struct CpuCgroup {
    mount: PathBuf,
    name: String,
    /// The path that the members came from, and that the envelope is in, once there is a first one.
    origin: Option<String>,
    nice: i8,
}

impl CpuCgroup {
    /// Prepares an envelope; nothing is made before the first member comes.
    ///
    /// # Errors
    /// If the cpu controller has no v1 hierarchy that we may write.
    pub(super) fn new(tag: &str, nice: i8) -> io::Result<Self> {
        let mount = cgroup::v1_cpu_mount().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        nix::unistd::access(&mount, nix::unistd::AccessFlags::W_OK)?;
        Ok(Self { mount, name: format!("{}{tag}", cgroup::PREFIX), origin: None, nice })
    }

    fn dir(&self, origin: &str) -> PathBuf {
        cgroup::dir(&self.mount, origin).join(&self.name)
    }

    /// Puts a process with all its threads in. Its children follow by themselves.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub(super) fn enter(&mut self, pid: i32) -> Result<(), EnvelopeError> {
        let path = cgroup::v1_cpu_path(pid)?;
        let origin = cgroup::above_ours(&path).to_owned();
        match &self.origin {
            Some(ours) if *ours != origin => return Err(EnvelopeError::OtherOrigin(origin)),
            Some(_) => {}
            None => {
                match std::fs::create_dir(self.dir(&origin)) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e.into()),
                    _ => {}
                }
                self.origin = Some(origin.clone());
                self.set_nice(self.nice)?;
            }
        }
        std::fs::write(self.dir(&origin).join("cgroup.procs"), pid.to_string())?;
        Ok(())
    }

    /// Lets a process go back to where it came from.
    pub(super) fn leave(&mut self, pid: i32) {
        if let Some(origin) = &self.origin {
            let _ = std::fs::write(cgroup::dir(&self.mount, origin).join("cgroup.procs"), pid.to_string());
        }
    }

    /// Sets the group's weight on the host.
    ///
    /// # Errors
    /// If the cgroup refuses it.
    pub(super) fn set_nice(&mut self, nice: i8) -> io::Result<()> {
        self.nice = nice;
        let Some(origin) = &self.origin else { return Ok(()) };
        let weight = WEIGHTS[(i32::from(nice) + 20).clamp(0, 39) as usize];
        std::fs::write(self.dir(origin).join("cpu.shares"), weight.to_string())
    }

    /// Lets everybody go and removes the cgroup.
    pub(super) fn dissolve(&mut self) {
        if let Some(origin) = self.origin.take() {
            let _ = cgroup::undo(&self.dir(&origin));
        }
    }
}
