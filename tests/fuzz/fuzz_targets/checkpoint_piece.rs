#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ironring_tests::fuzz::checkpoint_piece(data));
