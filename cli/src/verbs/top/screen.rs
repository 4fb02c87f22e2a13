//! The live view: keys in, pictures out, and the terminal as it was at the end.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::widgets::TableState;

use super::frame::{Frame, Order, Snapshot};
use super::view::{self, Footer};
use crate::exit::{CliError, Exit};
use crate::signals::{self, Signals};
use crate::tree::Tree;
use crate::verbs::kill;

/// How soon a new size of the terminal is noticed while no key is pressed.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// Shows the live view until `q`.
///
/// # Errors
/// If the tree goes away, or a signal comes.
pub(super) fn run(tree: &Tree, signals: &Signals, delay: Duration, order: Order) -> Result<(), CliError> {
    // Also restores the terminal when we panic.
    let mut terminal = ratatui::try_init().map_err(CliError::os("use the terminal (try --batch)"))?;
    let result = App::new(tree, order).and_then(|mut app| app.run(&mut terminal, signals, delay));
    ratatui::restore();
    result
}

/// Gives what keys come from: as crossterm, standard input or else the terminal that controls us.
fn input() -> Result<OwnedFd, CliError> {
    let stdin = io::stdin();
    let input = if stdin.is_terminal() {
        stdin.as_fd().try_clone_to_owned()
    } else {
        File::open("/dev/tty").map(OwnedFd::from)
    };
    input.map_err(CliError::os("use the terminal"))
}

/// What a key press leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    /// Nothing beyond a new picture.
    Draw,
    /// The end.
    Quit,
    /// A signal to a process.
    Send(i32, Signal),
}

#[derive(Debug)]
struct App<'a> {
    tree: &'a Tree,
    last: Snapshot,
    frame: Frame,
    selected: TableState,
    footer: Footer,
}

impl<'a> App<'a> {
    fn new(tree: &'a Tree, order: Order) -> Result<Self, CliError> {
        let last = Snapshot::read(tree)?;
        let frame = Frame::between(&last, &last, order);
        Ok(Self { tree, last, frame, selected: TableState::new(), footer: Footer::Keys })
    }

    fn run(
        &mut self,
        terminal: &mut ratatui::DefaultTerminal,
        signals: &Signals,
        delay: Duration,
    ) -> Result<(), CliError> {
        let input = input()?;
        // The first picture with shares comes soon.
        let mut next = Instant::now() + delay.min(LONGEST_WAIT);
        loop {
            terminal
                .draw(|canvas| view::draw(canvas, &self.frame, &mut self.selected, &self.footer))
                .map_err(CliError::os("draw"))?;
            // Not by `event::poll`, which hears no signal, and never comes back from a terminal that has hung up.
            signals.wait_beside(
                input.as_fd(),
                next.saturating_duration_since(Instant::now()).min(LONGEST_WAIT),
            )?;
            while event::poll(Duration::ZERO).map_err(CliError::os("wait for a key"))? {
                if let Event::Key(key) = event::read().map_err(CliError::os("read a key"))?
                    && key.kind != KeyEventKind::Release
                {
                    match self.on_key(key) {
                        Action::Quit => return Ok(()),
                        Action::Send(pid, signal) => self.send(pid, signal),
                        Action::Draw => {}
                    }
                }
            }
            if Instant::now() >= next {
                self.refresh()?;
                next = Instant::now() + delay;
            }
        }
    }

    fn refresh(&mut self) -> Result<(), CliError> {
        let now = match Snapshot::read(self.tree) {
            Ok(now) => now,
            Err(e) if e.exit() == Exit::Unreachable => return Err(e.into()),
            Err(e) => {
                self.footer = Footer::Message(e.to_string());
                return Ok(());
            }
        };
        let pid = self.selected_pid();
        self.frame = Frame::between(&self.last, &now, self.frame.order);
        self.last = now;
        self.select_pid(pid);
        Ok(())
    }

    fn selected_pid(&self) -> Option<i32> {
        Some(self.frame.members.get(self.selected.selected()?)?.pid)
    }

    /// Keeps the selection on a process, not on a line.
    fn select_pid(&mut self, pid: Option<i32>) {
        let line = pid.and_then(|pid| self.frame.members.iter().position(|m| m.pid == pid));
        self.selected.select(line);
    }

    fn sort(&mut self, order: Order) -> Action {
        let pid = self.selected_pid();
        self.frame.sort_by(order);
        self.select_pid(pid);
        Action::Draw
    }

