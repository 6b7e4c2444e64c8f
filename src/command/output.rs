//! What a command prints: for people as text and tables, for programs as JSON, one value a line.

use super::Failure;
use serde::Serialize;
use std::io::{self, Write};

/// How results are written to standard output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON value a line.
    Json,
}

impl Format {
    /// Prints the JSON value, or the text.
    pub fn print(self, json: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let line = match self {
            Self::Json => {
                serde_json::to_string(json).map_err(|error| Failure::Other(format!("no JSON: {error}")))?
            }
            Self::Text => text(),
        };
        if line.is_empty() {
            Ok(())
        } else {
            write_line(&line)
        }
    }
}

/// Writes a line to standard output.
pub fn write_line(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    done(writeln!(out, "{line}"))
}

/// Writes exact bytes to standard output.
pub fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    done(out.write_all(bytes).and_then(|()| out.flush()))
}

/// A reader that stops reading (`conclave list | head -1`) is no failure.
fn done(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::Other(format!("standard output: {error}"))),
    }
}

/// Lays out rows in columns, two spaces apart, under headings.
pub fn table<const COLUMNS: usize>(headings: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let line = |cells: [&str; COLUMNS]| {
        let padded = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let body = rows
        .iter()
        .map(|row| line(std::array::from_fn(|column| row[column].as_str())));
    std::iter::once(line(headings))
        .chain(body)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a".into(), "1".into()], ["longer".into(), "2".into()]];
        assert_eq!(table(["NAME", "N"], &rows), "NAME    N\na       1\nlonger  2");
        assert_eq!(table(["NAME"], &[]), "NAME");
    }
}
