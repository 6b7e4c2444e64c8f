//! What the fuzz targets share. A target is a test in a module `fuzz` beside what it tries; its corpus
//! lies in `__fuzz__/NAME/corpus` beside that, and inputs on which it failed in `__fuzz__/NAME/crashes`.
//!
//! The same test runs in two ways. As a test it replays both folders and a few inputs drawn at random.
//! Built by `scripts/fuzz`, it is explored by libFuzzer, guided by what of the code each input reaches.
//! With [`PLANTING`] set it writes its seeds, which are valid examples, into its corpus, and ends.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
};

pub use bolero;

/// Inputs that are drawn at random where a target runs as a test, beside its corpus.
pub const DRAWN: usize = 256;

/// The longest input that is drawn or explored, in bytes.
pub const INPUT_LIMIT_BYTES: usize = 4096;

/// The environment variable that makes targets write their seeds.
pub const PLANTING: &str = "CONCLAVE_FUZZ_SEEDS";

/// Memory that reading may take whatever the input: what serde takes in advance for a list whose length
/// it does not believe yet (1 MiB, a list in a list twice), and buffers of a constant size.
const CONSTANT_BYTES: u64 = 4 * 1024 * 1024;
/// Memory that reading may take for each byte of the input.
const BYTES_PER_BYTE: u64 = 256;

/// Tries a property of bytes: `explore!("name", seeds, |input: &[u8]| …)`. The name is unique in its
/// folder. `seeds` are valid examples, and are made only where they are written.
#[macro_export]
macro_rules! explore {
    ($name:literal, $seeds:expr, $property:expr) => {
        if $crate::is_planting() {
            $crate::plant(env!("CARGO_MANIFEST_DIR"), file!(), $name, $seeds);
        } else {
            $crate::bolero::check!(name = $name)
                .with_iterations($crate::DRAWN)
                .with_max_len($crate::INPUT_LIMIT_BYTES)
                .for_each($property);
        }
    };
}

/// Whether seeds are to be written.
pub fn is_planting() -> bool {
    std::env::var_os(PLANTING).is_some()
}

/// Writes seeds into a target's corpus, as `seed-N`.
///
/// # Panics
/// The folder cannot be written.
pub fn plant<S: AsRef<[u8]>>(manifest: &str, file: &str, name: &str, seeds: impl IntoIterator<Item = S>) {
    let corpus = folder_of(manifest, file)
        .join("__fuzz__")
        .join(name)
        .join("corpus");
    fs::create_dir_all(&corpus).expect("the corpus can be made");
    for (number, seed) in seeds.into_iter().enumerate() {
        fs::write(corpus.join(format!("seed-{number:02}")), seed).expect("a seed can be written");
    }
}

/// The compiler names a file from where it was started, which is the folder of the package or one above.
fn folder_of(manifest: &str, file: &str) -> PathBuf {
    let found = Path::new(manifest)
        .ancestors()
        .map(|above| above.join(file))
        .find(|path| path.exists());
    let mut path = found.unwrap_or_else(|| panic!("{file} is not below or above {manifest}"));
    path.pop();
    path
}

/// Reads an input of so many bytes, and demands that no more memory is held meanwhile than a small
/// multiple of them: a length that is only claimed is not believed.
///
/// # Panics
/// More was held.
pub fn in_bounded_memory<T>(input_bytes: usize, read: impl FnOnce() -> T) -> T {
    let mut result = None;
    let held = allocation_counter::measure(|| result = Some(catch_unwind(AssertUnwindSafe(read))));
    // What panicked goes on doing so, after the measurement was ended.
    let result = match result.expect("the closure was run") {
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    };
    let input_bytes = u64::try_from(input_bytes).expect("lengths fit into 64 bits");
    let limit_bytes = CONSTANT_BYTES + BYTES_PER_BYTE * input_bytes;
    assert!(
        held.bytes_max <= limit_bytes,
        "{} bytes were held to read {input_bytes}; at most {limit_bytes} may be",
        held.bytes_max
    );
    result
}

/// Reads an input as a record, in bounded memory. What was read must be written in no more bytes than were
/// read (there are longer ways to write a number or a map), and in a form that is read alike.
///
/// # Panics
/// The record is written otherwise.
pub fn read_alike<T, E>(
    input: &[u8],
    read: impl Fn(&[u8]) -> Result<T, E>,
    write: impl Fn(&T) -> Vec<u8>,
) -> Option<T> {
    let record = in_bounded_memory(input.len(), || read(input)).ok()?;
    let written = write(&record);
    assert!(written.len() <= input.len(), "it is written longer than it was");
    let Ok(again) = read(&written) else {
        panic!("what was written is not read")
    };
    assert_eq!(
        write(&again),
        written,
        "what was written is read as something else"
    );
    Some(record)
}

/// The records of a file of golden records: a name and hexadecimal digits a line.
///
/// # Panics
/// It is no such file.
pub fn golden(text: &str) -> Vec<Vec<u8>> {
    let record = |line: &str| {
        let (_, digits) = line.split_once(' ').expect("a line is a name and a record");
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("two hexadecimal digits");
        (0..digits.len()).step_by(2).map(byte).collect()
    };
    text.lines().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn memory_for_what_is_only_claimed_is_seen() {
        // Hidden from the compiler, which leaves out what nobody looks at.
        let take = |bytes| black_box(vec![1_u8; bytes]).len();
        assert_eq!(in_bounded_memory(1, || take(1024)), 1024);
        let too_much = || take(8 * 1024 * 1024);
        assert!(catch_unwind(|| in_bounded_memory(1, too_much)).is_err());
        assert_eq!(in_bounded_memory(64 * 1024, too_much), 8 * 1024 * 1024);
    }

    #[test]
    fn the_folder_of_a_target_is_found() {
        // Asked for now: what was compiled in another clone may be used in this one.
        let manifest = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        let folder = folder_of(&manifest, file!());
        assert!(folder.join("lib.rs").exists());
    }
}
