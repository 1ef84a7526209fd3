//! From the model that a request names to what answers it: the base, an adapter, or an arm of a deployment.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::relay::{Chain, Upstream};
use super::shadow::Silent;
use super::types::{Prompt, Role, Served, ServedBy, Steering};
use super::{Gateway, GatewayError, hashed, unresolved};
use crate::experiments::shadow::Place;
use crate::experiments::{Ask, Assigned, Chosen, Deployment, Target};
use crate::ids::hex;
use crate::registry::{AdapterInfo, Lease, Owner, Viewer};
use crate::tenants::Principal;

/// What a name means to a caller.
#[derive(Debug, Clone)]
pub(super) enum Means {
    Base,
    Adapter(Owner, String),
    Deployment(Arc<Deployment>),
    Upstream(Arc<Upstream>),
    Chain(Arc<Chain>),
}

impl Means {
    /// The name that limits and prices go by, and the one in metrics.
    pub(super) fn labels(&self, base: &str) -> (String, String) {
        let (owner, name) = match self {
            Self::Base => return (base.to_owned(), "base".to_owned()),
            // As a tenant's own: it may be for some only.
            Self::Upstream(upstream) => return (upstream.name().to_owned(), upstream.version()),
            Self::Adapter(owner, name) => (owner, name.as_str()),
            Self::Chain(chain) => return (chain.name().to_owned(), chain.name().to_owned()),
            Self::Deployment(deployment) => (&deployment.owner, &*deployment.name),
        };
        let label = match owner {
            Owner::Shared => name.to_owned(),
            // A slash is in no name: readers of metrics tell by it what is a tenant's own.
            Owner::Tenant(tenant) => format!("{tenant}/{name}"),
        };
        (name.to_owned(), label)
    }
}

/// What answers a request.
pub(super) struct Serving {
    pub served: Served,
    pub lease: Option<Lease>,
    /// Where it was sent, of a deployment.
    pub assigned: Option<Arc<Assigned>>,
    /// Something else answers than what it was sent to.
    pub fell_back: bool,
    /// What answers once more, unheard.
    pub silent: Option<Silent>,
}

/// Who asks, and what the request says about which arm it belongs to.
pub(super) struct Asking<'a> {
    pub caller: &'a Principal,
    pub model: &'a str,
    pub end_user: Option<&'a str>,
    pub steering: &'a Steering,
    /// Of the prompts, where nothing was said about a conversation.
    pub conversation: Option<&'a str>,
    /// Other servers were asked before.
    pub after: Option<&'a After>,
}

/// What was done before an answer is made here: an arm was chosen, and this many of those that may answer were passed over.
#[derive(Debug, Clone)]
pub(super) struct After {
    pub chosen: Chosen,
    pub from: usize,
}

impl Gateway {
    /// What a name means to this caller; an error where it means nothing, or nothing that the caller may use: the same one, so that
    /// nobody learns what others have. Its own deployments come first, then its own adapters, then other servers, then what is shared.
    pub(super) fn means(&self, caller: &Principal, model: &str) -> Result<Means, GatewayError> {
        let name = if model == self.0.base.name { model } else { model.split_once('@').map_or(model, |(name, _)| name) };
        if !self.may_use(caller, name) {
            return Err(GatewayError::UnknownModel(model.to_owned()));
        }
        self.means_in(caller, model)
    }

