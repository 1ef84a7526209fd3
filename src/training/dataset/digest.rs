//! Digests: of a dataset (SHA-256 of its rows as they are learnt), and short ones that are the same on every machine and in every
//! release.

use sha2::{Digest as _, Sha256};

use super::Example;

/// SHA-256 over the rows in order, each as [`Example::to_row`] in JSON with a line break: the same whatever format the file has,
/// and the same as `sha256sum` of what `--fix` writes where there was nothing to fix.
#[derive(Debug, Clone, Default)]
pub struct Digest(Sha256);

impl Digest {
    /// Adds a row.
    pub fn add(&mut self, example: &Example) {
        self.add_row(&example.to_row().to_string());
    }

    /// Adds a row that is JSON already.
    pub(super) fn add_row(&mut self, row: &str) {
        self.0.update(row.as_bytes());
        self.0.update(b"\n");
    }

    /// 64 hexadecimal digits.
    pub fn finish(self) -> String {
        crate::ids::hex(&self.0.finalize())
    }
}

/// 64 bits of a text: FNV-1a, then the finalizer of MurmurHash3, so that every bit depends on every byte.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let folded =
        bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    mix(folded)
}

/// The finalizer of MurmurHash3: a permutation of 64-bit numbers.
pub(super) const fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    value = (value ^ (value >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}
