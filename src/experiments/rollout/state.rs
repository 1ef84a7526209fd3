//! The states of a rollout and what leads from one to the next: pure functions of the state, of what is seen, and of the time. Knows
//! neither the database nor what a deployment looks like; the driver brings about what is decided here.
//!
//! Every move is written down before anything is done about it. What is to be done then follows from what is written, and doing it
//! is a compare-and-set on the deployment's revision: whoever is killed between the two goes on where it was, and of two processes
//! only one steps.

use serde::{Deserialize, Serialize};

use super::plan::{OnDeadline, Plan};
use crate::experiments::settings::Settings;
use crate::experiments::{Target as Model, Weight};

/// Share of failed shadow answers above which a candidate is not shown to anybody.
const MOST_FAILED_SHADOWS: f64 = 0.1;
/// Most characters of a reason that deployments keep.
const MAX_REASON: usize = 800;

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nothing was changed yet.
    Pending,
    /// The candidate answers in silence.
    Shadow,
    /// The candidate has the share of this step.
    Step(usize),
}

impl Stage {
    /// Of the step; the first is 0.
    const fn index(self) -> usize {
        match self {
            Self::Pending | Self::Shadow => 0,
            Self::Step(step) => step,
        }
    }
}

/// Whether it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// By itself.
    Running,
    /// When a person lets it.
    Paused,
    /// When there is evidence, or a person lets it, or a deadline is over.
    Inconclusive,
    /// The candidate has taken the control's place.
    Promoted,
    /// The deployment is as it was before: the candidate was not good enough.
    RolledBack,
    /// Somebody ended it, or changed the deployment meanwhile.
    Aborted,
}

impl Phase {
    /// Whether nothing follows.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Promoted | Self::RolledBack | Self::Aborted)
    }
}

/// What the deployment is to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// As it was before the rollout.
    Base,
    /// As before, with the candidate in silence.
    Shadow,
    /// With the share of a step for the candidate.
    Step(usize),
    /// With the candidate in the place of the control.
    Promoted,
}

/// The candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Name of its arm while it is compared.
    pub arm: String,
    /// Its version, and on what ground it may be served.
    pub model: Model,
}

/// A rollout. Kept as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// `rollout_...`
    pub id: String,
    /// Whose the deployment is; `None` is shared.
    pub tenant: Option<String>,
    /// Its name.
    pub deployment: String,
    /// Arm that the candidate is compared with, and whose place it takes.
    pub control: String,
    /// What is rolled out.
    pub candidate: Candidate,
    /// How.
    pub plan: Plan,
    /// What is compared.
    pub experiment: Settings,
    /// How far it has come.
    pub stage: Stage,
    /// Whether it goes on.
    pub phase: Phase,
    /// Revision of the deployment that is gone back to.
    pub base_revision: i64,
    /// Newest revision of the deployment that this rollout knows: its own last one, or the base.
    pub revision: i64,
    /// Whether the deployment is as [`Rollout::target`] says.
    pub applied: bool,
    /// Since when the present stage bakes, seconds since 1970.
    pub since: i64,
    /// Seconds that had been baked when it was paused.
    pub baked: i64,
    /// Answers of the candidate when the present stage began.
    pub samples_before: u64,
    /// When it has been inconclusive for too long, seconds since 1970.
    pub deadline_at: Option<i64>,
    /// Why it is where it is.
    pub reason: String,
    /// Key id of who asked for it.
    pub created_by: String,
    /// The job that it came from.
    pub job: Option<String>,
    /// The process that has the candidate's files.
    pub node: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970.
    pub updated_at: i64,
    /// Seconds since 1970.
    pub ended_at: Option<i64>,
    /// Counts changes.
    pub version: i64,
}

/// What the deployment looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenDeployment {
    /// Its revision.
    pub revision: i64,
    /// Who made that one.
    pub actor: String,
    /// And why.
    pub reason: String,
}

