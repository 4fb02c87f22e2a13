//! `top`: groups and members live, or as text for scripts.

mod frame;
mod screen;
mod text;
mod view;

use std::io::Write;
use std::time::{Duration, Instant};

use clap::Args;

use self::frame::{Frame, Order, Snapshot};
use crate::args::Context;
use crate::exit::CliError;
use crate::signals::Signals;
use crate::tree::Tree;

/// Watch groups and members.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Print plain text instead of drawing on the terminal
    #[arg(short, long)]
    batch: bool,
    /// Print so many times, then end
    #[arg(short = 'n', long, value_name = "N", requires = "batch", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Seconds between two pictures
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = parse_delay)]
    delay: Duration,
    /// What the members are sorted by
    #[arg(short, long, value_enum, default_value_t = Order::Cpu)]
    sort: Order,
}

fn parse_delay(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected seconds from 0.05 to 3600".into()),
    }
}

impl TopArgs {
    /// Shows them until the user quits.
    pub(crate) fn run(self, context: &Context, out: &mut dyn Write) -> Result<(), CliError> {
        let signals = Signals::block()?;
        let tree = context.tree()?;
        if self.batch {
            self.print(&tree, &signals, out)
        } else {
            screen::run(&tree, &signals, self.delay, self.sort)
        }
    }

    fn print(&self, tree: &Tree, signals: &Signals, out: &mut dyn Write) -> Result<(), CliError> {
        let mut last = Snapshot::read(tree)?;
        let mut next = Instant::now();
        for nr in 0..self.count.unwrap_or(u32::MAX) {
            next += self.delay;
            signals.sleep(next.saturating_duration_since(Instant::now()))?;
            let now = Snapshot::read(tree)?;
            if nr > 0 {
                writeln!(out)?;
            }
            text::write(out, &Frame::between(&last, &now, self.sort))?;
            out.flush()?;
            last = now;
        }
        Ok(())
    }
}
