//! The daemon's life: assemble, take over, mount, wait, end.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use clap::Parser;
use guest_sched::host::GroupConfig;
use nix::sys::signal::{SigSet, Signal};
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Places};
use crate::fuse::{Mounted, View};
use crate::groups::driver::Workers;
use crate::groups::host::ProcFs;
use crate::groups::{Controller, Journal, Setup};
use crate::notices::Notices;
use crate::supervise::{StateRoot, mount};
use crate::tree::rooms::proc_view;
use crate::{daemonize, notify, pools, tasks, tree};

/// Exit code for wrong arguments, as of the command line.
const USAGE: u8 = 2;
const HOST_PROC: &str = "/proc";

/// What ends or interrupts the wait.
#[derive(Debug)]
enum Wake {
    Signal(Signal),
    StdinClosed,
    Unmounted(io::Result<()>),
}

/// A failure that ends the daemon.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error("cannot {what}: {source}")]
    Os { what: String, source: io::Error },
    #[error("{0}")]
    Places(&'static str),
}

fn os(what: impl Into<String>) -> impl FnOnce(io::Error) -> DaemonError {
    |source| DaemonError::Os { what: what.into(), source }
}

/// Runs the daemon with arguments that do not include the program's name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = args.collect();
    let args = match Args::try_parse_from(std::iter::once("compartmentd".into()).chain(words.iter().cloned()))
    {
        Ok(args) => args,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match run(&args, &words) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("compartmentd: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, words: &[OsString]) -> Result<ExitCode, DaemonError> {
    let is_root = nix::unistd::geteuid().is_root();
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(Into::into);
    let places = args.places(is_root, runtime_dir).map_err(DaemonError::Places)?;
    if !args.foreground && !args.embedded {
        // The log needs the directory; the lock is the daemon's own, not ours.
        let what = format!("use the state directory {}", places.state.display());
        drop(StateRoot::open(&places.state).map_err(os(what))?);
        return daemonize::start(words, &places.state).map_err(os("start in the background"));
    }
    start_log();
    serve(args, &places)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts logging to standard error, as `COMPARTMENTS_LOG` says (`info` by default).
pub fn start_log() {
    let filter =
        EnvFilter::try_from_env("COMPARTMENTS_LOG").unwrap_or_else(|_| EnvFilter::new("info,fuser=error"));
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).try_init();
}

fn serve(args: &Args, places: &Places) -> Result<(), DaemonError> {
    // Before any other thread: they all leave these signals to the one that waits for them.
    let signals = watched();
    signals.thread_block().map_err(|e| os("block signals")(e.into()))?;
    let what = format!("use the state directory {}", places.state.display());
    let state = StateRoot::open(&places.state).map_err(os(what))?;
    if !proc_view::place::is_the_hosts(Path::new(HOST_PROC)) {
        return Err(DaemonError::Places(
            "/proc is not the host's: a daemon is not started in an entered shell",
        ));
    }
    let exe = std::env::current_exe().map_err(os("find the own binary"))?;
    let (notices, delivered) = Notices::new();
    let workers = Arc::new(Workers::new(exe));
    let controller = Controller::new(Setup {
        host: Arc::new(ProcFs),
        launcher: workers.clone(),
        journal: Arc::new(Journal::new(notices.clone())),
        notices: notices.clone(),
        state,
        template: GroupConfig { forced: args.force_mode, ..GroupConfig::default() },
    });
    let pools = pools::beside(&controller, workers).map_err(os("keep mem_groups"))?;
    let what = format!("mount at {}", places.mount.display());
    let at = mount::prepare(&places.mount).map_err(os(what.clone()))?;
    controller.adopt_all();
    pools.adopt_all();
    let (tx, rx) = channel();
    let host_proc = host_proc(args, &at);
    let tree = tree::rooms::tree(&controller, &pools, &notices, &host_proc).map_err(os("show processes"))?;
    let view = View::new(Arc::new(tree), controller.clone());
    let ended = tx.clone();
    let mounted = Mounted::mount(view, &at, delivered, move |result| {
        let _ = ended.send(Wake::Unmounted(result));
    })
    .map_err(os(what))?;
    let _applications = hear_applications(args, &at, &controller);
    controller.watch_workers().map_err(os("start a thread"))?;
    watch(args, signals, &tx)?;
    tracing::info!(mount = %at.display(), "serving");
    notify::ready();
    if args.report_ready
        && let Err(error) = daemonize::report_ready()
    {
        tracing::debug!(%error, "nobody waits for us to be ready");
    }
    wait(&rx, &controller);
    notify::stopping();
    if args.dissolve_on_exit || args.embedded {
        pools.dissolve_all();
        controller.dissolve_all();
    }
    drop(mounted);
    Ok(())
}

/// Gives where the links of `proc/` lead. Nobody enters a daemon for the time of one command.
fn host_proc(args: &Args, mount: &Path) -> PathBuf {
    let path = proc_view::place::beside(mount);
    if args.embedded {
        return HOST_PROC.into();
    }
    match proc_view::place::make(&path) {
        Ok(()) => path,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "nobody can enter");
            HOST_PROC.into()
        }
    }
}

/// Listens for applications that show tasks. Without, all else works. A daemon for the time of one command shows none, unless it is told where to listen.
fn hear_applications(args: &Args, mount: &Path, controller: &Controller) -> Option<tasks::Listening> {
    if args.embedded && args.socket.is_none() {
        return None;
    }
    let path = args.socket.clone().unwrap_or_else(|| guest_task::socket_beside(mount));
    let listening = tasks::listen(controller.guests().clone(), &path);
    listening
        .inspect_err(|error| tracing::warn!(%error, path = %path.display(), "no guest tasks are shown"))
        .ok()
}

fn watched() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect()
}

fn watch(args: &Args, signals: SigSet, tx: &Sender<Wake>) -> Result<(), DaemonError> {
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.into()).spawn(run).map(drop).map_err(os("start a thread"))
    };
    let woken = tx.clone();
    spawn(
        "signals",
        Box::new(move || {
            while let Ok(signal) = signals.wait() {
                if woken.send(Wake::Signal(signal)).is_err() {
                    return;
                }
            }
        }),
    )?;
    if args.embedded {
        let woken = tx.clone();
        spawn(
            "stdin",
            Box::new(move || {
                let mut byte = [0];
                while matches!(io::stdin().read(&mut byte), Ok(n) if n > 0) {}
                let _ = woken.send(Wake::StdinClosed);
            }),
        )?;
    }
    Ok(())
}

/// Waits for the end. Wakes up by itself only for a service manager's watchdog.
fn wait(rx: &Receiver<Wake>, controller: &Arc<Controller>) {
    let period = notify::watchdog_period();
    loop {
        let wake = match period {
            Some(period) => rx.recv_timeout(period),
            None => rx.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match wake {
            Ok(Wake::Signal(Signal::SIGCHLD)) => controller.reap(),
            Ok(Wake::Signal(Signal::SIGHUP)) => {}
            Err(RecvTimeoutError::Timeout) => notify::alive(),
            Ok(Wake::Unmounted(Err(error))) => {
                tracing::error!(%error, "the mount failed");
                return;
            }
            Ok(wake) => {
                tracing::info!(?wake, "ending");
                return;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
