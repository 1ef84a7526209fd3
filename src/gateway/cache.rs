//! The response cache: answers that are a function of their request, kept whole, by tenant. Equal requests that come while the
//! first is being answered wait for it. Knows nothing of who pays.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::StopText;
use super::assemble::ReportedToken;
use super::structure::Form;
use super::types::{Caching, CallPiece, EndOfText, FinishReason, GenerationRequest, Piece, Pooling, Usage};
use crate::backends::Sampling;
use crate::gateway::{Echo, EndToken};
use crate::registry::Owner;
use crate::tenants::{CacheConsent, Principal};

/// Settings of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheConfig {
    /// Bytes of all answers together; 0 is no cache.
    pub bytes: u64,
    /// How long an answer is kept.
    pub ttl: Duration,
}

/// Names an answer. SHA-256 of the tenant, the version and everything in the request that an answer depends on.
pub(super) type Key = [u8; 32];

/// A whole answer.
#[derive(Debug)]
pub(super) struct Stored {
    pub pieces: Vec<Piece>,
    pub usage: Usage,
    tenant: Box<str>,
    /// Whose the adapter was.
    owner: Owner,
    version: Box<str>,
}

/// Which answers are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purge {
    /// All.
    Everything,
    /// Those of a tenant.
    Tenant(String),
    /// Those that an owner's version gave: `name@number`, or all of an adapter: `name`. Another tenant's answers of a version of the
    /// same name stay: that they were gone would tell that there is one.
    Adapter {
        /// Whose it is.
        owner: Owner,
        /// Its name, or one of its versions.
        version: String,
    },
    /// Those that a version gave, whoever has one of that name: `name@number+digest`, or what of it is enough: `name@number`, `name`.
    Version(String),
}

/// Answers that were given, and those that are being given. Cheap to clone.
#[derive(Clone)]
pub(super) struct ResponseCache(Arc<Inner>);

struct Inner {
    stored: Cache<Key, Arc<Stored>>,
    flights: Mutex<HashMap<Key, watch::Receiver<()>>>,
}

/// What is known of a key.
pub(super) enum Found {
    /// The answer.
    Stored(Arc<Stored>),
    /// Somebody else is at it: look again when this closes.
    Underway(watch::Receiver<()>),
    /// It is on the caller to answer.
    Nothing(Flight),
}

impl ResponseCache {
    /// `None` where there is to be none.
    pub(super) fn new(config: CacheConfig) -> Option<Self> {
        let stored = Cache::builder()
            .max_capacity(config.bytes)
            .weigher(|_, stored: &Arc<Stored>| u32::try_from(stored.bytes()).unwrap_or(u32::MAX))
            .time_to_live(config.ttl)
            .support_invalidation_closures()
            .build();
        (config.bytes > 0).then(|| Self(Arc::new(Inner { stored, flights: Mutex::default() })))
    }

    /// Looks a key up, or takes it upon the caller to answer.
    pub(super) fn find(&self, key: Key) -> Found {
        let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: who ends a flight has stored its answer before.
        if let Some(stored) = self.0.stored.get(&key) {
            return Found::Stored(stored);
        }
        if let Some(underway) = flights.get(&key) {
            return Found::Underway(underway.clone());
        }
        let (landed, underway) = watch::channel(());
        flights.insert(key, underway);
        Found::Nothing(Flight { cache: self.clone(), key, _landed: landed })
    }

    /// Drops answers.
    pub(super) fn purge(&self, purge: Purge) {
        let stored = &self.0.stored;
        match purge {
            Purge::Everything => stored.invalidate_all(),
            Purge::Tenant(tenant) => drop(stored.invalidate_entries_if(move |_, stored| *stored.tenant == *tenant)),
            Purge::Adapter { owner, version } => {
                drop(stored.invalidate_entries_if(move |_, stored| stored.owner == owner && is_of(&stored.version, &version)));
            }
            Purge::Version(named) => drop(stored.invalidate_entries_if(move |_, stored| is_of(&stored.version, &named))),
        }
    }

