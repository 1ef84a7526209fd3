//! The catalog on real directories, with a preparer that counts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod residency;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use safetensors::tensor::{Dtype, TensorView};

use super::*;
use crate::model::config::{Architecture, RopeScaling};
use crate::model::lora::LoraWeights;
use crate::model::{AdapterPreparer, ModelConfig, ModelError};
use crate::store::DataDir;

/// Whose view is taken where it does not matter.
const TENANT: &str = "proj_default";

#[derive(Default)]
struct Counting {
    prepared: AtomicUsize,
}

impl AdapterPreparer for Counting {
    fn prepare(&self, weights: LoraWeights) -> Result<PreparedAdapter, ModelError> {
        self.prepared.fetch_add(1, Ordering::SeqCst);
        let bytes = weights.modules.iter().map(|module| 4 * (module.a.len() + module.b.len())).sum();
        Ok(PreparedAdapter { id: weights.id, bytes, max_rank: weights.max_rank, inner: Box::new(()) })
    }
}

fn base(hidden_size: usize) -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: 32,
        hidden_size,
        intermediate_size: 12,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        rms_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        context_length: 64,
        sliding_window: None,
        tied_embeddings: false,
        details: crate::model::config::Details::default(),
    }
}

/// Writes a rank-1 adapter on layer 0's q projection, every weight `value`.
fn write_adapter(dir: &Path, value: f32) {
    let tensor = |count: usize| value.to_le_bytes().repeat(count);
    let (a, b) = (tensor(8), tensor(8));
    let name = |half: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.{half}.weight");
    let views = [
        (name("lora_A"), TensorView::new(Dtype::F32, vec![1, 8], &a).unwrap()),
        (name("lora_B"), TensorView::new(Dtype::F32, vec![8, 1], &b).unwrap()),
    ];
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("adapter_model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    let config = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"]}"#;
    std::fs::write(dir.join("adapter_config.json"), config).unwrap();
}

struct Fixture {
    dir: tempfile::TempDir,
    preparer: Arc<Counting>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in [("one", 1.0), ("two", 2.0), ("three", 3.0)] {
            write_adapter(&dir.path().join("root").join(name), value);
        }
        write_adapter(&dir.path().join("outside"), 4.0);
        Self { dir, preparer: Arc::default() }
    }

    async fn open(&self) -> Catalog {
        let (catalog, skipped) = self.open_on(8).await;
        assert_eq!(skipped, []);
        catalog
    }

    async fn open_on(&self, hidden_size: usize) -> (Catalog, Vec<Skipped>) {
        self.open_within(hidden_size, None).await
    }

    async fn open_within(&self, hidden_size: usize, memory: Option<usize>) -> (Catalog, Vec<Skipped>) {
        Catalog::open(Setup {
            data: Arc::new(DataDir::open(&self.dir.path().join("data")).unwrap()),
            roots: vec![self.dir.path().join("root")],
            reserved_names: vec!["base".to_owned(), "elsewhere".to_owned()],
            base: base(hidden_size),
            preparer: Arc::clone(&self.preparer) as Arc<dyn AdapterPreparer>,
            memory,
            shared: None,
        })
        .await
        .unwrap()
    }

    fn prepared(&self) -> usize {
        self.preparer.prepared.load(Ordering::SeqCst)
    }

    fn kept(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("data/versions")).unwrap().count()
    }
}

fn request(name: &str, path: &str) -> LoadRequest {
    LoadRequest {
        owner: Owner::Shared,
        name: name.to_owned(),
        from: Source::Directory(path.into()),
        if_loaded: IfLoaded::Refuse,
        expected_version: None,
        by: LoadedBy::Api { key_id: "admin".to_owned() },
    }
}

fn replace(name: &str, path: &str) -> LoadRequest {
    LoadRequest { if_loaded: IfLoaded::Replace, ..request(name, path) }
}

fn expecting(expected: &str, request: LoadRequest) -> LoadRequest {
    LoadRequest { expected_version: Some(expected.to_owned()), ..request }
}

