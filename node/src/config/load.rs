//! File, environment and flags into one configuration, with the origin of every value.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::kind::Input;
use super::schema::{self, Config, KEYS, Key, SECTIONS};

/// Prefix of the variables that override keys.
pub const VARIABLE_PREFIX: &str = "IRONRING__";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// The file. Line and column count from 1, columns in characters.
    File {
        /// Its path as given.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line, column } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Origin::Environment(variable) => f.write_str(variable),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The place to correct.
    pub origin: Origin,
    /// What is wrong.
    pub message: String,
    /// What to do, when there is more to say than the message does.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => f.write_str(&self.message),
            origin => write!(f, "{origin}: {}", self.message),
        }
    }
}

/// Everything that is wrong with a configuration: at least one problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// In order of place: file, environment, flags.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A key set by a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The flag as the user wrote it, for messages.
    pub flag: String,
    /// `section.name`.
    pub key: String,
    /// The value, without quotes.
    pub value: String,
}

/// Where to take values from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment; variables without the prefix are passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags, the last one of a key counts.
    pub flags: Vec<Setting>,
}

impl Sources {
    /// This process's environment and no file or flags.
    #[must_use]
    pub fn from_environment() -> Sources {
        Sources { environment: std::env::vars_os().collect(), ..Sources::default() }
    }

    /// Reads, overlays and checks.
    ///
    /// # Errors
    /// Every problem found. Checks between keys are made only when each key alone is right.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut loading = Loading { loaded: Loaded::default(), problems: Vec::new() };
        if let Some(path) = &self.file {
            match std::fs::read_to_string(path) {
                Ok(text) => loading.file(path, &text),
                Err(error) => loading.problem(
                    Origin::Flag(path.display().to_string()),
                    format!("the configuration file cannot be read: {error}"),
                    None,
                ),
            }
        }
        for (variable, value) in &self.environment {
            loading.variable(variable, value);
        }
        for setting in &self.flags {
            loading.flag(setting);
        }
        if loading.problems.is_empty() {
            for conflict in loading.loaded.config.conflicts() {
                let origin = loading.loaded.origin_of_any(conflict.keys);
                loading.problem(origin, conflict.message, Some(conflict.hint));
            }
        }
        if loading.problems.is_empty() {
            Ok(loading.loaded)
        } else {
            Err(ConfigError { problems: loading.problems })
        }
    }
}

/// A checked configuration and where its values came from.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// By `section.name`; a key that is missing has its default.
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where the value of a key came from.
    #[must_use]
    pub fn origin(&self, key: &Key) -> &Origin {
        self.origins.get(&key.path()).unwrap_or(&Origin::Default)
    }

    /// The origin of the first of `paths` that is not a default.
    fn origin_of_any(&self, paths: &[&str]) -> Origin {
        let found = paths.iter().find_map(|path| self.origins.get(*path));
        found.cloned().unwrap_or(Origin::Default)
    }
}

struct Loading {
    loaded: Loaded,
    problems: Vec<Problem>,
}

impl Loading {
    fn problem(&mut self, origin: Origin, message: String, hint: Option<String>) {
        self.problems.push(Problem { origin, message, hint });
    }

    fn set(&mut self, key: &Key, input: Input<'_>, origin: Origin) {
        match (key.set)(&mut self.loaded.config, input) {
            Ok(()) => {
                self.loaded.origins.insert(key.path(), origin);
            }
            Err(why) => {
                let hint = format!("allowed: {}", key.allowed());
                self.problem(origin, format!("{} {why}", key.path()), Some(hint));
            }
        }
    }

