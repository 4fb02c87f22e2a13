//! One file per verb: its arguments, and what it does with the control tree.

pub(crate) mod completions;
pub(crate) mod create;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod enter;
pub(crate) mod kill;
pub(crate) mod man;
pub(crate) mod mv;
pub(crate) mod ps;
pub(crate) mod recover;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod set;
pub(crate) mod settings;
pub(crate) mod show;
pub(crate) mod task;
mod task_proxy;
pub(crate) mod top;
pub(crate) mod uml;

use crate::exit::{CliError, Exit};

/// Does something for each of many, tells of each failure at once, and fails at the end if any did.
fn for_each<T: Copy>(items: &[T], mut each: impl FnMut(T) -> Result<(), CliError>) -> Result<(), CliError> {
    let mut worst: Option<(usize, Exit)> = None;
    for &item in items {
        match each(item) {
            Ok(()) => {}
            Err(e) if items.len() == 1 => return Err(e),
            // Nobody will answer the others either.
            Err(e) if e.exit() == Exit::Unreachable => return Err(e),
            Err(e) => {
                eprintln!("compartment: {e}");
                let (failed, exit) = worst.unwrap_or((0, Exit::Failed));
                worst = Some((failed + 1, if e.exit() == Exit::Denied { Exit::Denied } else { exit }));
            }
        }
    }
    worst.map_or(Ok(()), |(failed, exit)| Err(CliError::Partly { failed, all: items.len(), exit }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_each_goes_on_after_a_failure() {
        let mut seen = Vec::new();

        let result = for_each(&[1, 2, 3], |n| {
            seen.push(n);
            if n == 2 { Err(CliError::Failed("two".into())) } else { Ok(()) }
        });

        assert_eq!(seen, [1, 2, 3]);
        assert!(matches!(result, Err(CliError::Partly { failed: 1, all: 3, exit: Exit::Failed })));
    }
}
