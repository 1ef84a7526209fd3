//! Adapters within a budget of memory: who comes, who leaves, who waits.

use super::*;

#[tokio::test]
async fn within_a_budget_adapters_in_service_come_and_go() {
    let fixture = Fixture::new();
    let size = {
        let (catalog, _) = fixture.open_within(8, Some(usize::MAX)).await;
        for (name, path) in [("a", "one"), ("b", "two"), ("c", "three")] {
            catalog.load(request(name, path)).await.unwrap();
        }
        assert_eq!(catalog.residency().versions, 3);
        catalog.residency().bytes / 3
    };
    let before = fixture.prepared();
    let (catalog, skipped) = fixture.open_within(8, Some(2 * size)).await;
    assert_eq!(skipped, []);
    assert!(fixture.prepared() - before <= 2, "what does not fit is not read at the start");
    assert_eq!(catalog.list(Viewer::Operator).len(), 3, "and is in service all the same");
    for name in ["a", "b", "c", "a", "b", "c"] {
        assert_eq!(catalog.resolve(TENANT, name).await.unwrap().name, name);
        assert!(catalog.residency().bytes <= 2 * size);
    }
    assert!(catalog.residency().counts.evicted >= 3);
    let warm = fixture.prepared();
    for _ in 0..3 {
        catalog.resolve(TENANT, "c").await.unwrap();
        catalog.resolve(TENANT, "b").await.unwrap();
    }
    assert_eq!(fixture.prepared(), warm, "those used last stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cold_adapter_waits_for_those_in_use_and_a_burst_reads_it_once() {
    let fixture = Fixture::new();
    let (catalog, _) = fixture.open_within(8, Some(1)).await;
    catalog.load(request("a", "one")).await.unwrap();
    catalog.load(request("b", "two")).await.unwrap();
    let held = catalog.resolve(TENANT, "a").await.unwrap();
    let before = fixture.prepared();
    let burst: Vec<_> = (0..20)
        .map(|_| {
            let catalog = catalog.clone();
            tokio::spawn(async move { catalog.resolve(TENANT, "b").await.unwrap() })
        })
        .collect();
    // Of the adapter in use new leases are had at once.
    assert_eq!(catalog.resolve(TENANT, "a").await.unwrap().number, 1);
    assert!(burst.iter().all(|waiting| !waiting.is_finished()));
    drop(held);
    let mut leases = Vec::new();
    for waiting in burst {
        leases.push(waiting.await.unwrap());
    }
    assert_eq!(fixture.prepared(), before + 1);
    assert!(leases.iter().all(|lease| Arc::ptr_eq(&lease.adapter, &leases[0].adapter)));
}

/// Waits less than an adapter waits for room.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(std::time::Duration::from_secs(6), work).await.expect("nobody has to wait for room")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_waits_for_room_keeps_nobody_from_reading() {
    let fixture = Fixture::new();
    let (catalog, _) = fixture.open_within(8, Some(1)).await;
    catalog.load(request("a", "one")).await.unwrap();
    catalog.load(request("b", "two")).await.unwrap();
    let held = catalog.resolve(TENANT, "a").await.unwrap();
    let waiting = tokio::spawn({
        let catalog = catalog.clone();
        async move { catalog.resolve(TENANT, "b").await.unwrap() }
    });
    while catalog.inner.arrivals.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    // The first of them may come before it has begun to wait.
    for name in ["c", "d", "e", "f"] {
        soon(catalog.load(request(name, "three"))).await.unwrap();
    }
    assert!(!waiting.is_finished());
    drop(held);
    assert_eq!(waiting.await.unwrap().name, "b");
}

/// Prepares an adapter when it is told to.
struct Held {
    begun: std::sync::mpsc::Sender<()>,
    told: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
}

