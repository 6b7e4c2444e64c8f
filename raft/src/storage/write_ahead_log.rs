//! Tells a torn tail of RocksDB's write-ahead log from damage before the tail.
//!
//! A power cut may tear the last write, which nobody was told is durable; that is cut off. Damage
//! before it would take acknowledged writes away silently, because RocksDB takes a broken length
//! near the end of a file for a torn tail; so the files are read here first, and if any later write
//! follows the first bad byte the start is refused with the file's name.
//!
//! Format (RocksDB, `db/log_format.h`): blocks of 32,768 bytes; records of
//! `[masked crc32c: u32][length: u16][type: u8][payload]` that never cross a block; a write is one
//! full record, or a first, middle ones and a last; fewer than 7 bytes at a block's end are zeros.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Reads every write-ahead log in `directory`, oldest first, and cuts off a torn tail. To be called
/// before RocksDB opens the directory, which need not exist.
///
/// # Errors
/// Names the file and the offset of damage that a later write follows; a database with tables but
/// without any write-ahead log has lost its newest writes.
pub fn cut_torn_tail(directory: &Path) -> io::Result<()> {
    let mut torn: Option<(PathBuf, usize)> = None;
    let files = numbered_files(directory, "log")?;
    if files.is_empty() && !numbered_files(directory, "sst")?.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} has no write-ahead log: acknowledged entries are lost",
                directory.display()
            ),
        ));
    }
    for path in files {
        let bytes = fs::read(&path)?;
        let found = examine(&bytes);
        if let Some((damaged, offset)) = &torn
            && found.writes
        {
            return Err(damage(damaged, *offset));
        }
        if let Some(offset) = found.bad_from {
            if found.writes_after {
                return Err(damage(&path, offset));
            }
            torn.get_or_insert((path, offset));
        }
    }
    if let Some((path, offset)) = torn {
        tracing::warn!(file = %path.display(), offset, "cut off the torn tail of the write-ahead log");
        let file = fs::OpenOptions::new().write(true).open(&path)?;
        file.set_len(offset as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

fn damage(path: &Path, offset: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "{} is damaged at byte {offset}, and later writes follow: refusing to start, because \
             acknowledged entries would be lost. Set this data directory aside; the node then joins again as new",
            path.display()
        ),
    )
}