/// Whether the candidate can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It can, or that cannot be said here.
    There,
    /// It cannot, and why.
    Gone(String),
}

/// What the comparison says of the candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing yet, and what is missing.
    Unclear(String),
    /// No guard is breached, and the goal is open, and what is missing: it may have more, but not all.
    Undecided(String),
    /// It may have all.
    Good,
    /// A guard was breached, or the goal is clearly worse.
    Breached(String),
}

/// What is seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The deployment; `None` where it was removed.
    pub deployment: Option<SeenDeployment>,
    /// The candidate.
    pub candidate: Presence,
    /// What the comparison says.
    pub standing: Standing,
    /// Answers of the candidate that were counted, all steps together.
    pub samples: u64,
    /// Shadow answers since the rollout began.
    pub pairs: u64,
    /// Of these, those that failed.
    pub failed_pairs: u64,
}

/// Something that people and webhooks are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It was asked for.
    Created,
    /// The first stage begins.
    Started,
    /// The next stage begins.
    Step,
    /// It waits for a person.
    Paused,
    /// It goes on after a pause.
    Resumed,
    /// It waits for evidence.
    Inconclusive,
    /// It is over, and the candidate is in service.
    Promoted,
    /// It is over, and the candidate is not.
    RolledBack,
    /// It was ended.
    Aborted,
}

impl Event {
    /// `rollout.started` and the like.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "rollout.created",
            Self::Started => "rollout.started",
            Self::Step => "rollout.step",
            Self::Paused => "rollout.paused",
            Self::Resumed => "rollout.resumed",
            Self::Inconclusive => "rollout.inconclusive",
            Self::Promoted => "rollout.promoted",
            Self::RolledBack => "rollout.rolled_back",
            Self::Aborted => "rollout.aborted",
        }
    }
}

/// The next state.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// The rollout afterwards; its version is that of before.
    pub after: Rollout,
    /// What is told, where it is more than bookkeeping.
    pub event: Option<Event>,
}

/// What it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// In words.
    pub what: String,
    /// The time at which something happens without anybody's doing, seconds since 1970.
    pub until: Option<i64>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Write this down.
    Move(Box<Move>),
    /// Bring the deployment to its target.
    Apply,
    /// Nothing now.
    Wait(Wait),
    /// Nothing ever.
    Rest,
}

/// What a person asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Stay where it is.
    Pause,
    /// Go on; from inconclusive: to the next step.
    Resume,
    /// Give all traffic to the candidate now.
    Promote,
    /// Go back now.
    Abort,
}

/// Why it cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The rollout {id} is {state} and cannot be {what}.")]
pub struct NotNow {
    /// The rollout.
    pub id: String,
    /// Its state.
    pub state: &'static str,
    /// `paused` and the like.
    pub what: &'static str,
}

