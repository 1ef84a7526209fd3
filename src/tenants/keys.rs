//! The bootstrap admin key: made on first start, or given by the operator.

use std::fmt;

use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{CacheConsent, DEFAULT_TENANT, ModelAccess, Principal, Priority, Scope, TenantError};
use crate::store::{Access, DataDir, StoreError};

const KEYS_FILE: &str = "keys.json";
const PEPPER_FILE: &str = "pepper";
const PEPPER_BYTES: usize = 32;
const PREFIX: &str = "sk-sy-";
/// An operator's own key must be at least this long: a short one could be guessed over the network.
const MIN_GIVEN_KEY: usize = 16;
/// And at most this long: it has to fit a header line.
const MAX_GIVEN_KEY: usize = 512;
/// Characters of a made key: the URL-safe base-64 alphabet, so that it needs no quoting in a shell or a URL.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// 43 characters of 6 bits hold 256 random bits.
const RANDOM_CHARS: usize = 43;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    format: u32,
    /// Keyed hash of the admin key, hexadecimal.
    admin: String,
}

/// Verifies keys. Cheap to share behind an `Arc`.
pub struct Keys {
    pepper: [u8; PEPPER_BYTES],
    admin: [u8; 32],
}

/// Keys, and the admin key in clear where it was made just now: the only time that it can be shown.
#[derive(Debug)]
pub struct Opened {
    /// Verifies keys.
    pub keys: Keys,
    /// The new key.
    pub new_key: Option<String>,
}

impl Keys {
    /// Reads the keys of a data directory; makes the admin key where there is none. A key given by the operator replaces what
    /// was stored.
    pub fn open(data: &DataDir, given: Option<&str>) -> Result<Opened, TenantError> {
        let pepper = pepper(data)?;
        if let Some(key) = given {
            check_given(key)?;
            return Ok(Opened { keys: Self::store(data, pepper, key)?, new_key: None });
        }
        let Some(file) = data.read_json::<KeysFile>(KEYS_FILE)? else { return Self::make(data, pepper) };
        let damaged = |reason: String| TenantError::Store(StoreError::Damaged { path: data.path().join(KEYS_FILE), reason });
        if file.format != 1 {
            return Err(damaged(format!("format {} is not 1", file.format)));
        }
        let admin: crate::ids::VersionId =
            file.admin.parse().map_err(|_| damaged("`admin` is not 64 hexadecimal digits".to_owned()))?;
        Ok(Opened { keys: Self { pepper, admin: *admin.as_bytes() }, new_key: None })
    }

    /// Replaces the admin key by a new one, which is returned to be shown once.
    pub fn reset_admin(data: &DataDir) -> Result<Opened, TenantError> {
        Self::make(data, pepper(data)?)
    }

    /// Whose key this is. Takes the same time whatever the key.
    pub fn authenticate(&self, presented: &str) -> Option<Principal> {
        let hash = hmac_sha256(&self.pepper, presented.as_bytes());
        bool::from(hash.ct_eq(&self.admin)).then(|| Principal {
            key_id: "admin".into(),
            tenant: DEFAULT_TENANT.into(),
            scopes: [Scope::Admin].into_iter().collect(),
            models: ModelAccess::All,
            end_user: None,
            priority: Priority::Standard,
            cached: CacheConsent::PerRequest,
        })
    }

    fn make(data: &DataDir, pepper: [u8; PEPPER_BYTES]) -> Result<Opened, TenantError> {
        let mut random = [0u8; RANDOM_CHARS];
        fill(&mut random)?;
        let mut key = String::with_capacity(PREFIX.len() + RANDOM_CHARS);
        key.push_str(PREFIX);
        // 256 is a multiple of 64: the remainder is uniform.
        key.extend(random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 64)])));
        Ok(Opened { keys: Self::store(data, pepper, &key)?, new_key: Some(key) })
    }

    fn store(data: &DataDir, pepper: [u8; PEPPER_BYTES], key: &str) -> Result<Self, TenantError> {
        let admin = hmac_sha256(&pepper, key.as_bytes());
        let file = KeysFile { format: 1, admin: crate::ids::VersionId::new(admin).to_string() };
        data.write_json(KEYS_FILE, &file, Access::Private)?;
        Ok(Self { pepper, admin })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// Checks an admin key that the operator wants to have.
pub fn check_given(key: &str) -> Result<(), TenantError> {
    if key.len() < MIN_GIVEN_KEY {
        return Err(TenantError::UnusableKey("is shorter than 16 characters"));
    }
    if key.len() > MAX_GIVEN_KEY {
        return Err(TenantError::UnusableKey("is longer than 512 characters"));
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TenantError::UnusableKey("holds characters that a header cannot carry (visible ASCII only, no spaces)"));
    }
    Ok(())
}

