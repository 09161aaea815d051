//! The bytes of every format, fixed. A change here is a new format version.

use ironring_core::{
    GroupSeq, Offset, PartitionId, SegmentId, SessionId, ShardId, SlotId, StorageUuid, Term,
    WallTime,
};

use crate::format::IdentitySeed;
use crate::format::checkpoint::{
    CHECKPOINT_HEADER_BYTES, CheckpointHeader, Frame, FrameReader, FrameWriter,
};
use crate::format::group::{GROUP_HEADER_BYTES, GroupError, GroupHeader};
use crate::format::record::{self, RECORD_HEADER_BYTES, RecordError};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentHeaderError};
use crate::format::superblock::{
    CheckpointRef, SLOT_BYTES, SUPERBLOCK_HEADER_BYTES, SlotEntry, SlotState, Superblock,
    SuperblockError,
};
use crate::{Identity, Record, RecordKind};

const _: () = assert!(RECORD_HEADER_BYTES == 64);
const _: () = assert!(GROUP_HEADER_BYTES == 128);
const _: () = assert!(SEGMENT_HEADER_BYTES == 96);
const _: () = assert!(CHECKPOINT_HEADER_BYTES == 64);
const _: () = assert!(SUPERBLOCK_HEADER_BYTES == 256);
const _: () = assert!(SLOT_BYTES == 24);

const ID: Identity = Identity {
    storage: StorageUuid(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
    shard: ShardId(0x0102),
    salt: 0x5152_5354_5556_5758,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(golden: &str) -> Vec<u8> {
    let digits: Vec<char> = golden.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).expect("hex");
    digits.chunks(2).map(byte).collect()
}

fn check(bytes: &[u8], golden: &str) {
    let golden: String = golden.split_whitespace().collect();
    // Zeros at the end are not spelled out.
    let found = hex(bytes);
    let (head, tail) = found.split_at(golden.len().min(found.len()));
    assert_eq!(head, golden);
    assert!(tail.bytes().all(|b| b == b'0'), "{tail}");
}

fn a_record() -> Record<'static> {
    Record {
        kind: RecordKind::Put,
        flags: 0x5a,
        partition: PartitionId(0x0304_0506),
        term: Term(7),
        offset: Offset(8),
        session: SessionId(9),
        sequence: 10,
        time: WallTime(11),
        expires: WallTime(12),
        key: b"key",
        body: b"body",
    }
}

fn a_group() -> GroupHeader {
    GroupHeader {
        segment: SegmentId(5),
        pos: 8192,
        run: 3,
        sequence: GroupSeq(77),
        durable_floor: GroupSeq(76),
        previous_crc: 0xdead_beef,
        body_len: 71,
        records: 1,
        body_crc: 0x0102_0304,
    }
}

fn a_superblock() -> Superblock {
    let checkpoint = |number| CheckpointRef {
        number,
        start: GroupSeq(70),
        segment: SegmentId(4),
        pos: 12288,
        previous_crc: 0x1111_2222,
        previous_run: 2,
        bytes: 8192,
    };
    Superblock {
        sequence: 9,
        identity: ID,
        segment_bytes: 64 << 20,
        block_bytes: 4096,
        run: 3,
        next_segment: SegmentId(6),
        durable: GroupSeq(76),
        newest: checkpoint(2),
        older: checkpoint(1),
        slots: vec![
            SlotEntry {
                segment: SegmentId(5),
                generation: 1,
                state: SlotState::Active,
                used: 0,
                first_group: GroupSeq(60),
            },
            SlotEntry {
                segment: SegmentId(4),
                generation: 2,
                state: SlotState::Sealed,
                used: 0x00ff_f000,
                first_group: GroupSeq(50),
            },
        ],
    }
}

