//! The kinds of values a configuration key can hold: how each is read from TOML or from text
//! (environment, flags), bounded, and written back.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;

use toml::de::DeValue;

use super::size;

/// Where a value is read from.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// A value of the file.
    Toml(&'a DeValue<'a>),
    /// Text from the environment or a flag, without quotes.
    Text(&'a str),
}

impl Input<'_> {
    /// The value as a user would recognise it in a message.
    fn found(&self) -> String {
        match self {
            Input::Text(text) => format!("{text:?}"),
            Input::Toml(DeValue::String(text)) => format!("the string {text:?}"),
            Input::Toml(DeValue::Integer(number)) => format!("the integer {number}"),
            Input::Toml(DeValue::Float(number)) => format!("the number {number}"),
            Input::Toml(DeValue::Boolean(value)) => format!("the boolean {value}"),
            Input::Toml(DeValue::Array(_)) => "a list".to_owned(),
            Input::Toml(DeValue::Table(_)) => "a table".to_owned(),
            Input::Toml(DeValue::Datetime(_)) => "a date".to_owned(),
        }
    }

    /// Text, from a flag or a TOML string.
    fn text(&self) -> Option<&str> {
        match self {
            Input::Text(text) => Some(text),
            Input::Toml(DeValue::String(text)) => Some(text),
            Input::Toml(_) => None,
        }
    }
}

/// How the values of a key are read, bounded and written.
pub trait Kind {
    /// What the [`Config`](super::Config) field holds.
    type Value;

    /// Reads and bounds a value.
    ///
    /// # Errors
    /// The end of a sentence that begins with the key's name.
    fn read(&self, input: Input<'_>) -> Result<Self::Value, String>;

    /// The value as TOML.
    fn render(&self, value: &Self::Value) -> String;

    /// The value as JSON: what TOML has too as it is there.
    fn json(&self, value: &Self::Value) -> serde_json::Value {
        let toml = format!("value = {}", self.render(value));
        let read = toml::from_str::<serde_json::Value>(&toml);
        read.ok().and_then(|mut read| Some(read.get_mut("value")?.take())).unwrap_or_default()
    }

    /// What is allowed, for people: `a size from 4MiB to 1GiB`.
    fn allowed(&self) -> String;
}

/// A whole number between two bounds; zero may have a meaning of its own.
pub struct Whole<T> {
    min: T,
    max: T,
    zero: Option<&'static str>,
}

impl<T> Whole<T> {
    /// Between `min` and `max`, both allowed.
    pub const fn within(min: T, max: T) -> Whole<T> {
        Whole { min, max, zero: None }
    }

    /// Zero, which means `zero`, or between `min` and `max`.
    pub const fn zero_or(zero: &'static str, min: T, max: T) -> Whole<T> {
        Whole { min, max, zero: Some(zero) }
    }
}

/// A size in bytes between two bounds; zero may have a meaning of its own.
pub struct Size(Whole<u64>);

impl Size {
    /// Between `min` and `max` bytes, both allowed.
    pub const fn within(min: u64, max: u64) -> Size {
        Size(Whole::within(min, max))
    }

    /// Zero, which means `zero`, or between `min` and `max` bytes.
    pub const fn zero_or(zero: &'static str, min: u64, max: u64) -> Size {
        Size(Whole::zero_or(zero, min, max))
    }
}

fn bound<T: PartialOrd + Copy + Into<u64>>(
    whole: &Whole<T>,
    value: u64,
    show: impl Fn(u64) -> String,
) -> Result<(), String> {
    if value == 0 && whole.zero.is_some() {
        return Ok(());
    }
    if value < whole.min.into() {
        return Err(format!(
            "is {}; the smallest allowed is {}",
            show(value),
            show(whole.min.into())
        ));
    }
    if value > whole.max.into() {
        return Err(format!(
            "is {}; the largest allowed is {}",
            show(value),
            show(whole.max.into())
        ));
    }
    Ok(())
}

fn allowed(what: &str, zero: Option<&str>, min: &dyn Display, max: &dyn Display) -> String {
    match zero {
        Some(zero) => format!("0 ({zero}), or {what} from {min} to {max}"),
        None => format!("{what} from {min} to {max}"),
    }
}

fn integer(input: Input<'_>) -> Option<u64> {
    match input {
        Input::Text(text) => text.trim().replace('_', "").parse().ok(),
        Input::Toml(DeValue::Integer(number)) => {
            u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
        }
        Input::Toml(_) => None,
    }
}

impl<T: PartialOrd + Copy + Into<u64> + TryFrom<u64>> Kind for Whole<T> {
    type Value = T;