fn pepper(data: &DataDir) -> Result<[u8; PEPPER_BYTES], TenantError> {
    if let Some(bytes) = data.read(PEPPER_FILE)? {
        return bytes.try_into().map_err(|bytes: Vec<u8>| {
            let reason = format!("{} bytes where {PEPPER_BYTES} are right", bytes.len());
            TenantError::Store(StoreError::Damaged { path: data.path().join(PEPPER_FILE), reason })
        });
    }
    let mut pepper = [0u8; PEPPER_BYTES];
    fill(&mut pepper)?;
    data.write(PEPPER_FILE, &pepper, Access::Private)?;
    Ok(pepper)
}

fn fill(bytes: &mut [u8]) -> Result<(), TenantError> {
    OsRng.try_fill_bytes(bytes).map_err(|error| TenantError::Random(error.to_string()))
}

/// RFC 2104 with SHA-256 (block of 64 bytes; the key is shorter).
fn hmac_sha256(key: &[u8; PEPPER_BYTES], message: &[u8]) -> [u8; 32] {
    let mut block = [0u8; 64];
    block[..PEPPER_BYTES].copy_from_slice(key);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn data(dir: &tempfile::TempDir) -> DataDir {
        DataDir::open(dir.path()).unwrap()
    }

    #[test]
    fn the_first_start_makes_a_key_that_later_starts_accept_and_do_not_show() {
        let dir = tempfile::tempdir().unwrap();
        let first = Keys::open(&data(&dir), None).unwrap();
        let key = first.new_key.unwrap();
        assert!(key.starts_with("sk-sy-") && key.len() == 6 + 43, "{key}");
        let later = Keys::open(&data(&dir), None).unwrap();
        assert_eq!(later.new_key, None);
        assert!(later.keys.authenticate(&key).unwrap().is_admin());
        assert_eq!(later.keys.authenticate(&key[..48]), None);
        assert_eq!(later.keys.authenticate(""), None);
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains(&key[6..]), "the key is on disk in clear");
        }
    }

    #[test]
    fn a_given_key_replaces_the_stored_one_and_a_reset_replaces_both() {
        let dir = tempfile::tempdir().unwrap();
        let made = Keys::open(&data(&dir), None).unwrap().new_key.unwrap();
        let given = Keys::open(&data(&dir), Some("correct-horse-battery")).unwrap().keys;
        assert!(given.authenticate("correct-horse-battery").is_some());
        assert!(given.authenticate(&made).is_none());
        let reset = Keys::reset_admin(&data(&dir)).unwrap();
        let now = Keys::open(&data(&dir), None).unwrap().keys;
        assert!(now.authenticate(&reset.new_key.unwrap()).is_some());
        assert!(now.authenticate("correct-horse-battery").is_none());
    }

    #[test]
    fn unusable_given_keys_are_refused_and_the_stored_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let made = Keys::open(&data(&dir), None).unwrap().new_key.unwrap();
        for bad in ["", "short", "has a space in the middle", "umlaut-ä-in-the-middle"] {
            assert!(Keys::open(&data(&dir), Some(bad)).is_err(), "{bad}");
        }
        assert!(Keys::open(&data(&dir), None).unwrap().keys.authenticate(&made).is_some());
    }

    #[test]
    fn damaged_files_are_errors_and_not_new_keys() {
        let dir = tempfile::tempdir().unwrap();
        Keys::open(&data(&dir), None).unwrap();
        std::fs::write(dir.path().join("pepper"), b"short").unwrap();
        assert!(Keys::open(&data(&dir), None).is_err());
    }

    // RFC 4231 has no 32-byte key; this value is from Python's `hmac` module.
    #[test]
    fn hmac_agrees_with_the_reference() {
        let mut key = [0u8; 32];
        key.iter_mut().zip(0u8..).for_each(|(byte, value)| *byte = value);
        let digest = crate::ids::VersionId::new(hmac_sha256(&key, b"switchyard"));
        assert_eq!(digest.to_string(), HMAC_REFERENCE);
    }

    const HMAC_REFERENCE: &str = "c76656c4103cfd8eab539a623e59ee756cdcd47775022b148cbe18183cec92f9";
}
