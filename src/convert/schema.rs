//! What can be meant: intents, and the entities that each may come with. Pure; tenants' own schemas have the same form.

use std::sync::{Arc, LazyLock};

/// What an entity's value may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A run of words of the text.
    Span,
    /// The words that say when: one run, or two.
    Time,
    /// One of these.
    OneOf(Vec<String>),
}

/// Something that an intent may come with; always `null` where it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    /// Its name in the answer.
    pub name: String,
    /// What it may be.
    pub kind: Kind,
}

/// Something that can be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Its name in the answer.
    pub name: String,
    /// Which of the schema's entities it may have, ascending.
    pub entities: Vec<usize>,
}

/// Everything that can be meant. The answer has the intent, then every entity in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Entities, in the order of the answer.
    pub entities: Vec<Entity>,
    /// Intents; one of them is [`UNKNOWN`], which has no entities.
    pub intents: Vec<Intent>,
    /// Whether the model reads the text twice, and writes a space before what it copies. The second time each word is read by a model that
    /// knows what follows ("Repetition Improves Language Model Embeddings", <https://arxiv.org/abs/2402.15449>), and with the space the
    /// first token of a copy is the one that stands in the text.
    pub repeats_text: bool,
}

/// The intent of what is none of the others.
pub const UNKNOWN: &str = "unknown";

static BUILT_IN: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let entity = |name: &str, kind| Entity { name: name.to_owned(), kind };
    let intent = |name: &str, entities: &[usize]| Intent { name: name.to_owned(), entities: entities.to_vec() };
    Arc::new(Schema {
        entities: vec![entity("task", Kind::Span), entity("when", Kind::Time)],
        intents: vec![
            intent("add_task", &[0, 1]),
            intent("set_reminder", &[0, 1]),
            intent("create_event", &[0, 1]),
            intent("complete_task", &[0, 1]),
            intent("delete_task", &[0, 1]),
            intent("list_tasks", &[1]),
            intent(UNKNOWN, &[]),
        ],
        repeats_text: true,
    })
});

impl Schema {
    /// A cleaned text as the model reads it.
    pub fn asked(&self, text: &str) -> String {
        if self.repeats_text { format!("{text}\n {text}") } else { text.to_owned() }
    }

    /// What may stand before the words that the model copies.
    pub fn margin(&self) -> &'static str {
        if self.repeats_text { " " } else { "" }
    }

    /// Tasks, reminders and events: what the bundled adapter knows.
    pub fn built_in() -> Arc<Self> {
        Arc::clone(&BUILT_IN)
    }

    /// An intent by its name.
    pub fn intent(&self, name: &str) -> Option<&Intent> {
        self.intents.iter().find(|intent| intent.name == name)
    }
}