#[test]
fn record_bytes() {
    let mut out = vec![0; record::encoded_len(&a_record())];
    record::encode(&a_record(), SegmentId(5), 8320, &mut out);
    check(&out, RECORD);
    assert_eq!(record::decode(&out, SegmentId(5), 8320), Ok((a_record(), 71)));
    // The place is part of the checksum.
    for (segment, pos) in [(6, 8320), (5, 8321)] {
        let error = record::decode(&out, SegmentId(segment), pos).unwrap_err();
        assert!(matches!(error, RecordError::Checksum { .. }));
    }
    for len in 0..out.len() {
        let error = record::decode(&out[..len], SegmentId(5), 8320).unwrap_err();
        assert!(matches!(error, RecordError::Truncated { .. }), "{len}: {error}");
    }
    for byte in 0..out.len() {
        let mut bad = out.clone();
        bad[byte] ^= 1;
        assert!(record::decode(&bad, SegmentId(5), 8320).is_err(), "byte {byte}");
    }
}

#[test]
fn group_header_bytes() {
    let mut out = [0xff; GROUP_HEADER_BYTES];
    let seed = IdentitySeed::new(ID);
    let crc = a_group().encode(seed, &mut out);
    check(&out, GROUP);
    assert_eq!(GroupHeader::decode(&out, seed), Ok((a_group(), crc)));
    let other = IdentitySeed::new(Identity { shard: ShardId(1), ..ID });
    let error = GroupHeader::decode(&out, other).unwrap_err();
    assert!(matches!(error, GroupError::HeaderChecksum { .. }), "of another shard");
    for byte in 0..out.len() {
        let mut bad = out;
        bad[byte] ^= 1;
        assert!(GroupHeader::decode(&bad, seed).is_err(), "byte {byte}");
    }
}

#[test]
fn segment_header_bytes() {
    let header = SegmentHeader {
        identity: ID,
        slot: SlotId(1),
        segment: SegmentId(5),
        generation: 2,
        prepared_at: GroupSeq(40),
        segment_bytes: 64 << 20,
        block_bytes: 4096,
    };
    let mut out = [0xff; SEGMENT_HEADER_BYTES];
    header.encode(&mut out);
    check(&out, SEGMENT);
    assert_eq!(SegmentHeader::decode(&out), Ok(header));
    for byte in 0..out.len() {
        let mut bad = out;
        bad[byte] ^= 1;
        assert!(SegmentHeader::decode(&bad).is_err(), "byte {byte}");
    }
    for block_bytes in [0, 1, 2048, 4097, 1 << 31] {
        SegmentHeader { block_bytes, ..header }.encode(&mut out);
        let refused = Err(SegmentHeaderError::BlockSize(block_bytes));
        assert_eq!(SegmentHeader::decode(&out), refused);
    }
}

#[test]
fn superblock_bytes() {
    let out = a_superblock().encode();
    check(&out, SUPERBLOCK);
    let mut extent = out.clone();
    extent.resize(4096, 0xAA);
    assert_eq!(Superblock::decode(&extent), Ok((a_superblock(), out.len())));
    for byte in 0..out.len() {
        let mut bad = extent.clone();
        bad[byte] ^= 1;
        assert!(Superblock::decode(&bad).is_err(), "byte {byte}");
    }
    assert_eq!(Superblock::decode(&[0; 4096]), Err(SuperblockError::Blank));
}

#[test]
fn checkpoint_bytes() {
    let header = CheckpointHeader { identity: ID, number: 2, start: GroupSeq(70) };
    let (bytes, crc) = header.encode();
    let mut out = bytes.to_vec();
    let mut frames = FrameWriter::new(crc);
    frames.piece(b"piece", &mut out);
    frames.end(&mut out);
    check(&out, CHECKPOINT);
    let read_all = |bytes: &[u8]| {
        let mut reader = FrameReader::new(header);
        let mut pieces = Vec::new();
        // Byte by byte: frames may straddle any boundary.
        for byte in bytes {
            reader.feed(&[*byte]);
            loop {
                match reader.next_frame()? {
                    Frame::Piece(piece) => pieces.push(piece.to_vec()),
                    Frame::NeedMore => break,
                    Frame::End => return Ok(Some(pieces)),
                }
            }
        }
        Ok::<_, crate::format::checkpoint::CheckpointError>(None)
    };
    assert_eq!(read_all(&out), Ok(Some(vec![b"piece".to_vec()])));
    assert_eq!(read_all(&out[..out.len() - 1]), Ok(None));
    for byte in 0..out.len() {
        let mut bad = out.clone();
        bad[byte] ^= 1;
        assert!(!matches!(read_all(&bad), Ok(Some(_))), "byte {byte}");
    }
}

