//! Durations, sizes and rates as people write and read them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// Parses `250us`, `10ms`, `30s`, `5m`, `2h`; a bare number is seconds.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let value: f64 = number.parse().map_err(|_| {
        format!("`{text}` is no duration: write for example 250us, 10ms, 30s or 5m")
    })?;
    let unit_s = match unit.trim() {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("`{other}` is no unit of time: use ns, us, ms, s, m or h")),
    };
    Duration::try_from_secs_f64(value * unit_s).map_err(|e| format!("`{text}`: {e}"))
}

/// Parses `1024`, `4k`, `64KiB`, `1MiB`, `2g`: powers of 1024.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let value: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is no size: write for example 1024, 64KiB or 1MiB"))?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        other => return Err(format!("`{other}` is no unit of size: use KiB, MiB, GiB or TiB")),
    };
    value.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

/// `1.25 ms` and so on, three significant digits.
#[must_use]
pub fn show_ns(ns: u64) -> String {
    let ns = ns as f64;
    let (value, unit) = match ns {
        n if n < 1e3 => return format!("{n:.0} ns"),
        n if n < 1e6 => (n / 1e3, "us"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// `123 k/s` and so on.
#[must_use]
pub fn show_rate(per_s: f64) -> String {
    let (value, unit) = scaled(per_s);
    format!("{} {unit}/s", three_digits(value)).replace("  ", " ")
}

/// `1.50 GiB` and so on.
#[must_use]
pub fn show_bytes(bytes: f64) -> String {
    let mut value = bytes;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{} {unit}", three_digits(value))
}

fn scaled(value: f64) -> (f64, &'static str) {
    match value {
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => (v, ""),
    }
}

fn three_digits(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Nanoseconds of a duration; durations here are far below the 584 years that would overflow.
#[must_use]
pub fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Serde form of a duration: the text of [`parse_duration`], or a number of seconds.
pub mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, parse_duration};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a duration such as \"30s\", or a number of seconds")]
    enum Form {
        Text(String),
        Whole(u64),
        Seconds(f64),
    }

    /// Writes seconds with their unit.
    pub fn serialize<S: Serializer>(value: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&format!("{}s", value.as_secs_f64()))
    }

    /// Reads the text or the number.
    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        let parsed = match Form::deserialize(input)? {
            Form::Text(text) => parse_duration(&text),
            Form::Whole(seconds) => Ok(Duration::from_secs(seconds)),
            Form::Seconds(seconds) => {
                Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
            }
        };
        parsed.map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip_through_their_text() {
        for (text, ns) in [("250us", 250_000), ("1.5ms", 1_500_000), ("30", 30_000_000_000)] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_nanos(ns));
        }
        assert!(parse_duration("10 parsecs").unwrap_err().contains("parsecs"));
        assert!(parse_duration("soon").is_err());
    }

    #[test]
    fn sizes_are_powers_of_1024_and_refuse_to_overflow() {
        assert_eq!(parse_bytes("64KiB").unwrap(), 65_536);
        assert_eq!(parse_bytes("1m").unwrap(), 1 << 20);
        assert!(parse_bytes("99999999999TiB").is_err());
        assert!(parse_bytes("1 apple").is_err());
    }

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!(show_ns(999), "999 ns");
        assert_eq!(show_ns(1_234_567), "1.23 ms");
        assert_eq!(show_rate(152_300.0), "152 k/s");
        assert_eq!(show_rate(12.0), "12.0 /s");
        assert_eq!(show_bytes(1536.0), "1.50 KiB");
    }
}
