//! Models that are other servers: which there are, who may use them, and what may be asked of them. Knows neither HTTP nor how they are
//! called.

mod answer;
mod card;
mod count;
mod journey;

use std::collections::HashMap;
use std::sync::Arc;

pub use crate::backends::upstream::{Asked, Endpoint, Key, Mood, Patience, RemoteSettings, Times, Tolerance, Trouble};
pub use answer::{Answered, Route};
pub use card::{Member, ModelFacts, SharedFacts, UpstreamFacts};
pub use journey::{RelayRequest, Relayed, Stream, Whole};

use super::Gateway;
use crate::backends::upstream::Remote;
use crate::tenants::{Bill, Cap, Price, Principal, Purse, Tenants, UPSTREAM};

/// A model that is another server, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Which server, and how; its name is the model's here.
    pub remote: RemoteSettings,
    /// What its tokens cost.
    pub price: Option<Price>,
    /// The most that is spent on it; only with a price.
    pub cap: Option<Cap>,
    /// Which tenants may use it; `None` is all.
    pub tenants: Option<Vec<String>>,
    /// What it is asked for.
    pub endpoints: Vec<Endpoint>,
    /// Parameters beside OpenAI's that it knows.
    pub parameters: Vec<String>,
    /// Parameters of OpenAI's that it does not know.
    pub refuses: Vec<String>,
    /// Tokens of prompt and answer together, where that is known.
    pub context: Option<usize>,
}

/// A model that is another server.
#[derive(Debug)]
pub(super) struct Upstream {
    pub config: UpstreamConfig,
    pub remote: Arc<Remote>,
    pub purse: Option<Arc<Purse>>,
}

impl Upstream {
    /// What the ledger calls it.
    pub(super) fn version(&self) -> String {
        format!("{UPSTREAM}{}", self.name())
    }

    pub(super) fn name(&self) -> &str {
        &self.config.remote.name
    }

    /// Whether the tenant may use it.
    pub(super) fn may(&self, tenant: &str) -> bool {
        self.config.tenants.as_ref().is_none_or(|tenants| tenants.iter().any(|name| name == tenant))
    }
}

/// A name that several models share, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailoverConfig {
    /// The name.
    pub name: String,
    /// Names of models, in the order in which they are asked.
    pub models: Vec<String>,
    /// With more requests waiting here, what answers here comes last.
    pub when_waiting: Option<usize>,
    /// It is a capability: callers know it alone, and not its models.
    pub capability: Option<CapabilityConfig>,
}

/// What a shared name has besides, where it is a capability. Of its models, those that answer here are its students, and upstreams
/// its teachers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilityConfig {
    /// The most that its teachers' answers may cost, at their prices; only where all of them have prices.
    pub budget: Option<Cap>,
}

/// A name that several models share: they are asked one after the other.
#[derive(Debug)]
pub(super) struct Chain {
    pub config: FailoverConfig,
    /// Which of them are asked.
    pub part: Part,
    /// What may be spent on those that are upstreams.
    pub purse: Option<Arc<Purse>>,
}

/// Which models of a capability are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    All,
    /// `NAME@students`
    Students,
    /// `NAME@teachers`
    Teachers,
}

impl Part {
    /// The name under which this part of a capability is asked.
    fn of(self, name: &str) -> String {
        match self {
            Self::All => name.to_owned(),
            Self::Students => format!("{name}@students"),
            Self::Teachers => format!("{name}@teachers"),
        }
    }
}

impl Chain {
    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// Whether permissions, limits and the ledger go by its own name.
    pub(super) const fn is_capability(&self) -> bool {
        self.config.capability.is_some()
    }

    /// Whether a model of it is asked that is an upstream, or is none.
    pub(super) fn asks(&self, is_upstream: bool) -> bool {
        match self.part {
            Part::All => true,
            Part::Students => !is_upstream,
            Part::Teachers => is_upstream,
        }
    }
}

/// All models that are other servers, and names that they share with others. The usual one has none.
#[derive(Debug, Clone, Default)]
pub struct Upstreams(Arc<All>);

#[derive(Debug, Default)]
struct All {
    upstreams: HashMap<String, Arc<Upstream>>,
    chains: HashMap<String, Arc<Chain>>,
}