    fn step(&mut self, by: isize) -> Action {
        let last = self.frame.members.len().saturating_sub(1);
        let line = match self.selected.selected() {
            Some(line) => line.saturating_add_signed(by).min(last),
            // The first key that goes down selects the first line.
            None => 0usize.saturating_add_signed(by.saturating_sub(1)).min(last),
        };
        self.selected.select((!self.frame.members.is_empty()).then_some(line));
        Action::Draw
    }

    fn on_key(&mut self, key: KeyEvent) -> Action {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Action::Quit;
        }
        if let Footer::Signal { pid, typed } = &self.footer {
            let (pid, typed) = (*pid, typed.clone());
            return self.on_signal_key(key.code, pid, typed);
        }
        self.footer = Footer::Keys;
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => Action::Quit,
            KeyCode::Char('P') => self.sort(Order::Cpu),
            KeyCode::Char('T') => self.sort(Order::Time),
            KeyCode::Char('N') => self.sort(Order::Pid),
            KeyCode::Char('G') => self.sort(Order::Group),
            KeyCode::Down => self.step(1),
            KeyCode::Up => self.step(-1),
            KeyCode::PageDown => self.step(10),
            KeyCode::PageUp => self.step(-10),
            KeyCode::Home => self.step(isize::MIN / 2),
            KeyCode::End => self.step(isize::MAX / 2),
            KeyCode::Char('k') => {
                self.footer = match self.selected_pid() {
                    Some(pid) => Footer::Signal { pid, typed: String::new() },
                    None => Footer::Message("select a process with the arrow keys first".into()),
                };
                Action::Draw
            }
            _ => Action::Draw,
        }
    }

    fn on_signal_key(&mut self, code: KeyCode, pid: i32, mut typed: String) -> Action {
        match code {
            KeyCode::Esc => self.footer = Footer::Keys,
            KeyCode::Enter => {
                self.footer = Footer::Keys;
                match signals::parse(if typed.is_empty() { "TERM" } else { &typed }) {
                    Ok(signal) => return Action::Send(pid, signal),
                    Err(e) => self.footer = Footer::Message(e),
                }
            }
            KeyCode::Backspace => {
                typed.pop();
                self.footer = Footer::Signal { pid, typed };
            }
            KeyCode::Char(c) if c.is_ascii_alphanumeric() && typed.len() < 16 => {
                typed.push(c);
                self.footer = Footer::Signal { pid, typed };
            }
            _ => {}
        }
        Action::Draw
    }

    fn send(&mut self, pid: i32, signal: Signal) {
        self.footer = match kill::send(self.tree, pid, signal) {
            Ok(()) => Footer::Keys,
            Err(e) => Footer::Message(e.to_string()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake;

    fn press(app: &mut App<'_>, code: KeyCode) -> Action {
        app.on_key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn key_k_sends_the_typed_signal_to_the_selected() {
        let (_dir, tree) = fake::tree();
        let mut app = App::new(&tree, Order::Pid).expect("readable");
        press(&mut app, KeyCode::Char('k'));
        assert!(matches!(app.footer, Footer::Message(_)), "nothing is selected");

        for code in [KeyCode::Down, KeyCode::Down, KeyCode::Char('k'), KeyCode::Char('h'), KeyCode::Char('x')]
        {
            assert_eq!(press(&mut app, code), Action::Draw);
        }
        press(&mut app, KeyCode::Backspace);
        press(&mut app, KeyCode::Char('u'));
        press(&mut app, KeyCode::Char('p'));

        assert_eq!(press(&mut app, KeyCode::Enter), Action::Send(42, Signal::SIGHUP));
        app.send(42, Signal::SIGHUP);
        assert_eq!(app.footer, Footer::Keys);
    }

    #[test]
    fn selection_stays_on_the_process() {
        let (dir, tree) = fake::tree();
        let mut app = App::new(&tree, Order::Pid).expect("readable");
        press(&mut app, KeyCode::End);
        assert_eq!(app.selected_pid(), Some(42));

        fake::member(dir.path(), "web", 40, "running", 1);
        app.refresh().expect("readable");
        assert_eq!(app.selected_pid(), Some(42));
        std::fs::remove_dir_all(dir.path().join("sched-groups/web/42")).expect("exists");
        app.refresh().expect("readable");
        assert_eq!(app.selected_pid(), None);
        assert_eq!(press(&mut app, KeyCode::Char('q')), Action::Quit);
    }
}
