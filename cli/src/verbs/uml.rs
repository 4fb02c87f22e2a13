//! `uml`: a user-mode-linux instance with its processes as guest tasks.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use guest_task::{Action, Event, Registry};
use host_sys::Pidfd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::task::{options, tell_status};
use crate::args::Context;
use crate::exit::{CliError, Exit};
use crate::signals::Signals;
use crate::uml::AGENT;
use crate::uml::answers::{Answer, Answers, Asked};
use crate::uml::guest::Guest;
use crate::uml::line::{Ends, Line};

const AFTER_HELP: &str = "\
Inside the instance an agent has to run, as root: put what `uml agent` prints into the guest's file system or initramfs, and have its init start it
in the background. Then, on the host:

    compartment uml run /run/demo -- linux.uml mem=256M ubd0=disk.img &
    compartment uml attach /run/demo";

/// Show the processes of a user-mode-linux instance as tasks.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct UmlArgs {
    #[command(subcommand)]
    verb: UmlVerb,
}

#[derive(Debug, Subcommand)]
enum UmlVerb {
    /// Print the shell script that has to run in the guest
    Agent,
    /// Execute an instance with its first serial line in a directory
    Run(RunArgs),
    /// Show the guest's processes as tasks, and pass signals and nice values on to them
    Attach(AttachArgs),
}

const AFTER_RUN: &str = "\
Makes the fifos DIR/in and DIR/out, writes DIR/pid, and executes CMD with ssl0=fd:N,fd:M appended. Whoever starts instances otherwise does the same by
hand: echo $$ >DIR/pid; exec linux.uml … ssl0=fd:3,fd:4 3<>DIR/in 4<>DIR/out";

/// Execute an instance.
#[derive(Debug, Args)]
#[command(after_help = AFTER_RUN)]
struct RunArgs {
    /// Where the line is; made if it is missing
    dir: PathBuf,
    /// The instance's command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

const AFTER_ATTACH: &str = "\
The tasks are in sched-groups/PID/, PID being that of this command, until it is ended or the instance ends. They are looked at every half second; where a look
takes long, as rarely as leaves nine tenths of the time to others, but every ten seconds.";

/// Show the guest's processes.
#[derive(Debug, Args)]
#[command(after_help = AFTER_ATTACH)]
struct AttachArgs {
    /// Where the instance's line is
    dir: PathBuf,
    /// The instance's first process [default: what DIR/pid says]
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// How long the agent may be silent: at first before this fails, later before the tasks are taken away until it answers
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    patience: u64,
}

/// How often to look.
const LOOK: Duration = Duration::from_millis(500);
/// The pause after a look is so many times as long as the look took, within limits.
const LEAVE: u32 = 9;
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// When a request is sent again at first; then after twice as long.
const AGAIN: Duration = Duration::from_secs(4);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// For how many processes at once command lines are asked: a line that a fifo takes as a whole.
const WORDS: usize = 64;
/// How many signals and priorities may be on their way to the guest.
const ON_THEIR_WAY: usize = 64;

impl UmlArgs {
    /// Does it.
    pub(crate) fn run(self, context: &Context, out: &mut dyn Write) -> Result<ExitCode, CliError> {
        match self.verb {
            UmlVerb::Agent => out.write_all(AGENT.as_bytes()).map(|()| Exit::Ok.into()).map_err(Into::into),
            UmlVerb::Run(args) => args.run(),
            UmlVerb::Attach(args) => args.run(context),
        }
    }
}

impl RunArgs {
    fn run(self) -> Result<ExitCode, CliError> {
        let ends = Ends::make(&self.dir)?;
        let pid_file = self.dir.join("pid");
        let written = fs::write(&pid_file, format!("{}\n", std::process::id()));
        written.map_err(CliError::os(format!("write {}", pid_file.display())))?;
        let failed = Command::new(&self.command[0]).args(&self.command[1..]).arg(ends.argument()).exec();
        Err(CliError::os(format!("execute {}", Path::new(&self.command[0]).display()))(failed))
    }
}

impl AttachArgs {
    fn run(self, context: &Context) -> Result<ExitCode, CliError> {
        let signals = Signals::block()?;
        let line = Line::open(&self.dir)?;
        let pid = self.pid.map_or_else(|| pid_in(&self.dir.join("pid")), Ok)?;
        let instance = Pidfd::open(pid).map_err(CliError::os(format!("find the process {pid}")))?;
        if !line.is_of(pid) {
            let dir = self.dir.display();
            return Err(CliError::Failed(format!("process {pid} does not have the line in {dir} open")));
        }
        let registry = Registry::connect(options(context)).map_err(|e| CliError::Failed(e.to_string()))?;
        let guest = Guest::new(registry.clone(), pid);
        tell_status(registry.clone());
        let patience = Duration::from_secs(self.patience);
        Attachment::new(line, instance, registry, guest, patience).run(&signals)
    }
}

fn pid_in(path: &Path) -> Result<i32, CliError> {
    let text = fs::read_to_string(path).map_err(CliError::os(format!("read {}", path.display())))?;
    let pid = text.trim().parse().ok().filter(|pid| *pid > 0);
    pid.ok_or_else(|| CliError::Failed(format!("{} has no PID", path.display())))
}

/// A conversation with a guest.
struct Attachment {
    line: Line,
    instance: Pidfd,
    registry: Registry,
    guest: Guest,
    patience: Duration,
    answers: Answers,
    last_token: u32,
    /// When the guest was last heard of, and whether ever.
    heard_at: Instant,
    has_answered: bool,
    /// When the look began that is under way, or the next one is due.
    look_at: Instant,
    /// Something was done for somebody while a look was under way, which does not show it.
    has_news: bool,
    /// What was asked, and of whom if it was for words.
    request: String,
    asked_for: Vec<u32>,
    /// When a request that was not answered is sent again, and after how long once more.
    again_at: Instant,
    again_after: Duration,
    /// What the guest did not take yet.
    unsent: Option<String>,
    on_their_way: HashMap<u32, Wish>,
}

/// What was asked for a process.
struct Wish {
    pid: u32,
    action: Action,
}

impl Attachment {
    fn new(line: Line, instance: Pidfd, registry: Registry, guest: Guest, patience: Duration) -> Self {
        let now = Instant::now();
        Self {
            line,
            instance,
            registry,
            guest,
            patience,
            answers: Answers::default(),
            last_token: nix::unistd::getpid().as_raw().cast_unsigned() << 8,
            heard_at: now,
            has_answered: false,
            look_at: now,
            has_news: false,
            request: String::new(),
            asked_for: Vec::new(),
            again_at: now,
            again_after: AGAIN,
            unsent: None,
            on_their_way: HashMap::new(),
        }
    }

