//! `/admin/adapters/{name}/versions/{version}/card`: what is known of a version, for programs and for people.

use axum::Json;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::change::Looking;
use crate::http::Server;
use crate::http::adapters::owner_of;
use crate::http::error::ApiError;
use crate::registry::{Gate, LoadedBy, RegistryError, VersionRecord, Versions};
use crate::tenants::{DEFAULT_TENANT, price_at, unix_now};
use crate::training::card::{AdapterCard, BaseCard, Card, Cost, Training};
use crate::training::gate::Limits;
use crate::training::jobs::desk::Origin;

/// Fewest digits of a digest that name a version.
const DIGITS: usize = 8;
/// Nano-dollars for a million tokens are so many dollars for a thousand.
const DOLLARS_PER_1K: f64 = 1e-12;

/// The form of a card.
#[derive(Clone, Copy)]
enum Form {
    Json,
    Markdown,
}

/// `GET /admin/adapters/{name}/versions/{version}/card`
pub async fn retrieve(Path((name, version)): Path<(String, String)>, mut looking: Looking) -> Result<Response, ApiError> {
    let owner = owner_of(looking.query.text("tenant")?);
    let form = looking.query.word("format", &[("json", Form::Json), ("markdown", Form::Markdown)])?;
    let server = looking.without_parameters()?;
    let versions = server.catalog().versions(&owner, &name)?;
    let not_found = || RegistryError::NotFound { model: format!("{name}@{version}").chars().take(256).collect() };
    let record = versions.versions.iter().find(|record| is(record, &version)).ok_or_else(not_found)?;
    let card = of(&server, &versions, record).await?;
    Ok(match form.unwrap_or(Form::Json) {
        Form::Json => Json(card).into_response(),
        Form::Markdown => ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], card.markdown()).into_response(),
    })
}

/// All that is known of a version.
pub async fn of(server: &Server, versions: &Versions, record: &VersionRecord) -> Result<Card, ApiError> {
    let origin = match &record.loaded_by {
        LoadedBy::Trained { job, .. } => server.jobs().origin(job).await?,
        LoadedBy::Operator | LoadedBy::Api { .. } => None,
    };
    Ok(card(server, versions, record, origin))
}

/// Whether a number, or the first digits of a digest, means this version.
pub fn is(record: &VersionRecord, version: &str) -> bool {
    let digest = record.id.to_string();
    record.number.to_string() == version || (version.len() >= DIGITS && digest.starts_with(version))
}

fn card(server: &Server, versions: &Versions, record: &VersionRecord, origin: Option<Origin>) -> Card {
    let (facts, gateway) = (server.gateway().backend_facts(), server.gateway());
    let parameters = facts.model.parameters();
    let bits = 8.0 * facts.weight_bytes as f64 / parameters.max(1) as f64;
    let name = format!("{}@{}", versions.name, record.number);
    // A checkpoint has its job's origin, but was not examined.
    let judged = matches!(record.loaded_by, LoadedBy::Trained { gate, .. } if gate != Gate::Pending);
    let examined = origin.as_ref().and_then(|origin| origin.examined.clone()).filter(|_| judged).unwrap_or_default();
    // What another release wrote in another form is left out.
    let part = |field: &str| examined.get(field).cloned().unwrap_or_default();
    Card {
        name,
        digest: record.id.to_string(),
        provider: "switchyard".to_owned(),
        owner: versions.owner.tenant().map(str::to_owned),
        base: BaseCard {
            name: gateway.base().name.clone(),
            architecture: format!("{:?}", facts.model.architecture).to_lowercase(),
            parameters,
            context: facts.max_context as u64,
            quantization: (facts.weight_bytes > 0).then(|| format!("{bits:.1} bits a weight in memory")),
            bytes: facts.weight_bytes as u64,
        },
        adapter: AdapterCard { rank: record.rank as u64, file_bytes: record.file_bytes, loaded_at: record.loaded_at },
        license: None,
        hardware: server.config().hardware.clone(),
        cost: cost(server, versions),
        training: origin.map(training),
        evaluation: serde_json::from_value(part("evaluation")).ok(),
        gate: serde_json::from_value(part("decision")).ok(),
        known_limits: Vec::new(),
    }
    .finish(&Limits::default())
}

/// The price of now, for its tenant.
fn cost(server: &Server, versions: &Versions) -> Option<Cost> {
    let policy = server.tenants().policy();
    let prices = policy.prices.of(versions.owner.tenant().unwrap_or(DEFAULT_TENANT), &versions.name);
    let price = price_at(&prices, unix_now())?;
    let dollars = |nanos: i64| nanos as f64 * DOLLARS_PER_1K;
    Some(Cost { prompt_per_1k: dollars(price.input), completion_per_1k: dollars(price.output) })
}

fn training(origin: Origin) -> Training {
    let Origin { row, read, .. } = origin;
    let read = read.unwrap_or_default();
    let settings = row.settings.as_deref().and_then(|text| serde_json::from_str(text).ok());
    Training {
        job: Some(row.id),
        dataset_digest: read["dataset_digest"].as_str().map(str::to_owned),
        rows: read["rows"].as_u64(),
        truncated_rows: read["truncated_rows"].as_u64(),
        steps: u64::try_from(row.steps_done).unwrap_or(0),
        settings: settings.unwrap_or(Value::Null),
        code: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