    fn read(&self, input: Input<'_>) -> Result<T, String> {
        let value = integer(input)
            .ok_or_else(|| format!("must be a whole number, found {}", input.found()))?;
        bound(self, value, |number| number.to_string())?;
        T::try_from(value).map_err(|_| format!("is {value}, which is out of range"))
    }

    fn render(&self, value: &T) -> String {
        (*value).into().to_string()
    }

    fn allowed(&self) -> String {
        allowed("a whole number", self.zero, &self.min.into(), &self.max.into())
    }
}

impl Kind for Size {
    type Value = u64;

    fn read(&self, input: Input<'_>) -> Result<u64, String> {
        let value = match (integer(input), input.text()) {
            (Some(bytes), _) => bytes,
            (None, Some(text)) => size::parse(text).map_err(|why| format!("is wrong: {why}"))?,
            (None, None) => {
                return Err(format!(
                    "must be a size such as \"64MiB\" or a number of bytes, found {}",
                    input.found()
                ));
            }
        };
        bound(&self.0, value, size::exact)?;
        Ok(value)
    }

    fn render(&self, value: &u64) -> String {
        match size::exact(*value) {
            text if text.ends_with('B') => format!("\"{text}\""),
            number => number,
        }
    }

    /// In bytes.
    fn json(&self, value: &u64) -> serde_json::Value {
        (*value).into()
    }

    fn allowed(&self) -> String {
        allowed("a size", self.0.zero, &size::exact(self.0.min), &size::exact(self.0.max))
    }
}

/// A share of something, between two bounds in hundredths.
pub struct Share {
    /// Smallest value allowed, in percent.
    pub min_percent: u32,
    /// Largest value allowed, in percent.
    pub max_percent: u32,
}

impl Kind for Share {
    type Value = f64;

    fn read(&self, input: Input<'_>) -> Result<f64, String> {
        let value: Option<f64> = match input {
            Input::Text(text) => text.trim().parse().ok(),
            Input::Toml(DeValue::Float(number)) => number.as_str().replace('_', "").parse().ok(),
            Input::Toml(_) => integer(input).map(|number| number as f64),
        };
        let value = value
            .filter(|value| value.is_finite())
            .ok_or_else(|| format!("must be a number, found {}", input.found()))?;
        let (min, max) = (f64::from(self.min_percent) / 100.0, f64::from(self.max_percent) / 100.0);
        if value < min {
            return Err(format!("is {value}; the smallest allowed is {min}"));
        }
        if value > max {
            return Err(format!("is {value}; the largest allowed is {max}"));
        }
        Ok(value)
    }

    fn render(&self, value: &f64) -> String {
        // Debug keeps the decimal point, so that 1.0 stays a TOML float.
        format!("{value:?}")
    }

    fn allowed(&self) -> String {
        let (min, max) = (f64::from(self.min_percent) / 100.0, f64::from(self.max_percent) / 100.0);
        format!("a share from {min} to {max}")
    }
}

/// A name of a node or cluster: 1 to 64 lower-case letters, digits, `.`, `_` and `-`, beginning
/// with a letter or digit.
pub enum Name {
    /// Any.
    Cluster,
    /// Not of digits only, which are the ids of nodes: an order for node 1 must not be one for
    /// another that is called so.
    Node,
}

impl Kind for Name {
    type Value = String;

    fn read(&self, input: Input<'_>) -> Result<String, String> {
        let text =
            input.text().ok_or_else(|| format!("must be a string, found {}", input.found()))?;
        let letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = (1..=64).contains(&text.len())
            && letter(text.as_bytes()[0])
            && text.bytes().all(|c| letter(c) || matches!(c, b'.' | b'_' | b'-'));
        if fits && matches!(self, Name::Node) && text.bytes().all(|c| c.is_ascii_digit()) {
            return Err(format!("is {text:?}; a node's name is not of digits only: ids are"));
        }
        if !fits {
            return Err(format!(
                "is {text:?}; a name is 1 to 64 lower-case letters, digits, '.', '_' or '-', and begins with a letter or digit"
            ));
        }
        Ok(text.to_owned())
    }

    fn render(&self, value: &String) -> String {
        toml_string(value)
    }

