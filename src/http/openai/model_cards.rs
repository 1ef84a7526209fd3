//! `GET /v1/model_cards`, ours: of every model that a caller may name what it is made of, what it can do, how much, and what it costs.
//! Operators see more of it than tenants do.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use serde_json::{Map, Value, json};

use crate::gateway::{Endpoint, HASH_CONTEXT, HASH_EMBEDDING, ModelFacts, SharedFacts, UpstreamFacts};
use crate::http::Server;
use crate::http::admin::cards;
use crate::http::error::ApiError;
use crate::registry::{Gate, LoadedBy, Owner, VersionRecord, Versions};
use crate::tenants::{Cap, Price, Principal, Reach, price_at, unix_now};

/// Nano-dollars of a dollar.
const NANOS: f64 = 1e9;

/// `GET /v1/model_cards`
pub async fn list(State(server): State<Server>, Extension(caller): Extension<Arc<Principal>>) -> Result<Json<Value>, ApiError> {
    let gateway = server.gateway();
    let mut names = Vec::new();
    names.extend(gateway.may_use(&caller, &gateway.base().name).then(|| gateway.base().name.clone()));
    names.extend(gateway.upstreams(&caller).into_iter().map(|upstream| upstream.name));
    names.extend(gateway.deployments(&caller).iter().map(|deployment| deployment.name.to_string()));
    names.extend(gateway.adapters(&caller).into_iter().map(|adapter| adapter.name));
    names.extend(gateway.hashes_for(&caller, HASH_EMBEDDING).then(|| HASH_EMBEDDING.to_owned()));
    let mut data = Vec::with_capacity(names.len());
    for name in names {
        // One that went away meanwhile is left out.
        if let Ok(card) = card(&server, &caller, &name).await {
            data.push(card);
        }
    }
    Ok(Json(json!({"object": "list", "data": data})))
}

/// `GET /v1/model_cards/{id}`
pub async fn retrieve(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(card(&server, &caller, &id).await?))
}

async fn card(server: &Server, caller: &Principal, id: &str) -> Result<Value, ApiError> {
    let named = server.gateway().named(caller, id)?;
    let seen = Seen { server, caller };
    // An answer is charged by its price for the name that was asked.
    let priced = id.split('@').next().unwrap_or(id);
    let (kind, owner, rest) = match named {
        ModelFacts::Base => ("base", &Owner::Shared, seen.base()),
        ModelFacts::Adapter(ref owner, ref name) => ("adapter", owner, seen.adapter(owner, name, id).await?),
        ModelFacts::Deployment(ref owner, ref name) => ("deployment", owner, seen.deployment(owner, name)),
        ModelFacts::Upstream(ref upstream) => ("upstream", &Owner::Shared, seen.upstream(upstream)),
        ModelFacts::Shared(ref shared) => {
            (if shared.is_capability { "capability" } else { "failover" }, &Owner::Shared, seen.shared(shared))
        }
        ModelFacts::Hash => ("embedder", &Owner::Shared, seen.hash()),
    };
    let own = match &named {
        ModelFacts::Upstream(upstream) => upstream.price.as_ref(),
        _ => None,
    };
    let mut card = json!({
        "object": "model.card",
        "id": id,
        "kind": kind,
        "owned_by": owner.tenant().unwrap_or("switchyard"),
        // A failover is charged as the model that answers.
        "usd_per_million_tokens": if kind == "failover" { Value::Null } else { seen.prices(priced, own) },
    });
    if let (Some(card), Value::Object(rest)) = (card.as_object_mut(), rest) {
        card.extend(rest);
    }
    Ok(card)
}

/// What a caller sees of a server.
struct Seen<'a> {
    server: &'a Server,
    caller: &'a Principal,
}

