//! Shadow traffic: a request of a deployment is answered once more by a silent model, after its own answer was given, when the
//! backend has nothing else to do. It takes nothing of the caller's limits, is in no ledger, and gives way to everybody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::Gateway;
use super::choose::version_of;
use super::speech::{Manner, Speech};
use super::types::FinishReason;
use crate::backends::{Event, Finish, Generation, Request, SubmitError};
use crate::experiments::shadow::{Place, ShadowRow, Shadows};
use crate::experiments::{Assigned, Target};
use crate::ids::hex;
use crate::tenants::{Priority, new_id, unix_micros};

/// Copies that wait; those that come then are dropped.
const MOST_WAITING: usize = 64;
/// A copy that has not found a quiet moment for so long is dropped.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the backend is asked whether it is quiet.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// Most bytes of each text that are kept.
const MAX_TEXT: usize = 16 * 1024;

/// Where copies go. The usual one takes none.
#[derive(Debug, Clone, Default)]
pub struct Copies(Option<mpsc::Sender<Heard>>);

/// Where they come out.
#[derive(Debug)]
pub struct Waiting(mpsc::Receiver<Heard>);

/// Copies, and where they come out.
pub fn copies() -> (Copies, Waiting) {
    let (sender, receiver) = mpsc::channel(MOST_WAITING);
    (Copies(Some(sender)), Waiting(receiver))
}

/// The silent model of a deployment.
#[derive(Debug, Clone)]
pub(super) struct Silent {
    pub target: Target,
    pub place: Place,
    pub max_tokens_per_day: Option<u64>,
}

/// A request that is answered once more if its own answer becomes complete.
pub(super) struct Copy {
    pub silent: Silent,
    pub request: Request,
    pub manner: Manner,
}

/// A copy with what was said to the caller.
pub(super) struct Heard {
    pub copy: Box<Copy>,
    pub assigned: Arc<Assigned>,
    pub arm: Arc<str>,
    pub version: String,
    pub request_id: Arc<str>,
    pub tenant: Arc<str>,
    pub text: String,
    pub tokens: u64,
    pub took: Duration,
    pub at: Instant,
}

impl Copies {
    /// Whether anybody takes copies.
    pub(super) fn wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|sender| sender.capacity() > 0)
    }

    /// The answer is complete. Never waits.
    pub(super) fn heard(&self, heard: Heard) {
        if let Some(sender) = &self.0 {
            // With many waiting, one more says little.
            let _ = sender.try_send(heard);
        }
    }
}

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    Failed,
    /// There was no quiet moment.
    Dropped,
    /// The day's tokens are spent.
    OverBudget,
}

impl Fate {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
            Self::OverBudget => "over_budget",
        }
    }
}

/// What was said in silence.
struct Said {
    text: String,
    tokens: u64,
    took: Duration,
}

/// Why nothing was said.
enum Unsaid {
    /// Somebody came.
    GaveWay,
    Failed(String),
}

impl Gateway {
    /// Answers copies, one at a time, until nobody sends any.
    pub async fn answer_in_silence(self, mut waiting: Waiting, shadows: Shadows) {
        while let Some(heard) = waiting.0.recv().await {
            let fate = self.answer_copy(heard, &shadows).await;
            self.0.metrics.shadow(fate);
        }
    }

    async fn answer_copy(&self, heard: Heard, shadows: &Shadows) -> Fate {
        let copy = &heard.copy;
        let asked = (copy.request.prompt.len() as u64).saturating_add(heard.tokens);
        match shadows.may_spend(&copy.silent.place, asked, copy.silent.max_tokens_per_day).await {
            Ok(true) => {}
            Ok(false) => return Fate::OverBudget,
            Err(error) => {
                tracing::warn!(%error, "the budget of shadow traffic is not known");
                return Fate::Dropped;
            }
        }
        let said = loop {
            if !self.quiet_moment(heard.at).await {
                return Fate::Dropped;
            }
            match self.say(copy).await {
                Err(Unsaid::GaveWay) => tokio::time::sleep(ASK_EVERY).await,
                Ok((version, said)) => break Ok((version, said)),
                Err(Unsaid::Failed(reason)) => break Err(reason),
            }
        };
        let fate = if said.is_ok() { Fate::Answered } else { Fate::Failed };
        match row(&heard, said) {
            Ok(row) => shadows.keep(&copy.silent.place, row),
            Err(error) => tracing::warn!(%error, "a shadow answer is not kept"),
        }
        fate
    }

