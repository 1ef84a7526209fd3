//! Capabilities: one name for students and teachers, their order, what teachers may cost, and under which name all of it is counted.

use axum::http::Method;
use serde_json::{Value, json};
use switchyard::gateway::{CapabilityConfig, FailoverConfig, Upstreams};
use switchyard::tenants::{Cap, Period};

use crate::misbehaving::{Misbehaving, answer, refusal};
use crate::support::{BASE, Harness, Options, Reply, chat_body, merged};
use crate::upstreams::{CHAT, rows, upstream};

const NAME: &str = "support-answers";

/// A capability with these models, and dollars a day for its teachers.
pub fn capability(models: &[&str], nanos: Option<i64>) -> FailoverConfig {
    let budget = nanos.map(|nanos| Cap { period: Period::Day, nanos });
    FailoverConfig {
        name: NAME.to_owned(),
        models: models.iter().map(|model| (*model).to_owned()).collect(),
        when_waiting: None,
        capability: Some(CapabilityConfig { budget }),
    }
}

async fn harness(url: &str, capability: FailoverConfig) -> Harness {
    let mut big = upstream(url);
    big.remote.patience.retries = 0;
    Harness::with(Options { upstreams: vec![big], failovers: vec![capability], ..Options::default() }).await
}

fn asked(model: &str) -> Value {
    merged(chat_body(), &json!({"model": model, "max_tokens": 4}))
}

/// What answered, and the model that the answer names.
fn said(reply: &Reply) -> (String, String) {
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
    let version = reply.headers["x-adapter-version"].to_str().unwrap();
    (version.split('+').next().unwrap().to_owned(), reply.json()["model"].as_str().unwrap().to_owned())
}

fn by(version: &str) -> (String, String) {
    (version.to_owned(), NAME.to_owned())
}

#[tokio::test]
async fn students_answer_first_and_all_is_counted_under_the_capabilitys_name() {
    let them = Misbehaving::new(vec![answer("from the teacher")]).await;
    let harness = harness(&them.url, capability(&["voice", "desk", BASE, "big"], None)).await;
    // Students that are not there yet are passed over.
    assert_eq!(said(&harness.post(CHAT, &asked(NAME)).await), by("base"));
    harness.load("voice", 1).await;
    assert_eq!(said(&harness.post(CHAT, &asked(NAME)).await), by("voice@1"));
    // A part of it, for those who need the teacher itself: to write a dataset, to judge.
    assert_eq!(said(&harness.post(CHAT, &asked("support-answers@teachers")).await), by("upstream/big"));
    assert_eq!(said(&harness.post(CHAT, &asked("support-answers@students")).await), by("voice@1"));
    let counted: Vec<(String, String)> =
        rows(&harness, 4).await.into_iter().map(|row| (row.model, row.version.split('+').next().unwrap().to_owned())).collect();
    assert!(counted.iter().all(|(model, _)| model == NAME), "{counted:?}");
    assert_eq!(counted.iter().filter(|(_, version)| version == "upstream/big").count(), 1);

    // A deployment is a student, too.
    harness.post("/v1/unload_lora_adapter", &json!({"lora_name": "voice"})).await;
    let spec = json!({"name": "desk", "arms": [{"name": "only", "model": BASE, "weight": 100}]});
    assert!(harness.post("/admin/deployments", &spec).await.status.is_success());
    let reply = harness.post(CHAT, &asked(NAME)).await;
    assert_eq!((said(&reply), reply.headers["x-deployment"].to_str().unwrap()), (by("base"), "desk"));

    let row = rows(&harness, 5).await.into_iter().find(|row| row.model == "desk");
    assert_eq!(row.map(|row| row.version).as_deref(), Some("base"), "feedback finds the experiment by this name");

    // Once in the list of models; streams name it, too.
    let listed = harness.get("/v1/models").await.text;
    assert_eq!((listed.matches(NAME).count() > 0, listed.contains('@')), (true, false), "{listed}");
    let events = harness.events(CHAT, asked(NAME)).await;
    assert_eq!(events[0]["model"], NAME);
    let refused = harness.post(CHAT, &asked("support-answers@others")).await;
    assert_eq!(refused.error().0, 404);
}