impl Rollout {
    /// The state in one word.
    pub const fn state(&self) -> &'static str {
        match (self.phase, self.stage) {
            (Phase::Running, Stage::Pending) => "pending",
            (Phase::Running, Stage::Shadow) => "shadow",
            (Phase::Running, Stage::Step(_)) => "progressing",
            (Phase::Paused, _) => "paused",
            (Phase::Inconclusive, _) => "inconclusive",
            (Phase::Promoted, _) => "promoted",
            (Phase::RolledBack, _) => "rolled_back",
            (Phase::Aborted, _) => "aborted",
        }
    }

    /// What the deployment is to be like.
    pub const fn target(&self) -> Target {
        match (self.phase, self.stage) {
            (Phase::Promoted, _) => Target::Promoted,
            (Phase::RolledBack | Phase::Aborted, _) | (_, Stage::Pending) => Target::Base,
            (_, Stage::Shadow) => Target::Shadow,
            (_, Stage::Step(step)) => Target::Step(step),
        }
    }

    /// Who changes deployments and writes to the audit log for it.
    pub fn actor(&self) -> String {
        format!("rollout:{}", self.id)
    }

    /// Why the deployment is changed; begins every such reason of this target and of no other.
    fn mark(&self) -> String {
        let what = match self.target() {
            Target::Base => "back",
            Target::Shadow => "shadow",
            Target::Promoted => "promoted",
            Target::Step(step) => return format!("rollout {} step {}", self.id, step + 1),
        };
        format!("rollout {} {what}", self.id)
    }

    /// Why the deployment is changed.
    pub fn why(&self) -> String {
        let mark = self.mark();
        let reason = self.reason.chars().take(MAX_REASON);
        if self.reason.is_empty() { mark } else { format!("{mark}: {}", reason.collect::<String>()) }
    }

    fn made(&self, seen: &SeenDeployment) -> bool {
        seen.actor == self.actor()
    }

    fn made_target(&self, seen: &SeenDeployment) -> bool {
        let rest = seen.reason.strip_prefix(&self.mark());
        self.made(seen) && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    }

    /// The candidate's share at this stage.
    pub fn weight(&self) -> Weight {
        match self.target() {
            Target::Base | Target::Shadow => Weight::NONE,
            Target::Promoted => Weight::ALL,
            Target::Step(step) => self.plan.steps.get(step).map_or(Weight::NONE, |step| step.weight),
        }
    }

    /// Number of the step, from 1; 0 before the first.
    pub const fn step(&self) -> usize {
        match self.stage {
            Stage::Pending | Stage::Shadow => 0,
            Stage::Step(step) => step + 1,
        }
    }

    fn bake_seconds(&self) -> i64 {
        match self.stage {
            Stage::Pending => 0,
            Stage::Shadow => self.plan.shadow.as_ref().map_or(0, |shadow| shadow.bake_seconds),
            Stage::Step(step) => self.plan.steps.get(step).map_or(0, |step| step.bake_seconds),
        }
    }

    /// The stage after the present one; `None` is promotion.
    fn next(&self) -> Option<Stage> {
        let step = match self.stage {
            Stage::Pending if self.plan.shadow.is_some() => return Some(Stage::Shadow),
            Stage::Pending | Stage::Shadow => 0,
            Stage::Step(step) => step + 1,
        };
        (step < self.plan.steps.len()).then_some(Stage::Step(step))
    }

    /// A copy with another phase, for this reason.
    fn turned(&self, phase: Phase, reason: impl Into<String>, now: i64) -> Self {
        let mut after = Self { phase, reason: reason.into(), deadline_at: None, updated_at: now, ..self.clone() };
        if phase.is_over() {
            after.ended_at = Some(now);
        }
        // A change of what is wanted is done before it is baked.
        after.applied = self.applied && after.target() == self.target();
        after
    }

    fn forward(&self, reason: impl Into<String>, now: i64) -> Move {
        let Some(stage) = self.next() else {
            return Move { after: self.turned(Phase::Promoted, reason, now), event: Some(Event::Promoted) };
        };
        let mut after = Self { stage, ..self.turned(Phase::Running, reason, now) };
        after.applied = false;
        after.since = now;
        after.baked = 0;
        let event = if self.stage == Stage::Pending { Event::Started } else { Event::Step };
        Move { after, event: Some(event) }
    }

    fn back(&self, reason: impl Into<String>, now: i64) -> Move {
        Move { after: self.turned(Phase::RolledBack, reason, now), event: Some(Event::RolledBack) }
    }

    /// Ends it and leaves the deployment as it is.
    fn let_go(&self, reason: String, now: i64) -> Move {
        if self.phase.is_over() {
            let reason = format!("{}; {reason}", self.reason);
            return Move { after: Self { reason, applied: true, updated_at: now, ..self.clone() }, event: None };
        }
        let after = Self { applied: true, ..self.turned(Phase::Aborted, reason, now) };
        Move { after, event: Some(Event::Aborted) }
    }

    /// The deployment is as it is to be, at this revision.
    pub fn is_applied(&self, revision: i64, samples: u64, now: i64) -> Self {
        Self { revision, applied: true, since: now, baked: 0, samples_before: samples, updated_at: now, ..self.clone() }
    }

    /// The deployment cannot be brought to the target, and trying again would not help. `None`: there is nothing else to try.
    pub fn is_refused(&self, why: &str, now: i64) -> Option<Move> {
        match self.target() {
            Target::Base => None,
            Target::Shadow | Target::Step(_) | Target::Promoted => {
                let phase_over = Self { ended_at: None, ..self.clone() };
                Some(phase_over.back(format!("the deployment could not be changed: {why}"), now))
            }
        }
    }

    /// What a person asks for.
    pub fn command(&self, command: &Command, reason: &str, now: i64) -> Result<Move, NotNow> {
        let not_now = |what| NotNow { id: self.id.clone(), state: self.state(), what };
        let (phase, over) = (self.phase, self.phase.is_over());
        match command {
            Command::Pause if matches!(phase, Phase::Running | Phase::Inconclusive) => {
                let baked = if self.applied { now.saturating_sub(self.since).max(0) } else { 0 };
                let after = Self { baked, ..self.turned(Phase::Paused, reason, now) };
                Ok(Move { after, event: Some(Event::Paused) })
            }
            Command::Resume if phase == Phase::Paused => {
                let since = now.saturating_sub(self.baked);
                let after = Self { since, baked: 0, ..self.turned(Phase::Running, reason, now) };
                Ok(Move { after, event: Some(Event::Resumed) })
            }
            Command::Resume if phase == Phase::Inconclusive => Ok(self.forward(reason, now)),
            Command::Promote if !over => {
                Ok(Move { after: self.turned(Phase::Promoted, reason, now), event: Some(Event::Promoted) })
            }
            Command::Abort if !over => Ok(Move { after: self.turned(Phase::Aborted, reason, now), event: Some(Event::Aborted) }),
            Command::Pause => Err(not_now("paused")),
            Command::Resume => Err(not_now("resumed")),
            Command::Promote => Err(not_now("promoted")),
            Command::Abort => Err(not_now("aborted")),
        }
    }

    /// What is to be done now.
    pub fn decide(&self, seen: &Seen, now: i64) -> Act {
        let of = |then: Move| Act::Move(Box::new(then));
        if let Some(then) = self.follow(seen, now) {
            return of(then);
        }
        if self.phase.is_over() {
            return if self.applied { Act::Rest } else { Act::Apply };
        }
        if let Presence::Gone(why) = &seen.candidate {
            return of(self.back(format!("the candidate {} cannot be served any more: {why}", self.candidate.model.model), now));
        }
        // Also while it is paused: its users are there all the same.
        if let (Stage::Step(_), Standing::Breached(why)) = (self.stage, &seen.standing) {
            return of(self.back(why, now));
        }
        if let (Stage::Shadow, Some(why)) = (self.stage, shadow_fails(self, seen)) {
            return of(self.back(why, now));
        }
        if !self.applied {
            return Act::Apply;
        }
        if self.phase == Phase::Paused {
            return Act::Wait(Wait { what: "a person to resume it".to_owned(), until: None });
        }
        let bakes_until = self.since.saturating_add(self.bake_seconds());
        if now < bakes_until {
            return Act::Wait(Wait { what: "its bake time".to_owned(), until: Some(bakes_until) });
        }
        match self.missing(seen) {
            None => match self.opens(now) {
                Some(opens) => Act::Wait(Wait { what: "its hours".to_owned(), until: Some(opens) }),
                None => of(self.forward("", now)),
            },
            Some(missing) => self.without_evidence(missing, now),
        }
    }

    /// Somebody has changed the deployment: this rollout, in a life that could not write it down, or another.
    fn follow(&self, seen: &Seen, now: i64) -> Option<Move> {
        let Some(deployment) = &seen.deployment else {
            let finished = self.phase.is_over() && self.applied;
            return (!finished).then(|| self.let_go("the deployment was removed".to_owned(), now));
        };
        if deployment.revision == self.revision {
            return None;
        }
        if self.made(deployment) {
            let known = self.is_applied(deployment.revision, seen.samples, now);
            let after = Self { applied: self.made_target(deployment), ..known };
            return Some(Move { after, event: None });
        }
        if self.phase.is_over() && self.applied {
            return None;
        }
        let SeenDeployment { revision, actor, .. } = deployment;
        let why = format!(
            "superseded: {actor} has changed the deployment meanwhile (revision {revision} after {}); it was left like that",
            self.revision
        );
        Some(self.let_go(why, now))
    }

    /// When it may go forward again, where it may not now.
    fn opens(&self, now: i64) -> Option<i64> {
        self.plan.hours.as_ref().filter(|hours| !hours.open(now)).map(|hours| hours.next_open(now))
    }

    /// What is missing for the next stage, in words.
    fn missing(&self, seen: &Seen) -> Option<String> {
        match self.stage {
            Stage::Pending => None,
            Stage::Shadow => {
                let needed = self.plan.shadow.as_ref().map_or(0, |shadow| shadow.min_samples);
                let of = seen.pairs;
                (of < needed).then(|| format!("{of} of {needed} shadow answers"))
            }
            Stage::Step(step) => {
                let step = self.plan.steps.get(step)?;
                let (of, needed) = (seen.samples.saturating_sub(self.samples_before), step.min_samples);
                if of < needed {
                    return Some(format!("{of} of {needed} answers of the candidate at {}%", step.weight));
                }
                // With all traffic it has nothing to be compared with any more.
                let next = self.next().and_then(|stage| self.plan.steps.get(stage.index()));
                match &seen.standing {
                    _ if step.weight == Weight::ALL => None,
                    Standing::Undecided(_) if next.is_some_and(|next| next.weight < Weight::ALL) => None,
                    Standing::Good => None,
                    Standing::Unclear(what) | Standing::Undecided(what) | Standing::Breached(what) => Some(what.clone()),
                }
            }
        }
    }

    fn without_evidence(&self, missing: String, now: i64) -> Act {
        let of = |then: Move| Act::Move(Box::new(then));
        if self.phase == Phase::Running {
            let deadline_at = Some(now.saturating_add(self.plan.deadline_seconds));
            let after = Self { deadline_at, ..self.turned(Phase::Inconclusive, missing, now) };
            return of(Move { after, event: Some(Event::Inconclusive) });
        }
        match self.deadline_at {
            Some(deadline) if now >= deadline => {
                let why = format!("inconclusive until its deadline: {missing}");
                match (self.plan.on_deadline, self.opens(now)) {
                    (OnDeadline::Rollback, _) => of(self.back(why, now)),
                    (OnDeadline::Advance, None) => of(self.forward(why, now)),
                    (OnDeadline::Advance, Some(opens)) => Act::Wait(Wait { what: "its hours".to_owned(), until: Some(opens) }),
                    (OnDeadline::Pause, _) => {
                        let baked = now.saturating_sub(self.since).max(0);
                        let after = Self { baked, ..self.turned(Phase::Paused, why, now) };
                        of(Move { after, event: Some(Event::Paused) })
                    }
                }
            }
            until => Act::Wait(Wait { what: missing, until }),
        }
    }
}

/// Nobody is to see what fails in silence.
fn shadow_fails(rollout: &Rollout, seen: &Seen) -> Option<String> {
    let needed = rollout.plan.shadow.as_ref().map_or(0, |shadow| shadow.min_samples).max(1);
    let (failed, pairs) = (seen.failed_pairs, seen.pairs);
    let too_many = pairs >= needed && failed as f64 > MOST_FAILED_SHADOWS * pairs as f64;
    too_many.then(|| format!("{failed} of {pairs} shadow answers failed"))
}

#[cfg(test)]
pub(super) mod tests;
