//! From a presented key to a principal: hash, look up, remember. Knows nothing of headers, limits or tokens of other issuers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use moka::sync::Cache;
use serde::Deserialize;

use super::secrets::random_text;
use super::{CacheConsent, DEFAULT_TENANT, ModelAccess, Principal, Priority, Reach, Scope, Scopes, Secrets, TenantError};
use crate::ids::hex;
use crate::store::keys::{self as rows, KeyRow};
use crate::store::{self, Database, StoreError};

/// Begins every key that is made here.
pub const PREFIX: &str = "sk-sy-";
/// 43 characters of 6 bits hold 256 random bits.
const RANDOM_CHARS: usize = 43;
/// The first key: an organization's, made at the first start.
pub const ADMIN_KEY_ID: &str = "admin";
/// An operator's own key must be at least this long: a short one could be guessed over the network.
const MIN_GIVEN_KEY: usize = 16;
/// And at most this long: it has to fit a header line.
const MAX_GIVEN_KEY: usize = 512;
/// Keys remembered, known and unknown ones.
const REMEMBERED: u64 = 100_000;
/// A key's use is noted at most this often, seconds.
const NOTED_EVERY: i64 = 60;

/// Why a key does not authenticate.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Nobody has it, or it was revoked.
    #[error("the key is not known")]
    Unknown,
    /// Its time is over.
    #[error("the key has expired")]
    Expired,
    /// Its tenant was archived.
    #[error("the key's tenant is archived")]
    Archived,
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A new key in clear: shown once, kept nowhere.
pub struct NewKey {
    /// The key.
    pub key: String,
    /// Its keyed hash, hexadecimal.
    pub hash: String,
    /// What may be shown of it later.
    pub redacted: String,
}

/// What is remembered of a hash.
#[derive(Clone)]
enum Known {
    Key(Arc<Entry>),
    Nobody,
}

struct Entry {
    principal: Arc<Principal>,
    expires_at: Option<i64>,
    archived: bool,
    noted_at: AtomicI64,
}

/// Authenticates keys of the database.
pub struct Identity {
    database: Database,
    secrets: Arc<Secrets>,
    remembered: Cache<[u8; 32], Known>,
    /// Counts how often everything was forgotten: what was read before must not be remembered after.
    forgotten: AtomicU64,
    used: Mutex<HashMap<String, i64>>,
}

impl Identity {
    /// Nothing is remembered yet.
    pub fn new(database: Database, secrets: Arc<Secrets>) -> Self {
        let remembered = Cache::new(REMEMBERED);
        Self { database, secrets, remembered, forgotten: AtomicU64::new(0), used: Mutex::default() }
    }

    /// Whose key this is; `now` in seconds since 1970.
    pub async fn authenticate(&self, presented: &str, now: i64) -> Result<Arc<Principal>, AuthError> {
        let hash = self.secrets.hash(presented);
        // What is compared is a keyed hash, so that the time it takes says nothing about any key.
        let known = match self.remembered.get(&hash) {
            Some(known) => known,
            None => self.look_up(hash).await?,
        };
        let Known::Key(entry) = known else { return Err(AuthError::Unknown) };
        if entry.archived {
            return Err(AuthError::Archived);
        }
        if entry.expires_at.is_some_and(|expires| now >= expires) {
            return Err(AuthError::Expired);
        }
        if now - entry.noted_at.load(Ordering::Relaxed) >= NOTED_EVERY {
            entry.noted_at.store(now, Ordering::Relaxed);
            self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(entry.principal.key_id.to_string(), now);
        }
        Ok(Arc::clone(&entry.principal))
    }

    async fn look_up(&self, hash: [u8; 32]) -> Result<Known, StoreError> {
        let before = self.forgotten.load(Ordering::Acquire);
        let known = match rows::by_hash(&self.database, &hex(&hash)).await? {
            Some(row) if row.revoked_at.is_none() => Known::Key(Arc::new(entry(&row)?)),
            _ => Known::Nobody,
        };
        self.remembered.insert(hash, known.clone());
        if self.forgotten.load(Ordering::Acquire) != before {
            // A change came in between: what was read may be from before it.
            self.remembered.invalidate(&hash);
        }
        Ok(known)
    }

    /// Forgets everything: keys, tenants or both were changed.
    pub fn forget(&self) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        self.remembered.invalidate_all();
    }

    /// Writes down when keys were used last.
    pub async fn note_uses(&self) -> Result<(), StoreError> {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return Ok(());
        }
        let mut transaction = self.database.begin().await?;
        for (id, at) in &used {
            rows::touch(&mut transaction, id, *at).await?;
        }
        transaction.commit().await
    }
}

/// A new random key.
pub fn new_key(secrets: &Secrets) -> Result<NewKey, TenantError> {
    let key = format!("{PREFIX}{}", random_text::<RANDOM_CHARS>()?);
    Ok(NewKey { hash: hex(&secrets.hash(&key)), redacted: redacted(&key), key })
}

