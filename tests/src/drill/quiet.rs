//! Clusters in which nothing fails: nothing may be noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ironring_net::client::blocking::Client;
use ironring_net::client::{ClientConfig, ClientError};

use super::links::Terms;
use super::stage::{Cluster, PLAIN, Stage};
use crate::chaos::nodes::{CLUSTER, ChaosError, system};

/// Fewest and most threads that write at a rate.
const WRITERS: std::ops::RangeInclusive<u64> = 8..=128;
/// Puts a second asked of a thread: one waits for each, and 5 ms are what most take in a busy cluster.
const PUTS_EACH: u64 = 200;
/// Keys of each.
const KEYS_EACH: u64 = 500;
/// Longest an operation may take in a cluster in which nothing fails: longer than any pause of the
/// machine, and long enough that a failure is one.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often terms are looked at meanwhile, to say when there was a new one.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Time from the start of a cluster until leaderships are as even as they get.
const SETTLE: Duration = Duration::from_secs(10);

/// See [`super::DRILLS`].
pub fn join_busy(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[PLAIN; 3], 1)?;
    cluster.load_with(DEADLINE)?;
    let before = cluster.heard();
    let joined = cluster.nodes.add(&[])?;
    let took = cluster.nodes.until_healthy()?;
    // Its share of 48 replicas is 12.
    let held = cluster.until("the joiner has its share and nothing moves", |nodes| {
        let status = nodes.status(joined).ok()?;
        let me = status.members.iter().find(|member| member.id == joined as u64 + 1)?;
        let done = status.partitions.moves == 0 && me.replicas >= 10 && me.leads > 0;
        done.then_some((me.replicas, me.leads))
    })?;
    cluster.acks_go_on()?;
    let after = cluster.heard();
    let seen = format!(
        "healthy {:.1} s later, {} replicas, leads {}; {} writes acked meanwhile",
        took.as_secs_f64(),
        held.0,
        held.1,
        after.acked - before.acked
    );
    stage.saw("a fourth node joins", seen);
    let judgement = cluster.finish(stage)?;
    let bad = judgement.operations.values().map(|o| o.failed + o.unknown).sum::<u64>();
    let bad = bad.max(after.failed + after.unknown);
    stage.check("count failed requests", format!("{bad} of {}", judgement.total()), bad == 0);
    Ok(())
}

/// See [`super::DRILLS`].
pub fn steady(stage: &mut Stage) -> Result<(), ChaosError> {
    let mut cluster = stage.cluster(&[PLAIN; 3], 0)?;
    cluster.wait(SETTLE)?;
    let before = Terms::of(&mut cluster, &[0, 1, 2])?;
    let (seconds, rate) = (stage.options.seconds, stage.options.rate);
    let load = Steady::start(&cluster.nodes.addresses(), rate)?;
    let waited = watch(&mut cluster, Duration::from_secs(seconds), before);
    let (told, wrong) = load.end(&cluster.nodes.addresses());
    let when = waited?;
    let after = Terms::of(&mut cluster, &[0, 1, 2])?;
    let (mut seen, ok) = before.compared_with(&after);
    if !ok {
        seen = format!("{seen}, {when}");
    }
    let Told { put, failed, late_max_ms } = told;
    let ran = format!(
        "{put} puts in {seconds} s ({:.0} a second of {rate} wanted), {failed} failed, slowest {late_max_ms} \
         ms from when it was due",
        put as f64 / seconds as f64
    );
    stage.check(format!("{rate} puts a second"), ran, failed == 0 && put > 0);
    stage.check("look for elections", seen, ok);
    let seen = format!("acked {put} lost {}", wrong.len());
    let seen = wrong.iter().take(5).fold(seen, |seen, line| seen + "\n" + line);
    stage.check("read everything back", seen, wrong.is_empty());
    cluster.finish(stage).map(drop)
}

/// Lets time pass, and says when new terms were seen in it.
fn watch(cluster: &mut Cluster, time: Duration, mut known: Terms) -> Result<String, ChaosError> {
    let begin = Instant::now();
    let mut when = Vec::new();
    while begin.elapsed() < time {
        cluster.wait(LOOK_EVERY.min(time.saturating_sub(begin.elapsed())))?;
        let now = Terms::of(cluster, &[0, 1, 2])?;
        if (now.metadata, now.partitions) != (known.metadata, known.partitions) {
            when.push(format!("{} s", begin.elapsed().as_secs()));
            known = now;
        }
    }
    Ok(format!("seen after {}", when.join(", ")))
}

/// What writers were told.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    put: u64,
    failed: u64,
    late_max_ms: u64,
}

/// Writers of an open loop: each put is due at a moment that no answer delays, and waits for the one
/// before. They remember one number per key, so that a run may last for days.
struct Steady {
    over: Arc<AtomicBool>,
    late_max_ms: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<Writer>>,
}

struct Writer {
    number: u64,
    /// Per key what it may hold: the newest number acknowledged, and those of unknown outcome behind it.
    holds: Vec<Vec<u64>>,
    put: u64,
    failed: u64,
    first_error: Option<String>,
}

