//! mem_groups: what is theirs alone. All that they have in common with sched_groups is in [`groups`](crate::groups).
//!
//! - [`Mem`]: the kind.
//! - [`MemDriver`]: a memory worker as the controller needs it; the real one and, for tests, a fake.
//! - [`MemView`]: what a worker publishes.
//! - [`rights`]: what a caller may have the daemon write to.
//! - [`watch`]: notices that pressure or counters change, for `poll(2)`.

mod config;
pub mod driver;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod host_mem;
mod kind;
pub mod rights;
#[cfg(test)]
mod tests;
mod view;
pub mod watch;

pub use config::{LIMIT_MIN, TIERS_MAX};
pub use driver::MemDriver;
pub use kind::{GUESTS, Mem};
pub use view::MemView;

use std::io;
use std::sync::Arc;

use guest_mm::uffd::proto::MemConfig;

use crate::groups::{Controller, Launcher, Setup};

/// Makes the controller of mem_groups over the same host, logs and state directory as that of sched_groups; each refuses the other's keepers and workers.
///
/// # Errors
/// If there can be no directory for them.
pub fn beside(controller: &Arc<Controller>, launcher: Arc<dyn Launcher<Mem>>) -> io::Result<Arc<Pools>> {
    let pools = Controller::new(Setup {
        host: controller.shared_host().clone(),
        launcher,
        journal: controller.journal().clone(),
        notices: controller.notices().clone(),
        state: controller.state().mem()?,
        template: MemConfig::default(),
    });
    pools.respect(controller);
    controller.respect(&pools);
    Ok(pools)
}

/// The controller of all mem_groups.
pub type Pools = crate::groups::Controller<Mem>;
/// A mem_group.
pub type Pool = crate::groups::Group<Mem>;
