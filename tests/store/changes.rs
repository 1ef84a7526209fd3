//! Changes by the rules of the admin API: one at a time, once each, and never half.

use std::collections::BTreeSet;

use switchyard::store::policy;
use switchyard::tenants::admin::budgets::{self, BudgetChange, BudgetSpec};
use switchyard::tenants::admin::keys::{self, KeyChange, KeySpec};
use switchyard::tenants::admin::limits::{self, Amounts, Place as LimitPlace};
use switchyard::tenants::admin::prices::{self, PriceSpec};
use switchyard::tenants::admin::service_accounts::{self, With};
use switchyard::tenants::admin::{AdminError, Change, KeysOf, Paging, audit, projects, webhooks};
use switchyard::tenants::{AuthError, DEFAULT_TENANT, Enforcement, Identity, Office, Period, Scopes, Subject};

use crate::Place;

on_both!(
    a_key_works_until_it_is_revoked,
    limits_and_permissions_are_kept_by_version,
    money_is_kept,
    changes_at_the_same_time_do_not_lose_each_other,
    a_service_account_takes_its_keys_along,
);

/// One change, committed.
macro_rules! change {
    ($office:expr, $change:ident => $work:expr) => {{
        let mut change = Change::by_operator($office).await.unwrap();
        let $change = &mut change;
        let done = $work.await;
        if done.is_ok() {
            change.finish().await.unwrap();
        }
        done
    }};
}

async fn a_key_works_until_it_is_revoked(place: Place) {
    let office = &place.office;
    let spec = KeySpec {
        models: Some(vec!["tiny".to_owned()]),
        labels: [("team".to_owned(), "ä".to_owned())].into(),
        ..KeySpec::of_project(DEFAULT_TENANT, "first")
    };
    let key = change!(office, change => keys::create(change, spec)).unwrap();
    let identity = Identity::new(office.database.clone(), office.secrets.clone());
    let principal = identity.authenticate(&key.value, 1_000).await.unwrap();
    assert_eq!(
        (&*principal.tenant, principal.models.allows("tiny"), principal.models.allows("other")),
        (DEFAULT_TENANT, true, false)
    );
    let to = KeyChange { models: Some(None), scopes: Some(Scopes::parse("read_only").unwrap()), ..KeyChange::default() };
    let changed = change!(office, change => keys::update(change, KeysOf::Everybody, &key.row.id, to)).unwrap();
    assert_eq!((changed.models.as_deref(), changed.version), (None, 2));
    identity.forget();
    assert_eq!(identity.authenticate(&key.value, 1_000).await.unwrap().scopes.to_string(), "read_only");
    identity.note_uses().await.unwrap();
    let listed = keys::list(office, KeysOf::Project(DEFAULT_TENANT), &Paging::ALL).await.unwrap();
    assert_eq!((listed.rows.len(), listed.rows[0].last_used_at), (1, Some(1_000)));
    let (shown, old) = change!(office, change => keys::rotate(change, KeysOf::Everybody, &key.row.id, 60)).unwrap();
    assert_eq!((shown.row.replaces.as_deref(), old.expires_at), (Some(&*key.row.id), Some(shown.row.created_at + 60)));
    change!(office, change => keys::revoke(change, KeysOf::Everybody, &shown.row.id)).unwrap();
    identity.forget();
    assert!(matches!(identity.authenticate(&shown.value, 1_000).await, Err(AuthError::Unknown)));
    assert!(matches!(
        change!(office, change => keys::revoke(change, KeysOf::Everybody, &shown.row.id)),
        Err(AdminError::NotFound { .. })
    ));
    let log = audit::list(office, &audit::Which::default(), &Paging::ALL).await.unwrap();
    let actions: Vec<&str> = log.rows.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["api_key.created", "api_key.updated", "api_key.rotated", "api_key.updated", "api_key.deleted"]);
}

async fn limits_and_permissions_are_kept_by_version(place: Place) {
    let office = &place.office;
    let at = LimitPlace { scope: "project".to_owned(), subject: DEFAULT_TENANT.to_owned(), model: "*".to_owned() };
    let amounts = Amounts { requests_per_minute: Some(60), tokens_per_minute: Some(1_000), ..Amounts::default() };
    assert_eq!(change!(office, change => limits::put(change, &at, amounts)).unwrap().version, 1);
    let more = Amounts { concurrent_requests: Some(3), tokens_per_minute: None, ..amounts };
    assert_eq!(change!(office, change => limits::put(change, &at, more)).unwrap().version, 2);
    let found = limits::get(office, &at).await.unwrap();
    assert_eq!((found.requests_per_minute, found.tokens_per_minute, found.concurrent_requests), (Some(60), None, Some(3)));
    let names = ["a".to_owned(), "b".to_owned()];
    change!(office, change => limits::put_permission(change, DEFAULT_TENANT, "deny_list", &names)).unwrap();
    change!(office, change => limits::put_permission(change, DEFAULT_TENANT, "allow_list", &names[..1])).unwrap();
    let rows = policy::read(&office.database).await.unwrap();
    assert_eq!((rows.limits, rows.permissions[0].mode.as_str(), rows.permissions[0].version), (vec![found], "allow_list", 2));
    change!(office, change => limits::delete(change, &at)).unwrap();
    change!(office, change => limits::delete_permission(change, DEFAULT_TENANT)).unwrap();
    let rows = policy::read(&office.database).await.unwrap();
    assert!(rows.limits.is_empty() && rows.permissions.is_empty());
}

