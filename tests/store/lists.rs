//! Lists in pages, and what is left out of them.

use switchyard::store::StoreError;
use switchyard::store::projects::{self, ProjectRow, Projects};
use switchyard::tenants::admin::{Order, Paging};

use crate::Place;

on_both!(pages_follow_each_other_in_both_directions, tables_are_made_once);

async fn pages_follow_each_other_in_both_directions(place: Place) {
    let database = &place.office.database;
    let mut transaction = database.begin().await.unwrap();
    for index in 0..7 {
        let row = ProjectRow {
            id: format!("proj_{index}"),
            name: "x".to_owned(),
            status: if index == 3 { "archived" } else { "active" }.to_owned(),
            // Some at the same time: the id decides.
            created_at: 100 + index / 2,
            archived_at: None,
            version: 1,
        };
        projects::insert(&mut transaction, &row).await.unwrap();
    }
    transaction.commit().await.unwrap();
    let mut connection = database.connection().await.unwrap();
    let mut page = async |which: Projects, after: Option<&str>, before: Option<&str>, limit: usize, order: Order| {
        let paging = Paging { after: after.map(str::to_owned), before: before.map(str::to_owned), limit, order };
        let page = projects::list(&mut connection, which, &paging).await?;
        Ok::<_, StoreError>((
            page.rows.into_iter().map(|row| row.id.replace("proj_", "")).collect::<Vec<_>>().join(" "),
            page.has_more,
        ))
    };
    let up = Order::Ascending;
    let text = |text: &str, more: bool| (text.to_owned(), more);
    assert_eq!(page(Projects::All, None, None, 3, up).await.unwrap(), text("default 0 1", true));
    assert_eq!(page(Projects::All, Some("proj_1"), None, 3, up).await.unwrap(), text("2 3 4", true));
    assert_eq!(page(Projects::Active, Some("proj_1"), None, 3, up).await.unwrap(), text("2 4 5", true));
    assert_eq!(page(Projects::All, Some("proj_4"), None, 3, up).await.unwrap(), text("5 6", false));
    assert_eq!(page(Projects::All, None, None, 2, Order::Descending).await.unwrap(), text("6 5", true));
    assert_eq!(page(Projects::All, Some("proj_5"), None, 2, Order::Descending).await.unwrap(), text("4 3", true));
    assert_eq!(page(Projects::All, None, Some("proj_4"), 2, up).await.unwrap(), text("2 3", true), "those nearest to it");
    assert_eq!(page(Projects::All, None, Some("proj_0"), 2, up).await.unwrap(), text("default", false));
    assert_eq!(page(Projects::All, Some("proj_0"), Some("proj_3"), 9, up).await.unwrap(), text("1 2", false));
    assert!(
        matches!(page(Projects::All, Some("proj_x"), None, 2, up).await, Err(StoreError::UnknownCursor(id)) if id == "proj_x")
    );
}

async fn tables_are_made_once(place: Place) {
    let (one, two) = tokio::join!(place.again(), place.again());
    let before = one.database.revision().await.unwrap();
    one.database.begin().await.unwrap().commit_policy().await.unwrap();
    assert_eq!(two.database.revision().await.unwrap(), before + 1);
    // Not committed: nothing has happened.
    let mut transaction = one.database.begin().await.unwrap();
    let row =
        ProjectRow { id: "p".into(), name: "p".into(), status: "active".into(), created_at: 1, archived_at: None, version: 1 };
    projects::insert(&mut transaction, &row).await.unwrap();
    drop(transaction);
    assert_eq!(projects::get(&mut two.database.connection().await.unwrap(), "p").await.unwrap(), None);
}