#[test]
fn format_1_is_read_and_has_no_salt() {
    let old = Identity { salt: 0, ..ID };
    let group = unhex(GROUP_1);
    let (header, _) = GroupHeader::decode(&group, IdentitySeed::new(old)).unwrap();
    assert_eq!(header, a_group());
    assert!(GroupHeader::decode(&group, IdentitySeed::new(ID)).is_err(), "of a log with a salt");
    let mut segment = unhex(SEGMENT_1);
    segment.resize(SEGMENT_HEADER_BYTES, 0);
    assert_eq!(SegmentHeader::decode(&segment).unwrap().identity, old);
    let mut superblock = unhex(SUPERBLOCK_1);
    superblock.resize(4096, 0);
    let (read, _) = Superblock::decode(&superblock).unwrap();
    assert_eq!(read, Superblock { identity: old, ..a_superblock() });
    let (read, _) = CheckpointHeader::decode(&unhex(CHECKPOINT_1)).unwrap();
    assert_eq!(read, CheckpointHeader { identity: old, number: 2, start: GroupSeq(70) });
}

const RECORD: &str = "
    adb98a72040000000300025a0605040307000000000000000800000000000000
    09000000000000000a000000000000000b000000000000000c00000000000000
    6b6579626f6479
";
const GROUP_1: &str = "
    495247524f555031010000000500000000200000030000004d00000000000000
    4c00000000000000efbeadde4700000001000000040302010000000000000000
    0000000000000000000000000000000000000000000000000000000000000000
    0000000000000000000000000000000000000000000000000000000062eb8783
";
const SEGMENT_1: &str = "
    49525345474d5431010000000a89ec11ffeeddccbbaa99887766554433221100
    020100000100000005000000020000002800000000000000000000040010
";
const SUPERBLOCK_1: &str = "
    495253555045523101000000eb7a502c3001000000100000ffeeddccbbaa9988
    7766554433221100090000000000000002010000000000040300000006000000
    4c00000000000000020000000000000046000000000000000400000000300000
    2222111102000000002000000000000001000000000000004600000000000000
    0400000000300000222211110200000000200000000000000200000000000000
    0000000000000000000000000000000000000000000000000000000000000000
    0000000000000000000000000000000000000000000000000000000000000000
    0000000000000000000000000000000000000000000000000000000000000000
    050000000100000003000000000000003c000000000000000400000002000000
    0400000000f0ff0032
";
const CHECKPOINT_1: &str = "
    495243484b50543101000000904ba12cffeeddccbbaa99887766554433221100
    0201000000000000020000000000000046000000000000000000000000000000
    0100000005000000000000005a5369f670696563650200000010000000010000
    00a9622c63010000000000000005
";
const GROUP: &str = "
    495247524f555031020000000500000000200000030000004d00000000000000
    4c00000000000000efbeadde4700000001000000040302010000000000000000
    0000000000000000000000000000000000000000000000000000000000000000
    00000000000000000000000000000000000000000000000000000000939da9d4
";
const SEGMENT: &str = "
    49525345474d54310200000032243815ffeeddccbbaa99887766554433221100
    0201000001000000050000000200000028000000000000000000000400100000
    5857565554535251
";
const SUPERBLOCK: &str = "
    49525355504552310200000077f944253001000000100000ffeeddccbbaa9988
    7766554433221100090000000000000002010000000000040300000006000000
    4c00000000000000020000000000000046000000000000000400000000300000
    2222111102000000002000000000000001000000000000004600000000000000
    0400000000300000222211110200000000200000000000000200000000000000
    5857565554535251000000000000000000000000000000000000000000000000
    0000000000000000000000000000000000000000000000000000000000000000
    0000000000000000000000000000000000000000000000000000000000000000
    050000000100000003000000000000003c000000000000000400000002000000
    0400000000f0ff0032
";
const CHECKPOINT: &str = "
    495243484b5054310200000024313c05ffeeddccbbaa99887766554433221100
    0201000000000000020000000000000046000000000000005857565554535251
    010000000500000000000000c5a4041570696563650200000010000000010000
    0071faf561010000000000000005
";