async fn money_is_kept(place: Place) {
    let office = &place.office;
    let limit = change!(office, change => budgets::put_spend_limit(change, Subject::Organization, 5)).unwrap();
    let spec = BudgetSpec {
        subject: Subject::Organization,
        period: Period::Month,
        limit: i64::MAX,
        enforcement: Enforcement::Hard,
        thresholds: vec![],
        notification: None,
    };
    let twice = change!(office, change => budgets::create(change, spec.clone()));
    assert!(matches!(twice, Err(AdminError::Refused { code: "budget_exists", .. })));
    let soft = BudgetSpec { enforcement: Enforcement::Soft, notification: Some("{}".to_owned()), ..spec };
    let soft = change!(office, change => budgets::create(change, soft)).unwrap();
    let to = BudgetChange { notification: Some(None), ..BudgetChange::default() };
    assert_eq!(change!(office, change => budgets::update(change, &soft.id, to)).unwrap().notification, None);
    assert_eq!(budgets::spent(office, &limit).await.unwrap(), 0);
    let rows = policy::read(&office.database).await.unwrap();
    assert_eq!(rows.budgets.iter().map(|row| row.limit_nanos).collect::<BTreeSet<_>>(), BTreeSet::from([5, i64::MAX]));
    let price = |valid_from| PriceSpec {
        project: "*".to_owned(),
        model: "*".to_owned(),
        valid_from,
        input: 1,
        cached_input: 2,
        output: 3,
        training: 4,
    };
    let now = change!(office, change => prices::create(change, price(None))).unwrap();
    let twice = change!(office, change => prices::create(change, price(Some(now.valid_from))));
    assert!(matches!(twice, Err(AdminError::Refused { code: "price_exists", .. })), "{twice:?}");
    let future = change!(office, change => prices::create(change, price(Some(now.valid_from + 100)))).unwrap();
    change!(office, change => prices::delete(change, &future.id)).unwrap();
    assert_eq!(policy::read(&office.database).await.unwrap().prices, [now]);
    let hook = change!(office, change => webhooks::create(change, None, "https://example.com/")).unwrap();
    assert_eq!(office.secrets.open_sealed(&hook.row.id, &hook.row.sealed_secret).unwrap(), hook.secret);
    change!(office, change => webhooks::delete(change, &hook.row.id)).unwrap();
}

async fn changes_at_the_same_time_do_not_lose_each_other(place: Place) {
    let project = change!(&place.office, change => projects::create(change, "Acme")).unwrap();
    let other = place.again().await;
    // Each adds a letter to the name that it has read; who is too late is told so.
    let add = async |office: &Office, letter: char| {
        let mut done = 0;
        while done < 10 {
            let mut change = Change::by_operator(office).await.unwrap();
            let name = projects::get(office, &project.id).await.unwrap().name;
            match projects::update(&mut change, &project.id, Some(&format!("{name}{letter}"))).await {
                Ok(_) => {
                    change.finish().await.unwrap();
                    done += 1;
                }
                Err(AdminError::Changed) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::join!(add(&place.office, 'a'), add(&other, 'b'));
    let found = projects::get(&other, &project.id).await.unwrap();
    assert_eq!(found.version, 21);
    assert_eq!(policy::read(&other.database).await.unwrap().revision, 22);
}

async fn a_service_account_takes_its_keys_along(place: Place) {
    let office = &place.office;
    let project = change!(office, change => projects::create(change, "Acme")).unwrap();
    let (account, key) =
        change!(office, change => service_accounts::create(change, &project.id, "worker", With::Key(Some(60)))).unwrap();
    let key = key.unwrap();
    assert_eq!(key.row.expires_at, Some(key.row.created_at + 60));
    change!(office, change => service_accounts::delete(change, &project.id, &account.id)).unwrap();
    let identity = Identity::new(office.database.clone(), office.secrets.clone());
    assert!(identity.authenticate(&key.value, key.row.created_at).await.is_err());
    assert!(keys::list(office, KeysOf::Project(&project.id), &Paging::ALL).await.unwrap().rows.is_empty());
    assert!(service_accounts::list(office, &project.id, &Paging::ALL).await.unwrap().rows.is_empty());
}