impl Seen<'_> {
    fn is_operator(&self) -> bool {
        self.caller.reach == Reach::Organization
    }

    /// What answers here can do.
    fn local(&self) -> Map<String, Value> {
        let gateway = self.server.gateway();
        let limits = json!({"context": gateway.context_length(), "usual_answer": gateway.usual_answer()});
        let endpoints = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/convert"];
        let mut object = Map::new();
        object.insert("limits".to_owned(), limits);
        object.insert("endpoints".to_owned(), json!(endpoints));
        object.insert("parameters".to_owned(), json!("all"));
        object.insert("refuses".to_owned(), json!([]));
        object
    }

    fn base(&self) -> Value {
        let (gateway, mut object) = (self.server.gateway(), self.local());
        let facts = gateway.backend_facts();
        let bits = (facts.weight_bytes > 0).then(|| 8.0 * facts.weight_bytes as f64 / facts.model.parameters().max(1) as f64);
        let made_of = json!({
            "architecture": format!("{:?}", facts.model.architecture).to_lowercase(),
            "parameters": facts.model.parameters(),
            "bits_per_weight": bits,
        });
        object.insert("made_of".to_owned(), made_of);
        object.insert("fine_tuning".to_owned(), json!(self.server.workshop().is_some()));
        Value::Object(object)
    }

    /// Its owner and operators see the whole card of the version.
    async fn adapter(&self, owner: &Owner, name: &str, id: &str) -> Result<Value, ApiError> {
        let versions = self.server.catalog().versions(owner, name)?;
        let Some(record) = meant(&versions, id) else { return Err(ApiError::model_not_found(id)) };
        let mut object = self.local();
        let gate = match &record.loaded_by {
            LoadedBy::Trained { gate, .. } => Some(word(*gate)),
            LoadedBy::Operator | LoadedBy::Api { .. } => None,
        };
        let made_of = json!({
            "base": self.server.gateway().base().name,
            "version": record.number,
            "digest": record.id.to_string(),
            "rank": record.rank,
            "loaded_at": record.loaded_at,
            "gate": gate,
        });
        object.insert("made_of".to_owned(), made_of);
        if self.is_operator() || owner.tenant() == Some(&*self.caller.tenant) {
            object.insert("version_card".to_owned(), json!(cards::of(self.server, &versions, record).await?));
            if let LoadedBy::Trained { job, .. } = &record.loaded_by {
                object.insert("run".to_owned(), json!(format!("/v1/fine_tuning/jobs/{job}/run")));
            }
        }
        Ok(Value::Object(object))
    }

    /// Its owner and operators see what gets which share.
    fn deployment(&self, owner: &Owner, name: &str) -> Value {
        let mut object = self.local();
        if (self.is_operator() || owner.tenant() == Some(&*self.caller.tenant))
            && let Some(deployment) = self.server.deployments().get(owner, name)
        {
            let spec = deployment.spec();
            let arm = |arm: &crate::experiments::Arm| json!({"arm": arm.name, "model": arm.target.model, "weight": arm.weight});
            let arms: Vec<Value> = spec.arms.iter().map(arm).collect();
            let made_of = json!({"revision": deployment.current.number, "arms": arms, "fallback": spec.fallback});
            object.insert("made_of".to_owned(), made_of);
        }
        Value::Object(object)
    }

    fn upstream(&self, upstream: &UpstreamFacts) -> Value {
        let endpoints: Vec<&str> = upstream.endpoints.iter().map(path).collect();
        let mut object = json!({
            "limits": {"context": upstream.context},
            "endpoints": endpoints,
            "parameters": upstream.parameters,
            "refuses": upstream.refuses,
        });
        if self.is_operator() {
            object["spend_cap"] = money(upstream.cap);
        }
        object
    }

    fn shared(&self, shared: &SharedFacts) -> Value {
        let names = |upstreams: bool| -> Vec<&str> {
            let wanted = shared.models.iter().filter(|model| model.is_upstream == upstreams);
            wanted.map(|model| model.name.as_str()).collect()
        };
        let order: Vec<&str> = shared.models.iter().map(|model| model.name.as_str()).collect();
        let made_of = if shared.is_capability {
            json!({"students": names(false), "teachers": names(true), "order": order, "when_waiting": shared.when_waiting})
        } else {
            json!({"order": order, "when_waiting": shared.when_waiting})
        };
        let mut object = json!({
            "made_of": made_of,
            "limits": {"context": null},
            "endpoints": ["/v1/chat/completions", "/v1/completions"],
        });
        if self.is_operator() && shared.is_capability {
            object["budget"] = money(shared.budget);
        }
        object
    }

    fn hash(&self) -> Value {
        json!({"limits": {"context": HASH_CONTEXT}, "endpoints": ["/v1/embeddings"]})
    }

    /// The price of now, for the caller's tenant: as requests are charged.
    fn prices(&self, name: &str, own: Option<&Price>) -> Value {
        let now = unix_now();
        let book = &self.server.tenants().policy().prices;
        let listed = book.of(&self.caller.tenant, name);
        // A row for all models does not go before an upstream's own price.
        let is_named = book.names_from(&self.caller.tenant, name).is_some_and(|from| from <= now);
        let price = match own {
            Some(own) if !is_named => Some(own),
            _ => price_at(&listed, now),
        };
        let dollars = |nanos: i64| nanos as f64 / NANOS;
        price.map_or(Value::Null, |price| {
            json!({
                "input": dollars(price.input), "cached_input": dollars(price.cached_input), "output": dollars(price.output),
            })
        })
    }
}

/// The version that a name means.
fn meant<'a>(versions: &'a Versions, id: &str) -> Option<&'a VersionRecord> {
    let exact = id.split_once('@').map(|(_, version)| version);
    versions.versions.iter().find(|record| match exact {
        None => record.number == versions.current,
        Some(version) => cards::is(record, version),
    })
}

const fn word(gate: Gate) -> &'static str {
    match gate {
        Gate::Pending => "pending",
        Gate::Pass => "pass",
        Gate::Review => "review",
        Gate::Fail => "fail",
    }
}

fn path(endpoint: &Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Chat => "/v1/chat/completions",
        Endpoint::Completions => "/v1/completions",
        Endpoint::Embeddings => "/v1/embeddings",
    }
}

/// What may be spent in a period, and what was.
fn money(cap: Option<(Cap, i64)>) -> Value {
    cap.map_or(
        Value::Null,
        |(cap, spent)| json!({"usd": cap.nanos as f64 / NANOS, "period": cap.period.name(), "spent_usd": spent as f64 / NANOS}),
    )
}
