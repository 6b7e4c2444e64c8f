//! Writes PEM files: keys so that only their owner can ever read them.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Writes a private key with mode 0600. An existing file is never overwritten.
pub fn write_private_key(path: &Path, pem: &str) -> io::Result<()> {
    write(path, pem, 0o600)
}

/// Writes a certificate with mode 0644. An existing file is never overwritten.
pub fn write_certificate(path: &Path, pem: &str) -> io::Result<()> {
    write(path, pem, 0o644)
}

fn write(path: &Path, pem: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()
}
