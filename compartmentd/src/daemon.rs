//! The daemon's life: assemble, take over, mount, wait, end.

use std::ffi::OsString;
use std::io::{self, Read};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Places};
use crate::fuse::{Mounted, View};
use crate::groups::driver::Workers;
use crate::groups::host::ProcFs;
use crate::groups::{Controller, Journal, Setup};
use crate::notices::Notices;
use crate::supervise::{StateRoot, mount};
use crate::{daemonize, notify, tree};

/// Exit code for wrong arguments, as of the command line.
const USAGE: u8 = 2;

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
    let exe = std::env::current_exe().map_err(os("find the own binary"))?;
    let (notices, delivered) = Notices::new();
    let controller = Controller::new(Setup {
        host: Arc::new(ProcFs),
        launcher: Arc::new(Workers::new(exe)),
        journal: Arc::new(Journal::new(notices.clone())),
        notices,
        state,
        forced: args.force_mode,
    });
    let what = format!("mount at {}", places.mount.display());
    let at = mount::prepare(&places.mount).map_err(os(what.clone()))?;
    controller.adopt_all();
    let (tx, rx) = channel();
    let view = View::new(Arc::new(tree::rooms::tree(&controller)), controller.clone());
    let ended = tx.clone();
    let mounted = Mounted::mount(view, &at, delivered, move |result| {
        let _ = ended.send(Wake::Unmounted(result));
    })
    .map_err(os(what))?;
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
        controller.dissolve_all();
    }
    drop(mounted);
    Ok(())
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