#[tokio::test]
async fn a_teacher_comes_in_where_no_student_can_and_its_refusal_is_passed_back() {
    let them = Misbehaving::new(vec![answer("hi"), refusal(500, "", "oh")]).await;
    let harness = harness(&them.url, capability(&["voice", "big"], None)).await;
    assert_eq!(said(&harness.post(CHAT, &asked(NAME)).await), by("upstream/big"));
    let failed = harness.post(CHAT, &asked(NAME)).await.error();
    assert_eq!((failed.0, failed.2), (502, json!("upstream_failed")));
}

#[tokio::test]
async fn a_key_for_the_capability_needs_none_for_its_models() {
    let them = Misbehaving::new(vec![answer("hi")]).await;
    let harness = harness(&them.url, capability(&[BASE, "big"], None)).await;
    let (key, id) = harness.key_for("proj_a", "inference").await;
    let mut transaction = harness.tenants.database().begin().await.unwrap();
    let models = json!([NAME]).to_string();
    sqlx::query("UPDATE keys SET models = $1 WHERE id = $2").bind(models).bind(id).execute(&mut *transaction).await.unwrap();
    transaction.commit_policy().await.unwrap();
    harness.tenants.refresh().await.unwrap();
    let ask = async |model: &str| harness.post_as(&key, CHAT, &asked(model), &[]).await;
    assert_eq!(said(&ask(NAME).await), by("base"));
    assert_eq!(said(&ask("support-answers@teachers").await), by("upstream/big"));
    for model in [BASE, "big"] {
        assert_eq!(ask(model).await.error().0, 404, "{model}");
    }
    // Nor does its card say what is behind it.
    let card = harness.call(Method::GET, &format!("/v1/model_cards/{NAME}"), None, &key, &[]).await;
    let made_of = json!({"students": [], "teachers": [], "order": [], "when_waiting": null});
    assert_eq!((&card.json()["kind"], &card.json()["made_of"]), (&json!("capability"), &made_of), "{}", card.text);
}

#[tokio::test]
async fn students_answer_alone_when_the_teachers_budget_is_spent() {
    // Each answer costs 40 000 nano-dollars, and promises some 50 000 before.
    let them = Misbehaving::new((0..4).map(|_| answer("hi")).collect()).await;
    let configured = capability(&["big", BASE], Some(110_000));
    let harness = harness(&them.url, configured.clone()).await;
    for _ in 0..2 {
        assert_eq!(said(&harness.post(CHAT, &asked(NAME)).await), by("upstream/big"));
    }
    // What the teacher answers under its own name is not the capability's.
    assert_eq!(said(&harness.post(CHAT, &asked("big")).await).0, "upstream/big");
    assert_eq!(said(&harness.post(CHAT, &asked(NAME)).await), by("base"));
    assert_eq!(harness.post(CHAT, &asked("support-answers@teachers")).await.error().2, json!("upstream_spent"));
    assert_eq!(them.got().len(), 3);

    let card = harness.get(&format!("/v1/model_cards/{NAME}")).await.json();
    assert_eq!(card["made_of"]["order"], json!(["big", BASE]));
    assert_eq!(card["budget"], json!({"usd": 0.00011, "period": "day", "spent_usd": 0.00008}));
    let tenant = harness.key_of("proj_a").await;
    let theirs = harness.call(Method::GET, &format!("/v1/model_cards/{NAME}"), None, &tenant, &[]).await.json();
    assert_eq!((theirs.get("budget"), &theirs["made_of"]["teachers"]), (None, &json!(["big"])));

    // The next process reads from the ledger what was spent under this name.
    rows(&harness, 4).await;
    let again = Upstreams::open(&[upstream(&them.url)], &[configured], &harness.tenants).await.unwrap();
    assert!(format!("{again:?}").contains("spent: 80000"), "{again:?}");
}
