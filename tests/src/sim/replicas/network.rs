//! The way between nodes, and between them and the metadata group: what is lost, doubled, late, cut
//! or held up.
//!
//! Who is at the ends is an index: nodes in their order, at last the metadata group.

use ironring_core::prng::Prng;

use super::plan::{MS, any_length, one_of, rate};
use crate::sim::trace::Coverage;

/// How the network is in general.
#[derive(Clone, Debug)]
pub struct Weather {
    /// The longest usual way, by sender and receiver.
    way_ns: Vec<Vec<u64>>,
    /// Of 1000 messages.
    lost: u64,
    doubled: u64,
    late: u64,
    /// They arrive as usual, and again terms later.
    replayed: u64,
    /// How late, at most.
    late_ns: u64,
}

/// Which messages of a node do not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Those to and from the metadata group.
    Metadata,
    /// Those to and from other nodes.
    Peers,
    /// Both.
    All,
    /// Those to and from one other.
    One(usize),
    /// All but those to and from one other.
    AllBut(usize),
}

/// How a link is.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// Messages are lost until then.
    cut_until: u64,
    /// Messages arrive only then.
    held_until: u64,
    /// When the last of those arrives that keep their order.
    last: u64,
}

impl Link {
    fn mend(&mut self) {
        (self.cut_until, self.held_until) = (0, 0);
    }
}

/// All links.
#[derive(Debug)]
pub struct Network {
    weather: Weather,
    links: Vec<Vec<Link>>,
}

impl Weather {
    /// Everything arrives, after so long at most.
    fn fair(way_ns: u64, nodes: usize) -> Weather {
        let way_ns = vec![vec![way_ns; nodes + 1]; nodes + 1];
        let (lost, doubled, late, replayed) = (0, 0, 0, 0);
        Weather { way_ns, lost, doubled, late, replayed, late_ns: 1 }
    }

    /// The weather of one seed among so many nodes. Times are measured in leases.
    pub fn draw(calm: bool, lease_ns: u64, nodes: usize, rng: &mut Prng) -> Weather {
        let usual = one_of(rng, &[MS / 10, MS / 10, MS, lease_ns / 20]);
        let fair = Weather::fair(usual, nodes);
        if calm {
            return fair;
        }
        let mut way_ns = fair.way_ns;
        let ends = way_ns.len();
        if rng.chance(1, 3) {
            for _ in 0..1 + rng.below(4) {
                let (a, b) = (rng.below(ends as u64) as usize, rng.below(ends as u64) as usize);
                way_ns[a][b] = one_of(rng, &[lease_ns / 8, lease_ns / 2, lease_ns]);
            }
        }
        Weather {
            way_ns,
            lost: rate(rng, &[10, 100, 300]),
            doubled: rate(rng, &[50, 300]),
            late: rate(rng, &[10, 100]),
            replayed: rate(rng, &[50, 300]),
            late_ns: lease_ns * one_of(rng, &[2, 6, 20]),
        }
    }

    /// Fast and reliable, but for what comes again.
    pub fn of_duels(lease_ns: u64, nodes: usize, rng: &mut Prng) -> Weather {
        Weather {
            replayed: rate(rng, &[50, 300]),
            late_ns: lease_ns * one_of(rng, &[4, 20]),
            ..Weather::fair(one_of(rng, &[MS / 10, MS]), nodes)
        }
    }
}

impl Network {
    /// Between so many nodes and the metadata group.
    pub fn new(nodes: usize) -> Network {
        let links = vec![vec![Link::default(); nodes + 1]; nodes + 1];
        Network { weather: Weather::fair(MS / 2, nodes), links }
    }

    /// It is like that from here on.
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Nothing is wrong any more.
    pub fn heal(&mut self) {
        self.weather = Weather::fair(MS / 2, self.links.len() - 1);
        self.mend();
    }

    /// No link is cut or held up.
    pub fn mend(&mut self) {
        self.links.iter_mut().flatten().for_each(Link::mend);
    }

