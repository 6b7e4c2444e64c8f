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
    for (_, path) in files {
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
        cut(&path, offset)?;
    }
    Ok(())
}

/// As [`cut_torn_tail`], for a database whose writes are not synced one by one. A power cut may tear
/// the end of any of its files, or leave one empty, while a later one is there; RocksDB would replay
/// that over the gap. So everything from the first tear on goes, and what is left is the database as
/// it was at some moment. What was synced lies before every tear that a power cut can leave.
///
/// A file that RocksDB needs no more may have stayed behind, with others after it gone: that is no tear.
/// `first_needed` tells the number of the first file that is needed, and is asked only where it matters.
///
/// # Errors
/// Names the file and the offset of damage that a later write in the same file follows. As
/// `first_needed`.
pub fn cut_at_first_tear(directory: &Path, first_needed: impl FnOnce() -> io::Result<u64>) -> io::Result<()> {
    let mut files = numbered_files(directory, "log")?;
    let found = first_tear(&files);
    if let Ok(None) = found {
        return Ok(());
    }
    let first_needed = match (first_needed(), found) {
        (Ok(number), _) => number,
        (Err(_), Err(damage)) => return Err(damage),
        (Err(error), Ok(_)) => return Err(error),
    };
    files.retain(|(number, _)| *number >= first_needed);
    let Some(Tear { torn, after }) = first_tear(&files)? else {
        return Ok(());
    };
    // The newest first and the tear last, so that a crash meanwhile leaves the tear to be found.
    for later in after.iter().rev() {
        tracing::warn!(file = %later.display(), "removed a write-ahead log that follows a tear");
        fs::remove_file(later)?;
    }
    fs::File::open(directory)?.sync_all()?;
    match torn {
        Some((path, offset)) => cut(&path, offset),
        None => Ok(()),
    }
}

/// Where the first gap in what was written lies.
struct Tear {
    /// The file that ends within a write, and where that write begins; none where a whole write, or
    /// more, is missing between two files.
    torn: Option<(PathBuf, usize)>,
    /// The files after the gap, oldest first.
    after: Vec<PathBuf>,
}

fn first_tear(files: &[(u64, PathBuf)]) -> io::Result<Option<Tear>> {
    let from = |number: usize| files[number..].iter().map(|(_, path)| path.clone()).collect();
    // The number that the next write must have; `Some(None)` after a file without any write.
    let mut expected: Option<Option<u64>> = None;
    for (number, (_, path)) in files.iter().enumerate() {
        let examined = examine(&fs::read(path)?);
        if let (Some((first, _)), Some(expected)) = (examined.sequence, expected)
            && expected != Some(first)
        {
            return Ok(Some(Tear {
                torn: None,
                after: from(number),
            }));
        }
        if let Some(offset) = examined.bad_from {
            if examined.writes_after {
                return Err(damage(path, offset));
            }
            return Ok(Some(Tear {
                torn: Some((path.clone(), offset)),
                after: from(number + 1),
            }));
        }
        expected = Some(match examined.sequence {
            Some((_, next)) => Some(next),
            None => expected.flatten().filter(|_| examined.writes),
        });
    }
    Ok(None)
}

fn cut(path: &Path, offset: usize) -> io::Result<()> {
    tracing::warn!(file = %path.display(), offset, "cut off the torn tail of the write-ahead log");
    let file = fs::OpenOptions::new().write(true).open(path)?;
    file.set_len(offset as u64)?;
    file.sync_all()
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
fn numbered_files(directory: &Path, suffix: &str) -> io::Result<Vec<(u64, PathBuf)>> {
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
    Ok(files)
}

const BLOCK_BYTES: usize = 32 * 1024;
pub(super) const HEADER_BYTES: usize = 7;
/// Types of record: a whole write, or a part of one; others carry no write.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// What one file holds.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Examined {
    /// Whether it holds a whole write before the first bad byte.
    pub(super) writes: bool,
    /// The numbers of the first of these writes, and of the write that would follow the last.
    pub(super) sequence: Option<(u64, u64)>,
    /// Where the write that contains the first bad byte begins.
    pub(super) bad_from: Option<usize>,
    /// Whether another write begins after the first bad byte.
    pub(super) writes_after: bool,
}

pub(super) fn examine(bytes: &[u8]) -> Examined {
    let mut at = 0;
    let mut write_from = None;
    let mut writes = false;
    let mut sequence = None;
    // The beginning of the present write.
    let mut head: Vec<u8> = Vec::new();
    while at < bytes.len() {
        let left_in_block = BLOCK_BYTES - at % BLOCK_BYTES;
        if left_in_block < HEADER_BYTES {
            at += left_in_block;
            continue;
        }
        let record = record_at(bytes, at);
        if let Some((kind @ (FULL | FIRST | MIDDLE | LAST), end)) = record {
            if matches!(kind, FULL | FIRST) {
                head.clear();
            }
            let missing = WRITE_HEAD_BYTES - head.len();
            head.extend(bytes[at + HEADER_BYTES..end].iter().take(missing));
        }
        match (record, write_from) {
            (Some((FULL, end)), None) => {
                (writes, at) = (true, end);
                sequence = extended(sequence, &head);
            }
            (Some((FIRST, end)), None) => (write_from, at) = (Some(at), end),
            (Some((MIDDLE, end)), Some(_)) => at = end,
            (Some((LAST, end)), Some(_)) => {
                (writes, write_from, at) = (true, None, end);
                sequence = extended(sequence, &head);
            }
            (Some((FULL | FIRST | MIDDLE | LAST, _)) | None, _) => {
                let rest_is_zero = bytes[at..].iter().all(|byte| *byte == 0);
                if rest_is_zero && write_from.is_none() {
                    break; // space that was allocated ahead
                }
                return Examined {
                    writes,
                    sequence,
                    bad_from: Some(write_from.unwrap_or(at)),
                    writes_after: begins_after(bytes, at),
                };
            }
            (Some((_, end)), _) => at = end,
        }
    }
    Examined {
        writes,
        sequence,
        bad_from: write_from,
        writes_after: false,
    }
}