    /// Waits for the backend to be quiet; false where that took too long.
    async fn quiet_moment(&self, since: Instant) -> bool {
        while !self.0.backend.is_quiet_but_for(0) {
            if since.elapsed() > PATIENCE {
                return false;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        since.elapsed() <= PATIENCE
    }

    async fn say(&self, copy: &Copy) -> Result<(String, Said), Unsaid> {
        let lease = match &copy.silent.target.version {
            None => None,
            Some(version) => {
                let lease = self.0.catalog.resolve_pinned(version).await;
                Some(lease.map_err(|error| Unsaid::Failed(error.to_string()))?)
            }
        };
        // At the end of the queue, and only where half of it is free.
        let places = self.0.backend.reserve(1, self.queue_share(Priority::Batch));
        let mut places = places.map_err(|_| Unsaid::GaveWay)?;
        let adapter = lease.as_ref().map(|lease| Arc::clone(&lease.adapter));
        let began = Instant::now();
        let request = Request { adapter, ..copy.request.clone() };
        let generation = self.0.backend.submit_at(&mut places, request).map_err(|error| match error {
            // Nothing that the candidate could help.
            SubmitError::Overloaded { .. } | SubmitError::Stopping | SubmitError::Unhealthy(_) => Unsaid::GaveWay,
            error => Unsaid::Failed(error.to_string()),
        })?;
        let (text, tokens) = self.listen(copy, generation).await?;
        let version = lease.as_ref().map_or_else(|| "base".to_owned(), version_of);
        Ok((version, Said { text, tokens, took: began.elapsed() }))
    }

    /// The text of a silent answer, unless somebody else comes meanwhile.
    async fn listen(&self, copy: &Copy, mut generation: Generation) -> Result<(String, u64), Unsaid> {
        let mut speech = Speech::new(&self.0.base.tokenizer, &copy.manner, 0);
        let (mut text, mut tokens) = (String::new(), 0);
        let mut look = tokio::time::interval(ASK_EVERY);
        loop {
            let event = tokio::select! {
                event = generation.next() => event,
                _ = look.tick() => {
                    // Dropping the generation ends it with the step that runs.
                    if self.0.backend.is_quiet_but_for(1) { continue } else { return Err(Unsaid::GaveWay) }
                }
            };
            let piece = match event {
                Some(Event::Token { id, .. }) => {
                    tokens += 1;
                    speech.token(Some(id).filter(|id| copy.manner.shows(*id)), None)
                }
                Some(Event::Done { finish: Finish::Stop, .. }) => speech.end(FinishReason::Stop),
                Some(Event::Done { finish: Finish::Length, .. }) => speech.end(FinishReason::Length),
                Some(Event::Prompt(_) | Event::Embedding(_)) => continue,
                Some(Event::NothingAllowed) => {
                    return Err(Unsaid::Failed("the form that was asked for allows nothing more".to_owned()));
                }
                Some(Event::Failed(reason)) => return Err(Unsaid::Failed(reason)),
                Some(Event::CutOff) | None => return Err(Unsaid::GaveWay),
            };
            text.push_str(&piece.said());
            if piece.finish.is_some() {
                return Ok((text, tokens));
            }
        }
    }
}

fn row(heard: &Heard, said: Result<(String, Said), String>) -> Result<ShadowRow, crate::tenants::TenantError> {
    let Heard { copy, assigned, arm, version, request_id, tenant, .. } = heard;
    let Copy { silent, request, .. } = &**copy;
    let mut digest = Sha256::new();
    for token in &request.prompt {
        digest.update(token.to_le_bytes());
    }
    let digest: [u8; 32] = digest.finalize().into();
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let millis = |took: Duration| i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
    let cut = |text: &str| text[..text.floor_char_boundary(MAX_TEXT)].to_owned();
    let (shadow_version, said, error) = match said {
        Ok((version, said)) => (version, said, None),
        Err(reason) => {
            let said = Said { text: String::new(), tokens: 0, took: Duration::ZERO };
            (silent.target.model.clone(), said, Some(cut(&reason)))
        }
    };
    Ok(ShadowRow {
        id: new_id("shadow")?,
        at_micros: unix_micros(),
        owner: assigned.owner.tenant().unwrap_or_default().to_owned(),
        deployment: assigned.deployment.to_string(),
        model: silent.target.model.clone(),
        request_id: request_id.to_string(),
        project_id: tenant.to_string(),
        prompt_digest: hex(&digest),
        arm: arm.to_string(),
        version: version.clone(),
        shadow_version,
        text: cut(&heard.text),
        shadow_text: cut(&said.text),
        prompt_tokens: number(request.prompt.len() as u64),
        tokens: number(heard.tokens),
        shadow_tokens: number(said.tokens),
        millis: millis(heard.took),
        shadow_millis: millis(said.took),
        error,
    })
}
