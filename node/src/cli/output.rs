//! One way to print: a command returns a typed [`Report`], and the format chosen with `-o` decides
//! whether it becomes a table, one JSON document, or one JSON line per item.
//!
//! Tables are for people (human units, colour when the terminal has it); JSON is for programs (base
//! units, stable names). Results go to stdout; notes, progress and errors to stderr.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

/// The form of a command's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One JSON document per line: an item each for lists.
    Jsonl,
}

/// The result of a command.
pub trait Report: Serialize {
    /// The result for people.
    fn view(&self) -> View;

    /// The result as items, one line each in `jsonl`. A result that is not a list is one item.
    ///
    /// # Errors
    /// When the result cannot be expressed in JSON.
    fn items(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        Ok(vec![serde_json::to_value(self)?])
    }
}

/// `items` of a report that is a list.
///
/// # Errors
/// When an item cannot be expressed in JSON.
pub fn each<T: Serialize>(items: &[T]) -> serde_json::Result<Vec<serde_json::Value>> {
    items.iter().map(serde_json::to_value).collect()
}

/// How a cell is to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing to say.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Deserves a look.
    Warn,
    /// Wrong.
    Bad,
}

/// One cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell that is to be read in `tone`.
    #[must_use]
    pub fn toned(text: impl Into<String>, tone: Tone) -> Cell {
        Cell { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::toned(text, Tone::Plain)
    }
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

/// What people see: blocks below each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    blocks: Vec<Block>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Block {
    Rows { columns: Vec<Column>, rows: Vec<Vec<Cell>> },
    Pairs(Vec<(String, Cell)>),
    Text(String),
}

impl View {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> View {
        View::default()
    }

    /// Text as it is.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> View {
        self.blocks.push(Block::Text(text.into()));
        self
    }

    /// A table with a row per item.
    #[must_use]
    pub fn rows(mut self, columns: &[Column], rows: Vec<Vec<Cell>>) -> View {
        self.blocks.push(Block::Rows { columns: columns.to_vec(), rows });
        self
    }

    /// Names and values, one pair a line.
    #[must_use]
    pub fn pairs<N: Into<String>, C: Into<Cell>>(
        mut self,
        pairs: impl IntoIterator<Item = (N, C)>,
    ) -> View {
        let pairs = pairs.into_iter().map(|(name, cell)| (name.into(), cell.into()));
        self.blocks.push(Block::Pairs(pairs.collect()));
        self
    }

    /// The text, at most `width` columns wide where tables allow it (`None`: as wide as it gets).
    #[must_use]
    pub fn render(&self, width: Option<u16>, colour: bool) -> String {
        let mut out = String::new();
        for (index, block) in self.blocks.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            match block {
                Block::Text(text) => out.push_str(text.trim_end_matches('\n')),
                Block::Rows { columns, rows } => {
                    let headers: Vec<Cell> = columns
                        .iter()
                        .map(|(Column::Left(name) | Column::Right(name))| Cell::from(*name))
                        .collect();
                    let mut table = plain_table(width, colour);
                    table.set_header(headers.iter().map(|cell| styled(cell, colour)));
                    for row in rows {
                        table.add_row(row.iter().map(|cell| styled(cell, colour)));
                    }
                    for (index, column) in columns.iter().enumerate() {
                        if let (Column::Right(_), Some(column)) = (column, table.column_mut(index))
                        {
                            column.set_cell_alignment(CellAlignment::Right);
                        }
                    }
                    push_trimmed(&mut out, &table.to_string());
                    continue;
                }
                Block::Pairs(pairs) => {
                    let mut table = plain_table(width, colour);
                    for (name, cell) in pairs {
                        table.add_row([
                            styled(&Cell::from(name.as_str()), colour),
                            styled(cell, colour),
                        ]);
                    }
                    push_trimmed(&mut out, &table.to_string());
                    continue;
                }
            }
            out.push('\n');
        }
        out
    }
}

fn plain_table(width: Option<u16>, colour: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    match width {
        Some(width) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    if colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

fn styled(cell: &Cell, colour: bool) -> comfy_table::Cell {
    let styled = comfy_table::Cell::new(&cell.text);
    let tone = match cell.tone {
        _ if !colour => return styled,
        Tone::Plain => return styled,
        Tone::Good => comfy_table::Color::Green,
        Tone::Warn => comfy_table::Color::Yellow,
        Tone::Bad => comfy_table::Color::Red,
    };
    styled.fg(tone)
}

/// Without the blanks a borderless table leaves at both ends of a line.
fn push_trimmed(out: &mut String, table: &str) {
    for line in table.lines() {
        out.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
        out.push('\n');
    }
}

/// Where and how results are printed.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// The form.
    pub format: Format,
}

impl Output {
    /// Prints a result on stdout. A reader that went away (`| head`) is not a failure.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn print(self, report: &impl Report) -> io::Result<()> {
        let text = match self.format {
            Format::Table => {
                let stdout = io::stdout();
                let colour = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
                report.view().render(terminal_width(), colour)
            }
            Format::Json => serde_json::to_string_pretty(report)? + "\n",
            Format::Jsonl => {
                let mut lines = String::new();
                for item in report.items()? {
                    lines.push_str(&item.to_string());
                    lines.push('\n');
                }
                lines
            }
        };
        self.write(text.as_bytes())
    }

    /// Writes bytes as they are to stdout: values, scripts.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn write(self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    /// Says something to a person watching, on stderr; programs that read JSON are left alone.
    pub fn note(self, text: &str) {
        if self.format == Format::Table {
            // A note that cannot be written has nowhere to be reported.
            _ = writeln!(anstream::stderr(), "{text}");
        }
    }
}

/// Columns of the terminal stdout is, or `None` when it is a file or a pipe.
fn terminal_width() -> Option<u16> {
    if !io::stdout().is_terminal() {
        return None;
    }
    Table::new().width()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View::new()
            .pairs([("node", Cell::from("a")), ("state", Cell::toned("ready", Tone::Good))])
            .rows(
                &[Column::Left("NAME"), Column::Right("BYTES")],
                vec![
                    vec!["first".into(), "1".into()],
                    vec!["second, longer".into(), Cell::toned("1000", Tone::Bad)],
                ],
            )
            .text("done\n")
    }

    #[test]
    fn tables_align_words_left_and_numbers_right() {
        assert_eq!(
            view().render(None, false),
            "node   a\nstate  ready\n\nNAME            BYTES\nfirst               1\nsecond, longer   1000\n\ndone\n"
        );
    }

    #[test]
    fn colour_is_only_there_when_asked_for() {
        assert!(!view().render(None, false).contains('\u{1b}'));
        let coloured = view().render(None, true);
        assert!(coloured.contains("\u{1b}[38;5;10m ready"), "{coloured:?}");
        assert!(coloured.contains("\u{1b}[38;5;9m"), "{coloured:?}");
    }

    #[test]
    fn narrow_terminals_wrap_cells() {
        let rendered = view().render(Some(16), false);
        assert!(rendered.lines().all(|line| line.chars().count() <= 16), "{rendered}");
    }
}
