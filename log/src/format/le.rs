//! Little-endian integers at fixed places of a slice. A place outside the slice is a bug of the
//! caller, who checks lengths first.

macro_rules! field {
    ($get:ident, $put:ident, $int:ty) => {
        pub(super) fn $get(bytes: &[u8], at: usize) -> $int {
            let mut raw = [0u8; size_of::<$int>()];
            raw.copy_from_slice(&bytes[at..at + size_of::<$int>()]);
            <$int>::from_le_bytes(raw)
        }

        pub(super) fn $put(bytes: &mut [u8], at: usize, value: $int) {
            bytes[at..at + size_of::<$int>()].copy_from_slice(&value.to_le_bytes());
        }
    };
}

field!(get_u16, put_u16, u16);
field!(get_u32, put_u32, u32);
field!(get_u64, put_u64, u64);
field!(get_u128, put_u128, u128);
