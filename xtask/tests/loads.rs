//! The programs that the benches measure, on their own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn load(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["load", "--parent", &std::process::id().to_string()]).args(args);
    command
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !check() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn counting_loads_count() {
    let dir = tempfile::tempdir().expect("a directory");
    for kind in ["spin-count", "pingpong", "forks"] {
        let path = dir.path().join(kind);
        std::fs::write(&path, 0u64.to_ne_bytes()).expect("a file");
        let shown = path.to_str().expect("text");
        let _load =
            Killed(load(&[kind, "--counter", shown]).stdin(Stdio::null()).spawn().expect("our own binary"));

        eventually(kind, || {
            let mut bytes = [0u8; 8];
            let mut file = std::fs::File::open(&path).expect("the file");
            file.read_exact(&mut bytes).is_ok() && u64::from_ne_bytes(bytes) > 2
        });
    }
}

#[test]
fn recording_loads_answer_a_line_with_numbers() {
    for (kind, has_some) in [("wake", true), ("gaps", false)] {
        let mut load = load(&[kind]);
        let child = load.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("our own binary");
        let mut load = Killed(child);
        let mut output = BufReader::new(load.0.stdout.take().expect("a pipe"));
        let mut input = load.0.stdin.take().expect("a pipe");

        let mut ask = || {
            input.write_all(b"\n").expect("it reads");
            let mut line = String::new();
            output.read_line(&mut line).expect("it answers");
            line.split_whitespace().map(|n| n.parse::<u64>().expect("numbers")).collect::<Vec<_>>()
        };
        // Twice: a line ends a record, and begins another one.
        ask();
        eventually(kind, || !ask().is_empty() || !has_some);
    }
}

#[test]
fn load_of_another_parent_ends_at_once() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let status = command.args(["load", "--parent", "1", "spin-count"]).status().expect("our own binary");

    assert!(status.success());
}