impl Steady {
    fn start(addresses: &[String], rate: u64) -> Result<Steady, ChaosError> {
        let over = Arc::new(AtomicBool::new(false));
        let late_max_ms = Arc::new(AtomicU64::new(0));
        let mut steady = Steady { over, late_max_ms, threads: Vec::new() };
        let writers = (rate / PUTS_EACH).clamp(*WRITERS.start(), *WRITERS.end());
        let every = Duration::from_secs_f64(writers as f64 / rate.max(1) as f64);
        for number in 0..writers {
            let config = config(addresses, number);
            let (over, late) = (Arc::clone(&steady.over), Arc::clone(&steady.late_max_ms));
            let holds = vec![Vec::new(); KEYS_EACH as usize];
            let writer = Writer { number, holds, put: 0, failed: 0, first_error: None };
            let begin = Instant::now() + every.mul_f64(number as f64 / writers as f64);
            let thread = std::thread::Builder::new().name(format!("writer-{number}"));
            let run = move || writer.run(&config, (begin, every), &over, &late);
            steady.threads.push(thread.spawn(run).map_err(system("starting a writer"))?);
        }
        Ok(steady)
    }

    /// Ends the writers, reads all keys back, and says what was told and what is wrong.
    fn end(self, addresses: &[String]) -> (Told, Vec<String>) {
        self.over.store(true, Ordering::Relaxed);
        let late_max_ms = self.late_max_ms.load(Ordering::Relaxed);
        let mut told = Told { late_max_ms, ..Told::default() };
        let mut wrong = Vec::new();
        for thread in self.threads {
            let Ok(writer) = thread.join() else {
                wrong.push("a writer of the harness panicked".to_owned());
                continue;
            };
            told.put += writer.put;
            told.failed += writer.failed;
            wrong.extend(writer.first_error.clone());
            if let Err(error) = writer.read_back(&config(addresses, writer.number), &mut wrong) {
                wrong.push(error.to_string());
            }
        }
        (told, wrong)
    }
}

fn config(addresses: &[String], number: u64) -> ClientConfig {
    let mut config = ClientConfig::new("");
    config.addrs = addresses.to_vec();
    config.addrs.rotate_left(number as usize % addresses.len());
    (config.cluster, config.deadline, config.seed) = (CLUSTER.to_owned(), DEADLINE, number);
    config
}

impl Writer {
    fn run(
        mut self,
        config: &ClientConfig,
        (begin, every): (Instant, Duration),
        over: &AtomicBool,
        late_max_ms: &AtomicU64,
    ) -> Writer {
        let mut client = None;
        let mut due = begin;
        for number in 1.. {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if over.load(Ordering::Relaxed) {
                break;
            }
            let key = (number % KEYS_EACH) as usize;
            let put = self.put(&mut client, config, key, number);
            self.heard(key, number, put);
            late_max_ms.fetch_max(due.elapsed().as_millis() as u64, Ordering::Relaxed);
            due += every;
        }
        self
    }

    fn put(
        &self,
        client: &mut Option<Client>,
        config: &ClientConfig,
        key: usize,
        number: u64,
    ) -> Result<(), ClientError> {
        let client = match client.take() {
            Some(known) => client.insert(known),
            None => client.insert(Client::connect(config.clone())?),
        };
        client.put(self.key(key).as_bytes(), number.to_string().as_bytes()).map(drop)
    }

    fn heard(&mut self, key: usize, number: u64, put: Result<(), ClientError>) {
        match put {
            Ok(()) => {
                self.put += 1;
                self.holds[key] = vec![number];
            }
            Err(error) => {
                self.failed += 1;
                if matches!(error, ClientError::Unknown { .. }) {
                    self.holds[key].push(number);
                }
                self.first_error.get_or_insert_with(|| format!("put {number}: {error}"));
            }
        }
    }

    fn key(&self, key: usize) -> String {
        format!("steady-{}-{key}", self.number)
    }

    fn read_back(&self, config: &ClientConfig, wrong: &mut Vec<String>) -> Result<(), ClientError> {
        let mut client = Client::connect(config.clone())?;
        for (key, may) in self.holds.iter().enumerate().filter(|(_, may)| !may.is_empty()) {
            let name = self.key(key);
            let found = client.get(name.as_bytes())?;
            let number = found.and_then(|found| String::from_utf8(found.value).ok()?.parse().ok());
            if !number.is_some_and(|number| may.contains(&number)) {
                wrong.push(format!("{name} may hold {may:?}, holds {number:?}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_holds_what_was_acknowledged_last_or_what_nobody_knows_of() {
        let mut writer =
            Writer { number: 0, holds: vec![Vec::new(); 2], put: 0, failed: 0, first_error: None };
        writer.heard(1, 3, Ok(()));
        writer.heard(1, 5, Err(ClientError::Unknown { reason: "lost".to_owned() }));
        writer.heard(1, 7, Err(ClientError::Timeout));
        assert_eq!(writer.holds[1], [3, 5]);
        assert_eq!((writer.put, writer.failed), (1, 2));
        assert!(writer.first_error.as_ref().is_some_and(|why| why.contains("put 5")));
        writer.heard(1, 9, Ok(()));
        assert_eq!(writer.holds[1], [9]);
    }
}