impl AdapterPreparer for Held {
    fn prepare(&self, weights: LoraWeights) -> Result<PreparedAdapter, ModelError> {
        self.begun.send(()).unwrap();
        // Nobody holds it back any more when the other end is gone.
        let _ = self.told.lock().unwrap().recv();
        Ok(PreparedAdapter { id: weights.id, bytes: 10, max_rank: weights.max_rank, inner: Box::new(()) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_somebody_who_left_has_brought_is_not_read_again() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    catalog.load(request("a", "one")).await.unwrap();
    drop(catalog);
    let ((begun, begins), (tell, told)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let (catalog, _) = Catalog::open(Setup {
        data: Arc::new(DataDir::open(&fixture.dir.path().join("data")).unwrap()),
        roots: Vec::new(),
        reserved_names: Vec::new(),
        base: base(8),
        preparer: Arc::new(Held { begun, told: std::sync::Mutex::new(told) }),
        memory: Some(10),
        shared: None,
    })
    .await
    .unwrap();
    let asks = || {
        let catalog = catalog.clone();
        tokio::spawn(async move { catalog.resolve(TENANT, "a").await.unwrap().number })
    };
    let leaves = asks();
    let begins = tokio::task::spawn_blocking(move || {
        begins.recv().unwrap();
        begins
    });
    let begins = begins.await.unwrap();
    leaves.abort();
    assert!(leaves.await.unwrap_err().is_cancelled());
    let stays = asks();
    // It has looked, and found nothing, when it waits for leave to read.
    (0..1000).for_each(|_| std::thread::yield_now());
    tell.send(()).unwrap();
    drop(tell);
    assert_eq!(stays.await.unwrap(), 1);
    assert!(begins.try_recv().is_err(), "it is there already");
    assert_eq!(catalog.residency().counts.evicted, 0);
}

#[tokio::test]
async fn who_cannot_be_read_makes_nobody_leave_and_is_not_read_again() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    catalog.load(request("a", "one")).await.unwrap();
    let damaged = catalog.load(request("b", "two")).await.unwrap();
    let size = catalog.residency().bytes / 2;
    drop(catalog);
    let stored = fixture.dir.path().join(format!("data/versions/{}/adapter_model.safetensors", damaged.id));
    let right = std::fs::read(&stored).unwrap();
    let (catalog, skipped) = fixture.open_within(8, Some(size)).await;
    assert_eq!(skipped, []);
    assert_eq!(catalog.resolve(TENANT, "a").await.unwrap().number, 1);
    std::fs::write(&stored, &right[..right.len() - 1]).unwrap();
    assert!(catalog.resolve(TENANT, "b").await.is_err());
    assert_eq!(catalog.residency().counts.evicted, 0, "the other one stays");
    // Whatever is there now, nobody looks.
    std::fs::write(&stored, &right).unwrap();
    let error = catalog.resolve(TENANT, "b").await.unwrap_err();
    assert!(matches!(&error, RegistryError::Unavailable { name, .. } if name == "b"), "{error}");
    assert_eq!(catalog.unavailable(Viewer::Operator).len(), 1);
    assert_eq!(catalog.list(Viewer::Operator).len(), 1);
    assert_eq!(catalog.leases(), 0);
    assert_eq!(catalog.resolve(TENANT, "a").await.unwrap().number, 1);
    catalog.load(replace("b", "two")).await.unwrap();
    assert_eq!(catalog.resolve(TENANT, "b").await.unwrap().id, damaged.id, "until it is loaded again");
    drop(catalog);
    // Another base, and nothing was checked at the start.
    let (catalog, skipped) = fixture.open_within(16, Some(1)).await;
    assert_eq!(skipped, []);
    for _ in 0..2 {
        assert!(matches!(catalog.resolve(TENANT, "a").await, Err(RegistryError::Unavailable { .. })));
    }
    assert_eq!(catalog.unavailable(Viewer::Operator).len(), 1);
}

#[tokio::test]
async fn versions_that_have_to_stay_keep_nobody_waiting() {
    let fixture = Fixture::new();
    let (catalog, _) = fixture.open_within(8, Some(1)).await;
    let mut held = Vec::new();
    for (name, path) in [("a", "one"), ("b", "two"), ("c", "three")] {
        catalog.load(request(name, path)).await.unwrap();
        if name != "c" {
            let (pinned, _) = catalog.pin(None, name, |_| Release::Gate).unwrap();
            held.push(soon(catalog.hold(&pinned)).await.unwrap());
        }
    }
    assert_eq!(catalog.excess().unwrap().models, ["a@1", "b@1"]);
    let before = fixture.prepared();
    for name in ["c", "a", "b", "c"] {
        assert_eq!(soon(catalog.resolve(TENANT, name)).await.unwrap().name, name);
    }
    assert!(fixture.prepared() <= before + 2, "a and b are there all the time");
    drop(held);
    assert_eq!(catalog.excess(), None);
}
