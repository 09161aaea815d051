//! An iterator over the keys of all partitions.

use std::collections::VecDeque;

use ironring_core::PartitionId;

use super::Client;
use crate::client::{ClientError, Entry};

/// Entries asked for at once. A page of them with small values is far below a frame.
const PAGE_ENTRIES: u32 = 1000;

/// Made by [`Client::scan`]. After an error it yields nothing more.
#[derive(Debug)]
pub struct Scan<'c> {
    client: &'c mut Client,
    prefix: Vec<u8>,
    values: bool,
    /// The partition to read next.
    partition: u32,
    /// Last key read of that partition.
    after: Vec<u8>,
    page: VecDeque<Entry>,
    done: bool,
}

impl<'c> Scan<'c> {
    pub(super) fn new(client: &'c mut Client, prefix: Vec<u8>, values: bool) -> Scan<'c> {
        let (after, page) = (Vec::new(), VecDeque::new());
        Scan { client, prefix, values, partition: 0, after, page, done: false }
    }

    /// Reads until there is an entry or the end.
    fn read_on(&mut self) -> Result<(), ClientError> {
        let partitions = self.client.routing(self.client.until())?.map().partitions;
        while self.page.is_empty() && !self.done {
            let partition = PartitionId(self.partition);
            let (entries, more) = self.client.scan_page(
                partition,
                &self.prefix,
                &self.after,
                PAGE_ENTRIES,
                self.values,
            )?;
            match entries.last() {
                Some(last) if more => self.after.clone_from(&last.key),
                _ => {
                    self.after.clear();
                    self.partition += 1;
                    self.done = self.partition == partitions;
                }
            }
            self.page.extend(entries);
        }
        Ok(())
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Entry, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.read_on() {
            self.done = true;
            return Some(Err(error));
        }
        self.page.pop_front().map(Ok)
    }
}
