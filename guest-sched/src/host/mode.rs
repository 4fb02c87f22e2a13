//! The driver's parts: which kind of each a group uses, chosen by probing or forced by configuration.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A word that names no part.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown mode word {0:?}")]
pub struct ModeError(pub String);

macro_rules! part {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every kind, best first.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Gives the word in the control tree's `mode` file.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl FromStr for $name {
            type Err = ModeError;
            fn from_str(s: &str) -> Result<Self, ModeError> {
                match s {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(ModeError(s.to_owned())),
                }
            }
        }
    };
}

part! {
    /// How a member is taken off the host's runqueue.
    Park {
        /// `cgroup.freeze` of a v2 cgroup of its own; per thread.
        Freeze = "freeze",
        /// `PTRACE_INTERRUPT`; per thread, released by the kernel when the worker dies.
        Ptrace = "ptrace",
        /// `SIGSTOP` and `SIGCONT`; per process.
        Stop = "stop",
    }
}

part! {
    /// The order of resuming the next member and parking the last one.
    Handover {
        /// Resume first: no gap, two at once for a moment; inside an envelope only.
        Overlap = "overlap",
        /// Resume only when the last one has left the host's runqueue.
        Strict = "strict",
    }
}

part! {
    /// What tells that a member blocked or woke.
    Sensor {
        /// `sched:sched_switch` and `sched:sched_wakeup` tracepoints of the member.
        Tracepoint = "tracepoint",
        /// Context-switch records of perf; need no privilege.
        Switch = "switch",
    }
}

part! {
    /// What fixes the group's weight on the host.
    Envelope {
        /// A cpu cgroup.
        Cgroup = "cgroup",
        /// The autogroup of the members' session.
        Autogroup = "autogroup",
        /// Nothing: the strict handover alone keeps the group to one process's share.
        None = "none",
    }
}

/// The parts a group uses; its `Display` is the control tree's `mode` file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mode {
    /// Way of parking.
    pub park: Park,
    /// Way of handing over.
    pub handover: Handover,
    /// Sensor.
    pub sensor: Sensor,
    /// Envelope.
    pub envelope: Envelope,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "park={} handover={} sensor={} envelope={}",
            self.park, self.handover, self.sensor, self.envelope
        )
    }
}

/// Parts that the configuration insists on; the others are probed for.
/// Written as in `mode`: `park=stop envelope=none`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Forced {
    /// Way of parking.
    pub park: Option<Park>,
    /// Way of handing over.
    pub handover: Option<Handover>,
    /// Sensor.
    pub sensor: Option<Sensor>,
    /// Envelope.
    pub envelope: Option<Envelope>,
}

impl FromStr for Forced {
    type Err = ModeError;

    fn from_str(s: &str) -> Result<Self, ModeError> {
        let mut forced = Self::default();
        for item in s.split_whitespace() {
            match item.split_once('=') {
                Some(("park", word)) => forced.park = Some(word.parse()?),
                Some(("handover", word)) => forced.handover = Some(word.parse()?),
                Some(("sensor", word)) => forced.sensor = Some(word.parse()?),
                Some(("envelope", word)) => forced.envelope = Some(word.parse()?),
                _ => return Err(ModeError(item.to_owned())),
            }
        }
        Ok(forced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_displayed_is_parsed_back_as_forced() {
        let mode = Mode {
            park: Park::Stop,
            handover: Handover::Strict,
            sensor: Sensor::Switch,
            envelope: Envelope::Autogroup,
        };

        let forced: Forced = mode.to_string().parse().expect("own output");

        assert_eq!(forced.park, Some(Park::Stop));
        assert_eq!(forced.envelope, Some(Envelope::Autogroup));
        assert_eq!("park=sleep".parse::<Forced>(), Err(ModeError("sleep".into())));
    }
}
