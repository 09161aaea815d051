//! The envelope of every message: a 32-byte header, then the body. Integers are little endian.
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | magic | `IRNG` |
//! | 4 | 1 | version | protocol version of the body |
//! | 5 | 1 | opcode | which message; responses have bit 0x80 |
//! | 6 | 2 | status | request: [`flags`]; response: 0 or an error code |
//! | 8 | 8 | correlation | chosen by the client, repeated by the answer |
//! | 16 | 4 | body_len | bytes that follow the header |
//! | 20 | 4 | deadline_ms | request: answer within this, 0: the server's choice; response: its age, see [`flags::STALE`] |
//! | 24 | 4 | body_crc | crc32c of the body |
//! | 28 | 4 | header_crc | crc32c of bytes 0..28 |
//!
//! The header, `Hello`, `Welcome` and `Error` keep their layout in every version.

use ironring_core::checksum::crc32c;
use ironring_core::limits::FRAME_BODY_BYTES_MAX;

use crate::error::FrameError;
use crate::wire::Put;

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"IRNG";

/// Flags of requests.
pub mod flags {
    /// On a read: any replica may answer, from what it knows to be committed. The answer says in the
    /// field of the deadline how many milliseconds old that may be: 0 is current, `u32::MAX` unknown.
    pub const STALE: u16 = 1;
}

/// Length of a frame's header.
pub const HEADER_BYTES: usize = 32;

/// Largest body of a client's first frame: `Hello` with the longest names fits with room to spare.
/// A stranger cannot make the server hold more than this.
pub const HELLO_BODY_BYTES_MAX: u32 = 1024;

const FLAGS_AT: usize = 6;
const CORRELATION_AT: usize = 8;
const AGE_AT: usize = 20;
const HEADER_CRC_AT: usize = 28;

macro_rules! opcodes {
    ($( $(#[$doc:meta])* $name:ident = $code:literal; )*) => {
        /// Which message a frame carries. A response's opcode is that of the request with bit 0x80
        /// set, except that requests with the same answer share one: `Receipt` and `Topic`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Opcode { $( $(#[$doc])* $name = $code, )* }

        impl Opcode {
            /// Every opcode, in order of number.
            pub const ALL: &'static [Opcode] = &[ $( Opcode::$name, )* ];

            /// The opcode a wire byte names.
            #[must_use]
            pub fn from_u8(code: u8) -> Option<Opcode> {
                match code { $( $code => Some(Opcode::$name), )* _ => None }
            }

            /// The message's name, for logs and metrics.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $( Opcode::$name => stringify!($name), )* }
            }
        }
    };
}

opcodes! {
    /// [`crate::message::Request::Hello`]
    Hello = 0x01;
    /// [`crate::message::Request::Ping`]
    Ping = 0x02;
    /// [`crate::message::Request::ClusterMap`]
    ClusterMap = 0x03;
    /// [`crate::message::Request::OpenSession`]
    OpenSession = 0x04;
    /// [`crate::message::Request::Stats`]
    Stats = 0x05;
    /// [`crate::message::Request::Put`]
    Put = 0x10;
    /// [`crate::message::Request::Get`]
    Get = 0x11;
    /// [`crate::message::Request::Delete`]
    Delete = 0x12;
    /// [`crate::message::Request::MultiGet`]
    MultiGet = 0x13;
    /// [`crate::message::Request::Batch`]
    Batch = 0x14;
    /// [`crate::message::Request::Scan`]
    Scan = 0x15;
    /// [`crate::message::Request::TopicCreate`]
    TopicCreate = 0x20;
    /// [`crate::message::Request::TopicDelete`]
    TopicDelete = 0x21;
    /// [`crate::message::Request::TopicDescribe`]
    TopicDescribe = 0x22;
    /// [`crate::message::Request::TopicList`]
    TopicList = 0x23;
    /// [`crate::message::Request::TopicAlter`]
    TopicAlter = 0x24;
    /// [`crate::message::Request::TopicAppend`]
    TopicAppend = 0x25;
    /// [`crate::message::Request::TopicRead`]
    TopicRead = 0x26;
    /// [`crate::message::Request::TopicOffsets`]
    TopicOffsets = 0x27;
    /// [`crate::message::Request::TopicTrim`]
    TopicTrim = 0x28;

    /// [`crate::message::Response::Welcome`]
    Welcome = 0x81;
    /// [`crate::message::Response::Pong`]
    Pong = 0x82;
    /// [`crate::message::Response::ClusterMap`]
    Map = 0x83;
    /// [`crate::message::Response::Session`]
    Session = 0x84;
    /// [`crate::message::Response::Stats`]
    StatsText = 0x85;
    /// [`crate::message::Response::Receipt`]
    Receipt = 0x90;
    /// [`crate::message::Response::Value`]
    Value = 0x91;
    /// [`crate::message::Response::Values`]
    Values = 0x93;
    /// [`crate::message::Response::Page`]
    Page = 0x95;
    /// [`crate::message::Response::Topic`]
    Topic = 0xA2;
    /// [`crate::message::Response::Topics`]
    Topics = 0xA3;
    /// [`crate::message::Response::Appended`]
    Appended = 0xA5;
    /// [`crate::message::Response::Records`]
    Records = 0xA6;
    /// [`crate::message::Response::Offsets`]
    Offsets = 0xA7;
    /// [`crate::message::Response::Error`]
    Error = 0xFF;
}

impl Opcode {
    /// Whether this is a server's answer.
    #[must_use]
    pub fn is_response(self) -> bool {
        self as u8 & 0x80 != 0
    }
}

/// A frame's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Protocol version of the body.
    pub version: u8,
    /// Which message; not yet known to be one ([`Opcode::from_u8`]).
    pub opcode: u8,
    /// Flags of a request, error code of a response.
    pub status: u16,
    /// The client's name for the request.
    pub correlation: u64,
    /// Length of the body in bytes, at most [`FRAME_BODY_BYTES_MAX`].
    pub body_len: u32,
    /// Milliseconds the client waits for the answer; 0: the server's default. In the answer to a read
    /// with [`flags::STALE`]: how old it may be.
    pub deadline_ms: u32,
    /// Checksum the body must have.
    pub body_crc: u32,
}

