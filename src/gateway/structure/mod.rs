//! Answers that keep to a form: what a request asks for, and its grammar, compiled where nobody waits for it. Knows no wire format.

mod reader;
mod schema;
mod tools;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub(super) use reader::{Part, Reader};
pub use schema::{SchemaError, Strictness, check_schema, json_rules};
pub(super) use tools::Syntax;
pub use tools::{Call, Calls, Tool, ToolChoice, ToolFamily, Tools};

use super::{Gateway, GatewayError};
use crate::backends::grammar::{Begins, Grammar, GrammarError};

/// Grammars that are compiled at the same time: one that takes long leaves a core to the others.
const COMPILERS: usize = 2;
/// Longest that a request waits for a thread, and then for its grammar.
const PATIENCE: Duration = Duration::from_secs(5);
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

/// Where grammars are compiled.
#[derive(Debug)]
pub(super) struct Compilers(Arc<Semaphore>);

impl Default for Compilers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(COMPILERS)))
    }
}

impl Gateway {
    /// The grammar of a form. Rules that are new are compiled on a thread of their own, a few at a time.
    pub(super) async fn grammar(&self, form: &Form) -> Result<Option<Arc<Grammar>>, GatewayError> {
        let rules = match form {
            Form::Free => return Ok(None),
            Form::Made(grammar) => return Ok(Some(Arc::clone(grammar))),
            Form::Written(rules) => rules.clone(),
        };
        let field = rules.field;
        if self.0.vocabulary.get().is_some_and(|vocabulary| vocabulary.has(&rules.text)) {
            // Whoever compiles something long keeps nobody from what is at hand.
            let vocabulary = self.vocabulary().clone();
            let known = move || Grammar::lark(vocabulary, &rules.text, rules.begins);
            let known = tokio::task::spawn_blocking(known).await;
            let known = known.map_err(|error| GatewayError::Engine(error.to_string()))?;
            return known.map(Some).map_err(|error| GatewayError::Form { field, problem: shown(&error.to_string()) });
        }
        let permit = tokio::time::timeout(PATIENCE, Arc::clone(&self.0.compilers.0).acquire_owned()).await;
        let permit = permit.map_err(|_| GatewayError::Overloaded)?.map_err(|_| GatewayError::Stopping)?;
        let wait = tokio::time::timeout(PATIENCE, self.compiled(rules, permit)).await;
        let Ok(compiled) = wait else {
            let problem = format!("takes longer than {} seconds to compile; expected something simpler", PATIENCE.as_secs());
            return Err(GatewayError::Form { field, problem });
        };
        compiled?.map(Some).map_err(|error| GatewayError::Form { field, problem: shown(&error.to_string()) })
    }

    async fn compiled(
        &self,
        rules: Rules,
        permit: OwnedSemaphorePermit,
    ) -> Result<Result<Arc<Grammar>, GrammarError>, GatewayError> {
        let gateway = self.clone();
        let work = move || Grammar::lark(gateway.vocabulary().clone(), &rules.text, rules.begins);
        let (done, compiled) = oneshot::channel();
        let compile = move || {
            // Nobody may be waiting any more; the next who asks finds it.
            let _ = done.send(work());
            drop(permit);
        };
        let thread = std::thread::Builder::new().name("grammar-compiler".to_owned()).stack_size(STACK).spawn(compile);
        thread.map_err(|error| GatewayError::Engine(format!("no thread to compile a grammar: {error}")))?;
        compiled.await.map_err(|_| GatewayError::Engine("a grammar's compiler panicked".to_owned()))
    }
}

fn shown(problem: &str) -> String {
    let mut text: String = problem.chars().take(SHOWN).collect();
    if text.len() < problem.len() {
        text.push('…');
    }
    text
}
