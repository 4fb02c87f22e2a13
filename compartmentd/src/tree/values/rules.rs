//! The lines of `rules`.

use std::path::PathBuf;

use super::malformed;
use crate::errno::Refusal;
use crate::tree::names::parse_group_name;

/// The longest text of all rules, in bytes.
pub const RULES_MAX: usize = 64 * 1024;

/// Whom a rule is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// Processes of a user.
    User(u32),
    /// Processes that execute a file.
    Exe(PathBuf),
}

/// One rule: who is put where when executing a program. Both conditions, if both are given, must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Whom it is about.
    pub who: Vec<Who>,
    /// The name of a sched_group.
    pub sched: Option<String>,
    /// The name of a mem_group.
    pub mem: Option<String>,
}

impl Rule {
    /// Says whether a process of user `uid` that executes `exe` is meant.
    pub fn is_about(&self, uid: u32, exe: &std::path::Path) -> bool {
        self.who.iter().all(|who| match who {
            Who::User(user) => *user == uid,
            Who::Exe(path) => path == exe,
        })
    }
}

/// Parses all rules: one per line, empty lines and lines that begin with `#` left out.
///
/// # Errors
/// EINVAL with the line's number.
pub fn parse_rules(bytes: &[u8]) -> Result<Vec<Rule>, Refusal> {
    if bytes.len() > RULES_MAX {
        return malformed(format!("rules have at most {RULES_MAX} bytes"));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return malformed("rules are UTF-8 text") };
    let lines = text
        .lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(n, line)| {
            parse_rule(line).map_err(|e| Refusal::new(e.why, format!("rule in line {}: {}", n + 1, e.reason)))
        })
        .collect()
}

fn parse_rule(line: &str) -> Result<Rule, Refusal> {
    let (mut who, mut sched, mut mem) = (Vec::new(), None, None);
    for word in line.split_whitespace() {
        match word.split_once('=') {
            Some(("user", user)) => who.push(Who::User(parse_user(user)?)),
            Some(("exe", path)) if path.starts_with('/') => who.push(Who::Exe(path.into())),
            Some(("exe", _)) => return malformed("exe= takes an absolute path"),
            Some(("sched", name)) if sched.is_none() => sched = Some(parse_target(name)?),
            Some(("mem", name)) if mem.is_none() => mem = Some(parse_target(name)?),
            _ => return malformed(format!("{word:?} is none of user= exe= sched= mem=")),
        }
    }
    if who.is_empty() {
        return malformed("user= or exe= is missing");
    }
    if sched.is_none() && mem.is_none() {
        return malformed("sched= or mem= is missing");
    }
    Ok(Rule { who, sched, mem })
}

/// A group made by reading is named by digits, which a rule may name too.
fn parse_target(name: &str) -> Result<String, Refusal> {
    let is_number = !name.is_empty() && name.len() <= 10 && name.bytes().all(|b| b.is_ascii_digit());
    if is_number { Ok(name.to_owned()) } else { parse_group_name(name.as_ref()).map(str::to_owned) }
}

fn parse_user(text: &str) -> Result<u32, Refusal> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().or_else(|_| malformed("a user's number is too large"));
    }
    // The name service may read files and ask servers; names are short, and only root gets here.
    match nix::unistd::User::from_name(text) {
        Ok(Some(user)) if !text.is_empty() => Ok(user.uid.as_raw()),
        _ => malformed(format!("there is no user {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn rules_are_read_in_order() {
        let rules =
            parse_rules(b"# who\nuser=1000 sched=alice\n\nexe=/usr/bin/make sched=builds\n").expect("rules");

        assert_eq!(rules.len(), 2);
        assert!(rules[0].is_about(1000, Path::new("/x")) && !rules[0].is_about(1001, Path::new("/x")));
        assert!(rules[1].is_about(5, Path::new("/usr/bin/make")));
        assert_eq!((rules[1].sched.as_deref(), rules[1].mem.as_deref()), (Some("builds"), None));
        let both = parse_rules(b"user=0 sched=a mem=b\nuser=0 mem=12").expect("rules");
        assert_eq!((both[0].sched.as_deref(), both[0].mem.as_deref()), (Some("a"), Some("b")));
        assert_eq!((both[1].sched.as_deref(), both[1].mem.as_deref()), (None, Some("12")));
        assert_eq!(parse_rules(b"user=root sched=r").map(|r| r[0].who.clone()), Ok(vec![Who::User(0)]));
        assert_eq!(parse_rules(b"\n"), Ok(vec![]));
    }

    #[test]
    fn rules_that_are_none_are_refused_with_their_line() {
        for bad in [
            "sched=x",
            "user=1000",
            "user=no-such-user sched=x",
            "exe=make sched=x",
            "user=1 sched=a\tb c",
            "user=1 sched=a sched=b",
            "user=1 mem=a mem=b",
            "user=1 mem=a/b",
            "x",
        ] {
            let e = parse_rules(format!("user=1 sched=a\n{bad}").as_bytes()).expect_err(bad);
            assert_eq!(e.errno(), libc::EINVAL);
            assert!(e.reason.contains("line 2"), "{e}");
        }
    }
}
