//! Whether all replicas have everything: a write at level `all` is acknowledged when every replica of
//! its partition has flushed it, and with it all that came before.

use std::collections::BTreeMap;

use ironring_core::{Durability, PartitionId};
use ironring_net::client::blocking::Client;
use ironring_net::client::{ClientConfig, ClientError, WriteSettings};

use super::interrupt::Interrupt;
use super::load::Spec;
use crate::cli::error::{CliError, DEMO_FAILED};

/// Connections that write, each to its own partitions.
const WRITERS: usize = 8;

/// Waits until a write at level `all` was acknowledged in every partition.
///
/// # Errors
/// When one was not in time, or somebody interrupts the demo.
pub fn all_have_all(spec: &Spec, interrupt: &Interrupt) -> Result<(), CliError> {
    let failed = |e: ClientError| {
        CliError::local(&DEMO_FAILED, format!("not every replica has every write: {e}"))
    };
    let keys = keys(&mut Client::connect(spec.client(0)).map_err(failed)?).map_err(failed)?;
    let threads: Vec<_> = keys
        .chunks(keys.len().div_ceil(WRITERS))
        .map(|keys| {
            let (keys, config) = (keys.to_vec(), spec.client(0));
            std::thread::spawn(move || write(config, &keys))
        })
        .collect();
    threads.into_iter().try_for_each(|thread| interrupt.join(thread)?.map_err(failed))
}

/// A key in each partition.
fn keys(client: &mut Client) -> Result<Vec<String>, ClientError> {
    let partitions = client.cluster_map()?.partitions as usize;
    let mut keys: BTreeMap<PartitionId, String> = BTreeMap::new();
    let mut n = 0_u64;
    while keys.len() < partitions {
        let key = format!("roll-call/{n}");
        keys.entry(client.partition_of(key.as_bytes())?).or_insert(key);
        n += 1;
    }
    Ok(keys.into_values().collect())
}

fn write(config: ClientConfig, keys: &[String]) -> Result<(), ClientError> {
    let mut client = Client::connect(config)?;
    let all = WriteSettings { durability: Some(Durability::All), ..WriteSettings::default() };
    keys.iter().try_for_each(|key| client.put_with(key.as_bytes(), b"here", all).map(|_| ()))
}
