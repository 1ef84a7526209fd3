//! The secret key: keys of the API are hashed under it, and secrets at rest are encrypted under a key derived from it. It lives in
//! a file of its own or in the environment, never in the database, so that neither alone verifies guesses or opens secrets.

use std::fmt;
use std::path::Path;

use rand::TryRngCore;
use rand::rngs::OsRng;
use ring::{aead, hmac};
use sha2::{Digest, Sha256};

use super::TenantError;
use crate::ids::hex;
use crate::store::{self, Access, StoreError};

/// The file in the data directory. (Its name is from the time when it only salted hashes.)
const FILE: &str = "pepper";
/// Bytes of the key.
const BYTES: usize = 32;
/// AES-256-GCM's nonce, bytes.
const NONCE: usize = aead::NONCE_LEN;

/// The secret key, ready for use. Cheap to share behind an `Arc`.
pub struct Secrets {
    hashing: hmac::Key,
    sealing: aead::LessSafeKey,
    check: String,
}

impl Secrets {
    /// The given key (64 hexadecimal digits), or the one in the data directory, made where there is none.
    pub fn open(data_dir: &Path, given: Option<&str>) -> Result<Self, TenantError> {
        let key = match given {
            Some(text) => from_hex(text).ok_or(TenantError::SecretKey("is not 64 hexadecimal digits"))?,
            None => Self::from_file(&data_dir.join(FILE))?,
        };
        Self::new(&key)
    }

    fn from_file(path: &Path) -> Result<[u8; BYTES], TenantError> {
        if path.exists() {
            let bytes = store::read_limited(path, 1024).map_err(StoreError::io("read", path))?;
            return bytes.try_into().map_err(|bytes: Vec<u8>| {
                let reason = format!("{} bytes where {BYTES} are right", bytes.len());
                TenantError::Store(StoreError::Damaged { path: path.to_owned(), reason })
            });
        }
        let mut key = [0u8; BYTES];
        fill(&mut key)?;
        store::write_durably(path, &key, Access::Private)?;
        Ok(key)
    }

    fn new(key: &[u8; BYTES]) -> Result<Self, TenantError> {
        // The file's bytes hash keys as they are: hashes of earlier versions stay valid. Other uses get keys of their own.
        let hashing = hmac::Key::new(hmac::HMAC_SHA256, key);
        let sealing = aead::UnboundKey::new(&aead::AES_256_GCM, hmac::sign(&hashing, b"switchyard sealing 1").as_ref());
        let sealing = aead::LessSafeKey::new(sealing.map_err(|_| TenantError::SecretKey("cannot be used"))?);
        let check = hex(&hmac::sign(&hashing, b"switchyard check 1").as_ref()[..8]);
        Ok(Self { hashing, sealing, check })
    }

    /// Keyed hash of an API key.
    pub fn hash(&self, key: &str) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.hashing, key.as_bytes()).as_ref());
        hash
    }

    /// Tells whether another process has the same key, and nothing else about it.
    pub fn check(&self) -> &str {
        &self.check
    }

    /// Encrypts a secret for the database (AES-256-GCM, a random nonce in front). `owner` is what it belongs to: opened under
    /// another one it is refused, so that rows cannot be swapped.
    pub fn seal(&self, owner: &str, secret: &str) -> Result<String, TenantError> {
        let mut nonce = [0u8; NONCE];
        fill(&mut nonce)?;
        let mut bytes = secret.as_bytes().to_vec();
        let owner = aead::Aad::from(owner.as_bytes());
        let sealed = self.sealing.seal_in_place_append_tag(aead::Nonce::assume_unique_for_key(nonce), owner, &mut bytes);
        sealed.map_err(|_| TenantError::Sealed)?;
        Ok(hex(&nonce) + &hex(&bytes))
    }

    /// What [`Secrets::seal`] encrypted.
    pub fn open_sealed(&self, owner: &str, sealed: &str) -> Result<String, TenantError> {
        let bytes = decode_hex(sealed).ok_or(TenantError::Sealed)?;
        let (nonce, rest) = bytes.split_at_checked(NONCE).ok_or(TenantError::Sealed)?;
        let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(|_| TenantError::Sealed)?;
        let mut rest = rest.to_vec();
        let opened = self.sealing.open_in_place(nonce, aead::Aad::from(owner.as_bytes()), &mut rest);
        String::from_utf8(opened.map_err(|_| TenantError::Sealed)?.to_vec()).map_err(|_| TenantError::Sealed)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// Random bytes of the operating system.
pub(super) fn fill(bytes: &mut [u8]) -> Result<(), TenantError> {
    OsRng.try_fill_bytes(bytes).map_err(|error| TenantError::Random(error.to_string()))
}

/// Random text of the URL-safe base-64 alphabet, which needs no quoting in a shell or a URL: 6 bits a character.
pub(super) fn random_text<const CHARS: usize>() -> Result<String, TenantError> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = [0u8; CHARS];
    fill(&mut random)?;
    // 256 is a multiple of 64: the remainder is uniform.
    Ok(random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 64)])).collect())
}

