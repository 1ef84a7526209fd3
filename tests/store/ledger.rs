//! The ledger, its sums and its counters; answers kept for repetitions.

use switchyard::store::idempotency::{self, Claim};
use switchyard::store::ledger::{LedgerRow, Nodes, append, spent};
use switchyard::store::usage::{Which, rows};
use switchyard::tenants::admin::usage::{Field, Question, Sums, buckets, verify};

use crate::Place;

on_both!(sums_are_those_of_the_rows, an_idempotency_key_is_claimed_once);

fn row(index: i64) -> LedgerRow {
    LedgerRow {
        id: format!("r{index:03}"),
        node: format!("n{}", index % 2),
        at_micros: 1_000_000 * (index * 700) + 5,
        project_id: format!("proj_{}", index % 3),
        key_id: "key_1".to_owned(),
        end_user: (index % 5 == 0).then(|| "ann".to_owned()),
        model: "tiny".to_owned(),
        input_tokens: 10,
        cached_tokens: 4,
        output_tokens: index,
        cost_nanos: 1_000_000_000_000,
        ..LedgerRow::default()
    }
}

async fn sums_are_those_of_the_rows(place: Place) {
    let database = &place.office.database;
    let all: Vec<LedgerRow> = (0..200).map(row).collect();
    append(database, &all[..150]).await.unwrap();
    assert_eq!(append(database, &all).await.unwrap(), 50);
    assert!(verify(&place.office).await.unwrap().differences.is_empty());
    let question =
        |by: Vec<Field>, width: i64| Question { sums: Sums { which: Which::default(), by, width }, from: 0, to: 200 * 700 };
    // Days and hours from the counters, minutes and users from the rows: the same sums.
    for (by, width) in [
        (vec![], 86_400),
        (vec![Field::Project, Field::Key, Field::Model], 3_600),
        (vec![Field::Project], 60),
        (vec![Field::User], 86_400),
    ] {
        let buckets = buckets(&place.office, &question(by.clone(), width)).await.unwrap();
        let sums = buckets.iter().flat_map(|bucket| &bucket.sums);
        let (mut requests, mut output, mut cost) = (0, 0, 0);
        for sum in sums {
            requests += sum.requests;
            output += sum.output_tokens;
            cost += sum.cost_nanos;
        }
        assert_eq!((requests, output, cost), (200, 199 * 100, 200_000_000_000_000), "{by:?} {width}");
    }
    let by_user = buckets(&place.office, &question(vec![Field::User], 86_400 * 10)).await.unwrap();
    let users: Vec<(Option<&str>, i64)> = by_user[0].sums.iter().map(|sum| (sum.fields[3].as_deref(), sum.requests)).collect();
    assert_eq!(users, [(None, 160), (Some("ann"), 40)]);
    assert_eq!(
        spent(database, Nodes::Only("n0"), 0, 0).await.unwrap().iter().map(|row| row.total).sum::<i64>(),
        100_000_000_000_000
    );

    let mut connection = database.connection().await.unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let which = Which { projects: vec!["proj_0".to_owned(), "proj_1".to_owned()], ..Which::default() };
        let page =
            rows(&mut connection, &which, 0, i64::MAX, after.as_ref().map(|(at, id): &(i64, String)| (*at, id.as_str())), 40)
                .await
                .unwrap();
        let Some(last) = page.last() else { break };
        after = Some((last.at_micros, last.id.clone()));
        seen.extend(page);
    }
    let expected: Vec<LedgerRow> = all.into_iter().filter(|row| row.project_id != "proj_2").collect();
    assert_eq!(seen, expected, "as they were written");

    sqlx::query("UPDATE usage_hours SET requests = requests + 1 WHERE hour = 3 AND project_id = 'proj_0'")
        .execute(&mut *connection)
        .await
        .unwrap();
    drop(connection);
    assert_eq!(verify(&place.office).await.unwrap().hours().into_iter().collect::<Vec<_>>(), [3]);
}

async fn an_idempotency_key_is_claimed_once(place: Place) {
    let claim = Claim { owner: "admin".to_owned(), key: "k".to_owned(), request_hash: "h".to_owned() };
    let (database, other) = (&place.office.database, place.again().await);
    let mut transaction = database.begin().await.unwrap();
    assert_eq!(idempotency::claim(&mut transaction, &claim, 100, 0).await.unwrap(), None);
    idempotency::finish(&mut transaction, &claim, 200, "{}", "answer").await.unwrap();
    // Somebody else waits until this ends, and then finds the answer.
    let waiting = async {
        let mut transaction = other.database.begin().await.unwrap();
        idempotency::claim(&mut transaction, &claim, 101, 0).await.unwrap()
    };
    let ending = async {
        tokio::task::yield_now().await;
        transaction.commit().await.unwrap();
    };
    let (found, ()) = tokio::join!(waiting, ending);
    assert_eq!(found.unwrap().body.as_deref(), Some("answer"));
    let mut transaction = database.begin().await.unwrap();
    assert_eq!(idempotency::claim(&mut transaction, &claim, 200, 150).await.unwrap(), None, "too old: forgotten");
    idempotency::release(&mut transaction, &claim).await.unwrap();
    assert_eq!(idempotency::find(&mut transaction, "admin", "k").await.unwrap(), None);
}
