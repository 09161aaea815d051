//! How flags that are more than a number or a word are read.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ironring_core::limits::VALUE_BYTES_MAX;
use ironring_core::{Durability, WallTime};
use ironring_net::message::ReadFrom;

use super::error::{CliError, USAGE};
use crate::config::size;

/// A time such as `500ms`, `10s`, `30m`, `12h`, `7d`; a bare number is seconds.
///
/// # Errors
/// What is wrong with the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit_ms = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("a time is a whole number and ms, s, m, h or d".to_owned()),
    };
    let number: u64 =
        number.parse().map_err(|_| "a time is a whole number and ms, s, m, h or d".to_owned())?;
    let ms = number.checked_mul(unit_ms).ok_or_else(|| "the time is too long".to_owned())?;
    Ok(Duration::from_millis(ms))
}

/// A size such as `64MiB`.
///
/// # Errors
/// What is wrong with the text.
pub fn bytes(text: &str) -> Result<u64, String> {
    size::parse(text)
}

/// A level of durability by its name.
///
/// # Errors
/// When there is no such level.
pub fn durability(text: &str) -> Result<Durability, String> {
    (0..=u8::MAX)
        .map_while(Durability::from_u8)
        .find(|level| level.name() == text)
        .ok_or_else(|| "a level is async, local, quorum or all".to_owned())
}

/// Where a read begins: `earliest`, `latest`, an offset, or `@` and milliseconds since the epoch.
///
/// # Errors
/// When it is none of them.
pub fn read_from(text: &str) -> Result<ReadFrom, String> {
    let wrong =
        || "a position is earliest, latest, an offset, or @ and milliseconds since 1970".to_owned();
    match (text, text.strip_prefix('@')) {
        ("earliest", _) => Ok(ReadFrom::Earliest),
        ("latest", _) => Ok(ReadFrom::Latest),
        (_, Some(ms)) => ms.parse().map(|ms| ReadFrom::Time(WallTime(ms))).map_err(|_| wrong()),
        (offset, None) => offset.parse().map(ReadFrom::Offset).map_err(|_| wrong()),
    }
}

/// Bytes given on the command line as they are.
#[must_use]
pub fn raw(text: &OsStr) -> &[u8] {
    text.as_bytes()
}

/// A value: an argument, or a file (`-`: standard input).
///
/// # Errors
/// When neither or both are there, or the file cannot be read or is longer than a value may be.
pub fn value(given: Option<&OsString>, file: Option<&PathBuf>) -> Result<Vec<u8>, CliError> {
    match (given, file) {
        (Some(given), None) => Ok(raw(given).to_vec()),
        (None, Some(file)) => {
            let mut bytes = Vec::new();
            open(file)?
                .take(VALUE_BYTES_MAX as u64 + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| CliError::io(file.display(), &error))?;
            if bytes.len() > VALUE_BYTES_MAX {
                let limit = super::units::bytes(VALUE_BYTES_MAX as u64);
                let message = format!("{}: longer than a value may be ({limit})", file.display());
                return Err(CliError::hinted(&USAGE, message, "split it, or append it to a topic"));
            }
            Ok(bytes)
        }
        _ => Err(CliError::hinted(
            &USAGE,
            "there is no value, or there are two",
            "give VALUE, or --value-file FILE (- for standard input)",
        )),
    }
}

/// A file to read, `-` for standard input.
///
/// # Errors
/// When it cannot be opened.
pub fn open(file: &Path) -> Result<Box<dyn Read>, CliError> {
    if file == Path::new("-") {
        return Ok(Box::new(std::io::stdin()));
    }
    match std::fs::File::open(file) {
        Ok(open) => Ok(Box::new(open)),
        Err(error) => Err(CliError::io(file.display(), &error)),
    }
}

/// Makes sure that what destroys data is wanted: by `--yes`, or by an answer on a terminal.
///
/// # Errors
/// When it is not.
pub fn confirm(yes: bool, what: &str) -> Result<(), CliError> {
    use std::io::IsTerminal;
    let not_confirmed =
        || CliError::local(&super::error::NOT_CONFIRMED, format!("{what} was not confirmed"));
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(not_confirmed());
    }
    let mut answer = String::new();
    write!(anstream::stderr(), "{what}? [y/N] ")
        .and_then(|()| std::io::stdin().read_line(&mut answer))
        .map_err(|error| CliError::io("the terminal", &error))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(not_confirmed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("10", 10_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "1.5s", "-1s", "1w", "99999999999999999999d", "9999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn levels_are_found_by_their_name() {
        for level in [Durability::Async, Durability::Local, Durability::Quorum, Durability::All] {
            assert_eq!(durability(level.name()), Ok(level));
        }
        assert!(durability("fsync").is_err());
    }

    #[test]
    fn positions_are_words_offsets_or_times() {
        assert_eq!(read_from("earliest"), Ok(ReadFrom::Earliest));
        assert_eq!(read_from("latest"), Ok(ReadFrom::Latest));
        assert_eq!(read_from("42"), Ok(ReadFrom::Offset(42)));
        assert_eq!(read_from("@1700"), Ok(ReadFrom::Time(WallTime(1700))));
        assert!(read_from("@").is_err() && read_from("-1").is_err() && read_from("now").is_err());
    }

    #[test]
    fn a_value_comes_from_exactly_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("v");
        std::fs::write(&file, b"\xff\n").unwrap();
        assert_eq!(value(Some(&"a".into()), None).unwrap(), b"a");
        assert_eq!(value(None, Some(&file)).unwrap(), b"\xff\n");
        assert_eq!(value(None, None).unwrap_err().exit, 2);
        assert_eq!(value(Some(&"a".into()), Some(&file)).unwrap_err().exit, 2);
        std::fs::File::create(&file).unwrap().set_len(VALUE_BYTES_MAX as u64 + 1).unwrap();
        assert_eq!(value(None, Some(&file)).unwrap_err().exit, 2);
    }
}