/// RocksDB's files with this suffix, by number.
fn numbered_files(directory: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse::<u64>().ok());
        if let Some(number) = number
            && path.extension().is_some_and(|found| found == suffix)
        {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;
/// Types of record: a whole write, or a part of one; others carry no write.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// What one file holds.
#[derive(PartialEq, Eq, Debug)]
struct Examined {
    /// Whether it holds a whole write before the first bad byte.
    writes: bool,
    /// Where the write that contains the first bad byte begins.
    bad_from: Option<usize>,
    /// Whether another write begins after the first bad byte.
    writes_after: bool,
}

fn examine(bytes: &[u8]) -> Examined {
    let mut at = 0;
    let mut write_from = None;
    let mut writes = false;
    while at < bytes.len() {
        let left_in_block = BLOCK_BYTES - at % BLOCK_BYTES;
        if left_in_block < HEADER_BYTES {
            at += left_in_block;
            continue;
        }
        let record = record_at(bytes, at);
        match (record, write_from) {
            (Some((FULL, end)), None) => (writes, at) = (true, end),
            (Some((FIRST, end)), None) => (write_from, at) = (Some(at), end),
            (Some((MIDDLE, end)), Some(_)) => at = end,
            (Some((LAST, end)), Some(_)) => (writes, write_from, at) = (true, None, end),
            (Some((FULL | FIRST | MIDDLE | LAST, _)) | None, _) => {
                let rest_is_zero = bytes[at..].iter().all(|byte| *byte == 0);
                if rest_is_zero && write_from.is_none() {
                    break; // space that was allocated ahead
                }
                return Examined {
                    writes,
                    bad_from: Some(write_from.unwrap_or(at)),
                    writes_after: begins_after(bytes, at),
                };
            }
            (Some((_, end)), _) => at = end,
        }
    }
    Examined {
        writes,
        bad_from: write_from,
        writes_after: false,
    }
}

/// The type of the well-formed record at `at`, and where it ends.
fn record_at(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let header = bytes.get(at..at + HEADER_BYTES)?;
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let end = at + HEADER_BYTES + length;
    if header[6] == 0 || end > (at / BLOCK_BYTES + 1) * BLOCK_BYTES {
        return None;
    }
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let computed = crc32c::crc32c(bytes.get(at + HEADER_BYTES - 1..end)?);
    let masked = computed.rotate_right(15).wrapping_add(0xa282_ead8);
    (stored == masked).then_some((header[6], end))
}

/// Whether a write begins after the bad record at `bad`. In its own block it may begin anywhere; in
/// later blocks the records line up with the block.
fn begins_after(bytes: &[u8], bad: usize) -> bool {
    let begins = |at: usize| matches!(record_at(bytes, at), Some((FULL | FIRST, _)));
    let block_end = bytes.len().min((bad / BLOCK_BYTES + 1) * BLOCK_BYTES);
    if (bad + 1..block_end).any(begins) {
        return true;
    }
    let mut block = block_end;
    while block < bytes.len() {
        let mut at = block;
        while let Some((kind, end)) = record_at(bytes, at) {
            if matches!(kind, FULL | FIRST) {
                return true;
            }
            at = end;
        }
        block += BLOCK_BYTES;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file as RocksDB would write it, and where each write begins.
    fn written(writes: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let (mut file, mut begins) = (Vec::new(), Vec::new());
        for write in writes {
            let mut left = &write[..];
            let mut first = true;
            loop {
                let mut room = BLOCK_BYTES - file.len() % BLOCK_BYTES;
                if room < HEADER_BYTES {
                    file.resize(file.len() + room, 0);
                    room = BLOCK_BYTES;
                }
                if first {
                    begins.push(file.len());
                }
                let (part, rest) = left.split_at(left.len().min(room - HEADER_BYTES));
                let kind = match (first, rest.is_empty()) {
                    (true, true) => FULL,
                    (true, false) => FIRST,
                    (false, false) => MIDDLE,
                    (false, true) => LAST,
                };
                let mut covered = vec![kind];
                covered.extend_from_slice(part);
                let masked = crc32c::crc32c(&covered)
                    .rotate_right(15)
                    .wrapping_add(0xa282_ead8);
                file.extend_from_slice(&masked.to_le_bytes());
                file.extend_from_slice(&(part.len() as u16).to_le_bytes());
                file.extend_from_slice(&covered);
                (left, first) = (rest, false);
                if left.is_empty() {
                    break;
                }
            }
        }
        (file, begins)
    }

    fn writes() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let size = prop_oneof![1_usize..200, 30_000_usize..70_000];
        prop::collection::vec(
            (size, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]),
            1..6,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_whole_file_is_good(writes in writes()) {
            let (file, _) = written(&writes);
            prop_assert_eq!(examine(&file), Examined { writes: true, bad_from: None, writes_after: false });
        }

        #[test]
        fn a_cut_file_is_torn_and_never_damaged(writes in writes(), cut: prop::sample::Index) {
            let (file, begins) = written(&writes);
            let cut = cut.index(file.len());
            let examined = examine(&file[..cut]);
            prop_assert!(!examined.writes_after);
            if let Some(from) = examined.bad_from {
                prop_assert!(begins.contains(&from));
            }
        }

        #[test]
        fn a_flipped_bit_is_damage_except_in_the_last_write(
            writes in writes(), at: prop::sample::Index, bit in 0_u8..8,
        ) {
            let (mut file, begins) = written(&writes);
            let at = at.index(file.len());
            let padding = in_padding(&file, at);
            file[at] ^= 1 << bit;
            let examined = examine(&file);
            let last = *begins.last().unwrap();
            if padding {
                return Ok(());
            }
            prop_assert!(examined.bad_from.is_some());
            prop_assert_eq!(examined.writes_after, at < last);
        }
    }

    /// Whether the byte lies in a block's unused end.
    fn in_padding(file: &[u8], at: usize) -> bool {
        let mut record = 0;
        while record < file.len() {
            let left = BLOCK_BYTES - record % BLOCK_BYTES;
            if left < HEADER_BYTES {
                if (record..record + left).contains(&at) {
                    return true;
                }
                record += left;
                continue;
            }
            record = record_at(file, record).unwrap().1;
        }
        false
    }
}
