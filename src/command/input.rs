//! What a command asks for: values from files, standard input or a hidden prompt (never from an
//! argument, which other users and the shell's history would see), and a yes before destruction.

use super::Failure;
use clap::Args;
use std::{
    fs::File,
    io::{self, IsTerminal, Read, Write},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Where a value comes from.
#[derive(Args, Debug)]
pub struct ValueSource {
    /// Read the value from this file, byte for byte ("-": standard input). Without it: from
    /// standard input, byte for byte; on a terminal, from a hidden prompt, asked twice.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// A yes to what cannot be undone.
#[derive(Args, Debug)]
pub struct Confirmation {
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

impl ValueSource {
    /// Reads the value.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        match self.file.as_deref() {
            Some(path) if path != Path::new("-") => {
                let named = |error: io::Error| Failure::Invalid(format!("{}: {error}", path.display()));
                read_all(File::open(path).map_err(named)?).map_err(named)
            }
            None if io::stdin().is_terminal() => prompt_twice(),
            _ => read_all(io::stdin().lock())
                .map_err(|error| Failure::Invalid(format!("standard input: {error}"))),
        }
    }
}

impl Confirmation {
    /// Goes on only after a yes.
    ///
    /// # Errors
    /// When the answer is no, or when nobody can be asked.
    pub fn require(&self, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(Failure::Usage(format!(
                "{question} Nobody can be asked here: add --yes."
            )));
        }
        eprint!("{question} Type \"yes\" to go on: ");
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if answer.trim() == "yes" {
            Ok(())
        } else {
            Err(Failure::Other("nothing was done".into()))
        }
    }
}

/// Far above any cluster's limit, so that a wrong file does not fill memory.
const LARGEST_VALUE_BYTES: u64 = 64 << 20;

fn read_all(reader: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut value = Zeroizing::new(Vec::new());
    reader.take(LARGEST_VALUE_BYTES + 1).read_to_end(&mut value)?;
    if value.len() as u64 > LARGEST_VALUE_BYTES {
        return Err(io::Error::other(format!("more than {LARGEST_VALUE_BYTES} bytes")));
    }
    Ok(value)
}

fn prompt_twice() -> Result<Zeroizing<Vec<u8>>, Failure> {
    let ask = |prompt: &str| rpassword::prompt_password(prompt).map(Zeroizing::new);
    let first = ask("Value: ")?;
    let second = ask("Value again: ")?;
    if first != second {
        return Err(Failure::Invalid("the two values differ; nothing was done".into()));
    }
    Ok(Zeroizing::new(first.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_byte_for_byte() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let path = directory.path().join("value");
        std::fs::write(&path, b"\x00line\r\n").expect("the file is written");
        let value = ValueSource { file: Some(path) }
            .read()
            .expect("the value is read");
        assert_eq!(&value[..], b"\x00line\r\n");
        let missing = ValueSource {
            file: Some(directory.path().join("missing")),
        };
        assert!(
            matches!(missing.read().err(), Some(Failure::Invalid(message)) if message.contains("missing"))
        );
    }
}
