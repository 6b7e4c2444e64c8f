//! C sources made into libraries, which tests preload into processes by `LD_PRELOAD`. The build script of
//! this crate uses this file too.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Compiles one C file into `NAME.so` in a folder, and returns its path.
///
/// # Panics
/// When there is no C compiler, or it refuses.
pub fn compile(source: &Path, folder: &Path) -> PathBuf {
    let name = source.file_stem().expect("a source has a name").to_string_lossy();
    let library = folder.join(format!("{name}.so"));
    let made = folder.join(format!("{name}.so.{}", std::process::id()));
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&*made, source])
        .status()
        .expect("a C compiler is there: RocksDB is built with it");
    assert!(compiled.success(), "{} does not compile", source.display());
    // Other processes may be doing the same.
    fs::rename(&made, &library).expect("the library is put in its place");
    library
}