#[tokio::test]
async fn a_swap_moves_the_name_and_leaves_running_leases_alone() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    let first = catalog.load(request("support", "one")).await.unwrap();
    assert_eq!((first.number, first.replaced), (1, None));
    let running = catalog.resolve(TENANT, "support").await.unwrap();

    assert!(matches!(catalog.load(request("support", "two")).await, Err(RegistryError::AlreadyLoaded { number: 1, .. })));
    let second = catalog.load(replace("support", "two")).await.unwrap();
    assert_eq!((second.number, second.replaced), (2, Some(1)));
    assert_eq!(running.adapter.id, first.id);
    assert_eq!(running.version(), "support@1");
    assert_eq!(catalog.resolve(TENANT, "support").await.unwrap().id, second.id);
    let info = catalog.list(Viewer::Operator);
    assert_eq!((info[0].number, info[0].leases, info[0].draining.clone()), (2, 0, vec![(1, 1)]));

    // The same content again is the same version.
    let again = catalog.load(replace("support", "two")).await.unwrap();
    assert_eq!((again.number, again.replaced), (2, Some(2)));

    assert_eq!(catalog.leases(), 1);
    let weak = Arc::downgrade(&running.adapter);
    drop(running);
    assert_eq!(catalog.leases(), 0);
    assert!(weak.upgrade().is_none(), "the old version leaves memory with its last lease");
    assert_eq!(catalog.list(Viewer::Operator)[0].draining, []);
}

#[tokio::test]
async fn exact_versions_come_back_from_disk() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    let first = catalog.load(request("support", "one")).await.unwrap();
    catalog.load(replace("support", "two")).await.unwrap();
    let before = fixture.prepared();
    let (one, two) = tokio::join!(catalog.resolve(TENANT, "support@1"), async {
        catalog.resolve(TENANT, &format!("support@{}", first.id.short())).await
    });
    assert_eq!(one.unwrap().id, first.id);
    assert_eq!(two.unwrap().id, first.id);
    for absent in ["support@3", "support@ffffffffffff", "other", "support@", "", "support@1@2"] {
        assert!(matches!(catalog.resolve(TENANT, absent).await, Err(RegistryError::NotFound { .. })), "{absent}");
    }
    assert!(fixture.prepared() <= before + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_requests_for_one_version_do_the_work_once() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    let names = ["a", "b", "c", "d", "e", "f"];
    let loads = names.map(|name| {
        let catalog = catalog.clone();
        tokio::spawn(async move { catalog.load(request(name, "one")).await })
    });
    let mut held = Vec::new();
    for (load, name) in loads.into_iter().zip(names) {
        load.await.unwrap().unwrap();
        held.push(catalog.resolve(TENANT, name).await.unwrap());
    }
    assert_eq!(fixture.prepared(), 1);
    assert!(held.iter().all(|lease| Arc::ptr_eq(&lease.adapter, &held[0].adapter)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_swaps_that_expect_the_same_version_one_wins() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    catalog.load(expecting("0", request("support", "one"))).await.unwrap();
    let swaps = ["two", "three"].map(|path| {
        let catalog = catalog.clone();
        tokio::spawn(async move { catalog.load(expecting("1", replace("support", path))).await })
    });
    let mut won = 0;
    for swap in swaps {
        match swap.await.unwrap() {
            Ok(loaded) => won += usize::from(loaded.number == 2),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("support@2") && text.contains("expected 1"), "{text}");
            }
        }
    }
    assert_eq!(won, 1);
    assert!(matches!(catalog.unload(&Owner::Shared, "support", Some("1")).await, Err(RegistryError::Conflict { .. })));
    assert!(matches!(catalog.load(expecting("x", replace("support", "one"))).await, Err(RegistryError::InvalidExpected { .. })));
}

#[tokio::test]
async fn a_restart_restores_names_numbers_and_who_loaded_them() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    catalog.load(request("support", "one")).await.unwrap();
    catalog.load(replace("support", "two")).await.unwrap();
    catalog.load(request("gone", "three")).await.unwrap();
    catalog.unload(&Owner::Shared, "gone", None).await.unwrap();
    let before = catalog.list(Viewer::Operator);
    drop(catalog);
    std::fs::remove_dir_all(fixture.dir.path().join("root")).unwrap();
    std::fs::create_dir(fixture.dir.path().join("root")).unwrap();
    std::fs::create_dir(fixture.dir.path().join("data/versions/unfinished-x")).unwrap();

    let catalog = fixture.open().await;
    assert_eq!(catalog.list(Viewer::Operator), before);
    assert_eq!(before[0].loaded_by, LoadedBy::Api { key_id: "admin".to_owned() });
    assert!(catalog.resolve(TENANT, "gone").await.is_err());
    assert_eq!(catalog.resolve(TENANT, "support@1").await.unwrap().number, 1);
    assert_eq!(fixture.kept(), 2, "leftovers and unloaded versions are removed");
}