    /// How long each copy of a message sent at `time` takes; none when it is lost. Those that are
    /// neither late nor replayed keep their order. `from`, `to`: nothing where an end is not known
    /// any more.
    pub fn ways(
        &mut self,
        time: u64,
        (from, to): (Option<usize>, Option<usize>),
        rng: &mut Prng,
        coverage: &mut Coverage,
    ) -> Vec<u64> {
        let weather = &self.weather;
        let (Some(from), Some(to)) = (from, to) else { return vec![20_000 + rng.below(MS)] };
        let link = &mut self.links[from][to];
        if link.cut_until > time {
            coverage.add("messages over cut links", 1);
            return Vec::new();
        }
        coverage.add("messages held up", u64::from(link.held_until > time));
        let way = 20_000 + rng.below(weather.way_ns[from][to]);
        let usual = (time + way).max(link.held_until).max(link.last + 1) - time;
        let mut ways = Vec::new();
        if rng.chance(weather.lost, 1000) {
            coverage.add("messages lost", 1);
        } else if rng.chance(weather.late, 1000) {
            ways.push(way + any_length(rng, weather.late_ns));
        } else {
            ways.push(usual);
            link.last = time + usual;
        }
        if rng.chance(weather.doubled, 1000) {
            coverage.add("messages doubled", 1);
            ways.push(usual + rng.below(way));
        }
        if rng.chance(weather.replayed, 1000) {
            coverage.add("messages replayed", 1);
            ways.push(way + any_length(rng, weather.late_ns));
        }
        ways
    }

    /// For so long, messages of a node are lost, or held up.
    pub fn isolate(&mut self, node: usize, lost: Lost, until: u64, rng: &mut Prng) {
        let metadata = self.links.len() - 1;
        let hold = rng.chance(1, 2);
        let both = rng.chance(3, 4);
        let (out, back) = (both || rng.chance(1, 2), both || rng.chance(1, 2));
        for other in 0..self.links.len() {
            let meant = match lost {
                Lost::Metadata => other == metadata,
                Lost::Peers => other != metadata,
                Lost::All => true,
                Lost::One(one) => other == one,
                Lost::AllBut(one) => other != one,
            };
            if !meant || other == node {
                continue;
            }
            for (a, b, meant) in [(node, other, out), (other, node, back || !out)] {
                if meant {
                    let link = &mut self.links[a][b];
                    if hold { link.held_until = until } else { link.cut_until = until }
                }
            }
        }
    }

    /// Another pattern of bad links, instead of the one there is, until then. `likely`: whom it hits
    /// first, whoever leads perhaps.
    pub fn change(&mut self, likely: usize, until: u64, rng: &mut Prng) {
        self.mend();
        let nodes = self.links.len() - 1;
        if rng.chance(1, 6) {
            // Two sides; the metadata group is on one of them, or seen from both.
            let side = rng.below(2 << nodes);
            let seen = rng.chance(1, 2);
            for node in (0..nodes).filter(|node| side >> node & 1 == 1) {
                let others = (0..self.links.len()).filter(|other| side >> other & 1 == 0);
                for other in others.filter(|other| !(seen && *other == nodes)) {
                    self.links[node][other].cut_until = until;
                    self.links[other][node].cut_until = until;
                }
            }
            return;
        }
        let first = if rng.chance(7, 8) { likely } else { rng.below(nodes as u64) as usize };
        self.isolate(first, draw_lost(nodes, rng), until, rng);
        if rng.chance(1, 5) {
            let second = rng.below(nodes as u64) as usize;
            self.isolate(second, draw_lost(nodes, rng), until, rng);
        }
    }
}

/// Whom a node does not reach.
pub fn draw_lost(nodes: usize, rng: &mut Prng) -> Lost {
    let one = rng.below(nodes as u64) as usize;
    match rng.below(10) {
        0 => Lost::Metadata,
        1 => Lost::Peers,
        2..=4 => Lost::All,
        5 => Lost::One(one),
        _ => Lost::AllBut(one),
    }
}
