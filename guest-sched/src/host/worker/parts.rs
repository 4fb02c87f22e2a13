//! The driver's parts: choosing and opening them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use host_sys::sched::{Favour, favour_self};

use crate::host::cgroup;
use crate::host::envelope::Envelope;
use crate::host::mode::{self, Forced, Handover, Mode, Park};
use crate::host::park::{Freezer, Parker, Stopper};
use crate::host::proto::GroupConfig;
use crate::host::sensor::Sensor;
use crate::host::table::Table;

/// The parts in use.
pub(super) struct Parts {
    pub(super) mode: Mode,
    pub(super) sensor: Sensor,
    pub(super) parker: Box<dyn Parker>,
    pub(super) envelope: Option<Envelope>,
    pub(super) favour: Favour,
}

/// What tells the cgroups of this group from those of others: the state directory's name and a hash of its place.
pub(crate) fn tag(state_dir: &Path) -> String {
    let hash = state_dir
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{:08x}", hash as u32 ^ (hash >> 32) as u32)
}

/// Chooses what this host can have, in the order of preference, with respect to what is forced.
pub(super) fn choose(forced: &Forced) -> Mode {
    let park = forced.park.unwrap_or_else(|| if can_freeze() { Park::Freeze } else { Park::Stop });
    let sensor = forced.sensor.unwrap_or_else(|| {
        if Sensor::open(mode::Sensor::Tracepoint).is_ok() {
            mode::Sensor::Tracepoint
        } else {
            mode::Sensor::Switch
        }
    });
    let envelope = forced.envelope.unwrap_or_else(|| {
        // Measured (docs/adr/0001): with a strict handover the group counts like one process without any envelope, and its
        // interactive members get their turn many times sooner. But a scheduler before EEVDF (Linux 6.6) places whoever is resumed
        // ahead of the others, at each handover; there an envelope is better, where it can be had.
        if kernel_version() < (6, 6) && Envelope::new(mode::Envelope::Cgroup, "probe", 0).is_ok() {
            mode::Envelope::Cgroup
        } else {
            mode::Envelope::None
        }
    });
    let handover = match (forced.handover, envelope) {
        (Some(handover), _) => handover,
        (None, mode::Envelope::Cgroup | mode::Envelope::Autogroup) => Handover::Overlap,
        (None, mode::Envelope::None) => Handover::Strict,
    };
    Mode { park, handover, sensor, envelope }
}

/// The kernel's version and sublevel; 0.0 where it cannot be read.
fn kernel_version() -> (u32, u32) {
    let release =
        nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether we may make cgroups below our own in the v2 hierarchy and freeze them: root may, and a user to whom it was delegated.
fn can_freeze() -> bool {
    let me = std::process::id() as i32;
    let (Some(mount), Ok(path)) = (cgroup::v2_mount(), cgroup::v2_path(me, me)) else { return false };
    let probe = cgroup::dir(&mount, cgroup::above_ours(&path)).join(format!("{}probe.{me}", cgroup::PREFIX));
    let made = std::fs::create_dir(&probe).is_ok();
    let can = made && probe.join("cgroup.freeze").exists();
    if made {
        let _ = std::fs::remove_dir(&probe);
    }
    can
}

impl Parts {
    pub(super) fn open(
        tag: &str,
        config: &GroupConfig,
        table: Arc<Table>,
        mut mode: Mode,
    ) -> io::Result<Self> {
        let sensor = Sensor::open(mode.sensor)?;
        let parker: Box<dyn Parker> = match mode.park {
            Park::Freeze => Box::new(Freezer::new(tag, table)?),
            Park::Stop => Box::new(Stopper::new(table)),
            Park::Ptrace => return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        };
        let envelope = Envelope::new(mode.envelope, tag, config.nice)?;
        if envelope.is_none() && config.forced.handover.is_none() {
            mode.handover = Handover::Strict;
        }
        Ok(Self { mode, sensor, parker, envelope, favour: favour_self() })
    }

    /// Goes on without an envelope, from now with strict handover.
    pub(super) fn give_up_envelope(&mut self) {
        if let Some(mut envelope) = self.envelope.take() {
            envelope.dissolve();
        }
        self.mode.envelope = mode::Envelope::None;
        self.mode.handover = Handover::Strict;
    }
}

/// Keeps the worker's memory resident, as far as that is allowed: a page fault at the wrong moment holds everybody up.
pub(super) fn quiet_memory() {
    use nix::sys::mman::{MlockAllFlags, mlockall};
    let _ = mlockall(MlockAllFlags::MCL_CURRENT);
}