#[tokio::test]
async fn an_adapter_that_no_longer_fits_is_reported_and_not_fatal() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    catalog.load(request("support", "one")).await.unwrap();
    drop(catalog);
    let (catalog, skipped) = fixture.open_on(16).await;
    assert_eq!(skipped.len(), 1);
    assert!(skipped[0].reason.contains("another base"), "{skipped:?}");
    assert_eq!(catalog.unavailable(Viewer::Operator), skipped);
    assert!(matches!(catalog.resolve(TENANT, "support").await, Err(RegistryError::Unavailable { .. })));
    drop(catalog);
    assert_eq!(fixture.open().await.list(Viewer::Operator).len(), 1, "it is back on its own base");
}

#[tokio::test]
async fn files_that_changed_on_disk_are_not_served_and_loading_again_repairs_them() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    let loaded = catalog.load(request("support", "one")).await.unwrap();
    drop(catalog);
    let stored = fixture.dir.path().join(format!("data/versions/{}/adapter_model.safetensors", loaded.id));
    let mut bytes = std::fs::read(&stored).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&stored, bytes).unwrap();
    let (catalog, skipped) = fixture.open_on(8).await;
    assert!(skipped[0].reason.contains("digest"), "{skipped:?}");
    let told = catalog.unavailable(Viewer::Operator)[0].reason.clone();
    assert!(told.contains("log") && !told.contains(&*fixture.dir.path().to_string_lossy()), "{told}");
    assert_eq!(catalog.load(request("support", "one")).await.unwrap().number, 1);
    drop(catalog);
    assert_eq!(fixture.open().await.list(Viewer::Operator).len(), 1);
}

#[tokio::test]
async fn the_api_stays_in_its_roots_and_the_operator_need_not() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    let outside = fixture.dir.path().join("outside").to_string_lossy().into_owned();
    for path in [outside.as_str(), "../outside", "/etc"] {
        assert!(matches!(catalog.load(request("x", path)).await, Err(RegistryError::PathRefused { .. })), "{path}");
    }
    catalog.load(LoadRequest { by: LoadedBy::Operator, ..request("x", &outside) }).await.unwrap();
    for name in ["base", "a@1", "", "a/b"] {
        assert!(matches!(catalog.load(request(name, "one")).await, Err(RegistryError::InvalidName { .. })), "{name}");
    }
    std::fs::write(fixture.dir.path().join("root/one/adapter_model.safetensors"), b"short").unwrap();
    let error = catalog.load(request("y", "one")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unusable(_)), "{error}");
    assert!(!error.to_string().contains(&*fixture.dir.path().to_string_lossy()), "{error}");
    assert_eq!(catalog.list(Viewer::Operator).len(), 1, "a refused adapter changes nothing");
}

#[tokio::test]
async fn a_flag_that_is_repeated_at_every_start_does_not_undo_a_swap() {
    let fixture = Fixture::new();
    let flag = |path: &str| LoadRequest { if_loaded: IfLoaded::ReplaceIfNew, ..request("support", path) };
    let catalog = fixture.open().await;
    assert_eq!(catalog.load(flag("one")).await.unwrap().number, 1);
    assert_eq!(catalog.load(replace("support", "two")).await.unwrap().number, 2);
    drop(catalog);
    let catalog = fixture.open().await;
    assert_eq!(catalog.load(flag("one")).await.unwrap().number, 2, "known content: the swap stays");
    assert_eq!(catalog.load(flag("three")).await.unwrap().number, 3, "new content is taken");
}

#[tokio::test]
async fn a_name_that_was_taken_out_of_service_is_remembered_until_it_is_loaded_again() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    let unloaded =
        |catalog: &Catalog| (catalog.was_unloaded(&Owner::Shared, "support"), catalog.was_unloaded(&Owner::Shared, "other"));
    assert_eq!(unloaded(&catalog), (false, false), "a name that was never there is not taken out");
    catalog.load(request("support", "one")).await.unwrap();
    catalog.load(request("other", "two")).await.unwrap();
    assert_eq!(unloaded(&catalog), (false, false));
    catalog.unload(&Owner::Shared, "support", None).await.unwrap();
    drop(catalog);
    let catalog = fixture.open().await;
    assert_eq!(unloaded(&catalog), (true, false), "also after a restart");
    drop(catalog);
    let data = DataDir::open(&fixture.dir.path().join("data")).unwrap();
    Offline::open(&data).unwrap().remove(&Owner::Shared, "other").unwrap();
    drop(data);
    let catalog = fixture.open().await;
    assert_eq!(unloaded(&catalog), (true, true), "`adapters remove` is an unload too");
    let flag = LoadRequest { if_loaded: IfLoaded::ReplaceIfNew, ..request("support", "one") };
    catalog.load(flag).await.unwrap();
    assert_eq!(unloaded(&catalog), (false, true), "who names it explicitly has it back");
}

