//! The tables between the markers of `docs/benchmarks.md`. What stands outside of markers is written by
//! hand, and stays; so do the tables of parts that were not measured this time.

use crate::Failure;
use std::{fmt::Write, fs, path::Path};

/// What one part came to.
pub struct Section {
    /// As the marker names it.
    pub name: &'static str,
    pub tables: Vec<Table>,
}

/// Rows under headings, and what follows from them.
pub struct Table {
    pub headings: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    /// Below the table, one a line: targets, and whether they were met.
    pub remarks: Vec<String>,
}

impl Table {
    /// A table without rows.
    pub fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.headings.len(), "each heading has a cell");
        self.rows.push(cells.to_vec());
    }

    /// Adds a line below.
    pub fn remark(&mut self, remark: impl Into<String>) {
        self.remarks.push(remark.into());
    }

    /// Adds a target and whether it was met.
    pub fn verdict(&mut self, target: &str, found: impl std::fmt::Display, met: bool) {
        let verdict = if met { "met" } else { "missed" };
        self.remark(format!("Target: {target}. Found: {found}. **{verdict}**"));
    }
}

impl Section {
    fn text(&self, provenance: &str) -> String {
        let mut text = String::new();
        for table in &self.tables {
            let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
            text += &line(&table.headings);
            text += &line(&vec!["---"; table.headings.len()]);
            for row in &table.rows {
                text += &line(&row.iter().map(String::as_str).collect::<Vec<_>>());
            }
            text.push('\n');
            for remark in &table.remarks {
                let _ = writeln!(text, "- {remark}");
            }
            if !table.remarks.is_empty() {
                text.push('\n');
            }
        }
        text + &format!("Measured {provenance}.\n")
    }
}

/// The first section of all: what it was measured on.
pub fn machine(facts: Vec<(&'static str, String)>) -> Section {
    let mut table = Table::new(&["what", "which"]);
    for (name, fact) in facts {
        table.row([name.to_owned(), fact]);
    }
    Section {
        name: "machine",
        tables: vec![table],
    }
}

/// Replaces a section in the file, as a whole, and shows it.
///
/// # Errors
/// When the file cannot be read or written, or has no markers of this name.
pub fn write(path: &Path, section: &Section, provenance: &str) -> Result<(), Failure> {
    let text = section.text(provenance);
    println!("\n## {}\n{text}", section.name);
    let before = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let after = replaced(&before, section.name, &text)
        .ok_or_else(|| format!("{}: no markers of {:?}", path.display(), section.name))?;
    let new = path.with_extension("md.new");
    fs::write(&new, after)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(())
}

fn replaced(document: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
    let from = document.find(&begin)? + begin.len();
    let to = from + document[from..].find(&end)?;
    Some(format!("{}{text}{}", &document[..from], &document[to..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_between_the_markers_is_replaced() {
        let document = "by hand\n<!-- begin put -->\nold\n<!-- end put -->\nby hand\n<!-- begin get -->\nold\n<!-- end get -->\n";
        let expected = document.replacen("old", "new", 1);
        assert_eq!(replaced(document, "put", "new\n"), Some(expected));
        assert_eq!(replaced(document, "poll", "new\n"), None);
    }

    #[test]
    fn the_document_has_markers_for_every_part() {
        let document = include_str!("../../../docs/benchmarks.md");
        for name in crate::parts::SECTIONS {
            assert!(replaced(document, name, "").is_some(), "{name}");
        }
    }
}
