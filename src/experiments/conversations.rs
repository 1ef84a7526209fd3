//! Which arm each conversation has, so that a change of weights does not change who answers in the middle of one. In memory, bounded;
//! what is forgotten is assigned again by its unit.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

/// Most conversations that are remembered.
const MOST: u64 = 200_000;
/// How long after its last request.
const IDLE: Duration = Duration::from_secs(3_600);

/// What is remembered of one.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub arm: Arc<str>,
    /// Revision of the deployment's last rollback when it began: a later one ends it.
    pub epoch: i64,
}

/// The conversations of all deployments, by the hash of deployment, unit and conversation.
pub(super) struct Conversations(Cache<u128, Kept>);

impl Default for Conversations {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MOST).time_to_idle(IDLE).build())
    }
}

impl Conversations {
    pub(super) fn get(&self, conversation: u128) -> Option<Kept> {
        self.0.get(&conversation)
    }

    pub(super) fn keep(&self, conversation: u128, kept: Kept) {
        self.0.insert(conversation, kept);
    }
}
