//! The processes of a user-mode-linux instance, whose names and states the host cannot see, by way of an agent inside it.
//!
//! - `agent.sh`: what runs in the guest. - [`line`]: two fifos, which are the guest's serial line.
//! - [`answers`]: what the agent says, taken for something that may lie. - [`guest`]: the processes as guest tasks.
//!
//! The verb is [`crate::verbs::uml`].

pub(crate) mod answers;
pub(crate) mod guest;
pub(crate) mod line;

/// What runs in the guest.
pub(crate) const AGENT: &str = include_str!("agent.sh");