    /// The same where something else has said what the caller may use.
    pub(super) fn means_in(&self, caller: &Principal, model: &str) -> Result<Means, GatewayError> {
        let is_base = model == self.0.base.name;
        let (name, exact) =
            if is_base { (model, false) } else { model.split_once('@').map_or((model, false), |(n, _)| (n, true)) };
        if is_base {
            return Ok(Means::Base);
        }
        // Whoever has had an own model of that name before must not find its requests sent elsewhere.
        if let Some(upstream) = self.0.upstreams.get(model).filter(|_| !self.owns(caller, model)) {
            let may = upstream.may(&caller.tenant);
            return may
                .then(|| Means::Upstream(Arc::clone(upstream)))
                .ok_or_else(|| GatewayError::UnknownModel(model.to_owned()));
        }
        if let Some(chain) = self.0.upstreams.chain(model) {
            return Ok(Means::Chain(Arc::clone(chain)));
        }
        let deployment = |owner: &Owner| if exact { None } else { self.0.deployments.get(owner, name) };
        if let Some(own) = deployment(&Owner::Tenant(Arc::clone(&caller.tenant))) {
            return Ok(Means::Deployment(own));
        }
        let adapter = self.0.catalog.find(&caller.tenant, model);
        match (adapter, deployment(&Owner::Shared)) {
            (Ok((owner @ Owner::Tenant(_), name)), _) => Ok(Means::Adapter(owner, name)),
            (_, Some(shared)) => Ok(Means::Deployment(shared)),
            // Whoever has put an adapter of that name into service means it.
            (Err(_), None) if model == hashed::NAME => Err(GatewayError::EmbeddingsOnly(model.to_owned())),
            (adapter, None) => adapter.map(|(owner, name)| Means::Adapter(owner, name)).map_err(|error| unresolved(model, error)),
        }
    }

    /// Whether the caller's tenant has a deployment or an adapter of this name.
    fn owns(&self, caller: &Principal, name: &str) -> bool {
        self.0.deployments.get(&Owner::Tenant(Arc::clone(&caller.tenant)), name).is_some()
            || matches!(self.0.catalog.find(&caller.tenant, name), Ok((Owner::Tenant(_), _)))
    }

    /// Turns the name into what answers. Asked for as late as possible: a deployment that was changed meanwhile counts as it is now.
    pub(super) async fn serve(&self, means: &Means, asking: &Asking<'_>) -> Result<Serving, GatewayError> {
        let served = |version: String, by| Served { model: asking.model.to_owned(), version, by };
        let Means::Deployment(deployment) = means else {
            let (version, lease) = match means {
                Means::Base => ("base".to_owned(), None),
                _ => {
                    let lease = self.0.catalog.resolve(&asking.caller.tenant, asking.model).await;
                    let lease = lease.map_err(|error| unresolved(asking.model, error))?;
                    (version_of(&lease), Some(lease))
                }
            };
            return Ok(Serving { served: served(version, None), lease, assigned: None, fell_back: false, silent: None });
        };
        let deployment = &self.in_force(deployment);
        let (chosen, from) = match asking.after {
            Some(After { chosen, from }) => (chosen.clone(), *from),
            None => (self.assign(deployment, asking)?, 0),
        };
        for (index, (name, target)) in order(deployment, &chosen).enumerate().skip(from) {
            if target.is_some_and(|target| target.upstream().is_some()) {
                // Whoever can ask another server has done so; from here it cannot be asked.
                continue;
            }
            let lease = match target.and_then(|target: &Target| target.version.as_ref()) {
                None => Ok(None),
                Some(version) => self.0.catalog.resolve_pinned(version).await.map(Some),
            };
            match lease {
                Ok(lease) => {
                    let version = lease.as_ref().map_or_else(|| "base".to_owned(), version_of);
                    let by = ServedBy { deployment: Arc::clone(&deployment.name), arm: name.into() };
                    let assigned = Some(Arc::clone(&chosen.assigned));
                    let silent = self.silent(deployment);
                    return Ok(Serving { served: served(version, Some(by)), lease, assigned, fell_back: index > 0, silent });
                }
                Err(error) => self.0.deployments.cannot_serve(deployment, name, &error),
            }
        }
        Err(GatewayError::ArmUnavailable { deployment: deployment.name.to_string(), assigned: Arc::clone(&chosen.assigned) })
    }

    /// A deployment as it is now.
    pub(super) fn in_force(&self, deployment: &Arc<Deployment>) -> Arc<Deployment> {
        self.0.deployments.get(&deployment.owner, &deployment.name).unwrap_or_else(|| Arc::clone(deployment))
    }

