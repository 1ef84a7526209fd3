//! Whose an adapter is and who may see it. A name is looked for in two places only, the viewer's own and the shared one, so
//! that what other tenants have cannot make a difference.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Whose an adapter is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Owner {
    /// Everybody's.
    #[default]
    Shared,
    /// One tenant's.
    Tenant(Arc<str>),
}

impl Owner {
    /// The tenant, where there is one.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Self::Shared => None,
            Self::Tenant(tenant) => Some(tenant),
        }
    }
}

impl From<Option<&str>> for Owner {
    fn from(tenant: Option<&str>) -> Self {
        tenant.map_or(Self::Shared, |tenant| Self::Tenant(tenant.into()))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tenant().unwrap_or("shared"))
    }
}

/// Who looks at a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer<'a> {
    /// Sees what is its own and what is shared.
    Tenant(&'a str),
    /// Sees everything.
    Operator,
}

impl Viewer<'_> {
    /// Whether it sees what this owner has.
    pub fn sees(self, owner: &Owner) -> bool {
        match (self, owner) {
            (Self::Operator, _) | (_, Owner::Shared) => true,
            (Self::Tenant(viewer), Owner::Tenant(owner)) => viewer == &**owner,
        }
    }
}

/// Something for each name of each owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PerOwner<T>(BTreeMap<Owner, BTreeMap<String, T>>);

impl<T> Default for PerOwner<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> PerOwner<T> {
    pub(super) fn get(&self, owner: &Owner, name: &str) -> Option<&T> {
        self.0.get(owner)?.get(name)
    }

    pub(super) fn get_mut(&mut self, owner: &Owner, name: &str) -> Option<&mut T> {
        self.0.get_mut(owner)?.get_mut(name)
    }

    pub(super) fn get_or_insert_with(&mut self, owner: &Owner, name: &str, make: impl FnOnce() -> T) -> &mut T {
        self.0.entry(owner.clone()).or_default().entry(name.to_owned()).or_insert_with(make)
    }

    pub(super) fn insert(&mut self, owner: &Owner, name: &str, value: T) {
        self.0.entry(owner.clone()).or_default().insert(name.to_owned(), value);
    }

    pub(super) fn remove(&mut self, owner: &Owner, name: &str) {
        if let Some(names) = self.0.get_mut(owner) {
            names.remove(name);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Everything, the shared first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Owner, &str, &T)> {
        self.0.iter().flat_map(|(owner, names)| names.iter().map(move |(name, value)| (owner, name.as_str(), value)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_viewer_sees_its_own_and_the_shared() {
        let (shared, a) = (Owner::Shared, Owner::from(Some("a")));
        assert!(Viewer::Tenant("a").sees(&shared) && Viewer::Tenant("a").sees(&a));
        assert!(!Viewer::Tenant("b").sees(&a) && !Viewer::Tenant("").sees(&a));
        assert!(Viewer::Operator.sees(&a));
    }
}