    /// Answers and their bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        self.0.stored.run_pending_tasks();
        (self.0.stored.entry_count(), self.0.stored.weighted_size())
    }
}

/// `a@3+digest` is of `a`, `a@3` and `a@3+digest`, not of `a@31` or `ab`.
fn is_of(version: &str, named: &str) -> bool {
    version.strip_prefix(named).is_some_and(|rest| rest.is_empty() || rest.starts_with(['@', '+']))
}

/// An answer that others may be waiting for; when this is dropped they look again.
pub(super) struct Flight {
    cache: ResponseCache,
    key: Key,
    _landed: watch::Sender<()>,
}

impl Flight {
    /// Keeps the answer for all who ask the same.
    fn store(&self, stored: Stored) {
        self.cache.0.stored.insert(self.key, Arc::new(stored));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.cache.0.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Whom an answer is for, and what gave it.
pub(super) struct Giver<'a> {
    /// The asking tenant.
    pub(super) tenant: &'a str,
    /// Whose the adapter is; the base is everybody's.
    pub(super) owner: Owner,
    /// `name@number+digest`, `base`.
    pub(super) version: &'a str,
}

/// Collects an answer while it is given.
pub(super) struct Recorder {
    flight: Flight,
    tenant: Box<str>,
    owner: Owner,
    version: Box<str>,
    pieces: Vec<Piece>,
}

impl Recorder {
    pub(super) fn new(flight: Flight, giver: Giver<'_>, choices: usize) -> Self {
        let Giver { tenant, owner, version } = giver;
        let piece = |choice| Piece { choice, ..Piece::default() };
        Self { flight, tenant: tenant.into(), owner, version: version.into(), pieces: (0..choices).map(piece).collect() }
    }

    pub(super) fn note(&mut self, piece: &Piece) {
        let Some(whole) = self.pieces.get_mut(piece.choice) else { return };
        whole.text.push_str(&piece.text);
        for call in &piece.calls {
            match whole.calls.iter_mut().find(|known| known.index == call.index) {
                Some(known) => known.arguments.push_str(&call.arguments),
                None => whole.calls.push(call.clone()),
            }
        }
        if !piece.prompt.is_empty() {
            whole.prompt = Arc::clone(&piece.prompt);
        }
        whole.tokens.extend_from_slice(&piece.tokens);
        whole.embedding = whole.embedding.take().or_else(|| piece.embedding.clone());
        whole.finish = whole.finish.or(piece.finish);
    }

    /// The answer is complete.
    pub(super) fn finish(self, usage: Usage) {
        let Self { flight, tenant, owner, version, pieces } = self;
        flight.store(Stored { pieces, usage, tenant, owner, version });
    }
}

impl Stored {
    fn bytes(&self) -> usize {
        let token = |token: &ReportedToken| {
            size_of::<ReportedToken>() + token.bytes.len() + token.top.iter().map(|(bytes, _)| bytes.len() + 32).sum::<usize>()
        };
        let piece = |piece: &Piece| {
            let tokens = piece.tokens.iter().chain(piece.prompt.iter()).map(token).sum::<usize>();
            let calls = piece.calls.iter().map(|call| size_of::<CallPiece>() + 2 * 64 + call.arguments.len()).sum::<usize>();
            let embedding = piece.embedding.as_ref().map_or(0, |embedding| size_of_val(&**embedding));
            size_of::<Piece>() + piece.text.len() + calls + tokens + embedding
        };
        size_of::<Self>() + size_of::<Key>() + self.pieces.iter().map(piece).sum::<usize>() + 128
    }