    /// The arm that the request belongs to.
    pub(super) fn assign(&self, deployment: &Deployment, asking: &Asking<'_>) -> Result<Chosen, GatewayError> {
        let steering = asking.steering;
        let conversation = steering.conversation.as_deref().or(asking.conversation);
        let unit = [steering.unit.as_deref(), asking.end_user, steering.cache_key.as_deref(), conversation];
        let ask = Ask {
            tenant: &asking.caller.tenant,
            unit: unit.into_iter().flatten().next().unwrap_or(&asking.caller.key_id),
            conversation,
            arm: steering.arm.as_deref(),
        };
        Ok(self.0.deployments.assign(deployment, &ask)?)
    }

    /// The silent model that this request goes to besides, where it is one of those that do.
    fn silent(&self, deployment: &Deployment) -> Option<Silent> {
        let shadow = deployment.spec().shadow.as_ref().filter(|_| self.0.copies.wanted())?;
        (rand::random::<f64>() < shadow.percent.share()).then(|| Silent {
            target: shadow.target.clone(),
            place: Place {
                owner: deployment.owner.clone(),
                deployment: Arc::clone(&deployment.name),
                model: shadow.target.model.clone(),
            },
            max_tokens_per_day: shadow.max_tokens_per_day,
        })
    }

    /// Deployments that this caller may name, by name: its own hide shared ones, as its own adapters do.
    pub fn deployments(&self, caller: &Principal) -> Vec<Arc<Deployment>> {
        let mut list = self.0.deployments.list(Viewer::Tenant(&caller.tenant));
        list.retain(|deployment| {
            let named = self.means(caller, &deployment.name);
            matches!(named, Ok(Means::Deployment(means)) if means.owner == deployment.owner)
        });
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// Adapters that this caller may name, by name: those that a deployment hides are named with a version only.
    pub fn adapters(&self, caller: &Principal) -> Vec<AdapterInfo> {
        let mut adapters = self.0.catalog.list(Viewer::Tenant(&caller.tenant));
        adapters.retain(|adapter| {
            let named = self.means(caller, &adapter.name);
            matches!(named, Ok(Means::Adapter(owner, _)) if owner == adapter.owner)
        });
        adapters.sort_by(|a, b| a.name.cmp(&b.name));
        adapters
    }

    /// Refuses an arm that is not there, before any work for it.
    pub(super) fn check_arm(&self, means: &Means, model: &str, steering: &Steering) -> Result<(), GatewayError> {
        let Some(arm) = &steering.arm else { return Ok(()) };
        let Means::Deployment(deployment) = means else { return Err(GatewayError::NoDeployment(model.to_owned())) };
        let ask = Ask { tenant: "", unit: "", conversation: None, arm: Some(arm) };
        self.0.deployments.assign(deployment, &ask)?;
        Ok(())
    }
}

/// What answers a request of a deployment: its arm, then what the deployment falls back to. Names, with what they stand for (`None`:
/// the base).
pub(super) fn order<'a>(deployment: &'a Deployment, chosen: &Chosen) -> impl Iterator<Item = (&'a str, Option<&'a Target>)> {
    let spec = deployment.spec();
    let first = spec.arms.get(chosen.arm).map(|arm| (arm.name.as_str(), Some(&arm.target)));
    let first_name = first.map(|(name, _)| name);
    let others = spec.fallback.iter().map(|name| (name.as_str(), spec.arm(name).map(|arm| &arm.target)));
    first.into_iter().chain(others.filter(move |(name, _)| Some(*name) != first_name))
}

pub(super) fn version_of(lease: &Lease) -> String {
    format!("{}+{}", lease.version(), lease.id.short())
}

/// What tells a conversation from others that the same caller has: how it began, up to the first thing that the person said.
pub(super) fn conversation(caller: &Principal, prompts: &[Prompt]) -> Option<String> {
    let [Prompt::Chat { messages, .. }] = prompts else { return None };
    let first = messages.iter().position(|message| message.role == Role::User)?;
    let mut hash = Sha256::new();
    hash.update(&*caller.key_id);
    for message in messages.iter().take(first + 1) {
        hash.update([0]);
        hash.update(message.role.name());
        hash.update((message.content.len() as u64).to_le_bytes());
        hash.update(&message.content);
    }
    let digest: [u8; 32] = hash.finalize().into();
    Some(hex(&digest[..16]))
}
