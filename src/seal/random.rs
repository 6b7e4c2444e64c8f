//! Randomness, always from the operating system.

/// Random bytes.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // Keys, nonces and salts without randomness would be worse than no process at all.
            Err(error) => panic!("the operating system gives no randomness: {error}"),
        }
    }
    bytes
}