#[tokio::test]
async fn old_versions_leave_the_disk() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    let root = fixture.dir.path().join("root");
    for index in 0..12u8 {
        write_adapter(&root.join("many"), f32::from(index));
        catalog.load(replace("support", "many")).await.unwrap();
    }
    assert_eq!(fixture.kept(), 8);
    assert!(catalog.resolve(TENANT, "support@4").await.is_err());
    assert_eq!(catalog.resolve(TENANT, "support@5").await.unwrap().number, 5);
    catalog.unload(&Owner::Shared, "support", Some("12")).await.unwrap();
    assert_eq!(fixture.kept(), 0);
    assert!(matches!(catalog.unload(&Owner::Shared, "support", None).await, Err(RegistryError::NotFound { .. })));
    assert_eq!(catalog.load(request("support", "one")).await.unwrap().number, 13);
}

#[tokio::test]
async fn a_few_old_versions_stay_ready_and_leave_with_their_name() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    let root = fixture.dir.path().join("root");
    for index in 0..7u8 {
        write_adapter(&root.join("many"), f32::from(index));
        catalog.load(replace("support", "many")).await.unwrap();
    }
    let loaded = fixture.prepared();
    for number in [1, 2, 3, 4, 1, 2, 3, 4, 1] {
        assert_eq!(catalog.resolve(TENANT, &format!("support@{number}")).await.unwrap().number, number);
    }
    assert_eq!(fixture.prepared() - loaded, 4, "each is read once");
    catalog.resolve(TENANT, "support@5").await.unwrap();
    catalog.resolve(TENANT, "support@1").await.unwrap();
    assert_eq!(fixture.prepared() - loaded, 5, "the one that was used last stayed");
    catalog.resolve(TENANT, "support@2").await.unwrap();
    assert_eq!(fixture.prepared() - loaded, 6, "the one that was not used for longest left");
    let weak = Arc::downgrade(&catalog.resolve(TENANT, "support@2").await.unwrap().adapter);
    catalog.unload(&Owner::Shared, "support", None).await.unwrap();
    assert!(weak.upgrade().is_none(), "nothing of an unloaded name stays");
}

#[tokio::test]
async fn finding_a_name_reads_nothing() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    catalog.load(request("support", "one")).await.unwrap();
    catalog.load(replace("support", "two")).await.unwrap();
    let before = fixture.prepared();
    for known in ["support", "support@1", "support@2"] {
        assert_eq!(catalog.find(TENANT, known).unwrap(), (Owner::Shared, "support".to_owned()));
    }
    for absent in ["support@3", "other", "support@", ""] {
        assert!(matches!(catalog.find(TENANT, absent), Err(RegistryError::NotFound { .. })), "{absent}");
    }
    assert_eq!(fixture.prepared(), before);
}

#[tokio::test]
async fn lost_files_of_an_old_version_are_told_apart_from_bad_uploads() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    let old = catalog.load(request("support", "one")).await.unwrap();
    catalog.load(replace("support", "two")).await.unwrap();
    let stored = fixture.dir.path().join(format!("data/versions/{}/adapter_model.safetensors", old.id));
    std::fs::remove_file(stored).unwrap();
    let error = catalog.resolve(TENANT, "support@1").await.unwrap_err();
    assert!(matches!(error, RegistryError::Lost { .. }), "{error}");
    assert!(!error.public_reason().contains("safetensors"));
}

