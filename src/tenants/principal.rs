//! Who is calling, once that is known: what every room may ask about a caller. Knows nothing of how it was found out.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// One thing that a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Generate, list models, tokenize.
    Inference,
    /// Files and fine-tuning jobs.
    FineTuning,
    /// Everything in the admin API. Only keys of the organization have it.
    Admin,
    /// Look at what the caller's tenant has and used (an organization's key: at everything), change nothing, generate nothing.
    ReadOnly,
}

impl Scope {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 4] = [Self::Inference, Self::FineTuning, Self::Admin, Self::ReadOnly];

    /// The name in the API, the database and tokens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::FineTuning => "fine_tuning",
            Self::Admin => "admin",
            Self::ReadOnly => "read_only",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Inference => 1,
            Self::FineTuning => 2,
            Self::Admin => 4,
            Self::ReadOnly => 8,
        }
    }
}

/// The text names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scope; inference, fine_tuning, admin and read_only are")]
pub struct UnknownScope(pub String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// A set of scopes. [`Scope::Admin`] includes all others; the rest include nothing but themselves.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Whether a caller with this set may do it.
    pub const fn allow(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & scope.bit() != 0)
    }

    /// Reads names between spaces or commas, as tokens and the database have them.
    pub fn parse(text: &str) -> Result<Self, UnknownScope> {
        text.split([' ', ',']).filter(|name| !name.is_empty()).map(str::parse).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}", scope.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

/// Which models (the base and adapters, by name without a version) a caller may use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ModelAccess {
    /// Every one that its tenant can see.
    #[default]
    All,
    /// Only these.
    Only(Arc<[String]>),
}

impl ModelAccess {
    /// Whether `name` (without a version) may be used.
    pub fn allows(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|allowed| allowed == name),
        }
    }
}

/// Who waits for whom when the queue is long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// May fill only part of the queue, so that work of the other classes finds a place.
    Batch,
    /// The usual.
    #[default]
    Standard,
    /// May fill the whole queue.
    High,
}

impl Priority {
    /// The name in the API and the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Standard => "standard",
            Self::High => "high",
        }
    }

    /// The class with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Batch, Self::Standard, Self::High].into_iter().find(|class| class.name() == name)
    }
}

/// The tenant that exists from the start; keys of the organization generate on its account.
pub const DEFAULT_TENANT: &str = "proj_default";

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Name of the key that authenticated (`admin`, `key_...`, or `jwt:SUBJECT`), for logs and records; never the key itself.
    pub key_id: Arc<str>,
    /// Who pays.
    pub tenant: Arc<str>,
    /// How far it sees.
    pub reach: Reach,
    /// What it may do.
    pub scopes: Scopes,
    /// What it may use.
    pub models: ModelAccess,
    /// On whose behalf, where a token says so; a request's own `user` or `safety_identifier` does not override it.
    pub end_user: Option<Arc<str>>,
    /// Its class in the queue.
    pub priority: Priority,
    /// Whether its deterministic requests may be answered from the response cache without asking for that in each.
    pub cached: CacheConsent,
}

/// How far a caller sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// What its tenant has and used.
    #[default]
    Tenant,
    /// All tenants: only keys of the organization.
    Organization,
}

/// Whether deterministic answers may come from the response cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheConsent {
    /// Only where a request asks for it.
    #[default]
    PerRequest,
    /// Unless a request asks for a fresh one.
    Always,
}

impl CacheConsent {
    /// The name in the API and the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PerRequest => "per_request",
            Self::Always => "always",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::PerRequest, Self::Always].into_iter().find(|consent| consent.name() == name)
    }
}

impl Principal {
    /// Whether it may see and change everything.
    pub const fn is_admin(&self) -> bool {
        self.scopes.allow(Scope::Admin)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn scopes_are_read_as_written_and_admin_includes_the_others() {
        let scopes = Scopes::parse("read_only, inference").unwrap();
        assert_eq!(scopes.to_string(), "inference,read_only");
        assert_eq!(Scopes::parse(&scopes.to_string()).unwrap(), scopes);
        assert!(scopes.allow(Scope::Inference) && !scopes.allow(Scope::Admin) && !scopes.allow(Scope::FineTuning));
        assert!(Scope::ALL.into_iter().all(|scope| Scopes::from_iter([Scope::Admin]).allow(scope)));
        assert!(Scopes::parse("inference root").unwrap_err().to_string().contains("\"root\""));
        assert!(Scopes::parse("").unwrap().is_empty());
    }
}
