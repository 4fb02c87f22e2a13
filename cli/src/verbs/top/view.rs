//! The picture on a terminal.

use ratatui::Frame as Canvas;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table, TableState};

use super::frame::{Frame, GroupRow, MemRow, Order};
use super::text::{decimal, seconds, size, whole};
use crate::output::bar;
use crate::tree::values::{size_of_bytes, time_of_usec};

/// What the lowest line shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Footer {
    /// The keys.
    Keys,
    /// A signal is being typed.
    Signal {
        /// For whom.
        pid: i32,
        /// What has been typed.
        typed: String,
    },
    /// Something to tell.
    Message(String),
}

/// Draws the picture.
pub(super) fn draw(canvas: &mut Canvas<'_>, frame: &Frame, selected: &mut TableState, footer: &Footer) {
    let nr_groups = u16::try_from(frame.groups.len()).unwrap_or(u16::MAX);
    // The groups may take half of the screen at most, and memory a quarter.
    let group_lines = nr_groups.saturating_add(1).min(canvas.area().height / 2).max(1);
    let memory_lines = match u16::try_from(frame.memories.len()).unwrap_or(u16::MAX) {
        0 => 0,
        nr => nr.saturating_add(2).min(canvas.area().height / 4),
    };
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(group_lines),
        Constraint::Length(memory_lines),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ]);
    let [head, groups, memories, _, members, foot] = areas.areas(canvas.area());
    canvas.render_widget(head_line(frame), head);
    canvas.render_widget(groups_table(&frame.groups, groups), groups);
    if memories.height > 1 {
        // A line between the two.
        let below = Rect { y: memories.y + 1, height: memories.height - 1, ..memories };
        canvas.render_widget(memories_table(&frame.memories, below), below);
    }
    canvas.render_stateful_widget(members_table(frame, members), members, selected);
    canvas.render_widget(foot_line(footer), foot);
}

fn head_line(frame: &Frame) -> Line<'static> {
    let grouped: f64 = frame.groups.iter().map(|g| g.share).sum();
    let order = match frame.order {
        Order::Cpu => "share",
        Order::Time => "time",
        Order::Pid => "pid",
        Order::Group => "group",
    };
    Line::from(vec![
        Span::from("compartment top").bold(),
        Span::from(format!("   groups {}   members {}", frame.groups.len(), frame.members.len())),
        Span::from(format!(
            "   grouped {grouped:.1} %   ungrouped {} %   by {order}",
            decimal(frame.ungrouped)
        )),
    ])
}

fn heading(names: &[&'static str]) -> Row<'static> {
    Row::new(names.iter().map(|name| Cell::from(*name)).collect::<Vec<_>>())
        .style(Style::new().add_modifier(Modifier::REVERSED))
}

/// Wider bars where there is room.
fn bar_width(area: Rect) -> u16 {
    (area.width / 5).clamp(8, 30)
}

fn right(text: String, width: usize) -> Cell<'static> {
    Cell::from(format!("{text:>width$}"))
}

fn bar_cell(share: f64, scale: f64, width: u16) -> Cell<'static> {
    Cell::from(bar(share / scale.max(1.0), width.into())).style(Style::new().fg(Color::Cyan))
}

fn groups_table(groups: &[GroupRow], area: Rect) -> Table<'static> {
    let width = bar_width(area);
    let rows = groups.iter().map(|group| {
        let scale = group.vcpus.parse::<f64>().unwrap_or(1.0) * 100.0;
        let error =
            Cell::from(format!("{:>6}", decimal(group.error_pct))).style(error_style(group.error_pct));
        Row::new(vec![
            Cell::from(group.name.to_string()).bold(),
            right(decimal(Some(group.share)), 6),
            bar_cell(group.share, scale, width),
            right(decimal(group.cap), 6),
            right(group.nr_members.to_string(), 5),
            right(group.vcpus.clone(), 5),
            right(group.nice.clone(), 3),
            right(seconds(group.asked_usec), 6),
            right(seconds(group.got_usec), 6),
            error,
            Cell::from(group.mode.clone()),
        ])
    });
    let widths = [
        Constraint::Length(16),
        Constraint::Length(6),
        Constraint::Length(width),
        Constraint::Length(6),
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Length(3),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Fill(1),
    ];
    let names =
        ["GROUP", "  %CPU", "", "   CAP", "TASKS", "VCPUS", " NI", " ASKED", "   GOT", "  ERR%", "MODE"];
    Table::new(rows.collect::<Vec<_>>(), widths).header(heading(&names))
}

fn memories_table(memories: &[MemRow], area: Rect) -> Table<'static> {
    let width = bar_width(area);
    let rows = memories.iter().map(|memory| {
        let pressure = Cell::from(format!("{:>6}", decimal(memory.pressure.0)));
        Row::new(vec![
            Cell::from(memory.name.to_string()).bold(),
            right(size(memory.resident), 7),
            bar_cell(memory.fill(), 1.0, width),
            right(memory.max.map_or_else(|| "max".into(), size_of_bytes), 7),
            right(size(memory.swapped), 7),
            right(memory.nr_members.to_string(), 5),
            right(format!("{:.0}", memory.faults), 8),
            right(format!("{:.0}", memory.major_faults), 8),
            pressure.style(pressure_style(memory.pressure.0)),
            right(decimal(memory.pressure.1), 6),
            right(decimal(Some(memory.worker)), 7),
        ])
    });
    let widths = [
        Constraint::Length(16),
        Constraint::Length(7),
        Constraint::Length(width),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(5),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(7),
    ];
    let names = [
        "MEMORY", "    RES", "", "    MAX", "   SWAP", "TASKS", "   FLT/S", "   MAJ/S", " SOME%", " FULL%",
        "WORKER%",
    ];
    Table::new(rows.collect::<Vec<_>>(), widths).header(heading(&names))
}

