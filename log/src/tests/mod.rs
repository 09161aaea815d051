//! Tests of the whole log against a disk in memory that loses, tears and damages what it may.

mod basic;
mod crash;
mod disk;
mod faults;
mod golden;
mod owner;
mod recovery;
mod run;
mod space;