impl Header {
    /// Length of header and body.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.body_len as usize
    }

    /// The 32 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = self.version;
        bytes[5] = self.opcode;
        bytes[6..8].copy_from_slice(&self.status.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.correlation.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.deadline_ms.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c(&bytes[..HEADER_CRC_AT]);
        bytes[HEADER_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Compares the body with the checksum in the header: `Err(computed)` when they differ. The
    /// only place a body's checksum is checked.
    pub(crate) fn check_body(&self, body: &[u8]) -> Result<(), u32> {
        let computed = crc32c(body);
        if computed == self.body_crc { Ok(()) } else { Err(computed) }
    }
}

/// Reads the header at the front of `bytes`.
///
/// # Errors
/// [`FrameError`]: none of them leaves a way to find the next frame.
pub fn decode_header(bytes: &[u8]) -> Result<Header, FrameError> {
    let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(FrameError::Short { got: bytes.len() });
    };
    let u32_at =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let got = [bytes[0], bytes[1], bytes[2], bytes[3]];
    if got != MAGIC {
        return Err(FrameError::BadMagic { got });
    }
    let stored = u32_at(HEADER_CRC_AT);
    let computed = crc32c(&bytes[..HEADER_CRC_AT]);
    if stored != computed {
        return Err(FrameError::HeaderChecksum { stored, computed });
    }
    let correlation = u64::from(u32_at(CORRELATION_AT)) | u64::from(u32_at(12)) << 32;
    let body_len = u32_at(16);
    if body_len as usize > FRAME_BODY_BYTES_MAX {
        let max = FRAME_BODY_BYTES_MAX as u32;
        return Err(FrameError::BodyTooLong { len: body_len, max, correlation });
    }
    Ok(Header {
        version: bytes[4],
        opcode: bytes[5],
        status: u16::from_le_bytes([bytes[6], bytes[7]]),
        correlation,
        body_len,
        deadline_ms: u32_at(20),
        body_crc: u32_at(24),
    })
}

