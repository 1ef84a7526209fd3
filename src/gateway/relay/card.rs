//! What a name that another server may answer is made of, for whoever may ask it.

use super::{Chain, Part, Upstream};
use crate::gateway::{Endpoint, Gateway, GatewayError, Means};
use crate::registry::Owner;
use crate::tenants::{Cap, Price, Principal};

/// What a name means to a caller, for its card.
#[derive(Debug, Clone)]
pub enum ModelFacts {
    /// The base.
    Base,
    /// An adapter, by its owner and name.
    Adapter(Owner, String),
    /// A deployment, by its owner and name.
    Deployment(Owner, String),
    /// Another server.
    Upstream(UpstreamFacts),
    /// A name that several models share.
    Shared(SharedFacts),
    /// The model that makes embeddings without a base.
    Hash,
}

/// A model that is another server. Where it is, and what it is called there, is nobody's business.
#[derive(Debug, Clone)]
pub struct UpstreamFacts {
    /// Its name.
    pub name: String,
    /// What it is asked for.
    pub endpoints: Vec<Endpoint>,
    /// Parameters beside OpenAI's that it knows.
    pub parameters: Vec<String>,
    /// Parameters of OpenAI's that it does not know.
    pub refuses: Vec<String>,
    /// Tokens of prompt and answer together, where that is known.
    pub context: Option<usize>,
    /// What its tokens cost, where the price book does not say.
    pub price: Option<Price>,
    /// The most that is spent on it, and what was spent.
    pub cap: Option<(Cap, i64)>,
}

/// A name that several models share.
#[derive(Debug, Clone)]
pub struct SharedFacts {
    /// Its name.
    pub name: String,
    /// Whether it is a capability.
    pub is_capability: bool,
    /// Its models that the caller may name, in the order in which they are asked.
    pub models: Vec<Member>,
    /// With more requests waiting here, what answers here comes last.
    pub when_waiting: Option<usize>,
    /// What its teachers may cost, and what they did cost, nano-dollars.
    pub budget: Option<(Cap, i64)>,
}

/// A model of a shared name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Whether it is another server.
    pub is_upstream: bool,
}

impl Gateway {
    /// What a name means to this caller; an error where it means nothing, or nothing that the caller may use.
    pub fn named(&self, caller: &Principal, model: &str) -> Result<ModelFacts, GatewayError> {
        Ok(match self.means(caller, model) {
            Ok(Means::Base) => ModelFacts::Base,
            Ok(Means::Adapter(owner, name)) => ModelFacts::Adapter(owner, name),
            Ok(Means::Deployment(deployment)) => ModelFacts::Deployment(deployment.owner.clone(), deployment.name.to_string()),
            Ok(Means::Upstream(upstream)) => ModelFacts::Upstream(facts(&upstream)),
            Ok(Means::Chain(chain)) => ModelFacts::Shared(self.shared(caller, &chain)),
            Err(GatewayError::EmbeddingsOnly(_)) => ModelFacts::Hash,
            Err(error) => return Err(error),
        })
    }

    fn shared(&self, caller: &Principal, chain: &Chain) -> SharedFacts {
        let members = self.members(caller, chain).into_iter();
        // What is behind a capability is told to those only who could ask it by itself.
        let own = members.filter(|(name, _)| self.means(caller, name).is_ok());
        let models = own.map(|(name, means)| Member { name, is_upstream: matches!(means, Means::Upstream(_)) });
        let cap = chain.config.capability.and_then(|capability| capability.budget);
        SharedFacts {
            name: chain.name().to_owned(),
            is_capability: chain.is_capability(),
            models: models.collect(),
            when_waiting: chain.config.when_waiting,
            budget: cap.filter(|_| chain.part != Part::Students).zip(chain.purse.as_ref().map(|purse| purse.spent())),
        }
    }
}

fn facts(upstream: &Upstream) -> UpstreamFacts {
    let config = &upstream.config;
    UpstreamFacts {
        name: upstream.name().to_owned(),
        endpoints: config.endpoints.clone(),
        parameters: config.parameters.clone(),
        refuses: config.refuses.clone(),
        context: config.context,
        price: config.price.clone(),
        cap: config.cap.zip(upstream.purse.as_ref().map(|purse| purse.spent())),
    }
}