/// A new id: a prefix and 24 random hexadecimal digits.
pub fn new_id(prefix: &str) -> Result<String, TenantError> {
    let mut random = [0u8; 12];
    fill(&mut random)?;
    Ok(format!("{prefix}_{}", hex(&random)))
}

/// SHA-256 of anything, as 64 hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn from_hex(text: &str) -> Option<[u8; BYTES]> {
    decode_hex(text.trim())?.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    // RFC 4231 has no 32-byte key; this value is from Python's `hmac` module.
    #[test]
    fn hashes_agree_with_the_reference_and_with_earlier_versions() {
        let mut key = [0u8; BYTES];
        key.iter_mut().zip(0u8..).for_each(|(byte, value)| *byte = value);
        let secrets = Secrets::new(&key).unwrap();
        assert_eq!(hex(&secrets.hash("switchyard")), "c76656c4103cfd8eab539a623e59ee756cdcd47775022b148cbe18183cec92f9");
    }

    #[test]
    fn sealed_secrets_open_for_their_owner_only() {
        let secrets = Secrets::new(&[7; BYTES]).unwrap();
        let sealed = secrets.seal("wh_1", "s3cret").unwrap();
        assert_eq!(secrets.open_sealed("wh_1", &sealed).unwrap(), "s3cret");
        assert_ne!(secrets.seal("wh_1", "s3cret").unwrap(), sealed, "a nonce is used once");
        let flipped = format!("{}{}", &sealed[..sealed.len() - 1], if sealed.ends_with('0') { '1' } else { '0' });
        for (owner, sealed) in
            [("wh_2", sealed.as_str()), ("wh_1", flipped.as_str()), ("wh_1", "zz"), ("wh_1", ""), ("wh_1", "aé")]
        {
            assert!(matches!(secrets.open_sealed(owner, sealed), Err(TenantError::Sealed)), "{owner} {sealed}");
        }
        let other = Secrets::new(&[8; BYTES]).unwrap();
        assert!(other.open_sealed("wh_1", &sealed).is_err());
        assert_ne!(other.check(), secrets.check());
    }

    #[test]
    fn the_key_is_made_once_and_given_ones_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let first = Secrets::open(dir.path(), None).unwrap();
        assert_eq!(Secrets::open(dir.path(), None).unwrap().hash("k"), first.hash("k"));
        let given = Secrets::open(dir.path(), Some(&"ab".repeat(32))).unwrap();
        assert_ne!(given.hash("k"), first.hash("k"));
        for bad in ["", "ab", &"zz".repeat(32), &"ab".repeat(33)] {
            assert!(matches!(Secrets::open(dir.path(), Some(bad)), Err(TenantError::SecretKey(_))), "{bad}");
        }
        std::fs::write(dir.path().join(FILE), b"short").unwrap();
        assert!(Secrets::open(dir.path(), None).is_err());
    }
}
