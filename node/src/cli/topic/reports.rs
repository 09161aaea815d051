//! What the topic verbs print.

use std::time::Duration;

use ironring_net::client::{Appended, Record};
use ironring_net::message::{Receipt, TopicInfo};
use serde::Serialize;

use crate::cli::connect::Blob;
use crate::cli::output::{Cell, Column, Report, View, each};
use crate::cli::units;

/// Widest key or value in a table.
const CELL_CHARS_MAX: usize = 60;

/// A topic.
#[derive(Serialize)]
pub(super) struct TopicRow {
    pub(super) name: String,
    pub(super) id: u32,
    pub(super) partitions: u32,
    pub(super) keep_ms: u64,
    pub(super) keep_bytes: u64,
    pub(super) created_unix_ms: u64,
}

impl From<TopicInfo> for TopicRow {
    fn from(topic: TopicInfo) -> TopicRow {
        TopicRow {
            name: topic.name,
            id: topic.id.0,
            partitions: topic.partitions,
            keep_ms: topic.retention.age_ms,
            keep_bytes: topic.retention.bytes,
            created_unix_ms: topic.created.0,
        }
    }
}

impl TopicRow {
    fn kept_time(&self) -> String {
        match self.keep_ms {
            0 => "for ever".to_owned(),
            ms => units::duration(Duration::from_millis(ms)),
        }
    }

    fn kept_bytes(&self) -> String {
        match self.keep_bytes {
            0 => "any size".to_owned(),
            bytes => units::bytes(bytes),
        }
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        vec![
            ("topic", self.name.clone()),
            ("id", self.id.to_string()),
            ("partitions", self.partitions.to_string()),
            ("keeps", format!("{}, {} per partition", self.kept_time(), self.kept_bytes())),
            ("created", units::time(self.created_unix_ms)),
        ]
    }
}

impl Report for TopicRow {
    fn view(&self) -> View {
        View::new().pairs(self.pairs())
    }
}

#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct TopicRows(pub(super) Vec<TopicRow>);

impl Report for TopicRows {
    fn view(&self) -> View {
        let columns = [
            Column::Left("TOPIC"),
            Column::Right("ID"),
            Column::Right("PARTITIONS"),
            Column::Left("KEEPS"),
            Column::Left("AT MOST"),
            Column::Left("CREATED"),
        ];
        let row = |topic: &TopicRow| -> Vec<Cell> {
            vec![
                topic.name.as_str().into(),
                topic.id.to_string().into(),
                topic.partitions.to_string().into(),
                topic.kept_time().into(),
                topic.kept_bytes().into(),
                units::time(topic.created_unix_ms).into(),
            ]
        };
        View::new().rows(&columns, self.0.iter().map(row).collect())
    }

    fn items(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        each(&self.0)
    }
}

/// Offsets of one partition.
#[derive(Serialize)]
pub(super) struct OffsetRow {
    pub(super) partition: u32,
    pub(super) start: u64,
    pub(super) end: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) at_time: Option<u64>,
}

fn offsets_view(view: View, rows: &[OffsetRow]) -> View {
    let all = [
        Column::Right("PARTITION"),
        Column::Right("START"),
        Column::Right("END"),
        Column::Right("RECORDS"),
        Column::Right("AT TIME"),
    ];
    let timed = rows.iter().any(|row| row.at_time.is_some());
    let row = |row: &OffsetRow| -> Vec<Cell> {
        let numbers =
            [u64::from(row.partition), row.start, row.end, row.end.saturating_sub(row.start)];
        numbers.into_iter().chain(row.at_time).map(|number| number.to_string().into()).collect()
    };
    view.rows(if timed { &all } else { &all[..4] }, rows.iter().map(row).collect())
}

#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct OffsetRows(pub(super) Vec<OffsetRow>);

impl Report for OffsetRows {
    fn view(&self) -> View {
        offsets_view(View::new(), &self.0)
    }

    fn items(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        each(&self.0)
    }
}

/// A topic with its partitions.
#[derive(Serialize)]
pub(super) struct Described {
    #[serde(flatten)]
    pub(super) topic: TopicRow,
    pub(super) offsets: Vec<OffsetRow>,
}

impl Report for Described {
    fn view(&self) -> View {
        offsets_view(View::new().pairs(self.topic.pairs()), &self.offsets)
    }
}

