//! Libraries of `tests/preload`, to be preloaded into a node by `LD_PRELOAD`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Compiles a library of `tests/preload`.
pub fn preloadable(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/preload/{name}.c"));
    let library = folder.join(format!("{name}.so"));
    let made = folder.join(format!("{name}.so.{}", std::process::id()));
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&made, &source])
        .status()
        .expect("a C compiler is there: RocksDB was built with it");
    assert!(compiled.success(), "{} does not compile", source.display());
    // Other test programs may be doing the same.
    fs::rename(&made, &library).expect("the library is put in its place");
    library
}
