//! The rules of all tenants as one immutable value, made from the database's rows. Pure.

use std::collections::{HashMap, HashSet};

use super::TenantError;
use super::budget::Budget;
use super::price::PriceBook;
use crate::store::StoreError;
use crate::store::policy::{LimitRow, PermissionRow, PolicyRows};

/// Whose limit or budget it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Everybody together (budgets only).
    Organization,
    /// One tenant.
    Project(String),
    /// One key.
    Key(String),
}

/// Limits of a subject on a model or on all models together; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    /// Requests per minute, steadily.
    pub requests_per_minute: Option<u32>,
    /// Requests at once, after a pause.
    pub burst: Option<u32>,
    /// Tokens of prompts and answers in any 60 seconds.
    pub tokens_per_minute: Option<u64>,
    /// Requests that run or wait at the same time.
    pub concurrent_requests: Option<u32>,
}

enum Permission {
    Allow(HashSet<String>),
    Deny(HashSet<String>),
}

/// Everything that is decided without the database.
pub struct Policy {
    /// The database's revision that it was read at.
    pub revision: i64,
    active: HashSet<String>,
    limits: HashMap<Subject, Vec<(String, Limit)>>,
    /// For tenants without one of their own on that model.
    default_limits: Vec<(String, Limit)>,
    permissions: HashMap<String, Permission>,
    /// Budgets of all subjects.
    pub budgets: Vec<Budget>,
    /// Prices.
    pub prices: PriceBook,
    /// Schemas for `/convert` by tenant and name, as JSON.
    schemas: HashMap<String, HashMap<String, String>>,
}

impl Policy {
    /// Understands the rows.
    pub fn new(rows: PolicyRows) -> Result<Self, TenantError> {
        let mut limits: HashMap<Subject, Vec<(String, Limit)>> = HashMap::new();
        let mut default_limits = Vec::new();
        for row in rows.limits {
            let limit = limit(&row);
            match row.scope.as_str() {
                "default" => default_limits.push((row.model, limit)),
                "project" => limits.entry(Subject::Project(row.subject)).or_default().push((row.model, limit)),
                "key" => limits.entry(Subject::Key(row.subject)).or_default().push((row.model, limit)),
                _ => return Err(odd("limits", row.scope, "default, project or key")),
            }
        }
        let permissions = rows.permissions.into_iter().map(permission).collect::<Result<_, _>>()?;
        let budgets = rows.budgets.into_iter().map(Budget::new).collect::<Result<_, _>>()?;
        let mut schemas: HashMap<String, HashMap<String, String>> = HashMap::new();
        for row in rows.schemas {
            schemas.entry(row.project_id).or_default().insert(row.name, row.spec);
        }
        Ok(Self {
            revision: rows.revision,
            active: rows.active.into_iter().collect(),
            limits,
            default_limits,
            permissions,
            budgets,
            prices: PriceBook::new(rows.prices),
            schemas,
        })
    }

    /// Whether the tenant exists and is not archived.
    pub fn is_active(&self, tenant: &str) -> bool {
        self.active.contains(tenant)
    }

    /// Whether the tenant may use the model (a name without a version).
    pub fn may_use(&self, tenant: &str, model: &str) -> bool {
        match self.permissions.get(tenant) {
            None => true,
            Some(Permission::Allow(models)) => models.contains(model),
            Some(Permission::Deny(models)) => !models.contains(model),
        }
    }

    /// A tenant's schema for `/convert`, as JSON.
    pub fn convert_schema(&self, tenant: &str, name: &str) -> Option<&str> {
        self.schemas.get(tenant)?.get(name).map(String::as_str)
    }

    /// Limits that a request for the model counts against: of the key and of its tenant, on the model and on all together.
    pub fn limits_of(&self, tenant: &str, key: &str, model: &str) -> Vec<(Subject, String, Limit)> {
        let mut found = Vec::new();
        let project = Subject::Project(tenant.to_owned());
        let key = Subject::Key(key.to_owned());
        for subject in [key, project] {
            let own = self.limits.get(&subject).map_or(&[][..], Vec::as_slice);
            // A tenant without an own limit on a model, or on all together, has the default one.
            let defaults = if matches!(subject, Subject::Project(_)) { self.default_limits.as_slice() } else { &[] };
            let defaults = defaults.iter().filter(|(name, _)| own.iter().all(|(named, _)| named != name));
            for (name, limit) in own.iter().chain(defaults).filter(|(name, _)| name == "*" || name == model) {
                found.push((subject.clone(), name.clone(), *limit));
            }
        }
        found
    }
}

/// A limit above what its type holds is none in practice.
fn limit(row: &LimitRow) -> Limit {
    let small = |value: Option<i64>| value.map(|value| u32::try_from(value.max(0)).unwrap_or(u32::MAX));
    Limit {
        requests_per_minute: small(row.requests_per_minute),
        burst: small(row.burst),
        tokens_per_minute: row.tokens_per_minute.map(|value| u64::try_from(value).unwrap_or(0)),
        concurrent_requests: small(row.concurrent_requests),
    }
}

fn permission(row: PermissionRow) -> Result<(String, Permission), TenantError> {
    let models: HashSet<String> =
        serde_json::from_str(&row.models).map_err(|_| odd("model_permissions", row.models, "a JSON array of strings"))?;
    let permission = match row.mode.as_str() {
        "allow_list" => Permission::Allow(models),
        "deny_list" => Permission::Deny(models),
        _ => return Err(odd("model_permissions", row.mode, "allow_list or deny_list")),
    };
    Ok((row.project_id, permission))
}

pub(super) fn odd(table: &'static str, value: String, expected: &'static str) -> TenantError {
    TenantError::Store(StoreError::Row { table, value, expected })
}
