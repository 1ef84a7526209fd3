//! Names under which another server may answer: itself, an arm of a deployment, or one of several models that share a name. They are
//! asked one after the other, as long as nothing of an answer was given on.

use std::sync::Arc;

use super::journey::{Instead, Naming, RelayRequest, Relayed};
use super::{Chain, Endpoint, Upstream, UpstreamConfig};
use crate::experiments::{Deployment, Target};
use crate::gateway::account::Trial;
use crate::gateway::choose::{After, Asking, conversation, order};
use crate::gateway::types::{Caching, GenerationRequest, ServedBy};
use crate::gateway::{Answer, Gateway, GatewayError, Means};
use crate::tenants::Principal;

/// What may be asked under a name that another server may answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// Something here may answer, too: the request must be one that it understands.
    pub here: bool,
    /// Parameters beside OpenAI's that may be sent.
    pub parameters: Vec<String>,
    /// Parameters of OpenAI's that may not.
    pub refuses: Vec<String>,
}

/// An answer.
pub enum Answered {
    /// Made here.
    Here(Box<Answer>),
    /// From another server.
    There(Relayed),
}

impl Gateway {
    /// What may be asked where a name may mean another server to this caller; `None` where it does not, or means nothing.
    pub fn route(&self, caller: &Principal, model: &str, endpoint: Endpoint) -> Result<Option<Route>, GatewayError> {
        if self.0.upstreams.is_empty() {
            return Ok(None);
        }
        let (here, upstreams) = match self.means(caller, model) {
            Ok(Means::Upstream(upstream)) => (false, vec![upstream]),
            Ok(Means::Chain(chain)) => {
                let members: Vec<Means> = self.members(caller, &chain).into_iter().map(|(_, means)| means).collect();
                let here = members.iter().any(|means| !matches!(means, Means::Upstream(_)));
                let upstream = |means| if let Means::Upstream(upstream) = means { Some(upstream) } else { None };
                (here, members.into_iter().filter_map(upstream).collect())
            }
            Ok(Means::Deployment(deployment)) => {
                let upstreams = self.upstreams_of(caller, &deployment);
                if upstreams.is_empty() || endpoint == Endpoint::Embeddings {
                    return Ok(None);
                }
                (true, upstreams)
            }
            _ => return Ok(None),
        };
        let asked = |upstream: &Arc<Upstream>| upstream.config.endpoints.contains(&endpoint);
        // Vectors of different models do not compare.
        if (!here && !upstreams.iter().any(asked))
            || (upstreams.len() + usize::from(here) > 1 && endpoint == Endpoint::Embeddings)
        {
            return Err(GatewayError::NotAsked { model: model.to_owned(), endpoint: endpoint.name() });
        }
        let mut route = Route { here, ..Route::default() };
        for (index, upstream) in upstreams.iter().filter(|upstream| asked(upstream)).enumerate() {
            let UpstreamConfig { parameters, refuses, .. } = &upstream.config;
            if index == 0 {
                route.parameters.clone_from(parameters);
            }
            route.parameters.retain(|name| parameters.contains(name));
            route.refuses.extend_from_slice(refuses);
        }
        Ok(Some(route))
    }

    /// Answers under a name that another server may answer: `here` is the request for what answers here.
    pub async fn answer(&self, here: Option<GenerationRequest>, there: RelayRequest) -> Result<Answered, GatewayError> {
        match (self.means(&there.caller, &there.model)?, here) {
            (Means::Chain(chain), here) => Box::pin(self.fail_over(&chain, here, there)).await,
            (Means::Deployment(deployment), Some(here)) => Box::pin(self.answer_by_arm(&deployment, here, there)).await,
            (_, Some(here)) => Box::pin(self.generate(here)).await.map(|answer| Answered::Here(Box::new(answer))),
            (_, None) => Box::pin(self.relay(there)).await.map(Answered::There),
        }
    }

    /// Members of a shared name that this caller may use, in their order. Names in it that are shared themselves are passed over.
    pub(super) fn members(&self, caller: &Principal, chain: &Chain) -> Vec<(String, Means)> {
        // Whoever may use a capability may use what it is made of, there.
        let means = |name: &str| if chain.is_capability() { self.means_in(caller, name) } else { self.means(caller, name) };
        let members = chain.config.models.iter().filter_map(|name| Some((name.clone(), means(name).ok()?)));
        let asked = |(_, means): &(String, Means)| match means {
            Means::Chain(_) => false,
            Means::Deployment(_) if !chain.is_capability() => false,
            means => chain.asks(matches!(means, Means::Upstream(_))),
        };
        members.filter(asked).collect()
    }

