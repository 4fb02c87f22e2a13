//! `completions`: made from the grammar.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

use crate::exit::CliError;

/// Print completions for a shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

impl CompletionsArgs {
    /// Prints them.
    pub(crate) fn run(self, out: &mut dyn Write) -> Result<(), CliError> {
        // Into memory first: the generator panics where a pipe is closed early.
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut crate::args::command(), "compartment", &mut text);
        Ok(out.write_all(&text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_know_every_verb() {
        let mut out = Vec::new();

        CompletionsArgs { shell: Shell::Bash }.run(&mut out).expect("memory");

        let text = String::from_utf8(out).expect("text");
        for verb in crate::args::command().get_subcommands() {
            assert!(text.contains(verb.get_name()), "{}", verb.get_name());
        }
        assert!(!text.contains("exec-gate"));
    }
}