/// Time lost waiting for memory shall be seen.
fn pressure_style(some_pct: Option<f64>) -> Style {
    match some_pct {
        Some(pct) if pct < 5.0 => Style::new().fg(Color::Green),
        Some(pct) if pct < 25.0 => Style::new().fg(Color::Yellow),
        Some(_) => Style::new().fg(Color::Red),
        None => Style::new(),
    }
}

/// A promise that is broken shall be seen.
fn error_style(error_pct: Option<f64>) -> Style {
    match error_pct.map(f64::abs) {
        Some(error) if error <= 1.0 => Style::new().fg(Color::Green),
        Some(error) if error <= 5.0 => Style::new().fg(Color::Yellow),
        Some(_) => Style::new().fg(Color::Red),
        None => Style::new(),
    }
}

fn members_table(frame: &Frame, area: Rect) -> Table<'static> {
    let width = bar_width(area);
    // Columns that would be empty take no room.
    let memory_width = if frame.memories.is_empty() { 0 } else { 7 };
    let rows = frame.members.iter().map(|member| {
        Row::new(vec![
            right(member.pid.to_string(), 8),
            Cell::from(member.group.to_string()),
            Cell::from(member.state.clone()).style(state_style(&member.state)),
            right(whole(member.nice), 3),
            right(whole(member.prio), 4),
            right(decimal(Some(member.share)), 6),
            bar_cell(member.share, 100.0, width),
            right(time_of_usec(member.usage_usec), 9),
            right(size(member.resident), 7),
            right(size(member.swapped), 7),
            Cell::from(member.comm.clone()),
        ])
    });
    let widths = [
        Constraint::Length(8),
        Constraint::Length(16),
        Constraint::Length(8),
        Constraint::Length(3),
        Constraint::Length(4),
        Constraint::Length(6),
        Constraint::Length(width),
        Constraint::Length(9),
        Constraint::Length(memory_width),
        Constraint::Length(memory_width),
        Constraint::Fill(1),
    ];
    let names = [
        "     PID",
        "GROUP",
        "STATE",
        " NI",
        "PRIO",
        "  %CPU",
        "",
        "     TIME",
        "    RES",
        "   SWAP",
        "COMM",
    ];
    Table::new(rows.collect::<Vec<_>>(), widths)
        .header(heading(&names))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
}

fn state_style(state: &str) -> Style {
    match state {
        "running" => Style::new().fg(Color::Green),
        "queued" | "expired" => Style::new().fg(Color::Yellow),
        _ => Style::new().fg(Color::DarkGray),
    }
}

fn foot_line(footer: &Footer) -> Line<'static> {
    match footer {
        Footer::Keys => Line::from("q quit   ↑↓ select   k signal   P share  T time  N pid  G group").dim(),
        Footer::Signal { pid, typed } => {
            Line::from(format!("signal to {pid} [TERM]: {typed}_   (Enter sends, Esc cancels)"))
        }
        Footer::Message(text) => Line::from(text.clone()).fg(Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::verbs::top::frame::example;

    fn drawn(width: u16, height: u16, footer: &Footer) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
        let mut selected = TableState::new().with_selected(Some(0));
        terminal.draw(|canvas| draw(canvas, &example(), &mut selected, footer)).expect("memory");
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).filter_map(|x| Some(buffer.cell((x, y))?.symbol())).collect::<String>();
        (0..height).map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn picture_has_promise_bars_and_members() {
        let text = drawn(140, 20, &Footer::Keys);

        assert!(
            text.contains("groups 1   members 3   grouped 50.0 %   ungrouped 75.0 %   by share"),
            "{text}"
        );
        assert!(text.contains("web                50.0 ██████████████"), "{text}");
        assert!(text.contains(" 2.50s  2.49s   -0.4 park=freeze handover=strict"), "{text}");
        assert!(text.contains("      42 web              running"), "{text}");
        assert!(text.contains("web                32.0M ██████████████"), "{text}");
        assert!(text.contains(" 64.0M   16.0M     1      500       20    1.5    0.2     2.0"), "{text}");
        assert!(text.contains("q quit"), "{text}");
    }

    #[test]
    fn picture_on_a_tiny_terminal_does_not_fail() {
        for (width, height) in [(1, 1), (20, 3), (80, 4)] {
            drawn(width, height, &Footer::Message("x".into()));
        }
    }

    #[test]
    fn signal_being_typed_is_shown() {
        let footer = Footer::Signal { pid: 42, typed: "HU".into() };
        assert!(drawn(100, 10, &footer).contains("signal to 42 [TERM]: HU_"));
    }
}