/// Gives an encoded frame another correlation, so that one encoding can be sent many times. Costs
/// a checksum of 28 bytes. Panics when `frame` is shorter than a header.
pub fn set_correlation(frame: &mut [u8], correlation: u64) {
    set(frame, CORRELATION_AT, &correlation.to_le_bytes());
}

/// Gives an encoded request flags. Cost and panics as [`set_correlation`].
pub fn set_flags(frame: &mut [u8], flags: u16) {
    set(frame, FLAGS_AT, &flags.to_le_bytes());
}

/// Says in an encoded response how old it may be, in milliseconds. Cost and panics as
/// [`set_correlation`].
pub fn set_age(frame: &mut [u8], age_ms: u32) {
    set(frame, AGE_AT, &age_ms.to_le_bytes());
}

fn set(frame: &mut [u8], at: usize, bytes: &[u8]) {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c(&frame[..HEADER_CRC_AT]);
    frame[HEADER_CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// For a frame larger than this a buffer does not grow to twice what is needed.
const EXACT_BYTES: usize = 64 << 10;

/// Leaves room for a header at the end of `out` and returns where it is.
pub(crate) fn begin(out: &mut Vec<u8>, body_hint: usize) -> usize {
    let at = out.len();
    reserve(out, HEADER_BYTES + body_hint);
    out.put(&[0; HEADER_BYTES]);
    at
}

/// Room for `len` more bytes.
pub(crate) fn reserve(out: &mut Vec<u8>, len: usize) {
    if len > EXACT_BYTES { out.reserve_exact(len) } else { out.reserve(len) }
}

/// Fills in the header at `at` for the body that follows it. `body_len` and `body_crc` of `header`
/// are computed here.
pub(crate) fn seal(out: &mut [u8], at: usize, header: Header) {
    let body = &out[at + HEADER_BYTES..];
    let header = Header { body_len: body.len() as u32, body_crc: crc32c(body), ..header };
    out[at..at + HEADER_BYTES].copy_from_slice(&header.encode());
}

const _: () = assert!(FRAME_BODY_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(HEADER_CRC_AT + 4 == HEADER_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    fn ping() -> Header {
        Header {
            version: 1,
            opcode: Opcode::Ping as u8,
            status: 0,
            correlation: 0x0102_0304_0506_0708,
            body_len: 0,
            deadline_ms: 5000,
            body_crc: 0,
        }
    }

    #[test]
    fn header_has_these_bytes() {
        let bytes = ping().encode();
        assert_eq!(&bytes[..8], b"IRNG\x01\x02\x00\x00");
        assert_eq!(&bytes[8..16], &[8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(&bytes[16..28], &[0, 0, 0, 0, 0x88, 0x13, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[28..], crc32c(&bytes[..28]).to_le_bytes());
        assert_eq!(decode_header(&bytes), Ok(ping()));
    }

    #[test]
    fn each_flipped_bit_of_a_header_is_detected() {
        let good = ping().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_header(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn opcodes_round_trip_and_say_who_sends_them() {
        for (i, opcode) in Opcode::ALL.iter().enumerate() {
            assert_eq!(Opcode::from_u8(*opcode as u8), Some(*opcode));
            assert_eq!(opcode.is_response(), *opcode as u8 >= 0x80);
            assert!(Opcode::ALL[..i].iter().all(|earlier| earlier < opcode));
        }
    }

    #[test]
    fn another_correlation_reseals_the_header() {
        let mut bytes = ping().encode();
        set_correlation(&mut bytes, 77);
        assert_eq!(decode_header(&bytes), Ok(Header { correlation: 77, ..ping() }));
    }

    #[test]
    fn a_body_over_the_limit_is_refused_by_its_header() {
        let max = FRAME_BODY_BYTES_MAX as u32;
        let header = Header { body_len: max + 1, correlation: 9, ..ping() };
        assert_eq!(
            decode_header(&header.encode()),
            Err(FrameError::BodyTooLong { len: max + 1, max, correlation: 9 })
        );
        assert!(decode_header(&Header { body_len: max, ..ping() }.encode()).is_ok());
    }
}
