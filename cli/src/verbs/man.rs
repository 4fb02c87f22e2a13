//! `man`: manual pages made from the grammar.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man;

use crate::exit::CliError;

/// Write the manual pages.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write compartment.1 and a page per verb there; without it, print the first
    dir: Option<PathBuf>,
}

impl ManArgs {
    /// Writes them.
    pub(crate) fn run(self, out: &mut dyn Write) -> Result<(), CliError> {
        let mut command = crate::args::command();
        command.build();
        let Some(dir) = self.dir else {
            return Ok(out.write_all(&page(command)?)?);
        };
        let save = |name: &str, page: &[u8]| {
            let path = dir.join(format!("{name}.1"));
            std::fs::write(&path, page).map_err(CliError::os(format!("write {}", path.display())))
        };
        std::fs::create_dir_all(&dir).map_err(CliError::os(format!("make {}", Path::display(&dir))))?;
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let name = format!("compartment-{}", verb.get_name());
            save(&name, &page(verb.clone())?)?;
        }
        save("compartment", &page(command)?)
    }
}

fn page(command: Command) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_written_for_each_verb() {
        let dir = tempfile::tempdir().expect("a directory");

        ManArgs { dir: Some(dir.path().to_owned()) }.run(&mut Vec::new()).expect("writable");

        let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("a page");
        assert!(page("compartment.1").contains(".TH compartment 1"));
        assert!(page("compartment-run.1").contains("CMD"));
    }
}
