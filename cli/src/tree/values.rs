//! What the tree's files hold: keyed lists, the cap, the promise, fractions of a CPU.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Number, Value};

/// A flat-keyed file: `key value` per line, or `key=value` words as in `mode`. Keeps the order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Parses it; a line without a value has an empty one.
    pub(crate) fn parse(text: &str) -> Self {
        Self(
            text.lines()
                .filter(|line| !line.trim().is_empty())
                .map(|line| line.trim().split_once(' ').unwrap_or((line.trim(), "")))
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect(),
        )
    }

    /// Parses words of `key=value`.
    pub(crate) fn parse_words(text: &str) -> Self {
        Self(
            text.split_whitespace()
                .filter_map(|word| word.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    /// Gives a value in the type wanted, `None` where it is missing or is something else (`max`, `-`).
    pub(crate) fn get<T: FromStr>(&self, key: &str) -> Option<T> {
        self.0.iter().find(|(k, _)| k == key)?.1.parse().ok()
    }

    /// Gives all of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Gives them as a JSON object, numbers as numbers.
    pub(crate) fn to_json(&self) -> Value {
        Value::Object(self.iter().map(|(key, value)| (key.to_owned(), json_of(value))).collect::<Map<_, _>>())
    }
}

/// A number where the text is one, else a string.
pub(crate) fn json_of(text: &str) -> Value {
    if let Ok(n) = text.parse::<i64>() {
        return n.into();
    }
    match text.parse::<f64>().ok().and_then(Number::from_f64) {
        Some(n) => Value::Number(n),
        None => text.into(),
    }
}

/// `cpu.max`: the CPU time allowed in each period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CpuMax {
    /// Microseconds of CPU time, `None` for no limit.
    pub(crate) quota_usec: Option<u64>,
    /// Microseconds.
    pub(crate) period_usec: u64,
}

impl CpuMax {
    /// The cap as a number of CPUs.
    pub(crate) fn cpus(self) -> Option<f64> {
        self.quota_usec.map(|quota| quota as f64 / self.period_usec as f64)
    }
}

impl FromStr for CpuMax {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split_whitespace();
        let quota_usec = match words.next().ok_or(())? {
            "max" => None,
            number => Some(number.parse().map_err(|_| ())?),
        };
        let period_usec = words.next().map_or(Ok(100_000), str::parse).map_err(|_| ())?;
        if period_usec == 0 || words.next().is_some() {
            return Err(());
        }
        Ok(Self { quota_usec, period_usec })
    }
}

impl fmt::Display for CpuMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.quota_usec {
            Some(quota) => write!(f, "{quota} {}", self.period_usec),
            None => write!(f, "max {}", self.period_usec),
        }
    }
}

/// A number of CPUs as people write it: `0.25`, `2`, `max`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Cpus {
    micro: Option<u64>,
}

const PERIOD_USEC: u64 = 100_000;

impl Cpus {
    /// The cap it stands for.
    pub(crate) fn cpu_max(self) -> CpuMax {
        // From millionths of a CPU to microseconds per 100 000, never down to nothing.
        let quota_usec = self.micro.map(|micro| (micro * PERIOD_USEC).div_ceil(1_000_000));
        CpuMax { quota_usec, period_usec: PERIOD_USEC }
    }

    /// The virtual CPUs that it takes: the next whole number. `None` for `max`.
    pub(crate) fn vcpus(self) -> Option<u64> {
        self.micro.map(|micro| micro.div_ceil(1_000_000))
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self { micro: None });
        }
        let is_plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        match text.parse::<f64>() {
            Ok(cpus) if is_plain && (1e-5..=4096.0).contains(&cpus) => {
                Ok(Self { micro: Some((cpus * 1e6).round() as u64) })
            }
            _ => Err("expected a number of CPUs like 0.25 or 2, or max".into()),
        }
    }
}

/// The text with whatever would upset a terminal escaped.
pub(crate) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

/// CPU time as people read it: `1:02.50`, `3:04:05`.
pub(crate) fn time_of_usec(usec: u64) -> String {
    let (seconds, hundredths) = (usec / 1_000_000, usec / 10_000 % 100);
    match seconds / 3600 {
        0 => format!("{}:{:02}.{hundredths:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

/// Bytes as people read them: `512K`, `64.0M`, `1.5G`.
pub(crate) fn size_of_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some(("K", unit)) => format!("{}K", bytes / unit),
        Some((name, unit)) => format!("{:.1}{name}", bytes as f64 / *unit as f64),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_quarter_is_quota_and_one_vcpu() {
        let cpus: Cpus = "0.25".parse().expect("a number");

        assert_eq!(cpus.cpu_max().to_string(), "25000 100000");
        assert_eq!(cpus.vcpus(), Some(1));
        assert_eq!("2.5".parse::<Cpus>().map(Cpus::vcpus), Ok(Some(3)));
        assert_eq!("2".parse::<Cpus>().map(Cpus::vcpus), Ok(Some(2)));
        assert_eq!("max".parse::<Cpus>().map(|c| c.cpu_max().to_string()), Ok("max 100000".into()));
    }

    #[test]
    fn cpus_that_are_none_are_refused() {
        for bad in ["0", "-1", "nan", "inf", "1e3", "", "25%", "5000"] {
            assert!(bad.parse::<Cpus>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn cpu_max_read_is_written_back_the_same() {
        for text in ["max 100000", "25000 100000"] {
            assert_eq!(text.parse::<CpuMax>().map(|m| m.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("5000".parse::<CpuMax>().map(|m| m.period_usec), Ok(100_000));
        for bad in ["", "x 1", "1 0", "1 2 3"] {
            assert!(bad.parse::<CpuMax>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pairs_to_json_have_numbers_as_numbers() {
        let pairs = Pairs::parse("asked 25.5\nnr_members 2\nwhat max\nempty\n");

        assert_eq!(pairs.to_json().to_string(), r#"{"asked":25.5,"empty":"","nr_members":2,"what":"max"}"#);
        assert_eq!(pairs.get::<u64>("nr_members"), Some(2));
        assert_eq!(
            Pairs::parse_words("park=stop x envelope=none").get::<String>("park"),
            Some("stop".into())
        );
    }

    #[test]
    fn printable_escapes_what_moves_the_cursor() {
        assert_eq!(printable("a\x1b[2Jä\n"), "a\\u{1b}[2Jä\\n");
    }

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        for (bytes, text) in
            [(0, "0"), (4096, "4K"), (64 << 20, "64.0M"), (3 << 29, "1.5G"), (1 << 41, "2.0T")]
        {
            assert_eq!(size_of_bytes(bytes), text);
        }
    }

    #[test]
    fn time_is_shown_short_and_long() {
        assert_eq!(time_of_usec(62_500_000), "1:02.50");
        assert_eq!(time_of_usec(11_045_000_000), "3:04:05");
    }
}
