//! Spans of tracing as tasks: a layer for `tracing_subscriber`.
//!
//! A span is shown from its creation to its close by its name, with its target and fields as command line, below the span that it was created
//! in. It is running while it is entered, its CPU time is what threads have spent inside it, spans within it included. Fields are shown to
//! every user of the host: keep secrets out of them.

use std::cell::RefCell;
use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::layout::CMDLINE_BYTES;
use crate::{Registry, Task, TaskSpec, TaskState, thread_cpu_time_ns};

/// Shows spans as tasks.
#[derive(Clone, Debug)]
pub struct TaskSpans {
    registry: Registry,
    level: Level,
}

impl TaskSpans {
    /// Shows spans of level INFO and above in a registry.
    pub fn new(registry: Registry) -> Self {
        Self { registry, level: Level::INFO }
    }

    /// Shows spans of that level and above.
    #[must_use]
    pub fn with_level(self, level: Level) -> Self {
        Self { level, ..self }
    }
}

/// What is kept with a span.
struct Shown {
    task: Task,
    cmdline: Text,
}

/// A text that ends where a command line does.
#[derive(Default)]
struct Text(String);

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = CMDLINE_BYTES.saturating_sub(self.0.len());
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        Ok(())
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self, " {}={value}", field.name());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self, " {}={value:?}", field.name());
    }
}

thread_local! {
    /// CPU time of this thread at the entry of each span that it is in.
    static ENTERED: RefCell<Vec<(u64, u64)>> = const { RefCell::new(Vec::new()) };
}

impl<S> Layer<S> for TaskSpans
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let (Some(span), metadata) = (context.span(id), attributes.metadata()) else { return };
        if *metadata.level() > self.level {
            return;
        }
        let mut cmdline = Text::default();
        let _ = cmdline.write_str(metadata.target());
        attributes.record(&mut cmdline);
        let mut spec = TaskSpec::new(metadata.name()).cmdline(&cmdline.0).state(TaskState::Waiting);
        // The next one that is shown.
        let parent = span.scope().skip(1).find_map(|up| Some(up.extensions().get::<Shown>()?.task.id()));
        if let Some(parent) = parent {
            spec = spec.parent(parent);
        }
        let task = self.registry.publish(spec);
        span.extensions_mut().insert(Shown { task, cmdline });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(Shown { task, cmdline }) = span.extensions_mut().get_mut::<Shown>() {
            values.record(cmdline);
            task.set_texts(span.name(), "", &cmdline.0);
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(shown) = span.extensions().get::<Shown>() {
            shown.task.set_state(TaskState::Running);
            ENTERED.with_borrow_mut(|entered| entered.push((id.into_u64(), thread_cpu_time_ns())));
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(shown) = span.extensions().get::<Shown>() {
            shown.task.set_state(TaskState::Waiting);
            let start = ENTERED.with_borrow_mut(|entered| {
                let at = entered.iter().rposition(|(of, _)| *of == id.into_u64())?;
                Some(entered.remove(at).1)
            });
            let used = start.map_or(0, |start| thread_cpu_time_ns().saturating_sub(start));
            shown.task.add_cpu_time_ns(used);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        // The registry may keep the rest of a span for others.
        if let Some(span) = context.span(&id) {
            drop(span.extensions_mut().remove::<Shown>());
        }
    }
}