    /// Walks the document. After a syntax error nothing else of the file is judged: what the
    /// parser recovered may not be what was meant.
    fn file(&mut self, path: &Path, text: &str) {
        let place = Place { path, text };
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let mut errors: Vec<_> = errors
                .iter()
                .map(|error| (error.span().unwrap_or(0..0), error.message()))
                .collect();
            errors.sort_by_key(|(span, _)| span.start);
            // What follows a mistake on the same line is mostly its echo.
            let mut lines = BTreeSet::new();
            for (span, message) in errors {
                if lines.insert(place.line(&span)) {
                    self.problem(place.origin(&span), format!("not TOML: {message}"), None);
                }
            }
            return;
        }
        let mut sections: Vec<_> = document.get_ref().iter().collect();
        sections.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in sections {
            let origin = place.origin(&name.span());
            let name = name.get_ref().as_ref();
            match value.get_ref() {
                _ if SECTIONS.iter().all(|section| section.name != name) => {
                    let hint = section_hint(name, value.get_ref().is_table());
                    let what = if value.get_ref().is_table() {
                        format!("unknown section [{name}]")
                    } else {
                        format!("unknown key {name:?} outside of any section")
                    };
                    self.problem(origin, what, Some(hint));
                }
                DeValue::Table(table) => self.section(&place, name, table),
                _ => self.problem(
                    origin,
                    format!("[{name}] is a section, not a key"),
                    Some(format!("write [{name}] on a line of its own, and its keys below it")),
                ),
            }
        }
    }

    fn section(&mut self, place: &Place<'_>, section: &str, table: &DeTable<'_>) {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            match schema::find(section, name.get_ref()) {
                Some(key) => {
                    self.set(key, Input::Toml(value.get_ref()), place.origin(&value.span()));
                }
                None => self.problem(
                    place.origin(&name.span()),
                    format!("unknown key {:?} in [{section}]", name.get_ref()),
                    Some(key_hint(section, name.get_ref())),
                ),
            }
        }
    }

    fn variable(&mut self, variable: &OsString, value: &OsString) {
        let Some(variable) = variable.to_str() else { return };
        let Some(rest) = variable.strip_prefix(VARIABLE_PREFIX) else { return };
        let origin = Origin::Environment(variable.to_owned());
        let Some(value) = value.to_str() else {
            return self.problem(origin, "the value is not UTF-8".to_owned(), None);
        };
        let path = rest.to_ascii_lowercase();
        let (section, name) = path.split_once("__").unwrap_or((&path, ""));
        match schema::find(section, name) {
            Some(key) => self.set(key, Input::Text(value), origin),
            None => {
                let hint = match closest_path(section, name) {
                    Some(key) => format!("did you mean {}?", key.variable()),
                    None => "variables are IRONRING__SECTION__KEY; `ironring config default` lists the keys".to_owned(),
                };
                self.problem(origin, "no key has this variable".to_owned(), Some(hint));
            }
        }
    }

    fn flag(&mut self, setting: &Setting) {
        let origin = Origin::Flag(setting.flag.clone());
        let (section, name) = setting.key.split_once('.').unwrap_or((&setting.key, ""));
        match schema::find(section, name) {
            Some(key) => self.set(key, Input::Text(&setting.value), origin),
            None => {
                let hint = match closest_path(section, name) {
                    Some(key) => format!("did you mean {}?", key.path()),
                    None => {
                        "keys are section.name; `ironring config default` lists them".to_owned()
                    }
                };
                self.problem(origin, format!("unknown key {:?}", setting.key), Some(hint));
            }
        }
    }
}

/// Turns byte positions of a file into lines and columns.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    /// The text before a position; the parser's positions are character boundaries.
    fn before(&self, span: &Range<usize>) -> &str {
        self.text.get(..span.start).unwrap_or(self.text)
    }

    fn line(&self, span: &Range<usize>) -> usize {
        self.before(span).matches('\n').count() + 1
    }

    fn origin(&self, span: &Range<usize>) -> Origin {
        let before = self.before(span);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Origin::File {
            path: self.path.to_owned(),
            line: self.line(span),
            column: before[line_start..].chars().count() + 1,
        }
    }
}

fn section_hint(name: &str, is_table: bool) -> String {
    if !is_table && let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return format!("{name} belongs under [{}]", key.section);
    }
    match closest(name, SECTIONS.iter().map(|section| section.name)) {
        Some(section) => format!("did you mean [{section}]?"),
        None => {
            let names: Vec<String> =
                SECTIONS.iter().map(|section| format!("[{}]", section.name)).collect();
            format!("the sections are {}", names.join(", "))
        }
    }
}

fn key_hint(section: &str, name: &str) -> String {
    let here = || KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
    if let Some(key) = closest(name, here()) {
        return format!("did you mean {key:?}?");
    }
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return format!("{name} belongs under [{}]", key.section);
    }
    format!("the keys of [{section}] are {}", here().collect::<Vec<_>>().join(", "))
}

/// The key whose path looks most like `section.name`.
fn closest_path(section: &str, name: &str) -> Option<&'static Key> {
    let wanted = format!("{section}.{name}");
    let paths: Vec<String> = KEYS.iter().map(Key::path).collect();
    let best = closest(&wanted, paths.iter().map(String::as_str))?;
    KEYS.iter().find(|key| key.path() == best)
}

/// The candidate nearest to `word` by edit distance, when it is near enough to be a slip: at most
/// a third of the word's letters.
pub fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    candidates
        .map(|candidate| (edit_distance(&word, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= (word.chars().count() / 3).max(1))
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: inserted, removed and changed letters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
