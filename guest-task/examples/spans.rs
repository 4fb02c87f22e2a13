//! Spans as tasks: one within another. It waits for a line on standard input, with the spans open, and then again with them closed.

use std::io;
use std::time::{Duration, Instant};

use guest_task::tracing::TaskSpans;
use guest_task::{Options, Registry};
use tracing::{debug_span, info_span};
use tracing_subscriber::layer::SubscriberExt as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let registry = Registry::connect(Options::default())?;
    println!("{:?}", registry.wait_answer(Duration::from_secs(5)));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(TaskSpans::new(registry)))?;
    let mut line = String::new();
    {
        let outer = info_span!("import", file = "users.csv", rows = tracing::field::Empty).entered();
        outer.record("rows", 42);
        let _hidden = debug_span!("detail").entered();
        let inner = info_span!("parse");
        inner.in_scope(|| {
            let end = Instant::now() + Duration::from_millis(30);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        });
        println!("open");
        io::stdin().read_line(&mut line)?;
    }
    println!("closed");
    io::stdin().read_line(&mut line)?;
    Ok(())
}
