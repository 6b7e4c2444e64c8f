//! Compiles `faults.c` into the library that is preloaded into nodes.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=faults.c");
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to build"));
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(folder.join("faults.so"))
        .arg("faults.c")
        .status()
        .expect("a C compiler is there: RocksDB is built with it");
    assert!(compiled.success(), "faults.c does not compile");
}