/// Where records went.
#[derive(Serialize)]
pub(super) struct AppendedRow {
    pub(super) topic: String,
    pub(super) partition: u32,
    pub(super) first_offset: u64,
    pub(super) count: u32,
    pub(super) durability: &'static str,
    pub(super) duplicate: bool,
}

impl AppendedRow {
    pub(super) fn new(topic: &str, appended: &Appended) -> AppendedRow {
        AppendedRow {
            topic: topic.to_owned(),
            partition: appended.partition,
            first_offset: appended.first,
            count: appended.count,
            durability: appended.receipt.durability.name(),
            duplicate: appended.receipt.duplicate,
        }
    }
}

impl Report for AppendedRow {
    fn view(&self) -> View {
        let last = self.first_offset + u64::from(self.count.max(1)) - 1;
        View::new().pairs([
            ("topic", self.topic.clone()),
            ("partition", self.partition.to_string()),
            ("offsets", format!("{} to {last}", self.first_offset)),
            ("durability", self.durability.to_owned()),
        ])
    }
}

/// A dropped topic.
#[derive(Serialize)]
pub(super) struct Dropped {
    pub(super) topic: String,
    pub(super) id: u32,
}

impl Report for Dropped {
    fn view(&self) -> View {
        View::new().text(format!("{} (id {}) is dropped", self.topic, self.id))
    }
}

/// A trimmed partition.
#[derive(Serialize)]
pub(super) struct Trimmed {
    pub(super) topic: String,
    pub(super) partition: u32,
    pub(super) start: u64,
    pub(super) durability: &'static str,
}

impl Trimmed {
    pub(super) fn new(topic: &str, partition: u32, start: u64, receipt: Receipt) -> Trimmed {
        Trimmed { topic: topic.to_owned(), partition, start, durability: receipt.durability.name() }
    }
}

impl Report for Trimmed {
    fn view(&self) -> View {
        View::new().text(format!(
            "{}/{} begins at offset {} ({})",
            self.topic, self.partition, self.start, self.durability
        ))
    }
}

/// A record.
#[derive(Serialize)]
pub(super) struct RecordRow {
    pub(super) offset: u64,
    pub(super) time_unix_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Blob>,
    pub(super) value: Blob,
}

impl From<Record> for RecordRow {
    fn from(record: Record) -> RecordRow {
        RecordRow {
            offset: record.offset,
            time_unix_ms: record.time.0,
            key: (!record.key.is_empty()).then_some(Blob(record.key)),
            value: Blob(record.value),
        }
    }
}

impl RecordRow {
    fn cells(&self) -> [String; 4] {
        [
            self.offset.to_string(),
            units::time(self.time_unix_ms),
            self.key.as_ref().map_or_else(|| "-".to_owned(), |key| key.cell(CELL_CHARS_MAX)),
            self.value.cell(CELL_CHARS_MAX),
        ]
    }
}

impl Report for RecordRow {
    fn view(&self) -> View {
        View::new().text(self.cells().join("  "))
    }
}

/// Records, and where the partition ends.
#[derive(Serialize)]
pub(super) struct RecordRows {
    pub(super) records: Vec<RecordRow>,
    /// One past the newest offset that may be read.
    pub(super) end: u64,
}

impl Report for RecordRows {
    fn view(&self) -> View {
        let columns = [
            Column::Right("OFFSET"),
            Column::Left("TIME"),
            Column::Left("KEY"),
            Column::Left("VALUE"),
        ];
        let rows = self.records.iter().map(|row| row.cells().map(Cell::from).to_vec()).collect();
        View::new().rows(&columns, rows)
    }

    fn items(&self) -> serde_json::Result<Vec<serde_json::Value>> {
        each(&self.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_reads_as_words() {
        let row = TopicRow {
            name: "t".into(),
            id: 1,
            partitions: 2,
            keep_ms: 0,
            keep_bytes: 0,
            created_unix_ms: 0,
        };
        assert!(
            row.view().render(None, false).contains("keeps       for ever, any size per partition")
        );
        let row = TopicRow { keep_ms: 604_800_000, keep_bytes: 1 << 30, ..row };
        assert!(row.view().render(None, false).contains("7 d 0 h, 1.0 GiB per partition"));
    }
}