/// Notes how many adapters are prepared at the same time.
#[derive(Default)]
struct Crowd {
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl AdapterPreparer for Crowd {
    fn prepare(&self, weights: LoraWeights) -> Result<PreparedAdapter, ModelError> {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        // Long enough for the others to come in if nobody holds them back.
        (0..1000).for_each(|_| std::thread::yield_now());
        self.inside.fetch_sub(1, Ordering::SeqCst);
        Ok(PreparedAdapter { id: weights.id, bytes: 0, max_rank: weights.max_rank, inner: Box::new(()) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_adapters_are_prepared_at_a_time() {
    let fixture = Fixture::new();
    let crowd = Arc::<Crowd>::default();
    let (catalog, _) = Catalog::open(Setup {
        data: Arc::new(DataDir::open(&fixture.dir.path().join("data")).unwrap()),
        roots: vec![fixture.dir.path().join("root")],
        reserved_names: Vec::new(),
        base: base(8),
        preparer: Arc::clone(&crowd) as Arc<dyn AdapterPreparer>,
        memory: None,
        shared: None,
    })
    .await
    .unwrap();
    let loads = (0..8u8).map(|index| {
        let name = format!("a{index}");
        write_adapter(&fixture.dir.path().join("root").join(&name), f32::from(index) + 10.0);
        let catalog = catalog.clone();
        tokio::spawn(async move { catalog.load(request(&name, &name)).await })
    });
    for load in loads.collect::<Vec<_>>() {
        load.await.unwrap().unwrap();
    }
    assert!(crowd.most.load(Ordering::SeqCst) <= 2);
}

fn owned(tenant: &str, request: LoadRequest) -> LoadRequest {
    LoadRequest { owner: Owner::Tenant(tenant.into()), ..request }
}

#[tokio::test]
async fn tenants_use_the_same_names_without_knowing_of_each_other() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    catalog.load(owned("a", request("support", "one"))).await.unwrap();
    let second = catalog.load(owned("a", replace("support", "two"))).await.unwrap();
    let read = fixture.prepared();
    let other = catalog.load(owned("b", expecting("0", request("support", "two")))).await.unwrap();
    assert_eq!((other.number, other.replaced, other.id), (1, None, second.id));
    assert_eq!(fixture.prepared(), read, "equal content is in memory once");
    let digest = format!("support@{}", second.id.short());
    let number = async |tenant: &str, model: &str| catalog.resolve(tenant, model).await.map(|lease| (lease.number, lease.id));
    assert_eq!(number("a", "support").await.unwrap(), (2, second.id));
    assert_eq!(number("a", &digest).await.unwrap(), (2, second.id));
    assert_eq!(number("b", "support").await.unwrap(), (1, second.id));
    assert_eq!(number("b", &digest).await.unwrap(), (1, second.id));
    let read = fixture.prepared();
    for (tenant, model) in [("b", "support@2"), ("c", "support"), ("c", "support@1"), ("c", digest.as_str()), ("", "support")] {
        let error = number(tenant, model).await.unwrap_err();
        assert!(matches!(&error, RegistryError::NotFound { model: named } if named == model), "{tenant} {model}: {error}");
        assert_eq!(catalog.find(tenant, model).unwrap_err().to_string(), error.to_string());
    }
    assert_eq!(fixture.prepared(), read, "nothing was read for a stranger");

    // Leases are each owner's, though the weights are the same.
    let held = catalog.resolve("a", "support").await.unwrap();
    let seen = |viewer| catalog.list(viewer).iter().map(|adapter| (adapter.owner.clone(), adapter.leases)).collect::<Vec<_>>();
    let (a, b) = (Owner::Tenant("a".into()), Owner::Tenant("b".into()));
    assert_eq!(seen(Viewer::Operator), [(a.clone(), 1), (b.clone(), 0)]);
    assert_eq!(seen(Viewer::Tenant("b")), [(b.clone(), 0)]);
    assert_eq!(seen(Viewer::Tenant("c")), []);
    drop(held);

    // The other's name is not there to be unloaded, replaced or compared with.
    assert!(matches!(catalog.unload(&Owner::Shared, "support", None).await, Err(RegistryError::NotFound { .. })));
    catalog.unload(&a, "support", None).await.unwrap();
    assert_eq!(number("b", "support").await.unwrap(), (1, second.id));
    drop(catalog);
    let catalog = fixture.open().await;
    assert_eq!(catalog.resolve("b", "support").await.unwrap().id, second.id, "owners survive a restart");
    assert!(catalog.resolve("a", "support").await.is_err());
}

#[tokio::test]
async fn a_tenants_adapter_keeps_a_name_that_another_model_has_now() {
    let fixture = Fixture::new();
    let before = Catalog::open(Setup {
        data: Arc::new(DataDir::open(&fixture.dir.path().join("data")).unwrap()),
        roots: vec![fixture.dir.path().join("root")],
        reserved_names: vec!["base".to_owned()],
        base: base(8),
        preparer: Arc::clone(&fixture.preparer) as Arc<dyn AdapterPreparer>,
        memory: None,
        shared: None,
    });
    let (before, _) = before.await.unwrap();
    before.load(owned("a", request("elsewhere", "one"))).await.unwrap();
    drop(before);
    let catalog = fixture.open().await;
    assert_eq!(catalog.find("a", "elsewhere").unwrap(), (Owner::Tenant("a".into()), "elsewhere".to_owned()));
    assert!(matches!(catalog.load(owned("b", request("elsewhere", "one"))).await, Err(RegistryError::InvalidName { .. })));
}

#[tokio::test]
async fn a_tenants_own_adapter_hides_the_shared_one_of_its_name() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    let shared = catalog.load(request("support", "one")).await.unwrap();
    catalog.load(replace("support", "two")).await.unwrap();
    let own = catalog.load(owned("a", request("support", "three"))).await.unwrap();
    assert_eq!(catalog.resolve("a", "support").await.unwrap().id, own.id);
    assert_eq!(catalog.resolve("b", "support@1").await.unwrap().id, shared.id);
    assert!(catalog.resolve("a", "support@2").await.is_err(), "numbers of the hidden one mean nothing");
    assert_eq!(catalog.list(Viewer::Tenant("a")).len(), 1);
    assert_eq!(catalog.list(Viewer::Tenant("b"))[0].number, 2);
    assert_eq!(catalog.list(Viewer::Operator).len(), 2);
    catalog.unload(&Owner::Tenant("a".into()), "support", None).await.unwrap();
    assert_eq!(catalog.resolve("a", "support").await.unwrap().number, 2);
}

#[tokio::test]
async fn what_broken_uploads_left_is_gone_after_a_start_and_only_a_few_are_taken_at_a_time() {
    let fixture = Fixture::new();
    let left = fixture.dir.path().join("data/uploads/7");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("adapter_model.safetensors"), b"half").unwrap();
    let catalog = fixture.open().await;
    assert!(!left.exists());
    let mut uploads: Vec<Upload> = (0..4).map(|_| catalog.begin_upload().unwrap()).collect();
    assert!(matches!(catalog.begin_upload(), Err(RegistryError::TooManyUploads)));
    let upload = uploads.pop().unwrap();
    for file in AdapterFile::ALL {
        let mut writing = upload.file(file).await.unwrap();
        for piece in std::fs::read(fixture.dir.path().join("root/one").join(file.name())).unwrap().chunks(7) {
            writing.write(piece).await.unwrap();
        }
        writing.finish().await.unwrap();
    }
    let sent = LoadRequest { from: Source::Upload(Arc::new(upload)), ..owned("a", request("x", "")) };
    let loaded = catalog.load(sent).await.unwrap();
    assert_eq!(catalog.load(request("x", "one")).await.unwrap().id, loaded.id);
    drop(uploads);
    assert_eq!(std::fs::read_dir(fixture.dir.path().join("data/uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_stored_adapter_that_was_accepted_stays_in_service() {
    let fixture = Fixture::new();
    let catalog = fixture.open().await;
    let loaded = catalog.load(request("a", "one")).await.unwrap();
    drop(catalog);
    // As an earlier version took it in, which did not mind a name that is nothing's.
    let config = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj", "c_attn"]}"#;
    let (data, root) = (fixture.dir.path().join("data"), fixture.dir.path().join("root/one"));
    std::fs::write(root.join("adapter_config.json"), config).unwrap();
    let id = crate::model::lora::peft::AdapterFiles::read(&root).unwrap().digest().unwrap();
    let versions = data.join("versions");
    std::fs::rename(versions.join(loaded.id.to_string()), versions.join(id.to_string())).unwrap();
    std::fs::write(versions.join(id.to_string()).join("adapter_config.json"), config).unwrap();
    for entry in std::fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file()
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            std::fs::write(&path, text.replace(&loaded.id.to_string(), &id.to_string())).unwrap();
        }
    }
    let catalog = fixture.open().await;
    assert_eq!(catalog.resolve(TENANT, "a").await.unwrap().id, id);
    std::fs::write(fixture.dir.path().join("root/two/adapter_config.json"), config).unwrap();
    let error = catalog.load(request("b", "two")).await.unwrap_err();
    assert!(error.to_string().contains("c_attn"), "{error}");
}