    fn run(mut self, signals: &Signals) -> Result<ExitCode, CliError> {
        loop {
            let has_ended = self.wait(signals)?;
            while let Some(received) = signals.wait(Duration::ZERO)? {
                if received.is_ending() {
                    return Err(CliError::Interrupted(received.signal));
                }
            }
            if !self.hear()? || has_ended {
                eprintln!("compartment: the instance has ended");
                return Ok(Exit::Ok.into());
            }
            self.pass_on_wishes()?;
            self.ask();
            self.mind_silence()?;
        }
    }

    /// Sleeps until there is something to do; gives whether the instance's process has ended.
    fn wait(&self, signals: &Signals) -> Result<bool, CliError> {
        let next = if self.answers.asked().is_some() { self.again_at } else { self.look_at };
        let time = next.saturating_duration_since(Instant::now());
        let time = time.min(self.patience.saturating_sub(self.silence()));
        // Rounded up, else the last millisecond is spent in circles.
        let timeout = PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let wants_wishes = self.unsent.is_none() && self.on_their_way.len() < ON_THEIR_WAY;
        let when = |is_wanted, flag| if is_wanted { flag } else { PollFlags::empty() };
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.line.output(), PollFlags::POLLIN),
            PollFd::new(self.instance.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.registry.event_fd(), when(wants_wishes, PollFlags::POLLIN)),
            PollFd::new(self.line.input(), when(self.unsent.is_some(), PollFlags::POLLOUT)),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) => Ok(fds[2].any().unwrap_or(false)),
            Err(Errno::EINTR) => Ok(false),
            Err(e) => Err(CliError::nix("wait for the guest")(e)),
        }
    }

    /// Takes what the guest has said; gives false if its end of the line is closed.
    fn hear(&mut self) -> Result<bool, CliError> {
        let mut buffer = [0; 65_536];
        // A guest that never stops talking is not let keep us from the rest.
        for _ in 0..16 {
            let bytes = match self.line.receive(&mut buffer).map_err(CliError::os("read the line"))? {
                None => return Ok(false),
                Some([]) => break,
                Some(bytes) => bytes,
            };
            for answer in self.answers.take(bytes) {
                self.take(answer);
            }
        }
        Ok(true)
    }

    fn take(&mut self, answer: Answer) {
        let now = Instant::now();
        match answer {
            Answer::Ready => {
                // What was asked before, nobody has read.
                self.on_their_way.clear();
                self.look_at = now;
            }
            Answer::List(listing) => {
                if self.guest.show(listing, host_sys::process::now()) {
                    (self.heard_at, self.has_answered) = (now, true);
                }
                let unknown = self.guest.unknown(WORDS);
                if unknown.is_empty() {
                    self.rest(now);
                } else {
                    let words: String = unknown.iter().map(|pid| format!(" {pid}")).collect();
                    self.ask_for(true, &words);
                    self.asked_for = unknown;
                }
            }
            Answer::Words(words) => {
                self.heard_at = now;
                self.guest.show_words(&self.asked_for, words);
                self.rest(now);
            }
            Answer::Done { token, status } => {
                let Some(Wish { pid, action }) = self.on_their_way.remove(&token) else { return };
                self.heard_at = now;
                if status != 0 {
                    let why = if status == 3 { "it has ended" } else { "the guest refuses it" };
                    eprintln!("compartment: {action:?} for the guest's process {pid}: {why}");
                }
                match self.answers.asked() {
                    Some(_) => self.has_news = true,
                    None => self.look_at = now,
                }
            }
        }
    }

    /// A look is over.
    fn rest(&mut self, now: Instant) {
        let took = now.saturating_duration_since(self.look_at);
        let pause = (took * LEAVE).clamp(LOOK, PAUSE_MAX);
        self.look_at = now + if std::mem::take(&mut self.has_news) { Duration::ZERO } else { pause };
    }

    /// Begins a look when it is time, or sends again what was not answered.
    fn ask(&mut self) {
        let now = Instant::now();
        match self.answers.asked() {
            None if now >= self.look_at => {
                self.look_at = now;
                self.ask_for(false, "");
            }
            Some(_) if now >= self.again_at => {
                self.again_after = (self.again_after * 2).min(AGAIN_MAX);
                self.again_at = now + self.again_after;
                self.send_request();
            }
            _ => {}
        }
    }

    fn token(&mut self) -> u32 {
        self.last_token = self.last_token.wrapping_add(1);
        self.last_token
    }

    fn ask_for(&mut self, is_words: bool, of: &str) {
        let token = self.token();
        self.request = format!("{} {token}{of}\n", if is_words { "words" } else { "list" });
        self.answers.expect(Some(Asked { token, is_words }));
        self.again_after = AGAIN;
        self.again_at = Instant::now() + AGAIN;
        self.send_request();
    }

    /// Should the guest not take it, or nobody be there, it is sent again.
    fn send_request(&self) {
        let _ = self.line.send(&self.request);
    }

    /// Passes on what others want of processes, as far as the guest takes it.
    fn pass_on_wishes(&mut self) -> Result<(), CliError> {
        loop {
            if let Some(request) = self.unsent.take()
                && !self.send(&request)?
            {
                self.unsent = Some(request);
                return Ok(());
            }
            if self.on_their_way.len() >= ON_THEIR_WAY {
                return Ok(());
            }
            let Some(Event { task, action }) = self.registry.next_event() else { return Ok(()) };
            let Some((pid, start)) = self.guest.process_of(task) else { continue };
            let token = self.token();
            self.unsent = Some(match action {
                Action::Signal(number) => format!("kill {token} {pid} {start} {number}\n"),
                Action::Nice(nice) => format!("nice {token} {pid} {start} {nice}\n"),
            });
            self.on_their_way.insert(token, Wish { pid, action });
        }
    }

    fn send(&self, request: &str) -> Result<bool, CliError> {
        match self.line.send(request) {
            // Nobody reads any more: the instance's end is about to be seen.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            result => result.map_err(CliError::os("write to the line")),
        }
    }

    /// How long the guest has owed us an answer.
    fn silence(&self) -> Duration {
        match self.answers.asked() {
            Some(_) if self.has_answered => self.heard_at.max(self.look_at).elapsed(),
            None if self.has_answered => Duration::ZERO,
            _ => self.heard_at.elapsed(),
        }
    }

    /// Takes the tasks away when nothing was heard for too long.
    fn mind_silence(&mut self) -> Result<(), CliError> {
        if self.silence() < self.patience {
            return Ok(());
        }
        let seconds = self.patience.as_secs();
        if !self.has_answered {
            return Err(CliError::Failed(format!(
                "the guest has not answered for {seconds} s: is the agent running in it? `compartment uml agent` prints it"
            )));
        }
        if !self.guest.is_empty() {
            eprintln!(
                "compartment: the guest has not answered for {seconds} s; its processes are shown again when it does"
            );
        }
        self.guest.clear();
        self.on_their_way.clear();
        self.heard_at = Instant::now();
        Ok(())
    }
}
