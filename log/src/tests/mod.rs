//! Tests of the whole log against a disk in memory that loses, tears and damages what it may.

mod basic;
mod crash;
mod disk;
mod owner;
mod run;
mod space;
