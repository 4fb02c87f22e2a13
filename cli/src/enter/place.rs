//! The mount namespace of an entered shell: the tree's `proc` over `/proc`, and the host's `/proc` where the tree's links lead.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use host_sys::mounts::DetachedMount;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};
use nix::unistd::{getegid, geteuid};

use crate::exit::{CliError, Exit};
use crate::tree::Tree;

/// The hidden first argument of [`refresh_main`].
pub(crate) const REFRESH: &str = "enter-refresh";

const PROC: &str = "/proc";
/// Mounts of dead daemons that may lie on each other.
const DEAD_MAX: usize = 16;

/// A tree to enter.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Where it is mounted.
    pub(crate) root: PathBuf,
    /// Where its links look for the host's `/proc`.
    host_proc: PathBuf,
}

impl Place {
    /// Looks at a tree.
    ///
    /// # Errors
    /// [`CliError`] if its daemon lets nobody enter.
    pub(crate) fn of(tree: &Tree) -> Result<Self, CliError> {
        let root = tree.root().canonicalize().map_err(CliError::os("find the tree"))?;
        let link = fs::read_link(root.join("proc/stat")).map_err(CliError::os("read the tree's proc"))?;
        match link.parent() {
            Some(host_proc) if host_proc != Path::new(PROC) => Ok(Self { root, host_proc: host_proc.into() }),
            _ => Err(CliError::Failed("this daemon has nowhere to put the host's /proc".into())),
        }
    }

    fn proc(&self) -> PathBuf {
        self.root.join("proc")
    }

    /// Whether we are in a shell that has entered it.
    pub(crate) fn is_entered(&self) -> bool {
        match (fs::metadata(PROC), fs::metadata(self.proc())) {
            (Ok(here), Ok(there)) => (here.dev(), here.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    /// Gives the calling process a mount namespace of its own; who may not have one gets a user namespace as well, in which he may. The
    /// process has one thread.
    ///
    /// # Errors
    /// [`CliError::Os`].
    pub(crate) fn enter(&self) -> Result<Namespaces, CliError> {
        let is_own_user = match unshare(CloneFlags::CLONE_NEWNS) {
            Ok(()) => false,
            Err(Errno::EPERM) => {
                become_own_user()?;
                true
            }
            Err(e) => return Err(CliError::nix("make a mount namespace")(e)),
        };
        self.mount_all().map_err(CliError::os(format!("mount {} over /proc", self.proc().display())))?;
        let open = |name: &str| {
            File::open(self.host_proc.join("self/ns").join(name)).map_err(CliError::os("open a namespace"))
        };
        Ok(Namespaces { mounts: open("mnt")?, user: if is_own_user { Some(open("user")?) } else { None } })
    }

    fn mount_all(&self) -> io::Result<()> {
        const NONE: Option<&str> = None;
        // What the host mounts later comes here as well; nothing goes there.
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
        let dir = self.host_proc.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("compartments"), dir, Some("tmpfs"), flags, Some("mode=755,size=64k"))?;
        fs::create_dir(&self.host_proc)?;
        mount(Some(PROC), &self.host_proc, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
        mount(Some(&self.proc()), PROC, NONE, MsFlags::MS_BIND, NONE)?;
        Ok(())
    }
}

fn become_own_user() -> Result<(), CliError> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|e| {
        let why = e.desc().to_lowercase();
        CliError::Failed(format!(
            "cannot make a user namespace, which users other than root need ({why}); root can: sudo compartment enter"
        ))
    })?;
    let write = |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text);
    write("setgroups", "deny".into())
        .and_then(|()| write("uid_map", format!("{uid} {uid} 1")))
        .and_then(|()| write("gid_map", format!("{gid} {gid} 1")))
        .map_err(CliError::os("keep the user in a user namespace"))
}

/// The namespaces of an entered shell.
#[derive(Debug)]
pub(crate) struct Namespaces {
    pub(crate) mounts: File,
    /// If it has one of its own.
    pub(crate) user: Option<File>,
}

impl Namespaces {
    /// Has the mounts in there renewed: those of a dead daemon go, so that `/proc` is the host's again, and those of a living one come.
    ///
    /// # Errors
    /// Those of starting the helper.
    pub(crate) fn refresh(&self, root: &Path) -> io::Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(REFRESH).arg(root).stdin(self.mounts.try_clone()?);
        match &self.user {
            Some(user) => command.arg("user").stdout(user.try_clone()?),
            None => command.stdout(Stdio::null()),
        };
        command.stderr(Stdio::null()).status().map(drop)
    }
}

/// The program `enter-refresh TREE [user]`, with the mount namespace as its standard input and the user namespace as its standard output: a process
/// of its own, because one that has other threads cannot go into a user namespace.
pub(crate) fn refresh_main(args: &[OsString]) -> ExitCode {
    let Some(root) = args.first().map(PathBuf::from) else { return Exit::Usage.into() };
    match refresh(&root, args.len() > 1) {
        Ok(()) => Exit::Ok.into(),
        Err(e) => {
            eprintln!("compartment: cannot renew the mounts: {e}");
            Exit::Failed.into()
        }
    }
}

fn refresh(root: &Path, has_user: bool) -> io::Result<()> {
    // Copied here, where the daemon's mount is seen in any case. Who may not do that has to hope that the mount comes there by itself.
    let pairs = [(root.to_owned(), root), (root.join("proc"), Path::new(PROC))].map(|(from, to)| {
        let copy = if is_served(&from) { DetachedMount::copy(&from).ok() } else { None };
        (copy, from, to)
    });
    if has_user {
        setns(io::stdout().as_fd(), CloneFlags::CLONE_NEWUSER)?;
    }
    setns(io::stdin().as_fd(), CloneFlags::CLONE_NEWNS)?;
    for (copy, from, to) in pairs {
        for _ in 0..DEAD_MAX {
            if !is_dead(to) || umount2(to, MntFlags::MNT_DETACH).is_err() {
                break;
            }
        }
        if is_served(to) || is_dead(to) {
            continue;
        }
        match copy {
            Some(copy) => copy.attach(to)?,
            None if from != to && is_served(&from) => {
                mount(Some(&from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            }
            None => {}
        }
    }
    Ok(())
}

/// Whether a living daemon's tree is mounted there. `statfs` is never answered from a cache.
fn is_served(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == FUSE_SUPER_MAGIC)
}

fn is_dead(path: &Path) -> bool {
    matches!(statfs(path), Err(Errno::ENOTCONN | Errno::ECONNABORTED))
}
