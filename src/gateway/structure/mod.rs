//! Answers that keep to a form: what a request asks for, and its grammar, compiled where nobody waits for it. Knows no wire format.

mod reader;
mod schema;
mod tools;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use moka::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub(super) use reader::{Part, Reader};
pub use schema::{SchemaError, Strictness, check_schema, json_rules};
pub use tools::{Call, Calls, Tool, ToolChoice, ToolFamily, Tools};
pub(super) use tools::{Syntax, Teller};

use super::{Gateway, GatewayError};
use crate::backends::grammar::{Begins, Grammar};

/// Grammars that are compiled at the same time: one that takes long leaves a core to the others.
const COMPILERS: usize = 2;
/// Longest that a request waits for its turn, and then for its grammar.
const PATIENCE: Duration = Duration::from_secs(5);
/// Refusals that are remembered, and for how long: what was too slow on a busy machine may be tried again.
const REFUSALS: u64 = 512;
const REFUSED_FOR: Duration = Duration::from_secs(600);
/// Stack of a thread that compiles, bytes; only what is used is taken. The compiler recurses with the depth of its input.
const STACK: usize = 256 << 20;
/// Longest text of the compiler that a client is shown, characters.
const SHOWN: usize = 600;

/// What answers have to be.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Form {
    /// Anything.
    #[default]
    Free,
    /// What a grammar allows that was made for this request, and nothing else is asked that way.
    Made(Arc<Grammar>),
    /// What rules allow.
    Written(Rules),
}

impl Form {
    /// The field of the request that asks for it.
    pub(super) const fn field(&self) -> Option<&'static str> {
        match self {
            Self::Free | Self::Made(_) => None,
            Self::Written(rules) => Some(rules.field),
        }
    }
}

/// Rules that are written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// In llguidance's dialect of Lark.
    pub text: Arc<str>,
    /// Where in the answer they begin.
    pub begins: Begins,
    /// The field of the request that they come from, for errors.
    pub field: &'static str,
}

impl Rules {
    /// Names what is compiled, whatever field it comes from.
    fn digest(&self) -> [u8; 32] {
        Sha256::new().chain_update(format!("{:?}\n", self.begins)).chain_update(&*self.text).finalize().into()
    }
}

/// Where grammars are compiled, and what could not be.
#[derive(Debug)]
pub(super) struct Compilers {
    slots: Arc<Semaphore>,
    /// Tenants that compile or wait to: one form of each at a time, so that nobody takes all slots.
    turns: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
    /// Why forms were refused.
    refused: Cache<[u8; 32], Arc<str>>,
}

impl Default for Compilers {
    fn default() -> Self {
        let refused = Cache::builder().max_capacity(REFUSALS).time_to_live(REFUSED_FOR).build();
        Self { slots: Arc::new(Semaphore::new(COMPILERS)), turns: Mutex::default(), refused }
    }
}

/// The right to compile one form.
struct Turn {
    _own: OwnedSemaphorePermit,
    _slot: OwnedSemaphorePermit,
}

impl Compilers {
    /// Waits for the tenant's turn and then for a slot.
    async fn turn(&self, tenant: &Arc<str>) -> Result<Turn, GatewayError> {
        let own = self.own(tenant).acquire_owned().await.map_err(|_| GatewayError::Stopping)?;
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| GatewayError::Stopping)?;
        Ok(Turn { _own: own, _slot: slot })
    }

    fn own(&self, tenant: &Arc<str>) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = turns.get(tenant).and_then(Weak::upgrade) {
            return own;
        }
        turns.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(1));
        turns.insert(Arc::clone(tenant), Arc::downgrade(&own));
        own
    }

    /// The refusal of a form that could not be compiled before.
    fn check(&self, rules: &Rules) -> Result<(), GatewayError> {
        let refusal = |problem: Arc<str>| GatewayError::Form { field: rules.field, problem: problem.to_string() };
        self.refused.get(&rules.digest()).map_or(Ok(()), |problem| Err(refusal(problem)))
    }
}