    fn allowed(&self) -> String {
        let letters = "1 to 64 lower-case letters, digits, `.`, `_`, `-`";
        match self {
            Name::Cluster => letters.to_owned(),
            Name::Node => format!("{letters}, not digits only"),
        }
    }
}

/// What a node has in common with others: a word as names have, or nothing.
pub struct Label;

impl Kind for Label {
    type Value = String;

    fn read(&self, input: Input<'_>) -> Result<String, String> {
        let text =
            input.text().ok_or_else(|| format!("must be a string, found {}", input.found()))?;
        let letter = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        if text.len() > 64 || !text.bytes().all(letter) {
            return Err(format!("is {text:?}; use up to 64 letters, digits, '.', '_' or '-'"));
        }
        Ok(text.to_owned())
    }

    fn render(&self, value: &String) -> String {
        toml_string(value)
    }

    fn allowed(&self) -> String {
        "up to 64 letters, digits, `.`, `_`, `-`, or empty".to_owned()
    }
}

/// Addresses of other nodes: a TOML list `["a:7412", "b:7412"]`, or text with commas between them.
pub struct Seeds;

/// More seeds than anybody needs.
const SEEDS_MAX: usize = 64;

impl Kind for Seeds {
    type Value = Vec<String>;

    fn read(&self, input: Input<'_>) -> Result<Vec<String>, String> {
        let found = || format!("must be a list of HOST:PORT, found {}", input.found());
        let words: Vec<&str> = match (input, input.text()) {
            (Input::Toml(DeValue::Array(items)), _) => {
                let text = |item: &'_ toml::Spanned<DeValue<'_>>| match item.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    _ => None,
                };
                let words: Option<Vec<String>> = items.iter().map(text).collect();
                return checked_seeds(words.ok_or_else(found)?);
            }
            (_, Some(text)) => text.split(',').map(str::trim).filter(|w| !w.is_empty()).collect(),
            _ => return Err(found()),
        };
        checked_seeds(words.into_iter().map(str::to_owned).collect())
    }

    fn render(&self, value: &Vec<String>) -> String {
        let seeds: Vec<String> = value.iter().map(|seed| toml_string(seed)).collect();
        format!("[{}]", seeds.join(", "))
    }

    fn allowed(&self) -> String {
        "a list of `HOST:PORT`, or empty".to_owned()
    }
}

fn checked_seeds(seeds: Vec<String>) -> Result<Vec<String>, String> {
    if seeds.len() > SEEDS_MAX {
        return Err(format!("names {} nodes; {SEEDS_MAX} are allowed", seeds.len()));
    }
    for seed in &seeds {
        let port = seed.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(format!("names {seed:?}, which is not HOST:PORT"));
        }
    }
    Ok(seeds)
}

/// A word nobody but its owner should read: it is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl Secret {
    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "(not shown)" }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({:?})", self.shown())
    }
}

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

/// A secret, or nothing.
pub struct Password;

/// Longest secret: what a handshake has room for.
const SECRET_BYTES_MAX: usize = 256;

impl Kind for Password {
    type Value = Secret;

    fn read(&self, input: Input<'_>) -> Result<Secret, String> {
        let text = input.text().ok_or_else(|| "must be a string".to_owned())?;
        if text.len() > SECRET_BYTES_MAX {
            return Err(format!("is longer than {SECRET_BYTES_MAX} bytes"));
        }
        Ok(Secret(text.to_owned()))
    }

    fn render(&self, value: &Secret) -> String {
        toml_string(value.shown())
    }

    fn allowed(&self) -> String {
        "a token, or empty".to_owned()
    }
}

/// A directory, or none.
pub struct OptionalDirectory;

impl Kind for OptionalDirectory {
    type Value = PathBuf;

    fn read(&self, input: Input<'_>) -> Result<PathBuf, String> {
        match input.text() {
            Some("") => Ok(PathBuf::new()),
            _ => Directory.read(input),
        }
    }

    fn render(&self, value: &PathBuf) -> String {
        Directory.render(value)
    }

    fn allowed(&self) -> String {
        "a path, or empty".to_owned()
    }
}

/// A directory.
pub struct Directory;

impl Kind for Directory {
    type Value = PathBuf;

    fn read(&self, input: Input<'_>) -> Result<PathBuf, String> {
        let text = input
            .text()
            .ok_or_else(|| format!("must be a path in quotes, found {}", input.found()))?;
        if text.is_empty() || text.contains('\0') {
            return Err(format!("is {text:?}, which names no directory"));
        }
        Ok(PathBuf::from(text))
    }