    /// Whether any answer was cut by its length.
    pub(super) fn is_cut(&self) -> bool {
        self.pieces.iter().any(|piece| piece.finish == Some(FinishReason::Length))
    }
}

/// Whether the answer may come from the cache: it is a function of the request, and the key or the request agrees.
pub(super) fn allowed(request: &GenerationRequest) -> bool {
    let determined = request.sampling.temperature == 0.0 || request.seed.is_some();
    let agreed = match request.caching {
        Caching::Fresh => false,
        Caching::Allowed => true,
        Caching::AsKey => request.caller.cached == CacheConsent::Always,
    };
    // Answers to a grammar that was made for them come with what their choices were worth, which is not kept.
    determined && agreed && !matches!(request.form, Form::Made(_))
}

/// The key of a request whose prompts are `prompts` and whose answers may have `lengths` tokens. Whatever a request gets new has
/// to be thought about here: it does not compile otherwise.
pub(super) fn key(request: &GenerationRequest, version: &str, prompts: &[&[u32]], lengths: &[usize]) -> Key {
    let GenerationRequest {
        caller,
        // Who asks for what in which words does not change the answer; what the prompts are is in `prompts`, the lengths in `lengths`.
        origin,
        caching: _,
        model: _,
        steering: _,
        prompts: _,
        max_tokens: _,
        form,
        // Their rules are the form.
        tools: _,
        judge: _,
        n,
        sampling,
        seed,
        stops,
        logprobs,
        end_token,
        echo,
        pooling,
    } = request;
    let Sampling {
        temperature,
        top_p,
        top_k,
        min_p,
        presence_penalty,
        frequency_penalty,
        repetition_penalty,
        logit_bias,
        // The request's seed is what counts.
        seed: _,
    } = sampling;
    let Principal { tenant, .. } = &**caller;
    let mut hash = Fields(Sha256::new());
    hash.bytes(tenant.as_bytes());
    hash.bytes(version.as_bytes());
    hash.bytes(origin.endpoint.as_bytes());
    hash.number(prompts.len() as u64);
    for (prompt, length) in prompts.iter().zip(lengths) {
        hash.number(prompt.len() as u64);
        prompt.iter().for_each(|id| hash.number(u64::from(*id)));
        hash.number(*length as u64);
    }
    hash.number(*n as u64);
    for value in [temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty] {
        hash.number(u64::from(value.to_bits()));
    }
    hash.number(*top_k as u64);
    hash.number(logit_bias.len() as u64);
    for (id, bias) in logit_bias.iter() {
        hash.number(u64::from(*id) << 32 | u64::from(bias.to_bits()));
    }
    // At temperature 0 nothing is drawn.
    hash.option(seed.filter(|_| *temperature != 0.0));
    hash.number(stops.strings.len() as u64);
    stops.strings.iter().for_each(|stop| hash.bytes(stop.as_bytes()));
    hash.number(stops.tokens.len() as u64);
    stops.tokens.iter().for_each(|id| hash.number(u64::from(*id)));
    hash.number(u64::from(stops.text == StopText::Included));
    hash.number(u64::from(stops.end_of_text == EndOfText::Ignored));
    hash.option(logprobs.map(|top| top as u64));
    hash.number(u64::from(*end_token == EndToken::Reported));
    hash.number(u64::from(*echo == Echo::PromptAndAnswer));
    hash.option(pooling.map(|pooling| u64::from(pooling == Pooling::Last)));
    if let Form::Written(rules) = form {
        hash.bytes(rules.text.as_bytes());
        hash.bytes(format!("{:?}", rules.begins).as_bytes());
    }
    hash.0.finalize().into()
}

/// Fields that cannot run into each other.
struct Fields(Sha256);

impl Fields {
    fn number(&mut self, value: u64) {
        self.0.update(value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn option(&mut self, value: Option<u64>) {
        self.number(u64::from(value.is_some()));
        self.number(value.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn cache() -> ResponseCache {
        ResponseCache::new(CacheConfig { bytes: 1 << 20, ttl: Duration::from_secs(60) }).unwrap()
    }

    fn leads(found: Found) -> Flight {
        match found {
            Found::Nothing(flight) => flight,
            _ => panic!("somebody else answers"),
        }
    }

    fn shared<'a>(tenant: &'a str, version: &'a str) -> Giver<'a> {
        Giver { tenant, owner: Owner::Shared, version }
    }

    #[tokio::test]
    async fn the_first_answers_and_the_others_wait_for_it() {
        let cache = cache();
        let flight = leads(cache.find([1; 32]));
        let Found::Underway(mut waiting) = cache.find([1; 32]) else { panic!("two would answer") };
        assert!(matches!(cache.find([2; 32]), Found::Nothing(_)), "another question is another flight");
        let mut recorder = Recorder::new(flight, shared("acme", "a@3+00ff"), 1);
        recorder.note(&Piece { text: "hel".into(), ..Piece::default() });
        recorder.note(&Piece { text: "lo".into(), finish: Some(FinishReason::Stop), ..Piece::default() });
        recorder.finish(Usage::default());
        assert!(waiting.changed().await.is_err(), "closed");
        let Found::Stored(stored) = cache.find([1; 32]) else { panic!("nothing was stored") };
        assert_eq!((stored.pieces[0].text.as_str(), stored.pieces[0].finish), ("hello", Some(FinishReason::Stop)));
    }

    #[test]
    fn an_answer_says_the_same_whole_and_in_pieces() {
        let call = |index, name: Option<&str>, arguments: &str| {
            let begins = name.map(|name| ("id".to_owned(), name.to_owned()));
            Piece { calls: vec![CallPiece { index, begins, arguments: arguments.to_owned() }], ..Piece::default() }
        };
        let text = Piece { text: "Well. ".to_owned(), ..Piece::default() };
        let pieces = [text, call(0, Some("f"), "{\"a\""), call(0, None, ": 1}"), call(1, Some("g"), "{}")];
        let mut recorder = Recorder::new(leads(cache().find([1; 32])), shared("acme", "base"), 1);
        pieces.iter().for_each(|piece| recorder.note(piece));
        let said: String = pieces.iter().map(Piece::said).collect();
        assert_eq!((said.as_str(), recorder.pieces[0].said().as_str()), ("Well. [f]{\"a\": 1}[g]{}", said.as_str()));
    }

    #[test]
    fn who_gives_up_leaves_the_answer_to_the_next() {
        let cache = cache();
        drop(leads(cache.find([1; 32])));
        let flight = leads(cache.find([1; 32]));
        drop(Recorder::new(flight, shared("acme", "base"), 1));
        assert!(matches!(cache.find([1; 32]), Found::Nothing(_)));
    }

    #[test]
    fn answers_are_dropped_by_tenant_and_by_version() {
        let cache = cache();
        let put = |byte: u8, giver| Recorder::new(leads(cache.find([byte; 32])), giver, 1).finish(Usage::default());
        let store = |byte: u8, tenant, version| put(byte, shared(tenant, version));
        let there = |byte: u8| matches!(cache.find([byte; 32]), Found::Stored(_));
        store(1, "acme", "a@3+00ff");
        store(2, "other", "a@3+00ff");
        store(3, "other", "a@31+00ff");
        store(4, "other", "base");
        cache.purge(Purge::Tenant("acme".into()));
        assert_eq!([1, 2, 3, 4].map(there), [false, true, true, true]);
        cache.purge(Purge::Version("a@3".into()));
        assert_eq!([2, 3, 4].map(there), [false, true, true]);
        cache.purge(Purge::Version("a".into()));
        assert_eq!([3, 4].map(there), [false, true]);
        let own = |owner: &str| Owner::Tenant(owner.into());
        put(5, Giver { owner: own("acme"), ..shared("acme", "a@3+00ff") });
        put(6, Giver { owner: own("other"), ..shared("other", "a@3+00ff") });
        cache.purge(Purge::Adapter { owner: own("acme"), version: "a".into() });
        assert_eq!([3, 4, 5, 6].map(there), [false, true, false, true], "a name is each owner's");
        cache.purge(Purge::Everything);
        assert!(!there(4));
    }
}
