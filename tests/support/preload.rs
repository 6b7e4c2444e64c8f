//! Libraries of `tests/preload`, to be preloaded into a node by `LD_PRELOAD`.

use std::path::{Path, PathBuf};

/// Compiles a library of `tests/preload`.
pub fn preloadable(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/preload/{name}.c"));
    conclave_fault_layer::compile(&source, Path::new(env!("CARGO_TARGET_TMPDIR")))
}
