//! The policies by name, as the control tree's `scheduler` file knows them.

use crate::fair::FairScheduler;
use crate::o1::O1Scheduler;
use crate::policy::Policy;

/// The names of all policies, the default first.
pub const POLICIES: [&str; 2] = [O1Scheduler::NAME, FairScheduler::NAME];

/// Makes a policy without tasks. `None` if there is no policy of that name or no such number of vcpus
/// (1..=1024).
pub fn policy_by_name(name: &str, vcpus: u16) -> Option<Box<dyn Policy>> {
    match name {
        O1Scheduler::NAME => Some(Box::new(O1Scheduler::new(vcpus).ok()?)),
        FairScheduler::NAME => Some(Box::new(FairScheduler::new(vcpus).ok()?)),
        _ => None,
    }
}