impl Gateway {
    /// The grammar of a form, where it is at hand: whoever compiles something long keeps nobody from it. `None` for one that is to be
    /// compiled.
    pub(super) async fn grammar_at_hand(&self, form: &Form) -> Result<Option<Option<Arc<Grammar>>>, GatewayError> {
        let rules = match form {
            Form::Free => return Ok(Some(None)),
            Form::Made(grammar) => return Ok(Some(Some(Arc::clone(grammar)))),
            Form::Written(rules) => rules,
        };
        self.0.compilers.check(rules)?;
        let Some(vocabulary) = self.0.vocabulary.get().cloned() else { return Ok(None) };
        let Rules { text, begins, field } = rules.clone();
        let known = tokio::task::spawn_blocking(move || Grammar::known(vocabulary, &text, begins)).await;
        let known = known.map_err(|error| GatewayError::Engine(error.to_string()))?.transpose();
        let known = known.map_err(|error| GatewayError::Form { field, problem: shown(&error.to_string()) })?;
        Ok(known.map(Some))
    }

    /// The grammar of a form that is not at hand, compiled on a thread of its own, a few at a time.
    pub(super) async fn compile(&self, form: &Form, tenant: &Arc<str>) -> Result<Option<Arc<Grammar>>, GatewayError> {
        let compilers = &self.0.compilers;
        let turn = tokio::time::timeout(PATIENCE, compilers.turn(tenant)).await;
        let turn = turn.map_err(|_| GatewayError::Overloaded)??;
        // Whoever was before in the line may have asked the same.
        if let Some(grammar) = self.grammar_at_hand(form).await? {
            return Ok(grammar);
        }
        let Form::Written(rules) = form else { return Ok(None) };
        let compiled = tokio::time::timeout(PATIENCE, self.compiled(rules.clone(), turn)).await;
        let Ok(compiled) = compiled else {
            let problem = format!("takes longer than {} seconds to compile; expected something simpler", PATIENCE.as_secs());
            return Err(GatewayError::Form { field: rules.field, problem });
        };
        compiled.map(Some)
    }

    async fn compiled(&self, rules: Rules, turn: Turn) -> Result<Arc<Grammar>, GatewayError> {
        let gateway = self.clone();
        let (done, compiled) = oneshot::channel();
        let compile = move || {
            let grammar = Grammar::lark(gateway.vocabulary().clone(), &rules.text, rules.begins.clone());
            let grammar = grammar.map_err(|error| {
                let (field, problem) = (rules.field, shown(&error.to_string()));
                gateway.0.compilers.refused.insert(rules.digest(), problem.as_str().into());
                GatewayError::Form { field, problem }
            });
            // Nobody may be waiting any more; the next who asks finds what came of it.
            let _ = done.send(grammar);
            drop(turn);
        };
        let thread = std::thread::Builder::new().name("grammar-compiler".to_owned()).stack_size(STACK).spawn(compile);
        thread.map_err(|error| GatewayError::Engine(format!("no thread to compile a grammar: {error}")))?;
        compiled.await.map_err(|_| GatewayError::Engine("a grammar's compiler panicked".to_owned()))?
    }
}

fn shown(problem: &str) -> String {
    let mut text: String = problem.chars().take(SHOWN).collect();
    if text.len() < problem.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_tenant_compiles_one_form_at_a_time_and_leaves_a_slot_to_others() {
        let compilers = Compilers::default();
        let (acme, bravo, third): (Arc<str>, Arc<str>, Arc<str>) = ("acme".into(), "bravo".into(), "third".into());
        let first = compilers.turn(&acme).now_or_never().unwrap().unwrap();
        assert!(compilers.turn(&acme).now_or_never().is_none(), "its other form waits");
        let other = compilers.turn(&bravo).now_or_never().unwrap().unwrap();
        assert!(compilers.turn(&third).now_or_never().is_none(), "both slots are taken");
        drop(other);
        assert!(compilers.turn(&third).now_or_never().unwrap().is_ok());
        drop(first);
        assert!(compilers.turn(&acme).now_or_never().unwrap().is_ok());
        compilers.own(&"fourth".into());
        assert_eq!(compilers.turns.lock().unwrap().len(), 1, "those who are through are forgotten");
    }

    #[test]
    fn what_could_not_be_compiled_is_refused_by_the_field_that_asks_for_it() {
        let rules = |text: &str, field| Rules { text: text.into(), begins: Begins::AtOnce, field };
        let compilers = Compilers::default();
        compilers.refused.insert(rules("start: a", "guided_grammar").digest(), "is slow".into());
        let refused = compilers.check(&rules("start: a", "guided_json")).unwrap_err();
        assert!(matches!(refused, GatewayError::Form { field: "guided_json", problem } if problem == "is slow"));
        assert!(compilers.check(&rules("start: b", "guided_json")).is_ok());
        let later = Rules { begins: Begins::After("x".to_owned()), ..rules("start: a", "guided_grammar") };
        assert!(compilers.check(&later).is_ok());
    }
}
