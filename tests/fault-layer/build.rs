//! Compiles `faults.c` into the library that is preloaded into nodes.

use std::{env, path::Path};

#[path = "src/compile.rs"]
mod compile;

fn main() {
    println!("cargo::rerun-if-changed=faults.c");
    println!("cargo::rerun-if-changed=src/compile.rs");
    let folder = env::var_os("OUT_DIR").expect("cargo says where to build");
    compile::compile(Path::new("faults.c"), Path::new(&folder));
}