/// They cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamsError {
    /// A client cannot be made.
    #[error("the upstream {name}: {source}")]
    Client {
        /// Its name.
        name: String,
        /// The cause.
        source: crate::backends::upstream::ClientError,
    },
    /// What was spent on it is not known.
    #[error("what was spent on {name}: {source}")]
    Spent {
        /// Its name.
        name: String,
        /// The cause.
        source: crate::tenants::TenantError,
    },
}

impl Upstreams {
    /// Reads what was spent on those with a cap; calls nobody.
    pub async fn open(
        configs: &[UpstreamConfig],
        failovers: &[FailoverConfig],
        tenants: &Tenants,
    ) -> Result<Self, UpstreamsError> {
        let mut all = HashMap::new();
        for config in configs {
            let name = config.remote.name.clone();
            let remote = Remote::new(config.remote.clone());
            let remote = remote.map_err(|source| UpstreamsError::Client { name: name.clone(), source })?;
            let purse = match (config.cap, &config.price) {
                (Some(cap), Some(price)) => {
                    let version = format!("{UPSTREAM}{name}");
                    let bill = Bill { version: version.clone(), model: None, price: price.clone() };
                    let purse = Purse::open(tenants, &version, cap, vec![bill]).await;
                    Some(purse.map_err(|source| UpstreamsError::Spent { name: name.clone(), source })?)
                }
                _ => None,
            };
            all.insert(name, Arc::new(Upstream { config: config.clone(), remote: Arc::new(remote), purse }));
        }
        let mut chains = HashMap::new();
        for config in failovers {
            let purse = budget(config, &all, tenants).await?;
            let parts: &[Part] =
                if config.capability.is_some() { &[Part::All, Part::Students, Part::Teachers] } else { &[Part::All] };
            for part in parts {
                let chain = Chain { config: config.clone(), part: *part, purse: purse.clone() };
                chains.insert(part.of(&config.name), Arc::new(chain));
            }
        }
        Ok(Self(Arc::new(All { upstreams: all, chains })))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.upstreams.is_empty() && self.0.chains.is_empty()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.0.upstreams.get(name)
    }

    pub(super) fn chain(&self, name: &str) -> Option<&Arc<Chain>> {
        self.0.chains.get(name)
    }
}

/// The money of a capability's teachers, where it has a budget.
async fn budget(
    config: &FailoverConfig,
    upstreams: &HashMap<String, Arc<Upstream>>,
    tenants: &Tenants,
) -> Result<Option<Arc<Purse>>, UpstreamsError> {
    let Some(cap) = config.capability.and_then(|capability| capability.budget) else { return Ok(None) };
    let teachers = config.models.iter().filter_map(|name| upstreams.get(name));
    let bill = |teacher: &Arc<Upstream>| {
        Some(Bill { version: teacher.version(), model: Some(config.name.clone()), price: teacher.config.price.clone()? })
    };
    let purse = Purse::open(tenants, &config.name, cap, teachers.filter_map(bill).collect()).await;
    purse.map(Some).map_err(|source| UpstreamsError::Spent { name: config.name.clone(), source })
}

/// A model that is another server, as callers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamCard {
    /// Its name.
    pub name: String,
    /// Tokens of prompt and answer together, where that is known.
    pub context: Option<usize>,
}

impl Gateway {
    /// Models that are other servers and that this caller may name, by name.
    pub fn upstreams(&self, caller: &Principal) -> Vec<UpstreamCard> {
        let named = |upstream: &&Arc<Upstream>| matches!(self.means(caller, upstream.name()), Ok(super::Means::Upstream(_)));
        let card = |upstream: &Arc<Upstream>| UpstreamCard { name: upstream.name().to_owned(), context: upstream.config.context };
        let mut cards: Vec<UpstreamCard> = self.0.upstreams.0.upstreams.values().filter(named).map(card).collect();
        let chains = self.0.upstreams.0.chains.values().filter(|chain| chain.part == Part::All).map(|chain| chain.name());
        let chains = chains.filter(|name| matches!(self.means(caller, name), Ok(super::Means::Chain(_))));
        cards.extend(chains.map(|name| UpstreamCard { name: name.to_owned(), context: None }));
        cards.sort_by(|a, b| a.name.cmp(&b.name));
        cards
    }

    /// What is happening to other servers, by name.
    pub fn asked_upstreams(&self) -> Vec<(String, Asked)> {
        self.0.upstreams.0.upstreams.values().map(|upstream| (upstream.name().to_owned(), upstream.remote.asked())).collect()
    }
}