    /// Asks one model after the other. What answers here comes last while more wait for it than may.
    async fn fail_over(
        &self,
        chain: &Chain,
        mut here: Option<GenerationRequest>,
        mut there: RelayRequest,
    ) -> Result<Answered, GatewayError> {
        let capability: Option<Arc<str>> = chain.is_capability().then(|| chain.name().into());
        there.origin.capability.clone_from(&capability);
        here.iter_mut().for_each(|here| here.origin.capability.clone_from(&capability));
        let crowded = chain.config.when_waiting.is_some_and(|most| self.0.backend.stats().waiting > most);
        let (late, first): (Vec<_>, Vec<_>) = self
            .members(&there.caller, chain)
            .into_iter()
            .partition(|(_, means)| crowded && !matches!(means, Means::Upstream(_)));
        let mut left = first.into_iter().chain(late).peekable();
        let mut last = GatewayError::UnknownModel(there.model.clone());
        while let Some((model, means)) = left.next() {
            let instead = if left.peek().is_some() { Instead::Another } else { Instead::Nothing };
            let answered = match (means, &here) {
                (Means::Upstream(upstream), _) if upstream.config.endpoints.contains(&there.endpoint) => {
                    let request = RelayRequest { model: model.clone(), ..there.clone() };
                    let name = capability.as_deref().map_or_else(|| upstream.name().to_owned(), str::to_owned);
                    let label = upstream.version();
                    let purse = chain.purse.clone();
                    let naming = Naming { model: name, label, trial: None, by: None, purse, instead };
                    Box::pin(self.relay_as(upstream, naming, request)).await.map(Answered::There)
                }
                (Means::Base | Means::Adapter(..) | Means::Deployment(_), Some(here)) => {
                    // What is kept would be seen twice.
                    let request = GenerationRequest { model: model.clone(), caching: Caching::Fresh, ..here.clone() };
                    self.generate_begun(request).await.map(Answered::Here)
                }
                _ => continue,
            };
            match answered {
                Err(error) if instead == Instead::Another && error.passes_on() => {
                    tracing::warn!(name = chain.name(), model, %error, "the next model is asked");
                    last = error;
                }
                answered => return answered,
            }
        }
        Err(last)
    }

    /// An answer that has begun.
    async fn generate_begun(&self, request: GenerationRequest) -> Result<Box<Answer>, GatewayError> {
        let mut answer = Box::new(Box::pin(self.generate(request)).await?);
        answer.begun().await?;
        Ok(answer)
    }

    /// Other servers that a deployment's arms name and that this caller may use.
    fn upstreams_of(&self, caller: &Principal, deployment: &Deployment) -> Vec<Arc<Upstream>> {
        let targets = deployment.spec().arms.iter().filter_map(|arm| arm.target.upstream());
        targets.filter_map(|name| self.usable(caller, name)).collect()
    }

    fn usable(&self, caller: &Principal, name: &str) -> Option<Arc<Upstream>> {
        self.0.upstreams.get(name).filter(|upstream| upstream.may(&caller.tenant)).cloned()
    }

    /// Asks the request's arm, then what the deployment falls back to.
    async fn answer_by_arm(
        &self,
        deployment: &Arc<Deployment>,
        here: GenerationRequest,
        there: RelayRequest,
    ) -> Result<Answered, GatewayError> {
        let means = Means::Deployment(Arc::clone(deployment));
        self.check_arm(&means, &here.model, &here.steering)?;
        let deployment = self.in_force(deployment);
        let conversation = conversation(&here.caller, &here.prompts);
        let asking = Asking {
            caller: &here.caller,
            model: &here.model,
            end_user: here.caller.end_user.as_deref().or(here.origin.end_user.as_deref()),
            steering: &here.steering,
            conversation: conversation.as_deref(),
            after: None,
        };
        let chosen = self.assign(&deployment, &asking)?;
        let order: Vec<(&str, Option<&Target>)> = order(&deployment, &chosen).collect();
        let unavailable =
            || GatewayError::ArmUnavailable { deployment: deployment.name.to_string(), assigned: Arc::clone(&chosen.assigned) };
        let mut last = None;
        for (index, (name, target)) in order.iter().enumerate() {
            let instead = if index + 1 < order.len() { Instead::Another } else { Instead::Nothing };
            let answered = match target.and_then(Target::upstream) {
                None => {
                    let after = After { chosen: chosen.clone(), from: index };
                    let answer = Box::pin(self.generate_after(here.clone(), Some(&after))).await;
                    answer.map(|answer| Answered::Here(Box::new(answer)))
                }
                Some(upstream) => match self.usable(&here.caller, upstream) {
                    Some(upstream) if upstream.config.endpoints.contains(&there.endpoint) => {
                        let (model, label) = means.labels(&self.0.base.name);
                        let trial = Trial {
                            assigned: Arc::clone(&chosen.assigned),
                            arm: Some((*name).into()),
                            fell_back: index > 0,
                            recorder: self.0.recorder.clone(),
                            judge: None,
                            task_success: None,
                            copy: None,
                            copies: self.0.copies.clone(),
                        };
                        let by = Some(ServedBy { deployment: Arc::clone(&deployment.name), arm: (*name).into() });
                        let naming = Naming { model, label, trial: Some(trial), by, purse: None, instead };
                        Box::pin(self.relay_as(upstream, naming, there.clone())).await.map(Answered::There)
                    }
                    _ => Err(unavailable()),
                },
            };
            match answered {
                Err(error) if instead == Instead::Another && error.passes_on() => {
                    self.0.deployments.cannot_serve(&deployment, name, &error);
                    last = Some(error);
                }
                answered => return answered,
            }
        }
        Err(last.unwrap_or_else(unavailable))
    }
}
