//! What the guest says: lines of any bytes, which may stop anywhere, be long, or be lies. What makes no sense is passed over.

use std::collections::HashMap;

/// Longer lines are passed over.
const LINE_MAX: usize = 4096;
/// Processes beyond are passed over: twice as many as a guest has with the usual `pid_max`.
const PROCESSES_MAX: usize = 65_536;

/// A process as the guest's `/proc/PID/stat` has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Process {
    /// Its name.
    pub(crate) comm: String,
    /// A letter.
    pub(crate) state: u8,
    /// Its parent's PID; 0 for none.
    pub(crate) parent: u32,
    /// It is the guest kernel's own.
    pub(crate) is_kernel: bool,
    /// CPU time, in ticks.
    pub(crate) cpu_ticks: u64,
    /// -20 to 19.
    pub(crate) nice: i8,
    /// When it began, in ticks since the guest's boot.
    pub(crate) start: u64,
    /// Resident pages.
    pub(crate) pages: u64,
}

/// All processes at one moment.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Listing {
    /// Names the boot: another one is another guest.
    pub(crate) boot: String,
    /// The agent's PID.
    pub(crate) agent: u32,
    /// Seconds since the guest's boot.
    pub(crate) uptime: f64,
    /// By PID.
    pub(crate) processes: HashMap<u32, Process>,
}

/// What is told of processes in words, by PID.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Words {
    /// First lines of command lines, the arguments divided by zero bytes.
    pub(crate) cmdlines: HashMap<u32, String>,
    /// User ids.
    pub(crate) users: HashMap<u32, u32>,
}

/// Something that the guest has said.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Answer {
    /// The agent has begun, and has read nothing that it was sent before.
    Ready,
    /// To `list`.
    List(Listing),
    /// To `words`.
    Words(Words),
    /// A signal or a nice was passed on, or not.
    Done {
        /// Of what was asked.
        token: u32,
        /// 0 if it was.
        status: u32,
    },
}

/// What was asked last and not answered yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    /// Answers with another one are to somebody else, or late.
    pub(crate) token: u32,
    /// `words`, or else `list`.
    pub(crate) is_words: bool,
}

/// The answer that is just being given.
#[derive(Debug)]
enum Frame {
    List(Listing),
    Words(Words),
}

/// Takes bytes, gives answers.
#[derive(Default, Debug)]
pub(crate) struct Answers {
    line: Vec<u8>,
    is_too_long: bool,
    asked: Option<Asked>,
    frame: Option<Frame>,
}

impl Answers {
    /// Waits for this answer, and no longer for the one before.
    pub(crate) fn expect(&mut self, asked: Option<Asked>) {
        self.asked = asked;
        self.frame = None;
    }

    /// Gives what is still to be answered.
    pub(crate) fn asked(&self) -> Option<Asked> {
        self.asked
    }

    /// Takes what has come, and gives what is complete by that.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<Answer> {
        let mut answers = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.is_too_long |= self.line.len() == LINE_MAX;
                if !self.is_too_long {
                    self.line.push(byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if !std::mem::take(&mut self.is_too_long) {
                let line = String::from_utf8_lossy(&line);
                answers.extend(self.take_line(line.trim_end_matches('\r')));
            }
        }
        answers
    }

    fn take_line(&mut self, line: &str) -> Option<Answer> {
        let mut words = line.split(' ');
        match (words.next()?, words.next().and_then(|word| word.parse().ok())) {
            ("ready", None) => {
                self.expect(None);
                return Some(Answer::Ready);
            }
            ("done", Some(token)) => {
                return Some(Answer::Done { token, status: words.next()?.parse().ok()? });
            }
            ("begin", Some(token)) => {
                self.frame = self.asked.filter(|asked| asked.token == token).and_then(|asked| {
                    let listing = listing(&mut words)?;
                    Some(if asked.is_words { Frame::Words(Words::default()) } else { Frame::List(listing) })
                });
            }
            ("end", Some(token)) => {
                let frame =
                    self.frame.take().filter(|_| self.asked.is_some_and(|asked| asked.token == token))?;
                self.asked = None;
                return Some(match frame {
                    Frame::List(listing) => Answer::List(listing),
                    Frame::Words(words) => Answer::Words(words),
                });
            }
            _ => match &mut self.frame {
                Some(Frame::List(listing)) if listing.processes.len() < PROCESSES_MAX => {
                    listing.processes.extend(process(line));
                }
                Some(Frame::Words(words)) if words.cmdlines.len() + words.users.len() < PROCESSES_MAX => {
                    words.users.extend(user(line));
                    words.cmdlines.extend(cmdline(line));
                }
                _ => {}
            },
        }
        None
    }
}

/// The rest of a `begin`.
fn listing<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Listing> {
    let boot = words.next()?.to_owned();
    let (agent, uptime) = (words.next()?.parse().ok()?, words.next()?.parse::<f64>().ok()?);
    let is_time = uptime.is_finite() && uptime >= 0.0;
    is_time.then(|| Listing { boot, agent, uptime, processes: HashMap::new() })
}