/// A write begins with its number (8 bytes) and with how many numbers it takes (4 bytes); RocksDB,
/// `db/write_batch.cc`.
const WRITE_HEAD_BYTES: usize = 12;

fn extended(sequence: Option<(u64, u64)>, head: &[u8]) -> Option<(u64, u64)> {
    let (number, count) = head.split_first_chunk::<8>()?;
    let number = u64::from_le_bytes(*number);
    let count = u32::from_le_bytes(*count.first_chunk::<4>()?);
    let first = sequence.map_or(number, |(first, _)| first);
    Some((first, number.saturating_add(u64::from(count))))
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
    let computed = checksum(bytes.get(at + HEADER_BYTES - 1..end)?);
    (stored == computed).then_some((header[6], end))
}

/// RocksDB's checksum of a record's type and payload.
pub(super) fn checksum(covered: &[u8]) -> u32 {
    crc32c::crc32c(covered).rotate_right(15).wrapping_add(0xa282_ead8)
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
                file.extend_from_slice(&checksum(&covered).to_le_bytes());
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

    /// Numbered writes, each of which takes one number.
    fn numbered(numbers: std::ops::Range<u64>, size: usize) -> Vec<u8> {
        let writes: Vec<Vec<u8>> = numbers
            .map(|number| {
                let mut write = number.to_le_bytes().to_vec();
                write.extend(1_u32.to_le_bytes());
                write.resize(WRITE_HEAD_BYTES + size, 7);
                write
            })
            .collect();
        written(&writes).0
    }

    /// The files' sizes after [`cut_at_first_tear`]; `None` for one that is gone.
    fn cut_files(files: &[Vec<u8>]) -> io::Result<Vec<Option<usize>>> {
        cut_files_needed_from(0, files)
    }

    /// As [`cut_files`], where so many files are not needed any more.
    fn cut_files_needed_from(unneeded: u64, files: &[Vec<u8>]) -> io::Result<Vec<Option<usize>>> {
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (10..10 + files.len())
            .map(|number| directory.path().join(format!("{number:06}.log")))
            .collect();
        for (path, bytes) in paths.iter().zip(files) {
            fs::write(path, bytes).unwrap();
        }
        cut_at_first_tear(directory.path(), || Ok(10 + unneeded))?;
        let size = |path: &PathBuf| fs::metadata(path).ok().map(|file| file.len() as usize);
        Ok(paths.iter().map(size).collect())
    }

    #[test]
    fn files_that_follow_one_another_stay() {
        let files = [
            numbered(1..4, 40_000),
            numbered(4..6, 40_000),
            numbered(6..6, 0),
            Vec::new(),
        ];
        let sizes: Vec<_> = files.iter().map(|file| Some(file.len())).collect();
        assert_eq!(cut_files(&files).unwrap(), sizes);
    }

    #[test]
    fn everything_from_the_first_tear_on_goes() {
        let (first, second, third) = (numbered(1..4, 90), numbered(4..6, 90), numbered(6..7, 90));
        let one = first.len() / 3;
        let torn = first[..first.len() - 5].to_vec();
        assert_eq!(
            cut_files(&[torn, second.clone(), third.clone()]).unwrap(),
            [Some(2 * one), None, None]
        );
        // Torn between two writes: only their numbers tell.
        let torn = first[..2 * one].to_vec();
        assert_eq!(
            cut_files(&[torn, second.clone(), third.clone()]).unwrap(),
            [Some(2 * one), None, None]
        );
        assert_eq!(
            cut_files(&[first.clone(), Vec::new(), third.clone()]).unwrap(),
            [Some(3 * one), Some(0), None]
        );
        assert_eq!(
            cut_files(&[Vec::new(), second, third]).unwrap(),
            [Some(0), None, None]
        );
    }

    #[test]
    fn a_file_that_is_not_needed_any_more_makes_no_tear() {
        let (left_behind, next, last) = (numbered(1..4, 90), numbered(6..8, 90), numbered(8..9, 90));
        let sizes = |files: &[Vec<u8>]| files.iter().map(|file| Some(file.len())).collect::<Vec<_>>();
        let mut torn = left_behind.clone();
        torn.truncate(torn.len() - 5);
        let mut damaged = left_behind.clone();
        damaged[30] ^= 1;
        for first in [left_behind, torn, damaged] {
            let files = [first, next.clone(), last.clone()];
            assert_eq!(cut_files_needed_from(1, &files).unwrap(), sizes(&files));
        }
        // Those that are needed have no gap.
        let files = [next.clone(), last, numbered(11..12, 90)];
        let mut left = sizes(&files);
        left[2] = None;
        assert_eq!(cut_files_needed_from(1, &files).unwrap(), left);
    }

    #[test]
    fn damage_in_a_file_is_refused_by_its_name() {
        let mut file = numbered(1..4, 90);
        file[30] ^= 1;
        let error = cut_files(&[file, numbered(4..6, 90)]).unwrap_err();
        assert!(error.to_string().contains("000010.log"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_whole_file_is_good(writes in writes()) {
            let (file, _) = written(&writes);
            let examined = examine(&file);
            prop_assert!(examined.writes && !examined.writes_after);
            prop_assert_eq!(examined.bad_from, None);
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