    fn render(&self, value: &PathBuf) -> String {
        toml_string(&value.to_string_lossy())
    }

    fn allowed(&self) -> String {
        "a path".to_owned()
    }
}

/// An IP address and port to listen on.
pub struct Listen;

impl Kind for Listen {
    type Value = SocketAddr;

    fn read(&self, input: Input<'_>) -> Result<SocketAddr, String> {
        let text = input
            .text()
            .ok_or_else(|| format!("must be an address in quotes, found {}", input.found()))?;
        text.trim().parse().map_err(|_| {
            format!(
                "is {text:?}, which is not IP:PORT such as \"127.0.0.1:7411\" or \"[::1]:7411\""
            )
        })
    }

    fn render(&self, value: &SocketAddr) -> String {
        toml_string(&value.to_string())
    }

    fn allowed(&self) -> String {
        "`IP:PORT`".to_owned()
    }
}

/// A host name or IP address without a port; empty for none.
pub struct Host;

impl Kind for Host {
    type Value = String;

    fn read(&self, input: Input<'_>) -> Result<String, String> {
        let text = input
            .text()
            .ok_or_else(|| format!("must be a host in quotes, found {}", input.found()))?;
        let is_ip = text.parse::<std::net::IpAddr>().is_ok();
        let is_name = text.len() <= 253
            && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'));
        if !is_ip && !is_name {
            return Err(format!(
                "is {text:?}, which is not a host name or IP address (without a port)"
            ));
        }
        Ok(text.to_owned())
    }

    fn render(&self, value: &String) -> String {
        toml_string(value)
    }

    fn allowed(&self) -> String {
        "a host name or IP address, or empty".to_owned()
    }
}

/// CPU numbers: a TOML list `[0, 2, 3]`, or text as the kernel writes it, `"0,2-3"`.
pub struct Cpus;

/// More CPUs than Linux can be built for (`CONFIG_NR_CPUS` ends at 8192).
const CPU_MAX: u64 = 8191;

impl Kind for Cpus {
    type Value = Vec<u16>;

    fn read(&self, input: Input<'_>) -> Result<Vec<u16>, String> {
        let mut cpus = Vec::new();
        let mut add = |first: u64, last: u64| {
            if last > CPU_MAX || first > last {
                return Err(format!("names CPUs {first} to {last}; they go from 0 to {CPU_MAX}"));
            }
            for cpu in first..=last {
                let cpu = cpu as u16;
                if cpus.contains(&cpu) {
                    return Err(format!("names CPU {cpu} twice"));
                }
                cpus.push(cpu);
            }
            Ok(())
        };
        let not_a_list = || {
            format!(
                "must be a list of CPU numbers such as [0, 2] or \"0,2-3\", found {}",
                input.found()
            )
        };
        match (input, input.text()) {
            (Input::Toml(DeValue::Array(items)), _) => {
                for item in items.iter() {
                    let cpu = integer(Input::Toml(item.get_ref())).ok_or_else(not_a_list)?;
                    add(cpu, cpu)?;
                }
            }
            (_, Some(text)) => {
                for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                    let (first, last) = part.split_once('-').unwrap_or((part, part));
                    let number = |text: &str| text.trim().parse().map_err(|_| not_a_list());
                    add(number(first)?, number(last)?)?;
                }
            }
            _ => return Err(not_a_list()),
        }
        Ok(cpus)
    }

    fn render(&self, value: &Vec<u16>) -> String {
        let numbers: Vec<String> = value.iter().map(u16::to_string).collect();
        format!("[{}]", numbers.join(", "))
    }

    fn allowed(&self) -> String {
        "a list of CPU numbers; empty for any".to_owned()
    }
}

/// One of a few words.
pub struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Kind for Choice<T> {
    type Value = T;

    fn read(&self, input: Input<'_>) -> Result<T, String> {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
        input
            .text()
            .and_then(|text| self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim())))
            .map(|(_, value)| *value)
            .ok_or_else(|| format!("must be one of {}, found {}", names.join(", "), input.found()))
    }

    fn render(&self, value: &T) -> String {
        let name = self.0.iter().find(|(_, known)| known == value).map(|(name, _)| *name);
        toml_string(name.expect("every value of a choice is listed with its name"))
    }

    fn allowed(&self) -> String {
        let names: Vec<String> = self.0.iter().map(|(name, _)| format!("`{name}`")).collect();
        names.join(", ")
    }
}

fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