/// A line of `/proc/PID/stat`. The name may have anything in it but a line's end.
fn process(line: &str) -> Option<(u32, Process)> {
    /// Of `flags`: a thread of the kernel's own.
    const PF_KTHREAD: u64 = 0x0020_0000;
    let (head, tail) = line.rsplit_once(") ")?;
    let (pid, comm) = head.split_once(" (")?;
    let fields: Vec<&str> = tail.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let process = Process {
        comm: comm.to_owned(),
        state: *fields.first()?.as_bytes().first()?,
        parent: u32::try_from(number(1)?).ok()?,
        is_kernel: number(6)? & PF_KTHREAD != 0,
        cpu_ticks: number(11)?.saturating_add(number(12)?),
        nice: fields.get(16)?.parse().ok()?,
        start: number(19)?,
        pages: number(21)?,
    };
    Some((pid.parse().ok()?, process))
}

fn user(line: &str) -> Option<(u32, u32)> {
    let (pid, uid) = line.strip_prefix("user ")?.split_once(' ')?;
    Some((pid.parse().ok()?, uid.parse().ok()?))
}

fn cmdline(line: &str) -> Option<(u32, String)> {
    let (pid, words) = line.split_once("/cmdline:")?;
    Some((pid.parse().ok()?, words.replace('\x1f', "\0")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INIT: &str = "1 (a) b (c) S 0 1 1 0 -1 4194304 238 493 0 0 89 2 2 1 20 -5 1 0 7 2293760 344 18446744073709551615 0";
    const KERNEL: &str =
        "10 (ksoftirqd/0) R 2 0 0 0 -1 69238848 0 0 0 0 0 0 0 0 20 0 1 0 7 0 0 18446744073709551615 0";

    fn asked(token: u32, is_words: bool) -> Answers {
        let mut answers = Answers::default();
        answers.expect(Some(Asked { token, is_words }));
        answers
    }

    fn list(token: u32) -> String {
        format!("begin {token} b00t 1 14.50 3.2\n{INIT}\r\nrubbish\n{KERNEL}\nend {token}\n")
    }

    #[test]
    fn listing_is_read_byte_by_byte_as_at_once() {
        let text = list(7);
        let at_once = asked(7, false).take(text.as_bytes());
        let mut slowly = asked(7, false);
        let one_by_one: Vec<_> = text.bytes().flat_map(|byte| slowly.take(&[byte])).collect();

        assert_eq!(at_once, one_by_one);
        let [Answer::List(listing)] = &at_once[..] else { panic!("{at_once:?}") };
        assert_eq!((&listing.boot[..], listing.agent, listing.uptime), ("b00t", 1, 14.5));
        let init = &listing.processes[&1];
        assert_eq!((&init.comm[..], init.state, init.parent, init.nice), ("a) b (c", b'S', 0, -5));
        assert_eq!((init.cpu_ticks, init.start, init.pages, init.is_kernel), (91, 7, 344, false));
        assert!(listing.processes[&10].is_kernel && listing.processes.len() == 2);
        assert_eq!(slowly.asked(), None);
    }

    #[test]
    fn answers_to_others_and_broken_off_ones_are_passed_over() {
        let mut answers = asked(8, false);

        assert_eq!(answers.take(list(7).as_bytes()), []);
        assert_eq!(answers.take(b"begin 8 b00t 1 1.0 1.0\n1 (ini"), []);
        assert_eq!(answers.take(b"\nready\n"), [Answer::Ready]);
        assert_eq!(answers.take(b"end 8\n"), [], "nobody waits for it any more");
        answers.expect(Some(Asked { token: 9, is_words: false }));
        assert_eq!(answers.take(list(9).as_bytes()).len(), 1);
    }

    #[test]
    fn lines_of_words_are_told_apart() {
        let text = "begin 3 b00t 1 1.0 1.0\n12/cmdline:sh\x1f-c\x1fend 3\x1f\n700/cmdline:\nx y\nuser 12 1000\nuser x y\nend 3\n";

        let answers = asked(3, true).take(text.as_bytes());

        let [Answer::Words(words)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(words.cmdlines, HashMap::from([(12, "sh\0-c\0end 3\0".into()), (700, String::new())]));
        assert_eq!(words.users, HashMap::from([(12, 1000)]));
    }

    #[test]
    fn endless_lines_and_listings_are_cut() {
        let mut answers = asked(1, false);
        answers.take(b"begin 1 b00t 1 1.0 1.0\n");
        for pid in 0..PROCESSES_MAX + 100 {
            answers.take(INIT.replacen('1', &pid.to_string(), 1).as_bytes());
            answers.take(b"\n");
        }
        answers.take(&vec![b'x'; LINE_MAX * 10]);
        assert!(answers.line.len() <= LINE_MAX);

        let got = answers.take(b"\nend 1\n");

        let [Answer::List(listing)] = &got[..] else { panic!("no listing") };
        assert_eq!(listing.processes.len(), PROCESSES_MAX);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), words in "(begin|end|done|ready|user|1|7|\\(|\\)| |\n|-){0,60}") {
            let mut answers = asked(7, false);
            answers.take(&bytes);
            answers.take(b"\nbegin 7 b 1 1 1\n");
            answers.take(&bytes);
            answers.take(words.as_bytes());
        }
    }
}
