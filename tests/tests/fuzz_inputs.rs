//! Every fuzz target with its seeds, with the inputs that once failed, and with seeded damage.
//! `make fuzz` searches further.

use ironring_core::prng::Prng;
use ironring_tests::fuzz::{TARGETS, Target, damage, regressions};

fn target(name: &str) -> Target {
    *TARGETS.iter().find(|t| t.name == name).expect("the target exists")
}

fn try_inputs(name: &str, damaged: u64) {
    let target = target(name);
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "a fuzzer needs something to begin with");
    seeds.iter().for_each(|seed| (target.run)(seed));
    for (file, input) in regressions(name).expect("the directory can be read") {
        println!("{name}/{file}");
        (target.run)(&input);
    }
    let mut rng = Prng::new(0xF0_22);
    for _ in 0..damaged {
        let seed = &seeds[rng.below(seeds.len() as u64) as usize];
        (target.run)(&damage(&mut rng, seed));
    }
}

#[test]
fn frames() {
    try_inputs("frame", 20_000);
}

#[test]
fn connections() {
    try_inputs("connection", 2_000);
}

#[test]
fn disk_formats() {
    try_inputs("disk_format", 5_000);
}

#[test]
fn recoveries() {
    try_inputs("recovery", 60);
}

#[test]
fn checkpoint_pieces() {
    try_inputs("checkpoint_piece", 20_000);
}

#[test]
fn configurations() {
    try_inputs("config", 1_000);
}

#[test]
fn every_target_is_tried_here() {
    assert_eq!(TARGETS.len(), 6);
}