/// Enough of a key to recognise one's own, too little to use.
pub fn redacted(key: &str) -> String {
    let count = key.chars().count();
    if count < MIN_GIVEN_KEY {
        return "*".repeat(count.min(8));
    }
    let first: String = key.chars().take(PREFIX.len()).collect();
    let last: String = key.chars().skip(count - 4).collect();
    format!("{first}***{last}")
}

fn entry(row: &KeyRow) -> Result<Entry, StoreError> {
    Ok(Entry {
        principal: Arc::new(principal(row)?),
        expires_at: row.expires_at,
        archived: !row.project_active,
        noted_at: AtomicI64::new(row.last_used_at.unwrap_or(0)),
    })
}

/// Who calls with the key of this row.
pub fn principal(row: &KeyRow) -> Result<Principal, StoreError> {
    let odd = |value: &str, expected| StoreError::Row { table: "keys", value: value.to_owned(), expected };
    let scopes = Scopes::parse(&row.scopes).map_err(|_| odd(&row.scopes, "names of scopes between commas"))?;
    let models = match &row.models {
        None => ModelAccess::All,
        Some(json) => {
            let names: Vec<String> = serde_json::from_str(json).map_err(|_| odd(json, "a JSON array of strings"))?;
            ModelAccess::Only(names.into())
        }
    };
    let cached = CacheConsent::named(&row.caching).ok_or_else(|| odd(&row.caching, "per_request or always"))?;
    Ok(Principal {
        key_id: row.id.as_str().into(),
        tenant: row.project_id.as_deref().unwrap_or(DEFAULT_TENANT).into(),
        reach: if row.project_id.is_none() { Reach::Organization } else { Reach::Tenant },
        scopes,
        models,
        end_user: None,
        priority: Priority::named(&row.priority).ok_or_else(|| odd(&row.priority, "batch, standard or high"))?,
        cached,
    })
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

/// Makes sure that there is an admin key: the given one, or the stored one, or a new one, which is returned to be shown once.
pub async fn ensure_admin(
    database: &Database,
    secrets: &Secrets,
    data_dir: &Path,
    given: Option<&str>,
    now: i64,
) -> Result<Option<String>, TenantError> {
    let stored = rows::by_id(database, ADMIN_KEY_ID).await?;
    if let Some(key) = given {
        check_given(key)?;
        let key = NewKey { hash: hex(&secrets.hash(key)), redacted: redacted(key), key: String::new() };
        if stored.as_ref().is_none_or(|row| row.hash != key.hash || row.revoked_at.is_some()) {
            put_admin(database, stored, &key, now).await?;
        }
        return Ok(None);
    }
    if stored.as_ref().is_some_and(|row| row.revoked_at.is_none()) {
        return Ok(None);
    }
    if stored.is_none()
        && let Some(hash) = hash_of_earlier_version(data_dir)?
    {
        put_admin(database, None, &NewKey { key: String::new(), hash, redacted: format!("{PREFIX}***") }, now).await?;
        return Ok(None);
    }
    if stored.is_some() {
        // Somebody revoked it; `switchyard keys reset-admin` makes a new one.
        return Ok(None);
    }
    let new = new_key(secrets)?;
    match put_admin(database, None, &new, now).await {
        Ok(()) => Ok(Some(new.key)),
        // Another process was faster; it has shown its key.
        Err(TenantError::Store(error)) if error.is_duplicate() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces the admin key by a new one, which is returned to be shown once.
pub async fn reset_admin(database: &Database, secrets: &Secrets, now: i64) -> Result<String, TenantError> {
    let new = new_key(secrets)?;
    put_admin(database, rows::by_id(database, ADMIN_KEY_ID).await?, &new, now).await?;
    Ok(new.key)
}

async fn put_admin(database: &Database, stored: Option<KeyRow>, new: &NewKey, now: i64) -> Result<(), TenantError> {
    let mut transaction = database.begin().await?;
    match stored {
        Some(row) => {
            let (hash, redacted) = (new.hash.clone(), new.redacted.clone());
            rows::update(&mut transaction, &KeyRow { hash, redacted, revoked_at: None, expires_at: None, ..row }).await?;
        }
        None => {
            let row = KeyRow {
                id: ADMIN_KEY_ID.to_owned(),
                project_id: None,
                service_account_id: None,
                name: "admin".to_owned(),
                hash: new.hash.clone(),
                redacted: new.redacted.clone(),
                scopes: Scope::Admin.name().to_owned(),
                models: None,
                labels: "{}".to_owned(),
                priority: Priority::Standard.name().to_owned(),
                caching: "per_request".to_owned(),
                created_at: now,
                expires_at: None,
                revoked_at: None,
                last_used_at: None,
                replaces: None,
                version: 1,
                project_active: true,
            };
            rows::insert(&mut transaction, &row).await?;
        }
    }
    Ok(transaction.commit_policy().await?)
}

/// Earlier versions kept the admin key's hash in a file.
fn hash_of_earlier_version(data_dir: &Path) -> Result<Option<String>, TenantError> {
    #[derive(Deserialize)]
    struct KeysFile {
        admin: String,
    }
    Ok(store::read_json::<KeysFile>(data_dir, "keys.json")?.map(|file| file.admin))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;
    use crate::store::Location;

    async fn parts(dir: &Path) -> (Database, Arc<Secrets>) {
        let database = Database::open(&Location::File(dir.join("switchyard.db"))).await.unwrap();
        (database, Arc::new(Secrets::open(dir, None).unwrap()))
    }

    #[tokio::test]
    async fn the_first_start_makes_a_key_that_later_starts_accept_and_do_not_show() {
        let dir = tempfile::tempdir().unwrap();
        let (database, secrets) = parts(dir.path()).await;
        let key = ensure_admin(&database, &secrets, dir.path(), None, 5).await.unwrap().unwrap();
        assert!(key.starts_with("sk-sy-") && key.len() == 6 + 43, "{key}");
        assert_eq!(ensure_admin(&database, &secrets, dir.path(), None, 6).await.unwrap(), None);
        let identity = Identity::new(database.clone(), Arc::clone(&secrets));
        let principal = identity.authenticate(&key, 100).await.unwrap();
        assert!(principal.is_admin() && &*principal.tenant == DEFAULT_TENANT);
        for wrong in [&key[..48], "", "sk-sy-"] {
            assert!(matches!(identity.authenticate(wrong, 7).await, Err(AuthError::Unknown)));
        }
        identity.note_uses().await.unwrap();
        assert_eq!(rows::by_id(&database, "admin").await.unwrap().unwrap().last_used_at, Some(100));
        database.close().await;
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains(&key[6..]), "the key is on disk in clear");
        }
    }

    #[tokio::test]
    async fn a_given_key_replaces_the_stored_one_and_a_reset_replaces_both() {
        let dir = tempfile::tempdir().unwrap();
        let (database, secrets) = parts(dir.path()).await;
        let made = ensure_admin(&database, &secrets, dir.path(), None, 5).await.unwrap().unwrap();
        let identity = Identity::new(database.clone(), Arc::clone(&secrets));
        assert!(identity.authenticate(&made, 6).await.is_ok());
        for bad in ["", "short", "has a space in the middle", "umlaut-ä-in-the-middle"] {
            assert!(ensure_admin(&database, &secrets, dir.path(), Some(bad), 6).await.is_err(), "{bad}");
        }
        ensure_admin(&database, &secrets, dir.path(), Some("correct-horse-battery"), 6).await.unwrap();
        identity.forget();
        assert!(identity.authenticate("correct-horse-battery", 6).await.is_ok());
        assert!(identity.authenticate(&made, 6).await.is_err());
        let reset = reset_admin(&database, &secrets, 7).await.unwrap();
        identity.forget();
        assert!(identity.authenticate(&reset, 8).await.is_ok());
        assert!(identity.authenticate("correct-horse-battery", 8).await.is_err());
    }

    #[tokio::test]
    async fn a_key_of_an_earlier_version_goes_on_working() {
        let dir = tempfile::tempdir().unwrap();
        let (database, secrets) = parts(dir.path()).await;
        let file = format!("{{\"format\": 1, \"admin\": \"{}\"}}", hex(&secrets.hash("sk-sy-earlier-key-of-theirs")));
        std::fs::write(dir.path().join("keys.json"), file).unwrap();
        assert_eq!(ensure_admin(&database, &secrets, dir.path(), None, 5).await.unwrap(), None);
        let identity = Identity::new(database, secrets);
        assert!(identity.authenticate("sk-sy-earlier-key-of-theirs", 6).await.unwrap().is_admin());
    }

    #[tokio::test]
    async fn revoked_expired_and_archived_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (database, secrets) = parts(dir.path()).await;
        let new = ensure_admin(&database, &secrets, dir.path(), None, 5).await.unwrap().unwrap();
        let identity = Identity::new(database.clone(), Arc::clone(&secrets));
        let row = rows::by_id(&database, ADMIN_KEY_ID).await.unwrap().unwrap();
        let change = async |row: KeyRow| {
            let mut transaction = database.begin().await.unwrap();
            assert!(rows::update(&mut transaction, &row).await.unwrap());
            assert!(!rows::update(&mut transaction, &row).await.unwrap(), "the version has moved on");
            transaction.commit_policy().await.unwrap();
            identity.forget();
        };
        let revision = database.revision().await.unwrap();
        change(KeyRow { expires_at: Some(100), ..row.clone() }).await;
        assert_eq!(database.revision().await.unwrap(), revision + 1);
        assert!(identity.authenticate(&new, 99).await.is_ok());
        assert!(matches!(identity.authenticate(&new, 100).await, Err(AuthError::Expired)));
        change(KeyRow { revoked_at: Some(50), version: row.version + 1, ..row }).await;
        assert!(matches!(identity.authenticate(&new, 99).await, Err(AuthError::Unknown)));
    }

    #[test]
    fn a_key_is_never_repeated_whole() {
        assert_eq!(redacted("short"), "*****");
        assert_eq!(redacted("sk-sy-0123456789abcdef"), "sk-sy-***cdef");
        assert!(!redacted("ключ-ключ-ключ-ключ").contains("ключ-ключ-ключ"));
    }
}
