//! The daemon's command line.

use std::path::PathBuf;

use clap::Parser;
use guest_sched::host::Forced;

/// Serves the control tree of compartments.
#[derive(Clone, Debug, Parser)]
#[command(name = "compartmentd", version)]
pub struct Args {
    /// Where the tree is mounted [default: /run/compartments, or $XDG_RUNTIME_DIR/compartments for users other than root]
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,

    /// Where groups are kept across restarts [default: the mount's default with .state appended]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// Where applications connect that show tasks of their own [default: the mount point with .sock appended]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Stay in the foreground and log to standard error
    #[arg(long)]
    pub foreground: bool,

    /// Parts of the driver to use for new groups instead of the best ones, like "park=stop envelope=none"
    #[arg(long, value_name = "PARTS", default_value = "", value_parser = parse_forced)]
    pub force_mode: Forced,

    /// Dissolve all groups at the end instead of leaving them to the next daemon
    #[arg(long)]
    pub dissolve_on_exit: bool,

    /// End, and dissolve all groups, when standard input is closed
    #[arg(long)]
    pub embedded: bool,

    /// Set by a daemon that starts itself in the background: report readiness on standard output
    #[arg(long, hide = true)]
    pub report_ready: bool,
}

fn parse_forced(text: &str) -> Result<Forced, String> {
    text.parse().map_err(|e: guest_sched::host::mode::ModeError| e.to_string())
}

/// Where the tree and its state are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Places {
    /// The mount point.
    pub mount: PathBuf,
    /// The state directory.
    pub state: PathBuf,
}

impl Args {
    /// Gives the places asked for, or the default ones of this user.
    ///
    /// # Errors
    /// If there are none: a user without `XDG_RUNTIME_DIR`.
    pub fn places(&self, is_root: bool, runtime_dir: Option<PathBuf>) -> Result<Places, &'static str> {
        let base =
            if is_root { Some(PathBuf::from("/run")) } else { runtime_dir.filter(|dir| dir.is_absolute()) };
        let default = |name: &str| base.clone().map(|base| base.join(name));
        let mount = self.mount.clone().or_else(|| default("compartments"));
        let state = self.state.clone().or_else(|| default("compartments.state"));
        match (mount, state) {
            (Some(mount), Some(state)) => Ok(Places { mount, state }),
            _ => Err("XDG_RUNTIME_DIR is not set: give --mount and --state"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::try_parse_from([&["compartmentd"], words].concat()).expect("arguments")
    }

    #[test]
    fn places_are_the_users_own_or_those_given() {
        let root = args(&[]).places(true, None).expect("root's");
        assert_eq!((root.mount, root.state), ("/run/compartments".into(), "/run/compartments.state".into()));
        let user = args(&["--state", "/s"]).places(false, Some("/run/user/7".into())).expect("a user's");
        assert_eq!((user.mount, user.state), ("/run/user/7/compartments".into(), "/s".into()));
        assert!(args(&[]).places(false, None).is_err());
    }

    #[test]
    fn force_mode_is_parsed() {
        let forced = args(&["--force-mode", "park=stop envelope=none"]).force_mode;

        assert_eq!(forced.park, Some(guest_sched::host::Park::Stop));
        assert!(Args::try_parse_from(["compartmentd", "--force-mode", "park=x"]).is_err());
    }
}
