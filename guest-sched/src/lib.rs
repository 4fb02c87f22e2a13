//! A guest scheduler: scheduling policies as pure state machines, and (with the feature `host`) a
//! driver that lets such a policy schedule unmodified host processes.
//!
//! [`Policy`] is the contract, [`O1Scheduler`] and [`FairScheduler`] keep it; `host` is the driver.
//! [`Bandwidth`] says when a group has used up its `cpu.max`.

pub mod bandwidth;
pub mod fair;
#[cfg(feature = "host")]
pub mod host;
pub mod o1;
pub mod policy;
pub mod registry;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod tables;
pub mod types;

pub use bandwidth::{Bandwidth, BandwidthError, BandwidthState, BandwidthStats};
pub use fair::FairScheduler;
pub use o1::O1Scheduler;
pub use policy::{Fork, Policy, PolicyError, Resched};
pub use registry::{POLICIES, policy_by_name};
pub use types::{
    Class, Nanos, Nice, RtPriority, Sleep, TaskId, TaskInfo, TaskParams, TaskState, Vcpu, Waker,
};
