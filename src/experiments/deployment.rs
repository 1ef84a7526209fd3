//! What a deployment is: its spec, the rules of it, its revisions. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ExperimentError;
use super::settings::Settings;
use crate::ids::{VersionId, hex};
use crate::registry::{Pinned, Release};

/// Most arms.
pub const MAX_ARMS: usize = 16;
/// Longest name of an arm, characters.
const MAX_NAME: usize = 64;
/// Longest time for which versions that are not used any more stay in memory, seconds: a week.
pub const MAX_RESIDENT: u64 = 7 * 86_400;
/// How long they stay where nothing is said, seconds.
pub const USUAL_RESIDENT: u64 = 3_600;
/// Begins the model of a target that is another server. No adapter's name has a slash.
pub(super) const UPSTREAM: &str = "upstream/";
/// The word for the base among fallbacks.
pub const BASE: &str = "base";
/// All of the traffic.
const WHOLE: u32 = 10_000;

/// A share of the traffic, exact to a hundredth of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Weight(u32);

impl Weight {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Everything.
    pub const ALL: Self = Self(WHOLE);

    /// 0 to 100 percent, with at most two decimals.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10,000, whole")]
    pub fn of_percent(percent: f64) -> Option<Self> {
        let hundredths = (percent * 100.0).round();
        let exact = (percent * 100.0 - hundredths).abs() < 1e-6;
        ((0.0..=100.0).contains(&percent) && exact).then_some(Self(hundredths as u32))
    }

    /// Hundredths of a percent, at most 10,000.
    pub fn of_hundredths(hundredths: u32) -> Option<Self> {
        (hundredths <= WHOLE).then_some(Self(hundredths))
    }

    /// In hundredths of a percent.
    pub const fn hundredths(self) -> u32 {
        self.0
    }

    /// In percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// As a part of one.
    pub fn share(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }

    /// Whether it is any traffic at all.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// This share of another.
    #[must_use]
    pub const fn of(self, whole: Self) -> Self {
        Self(self.0 * whole.0 / WHOLE)
    }

    /// Both together, at most the whole.
    #[must_use]
    pub const fn plus(self, more: Self) -> Self {
        let sum = self.0 + more.0;
        Self(if sum > WHOLE { WHOLE } else { sum })
    }

    /// Without another.
    #[must_use]
    pub const fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// What is left of the whole.
    pub const fn rest(self) -> Self {
        Self(WHOLE.saturating_sub(self.0))
    }
}

impl std::fmt::Display for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.percent())
    }
}

impl Serialize for Weight {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(100) {
            return serializer.serialize_u32(self.0 / 100);
        }
        serializer.serialize_f64(self.percent())
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let percent = f64::deserialize(deserializer)?;
        Self::of_percent(percent).ok_or_else(|| serde::de::Error::custom(format!("{percent} is not a weight")))
    }
}

/// A model as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The base, `name`, `name@version` or `ft:...`.
    pub model: String,
    /// Whose it is, where that is not whose the deployment is: a shared deployment may serve what a tenant's job has made.
    pub from_tenant: Option<String>,
    /// On what ground it may be served.
    pub release: Release,
}

/// A model as it is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The base's name, `name@number`, or `upstream/name`.
    pub model: String,
    /// The version; `None` is the base, or an upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Pinned>,
    /// On what ground it may be served.
    pub release: Release,
}

impl Target {
    /// A model that is another server, by its name without a prefix.
    pub(super) fn of_upstream(name: &str) -> Self {
        Self { model: format!("{UPSTREAM}{name}"), version: None, release: Release::Gate }
    }

    /// The name of the model that is another server, where it is one.
    pub fn upstream(&self) -> Option<&str> {
        self.version.is_none().then(|| self.model.strip_prefix(UPSTREAM)).flatten()
    }

    /// Whether the same answers.
    pub fn is_same(&self, other: &Self) -> bool {
        self.content() == other.content() && self.upstream() == other.upstream()
    }

    /// Its content; `None` is the base, or an upstream.
    pub fn content(&self) -> Option<VersionId> {
        self.version.as_ref().map(|version| version.id)
    }
}

/// One side of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm<M = Target> {
    /// Its name within the deployment.
    pub name: String,
    /// What answers.
    pub target: M,
    /// Its share of the traffic.
    pub weight: Weight,
}

/// A silent copy of a share of the traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadow<M = Target> {
    /// What answers, unheard.
    pub target: M,
    /// Share of the traffic that is copied.
    pub percent: Weight,
    /// Most tokens of prompts and answers in a day (UTC); `None` is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens_per_day: Option<u64>,
}

/// What a deployment does; immutable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "M: Deserialize<'de>"))]
pub struct Spec<M = Target> {
    /// The arms; their weights are 100 percent together.
    pub arms: Vec<Arm<M>>,
    /// What answers when an arm cannot, in this order: names of arms, or `base`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<String>,
    /// Traffic that is copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow<M>>,
    /// What is compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Settings>,
    /// How long versions that are not used any more stay in memory, seconds.
    pub keep_resident_seconds: u64,
}

/// A spec as somebody wrote it.
pub type Draft = Spec<Named>;

impl<M> Spec<M> {
    /// One arm that gets everything.
    pub fn single(name: &str, target: M) -> Self {
        let arms = vec![Arm { name: name.to_owned(), target, weight: Weight::ALL }];
        Self { arms, fallback: Vec::new(), shadow: None, experiment: None, keep_resident_seconds: USUAL_RESIDENT }
    }

    /// The arm of a name.
    pub fn arm(&self, name: &str) -> Option<&Arm<M>> {
        self.arms.iter().find(|arm| arm.name == name)
    }

    /// Names of the arms.
    pub fn arm_names(&self) -> Vec<String> {
        self.arms.iter().map(|arm| arm.name.clone()).collect()
    }

    /// The rules, in the order of the fields.
    pub fn check(&self) -> Result<(), ExperimentError> {
        let invalid = |field: String, problem: String| Err(ExperimentError::Invalid { field, problem });
        if self.arms.is_empty() || self.arms.len() > MAX_ARMS {
            return invalid("arms".into(), format!("1 to {MAX_ARMS} arms are right, but got {}", self.arms.len()));
        }
        let mut names = BTreeSet::new();
        for (index, arm) in self.arms.iter().enumerate() {
            check_arm_name(&format!("arms[{index}].name"), &arm.name)?;
            if !names.insert(arm.name.as_str()) {
                return invalid(format!("arms[{index}].name"), format!("there are two arms '{}'", arm.name));
            }
        }
        let sum: u32 = self.arms.iter().map(|arm| arm.weight.0).sum();
        if sum != WHOLE {
            let problem = format!("the weights are percent and must be 100 together, but are {}", f64::from(sum) / 100.0);
            return invalid("arms".into(), problem);
        }
        let known = |name: &str| names.contains(name) || name == BASE;
        for (index, name) in self.fallback.iter().enumerate() {
            let field = || format!("fallback[{index}]");
            if !known(name) {
                return invalid(field(), format!("{name:?} is neither an arm nor 'base'"));
            }
            if self.fallback[..index].contains(name) {
                return invalid(field(), format!("'{name}' is there already"));
            }
        }
        if let Some(experiment) = &self.experiment {
            experiment.check(&self.arms.iter().map(|arm| arm.name.as_str()).collect::<Vec<_>>())?;
        }
        if self.keep_resident_seconds > MAX_RESIDENT {
            let problem = format!("0 to {MAX_RESIDENT} are right, but got {}", self.keep_resident_seconds);
            return invalid("keep_resident_seconds".into(), problem);
        }
        Ok(())
    }

    /// The same with other models.
    pub fn try_map<N, E>(self, mut map: impl FnMut(String, M) -> Result<N, E>) -> Result<Spec<N>, E> {
        let Self { arms, fallback, shadow, experiment, keep_resident_seconds } = self;
        let arm = |(index, Arm { name, target, weight }): (usize, Arm<M>)| {
            Ok(Arm { name, target: map(format!("arms[{index}].model"), target)?, weight })
        };
        let arms = arms.into_iter().enumerate().map(arm).collect::<Result<_, E>>()?;
        let shadow = match shadow {
            Some(Shadow { target, percent, max_tokens_per_day }) => {
                Some(Shadow { target: map("shadow.model".to_owned(), target)?, percent, max_tokens_per_day })
            }
            None => None,
        };
        Ok(Spec { arms, fallback, shadow, experiment, keep_resident_seconds })
    }

    /// The same with other weights, one for every arm that is named; the others get nothing.
    pub fn weighted(mut self, weights: &[(String, Weight)]) -> Result<Self, ExperimentError> {
        if let Some((name, _)) = weights.iter().find(|(name, _)| self.arm(name).is_none()) {
            return Err(ExperimentError::invalid("weights", format!("there is no arm {name:?}")));
        }
        for arm in &mut self.arms {
            let given = weights.iter().find(|(name, _)| *name == arm.name);
            arm.weight = given.map_or(Weight::NONE, |(_, weight)| *weight);
        }
        self.check()?;
        Ok(self)
    }
}

impl Spec {
    /// The versions that it names.
    pub fn versions(&self) -> impl Iterator<Item = &Pinned> {
        let shadow = self.shadow.as_ref().map(|shadow| &shadow.target);
        self.arms.iter().map(|arm| &arm.target).chain(shadow).filter_map(|target| target.version.as_ref())
    }

    /// Those that somebody is sent to.
    pub fn versions_in_use(&self) -> impl Iterator<Item = &Pinned> {
        self.arms.iter().filter(|arm| !arm.weight.is_none()).filter_map(|arm| arm.target.version.as_ref())
    }

    /// The ground on which this deployment serves a content already; a change of weights asks nobody again.
    pub fn release_of(&self, content: VersionId) -> Option<&Release> {
        let shadow = self.shadow.as_ref().map(|shadow| &shadow.target);
        let mut targets = self.arms.iter().map(|arm| &arm.target).chain(shadow);
        targets.find(|target| target.content() == Some(content)).map(|target| &target.release)
    }

    /// Name of the comparison: it changes with the set of arms and models and with what is asked of them, not with weights. (Asking
    /// something else of answers that were looked at already would not be an honest test.)
    pub fn experiment_id(&self, deployment_id: &str) -> String {
        let arms: BTreeSet<(&str, String)> = self
            .arms
            .iter()
            .map(|arm| {
                let target = &arm.target;
                let other = || target.upstream().map_or_else(|| BASE.to_owned(), |_| target.model.clone());
                let content = target.content().map_or_else(other, |id| id.to_string());
                (arm.name.as_str(), content)
            })
            .collect();
        let mut hash = Sha256::new();
        // Neither names nor digests hold these characters.
        hash.update(deployment_id);
        for (name, content) in arms {
            hash.update(format!("\n{name}={content}"));
        }
        if let Some(settings) = &self.experiment {
            hash.update(format!("\n{}", serde_json::json!(settings)));
        }
        let digest: [u8; 32] = hash.finalize().into();
        format!("exp_{}", hex(&digest[..10]))
    }
}

fn check_arm_name(field: &str, name: &str) -> Result<(), ExperimentError> {
    let sound = (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && name.bytes().any(|byte| byte != b'.');
    let shown: String = name.chars().take(2 * MAX_NAME).collect();
    let problem = format!("{shown:?} is not a name: 1 to {MAX_NAME} letters, digits, '.', '_' and '-' are right");
    if sound { Ok(()) } else { Err(ExperimentError::invalid(field, problem)) }
}

/// What made a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Made {
    /// The name was new.
    Created,
    /// Somebody wrote a spec, or weights.
    Changed,
    /// An earlier spec is in force again.
    RolledBack,
    /// The name is gone.
    Deleted,
}

impl Made {
    /// The name in the API and the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::RolledBack => "rolled_back",
            Self::Deleted => "deleted",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Created, Self::Changed, Self::RolledBack, Self::Deleted].into_iter().find(|made| made.name() == name)
    }
}

/// One immutable state of a deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    /// From 1; never used twice.
    pub number: i64,
    /// What made it.
    pub made: Made,
    /// The revision whose spec it brought back.
    pub restores: Option<i64>,
    /// What it says.
    pub spec: Spec,
    /// The comparison that outcomes belong to.
    pub experiment: std::sync::Arc<str>,
    /// Key id, or `rollout:ID`.
    pub actor: String,
    /// Why, in somebody's words.
    pub reason: Option<String>,
    /// When, microseconds since 1970.
    pub at_micros: i64,
}

impl Revision {
    /// The revision that was first to have this spec.
    pub fn origin(&self) -> i64 {
        self.restores.unwrap_or(self.number)
    }

    /// Who of the rollouts made it.
    fn rollout(&self) -> Option<&str> {
        self.actor.starts_with("rollout:").then_some(self.actor.as_str())
    }
}

/// What a rollback without a number goes back to, of a history with the newest first: what was there before the present spec came.
/// All steps of a rollout are one thing: what was before its first step. `None` where the history has nothing of that.
pub fn previous(history: &[std::sync::Arc<Revision>]) -> Option<&std::sync::Arc<Revision>> {
    let origin = history.first()?.origin();
    let at_origin = history.iter().find(|revision| revision.number == origin)?;
    let rollout = at_origin.rollout();
    let earlier = history.iter().filter(|revision| revision.number < origin && revision.made != Made::Deleted);
    earlier.into_iter().find(|revision| rollout.is_none() || revision.rollout() != rollout)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use std::sync::Arc;

    use super::*;

    fn target(content: Option<u8>) -> Target {
        let version = content.map(|content| Pinned {
            tenant: None,
            model: format!("support@{content}"),
            id: VersionId::new([content; 32]),
        });
        let model = version.as_ref().map_or_else(|| "tiny".to_owned(), |version| version.model.clone());
        Target { model, version, release: Release::Gate }
    }

    fn spec(arms: &[(&str, Option<u8>, f64)]) -> Spec {
        let arm = |(name, content, percent): &(&str, Option<u8>, f64)| Arm {
            name: (*name).to_owned(),
            target: target(*content),
            weight: Weight::of_percent(*percent).unwrap(),
        };
        Spec { arms: arms.iter().map(arm).collect(), ..Spec::single("x", target(None)) }
    }

    fn problem(spec: &Spec) -> String {
        spec.check().unwrap_err().to_string()
    }

    #[test]
    fn weights_are_exact_to_a_hundredth_of_a_percent() {
        for (percent, json) in [(0.0, "0"), (33.33, "33.33"), (12.5, "12.5"), (100.0, "100"), (0.01, "0.01")] {
            let weight = Weight::of_percent(percent).unwrap();
            assert_eq!(serde_json::to_string(&weight).unwrap(), json);
            assert_eq!(serde_json::from_str::<Weight>(json).unwrap(), weight);
        }
        for wrong in [-0.01, 100.01, 33.333, f64::NAN, f64::INFINITY] {
            assert_eq!(Weight::of_percent(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        spec(&[("a", Some(1), 90.0), ("b", None, 10.0)]).check().unwrap();
        spec(&[("a", Some(1), 33.33), ("b", None, 33.33), ("c", None, 33.34)]).check().unwrap();
        let error = problem(&spec(&[("a", Some(1), 90.0), ("b", None, 9.99)]));
        assert!(error.contains("100 together") && error.contains("99.99"), "{error}");
        assert!(problem(&spec(&[])).contains("1 to 16 arms"));
        assert!(problem(&spec(&[("a", None, 50.0), ("a", None, 50.0)])).contains("arms[1].name"));
        assert!(problem(&spec(&[("a/b", None, 100.0)])).contains("\"a/b\""));
        let fallback = |names: &[&str]| Spec {
            fallback: names.iter().map(|name| (*name).to_owned()).collect(),
            ..spec(&[("a", None, 100.0)])
        };
        fallback(&["a", "base"]).check().unwrap();
        assert!(problem(&fallback(&["b"])).contains("fallback[0]"));
        assert!(problem(&fallback(&["a", "a"])).contains("fallback[1]"));
        let experiment = Some(Settings::usual("z"));
        assert!(problem(&Spec { experiment, ..spec(&[("a", None, 100.0)]) }).contains("experiment.control"));
        let weights = |list: &[(&str, f64)]| {
            let weights: Vec<_> = list.iter().map(|(n, w)| ((*n).to_owned(), Weight::of_percent(*w).unwrap())).collect();
            spec(&[("a", None, 90.0), ("b", Some(1), 10.0)]).weighted(&weights)
        };
        assert_eq!(weights(&[("b", 100.0)]).unwrap().arms[0].weight, Weight::NONE);
        assert!(weights(&[("c", 100.0)]).unwrap_err().to_string().contains("\"c\""));
        assert!(weights(&[("a", 50.0)]).is_err());
    }

    #[test]
    fn an_experiment_is_a_set_of_arms_and_models() {
        let id = |arms: &[(&str, Option<u8>, f64)]| spec(arms).experiment_id("dep_1");
        let one = id(&[("a", Some(1), 90.0), ("b", None, 10.0)]);
        assert_eq!(one, id(&[("b", None, 50.0), ("a", Some(1), 50.0)]), "order and weights do not matter");
        assert_ne!(one, id(&[("a", Some(2), 90.0), ("b", None, 10.0)]));
        assert_ne!(one, id(&[("c", Some(1), 90.0), ("b", None, 10.0)]));
        assert_ne!(one, spec(&[("a", Some(1), 90.0), ("b", None, 10.0)]).experiment_id("dep_2"));
        let mut other = spec(&[("a", Some(1), 90.0), ("b", None, 10.0)]);
        other.arms[1].target = Target::of_upstream("big");
        assert_ne!(one, other.experiment_id("dep_1"), "another server is not the base");
        assert!(other.arms[1].target.upstream() == Some("big") && !other.arms[1].target.is_same(&target(None)));
    }

    #[test]
    fn going_back_never_leads_to_what_was_left_behind() {
        let revision = |number: i64, restores: Option<i64>, actor: &str| {
            let spec = spec(&[("a", None, 100.0)]);
            let (made, reason, experiment) = (Made::Changed, None, "exp".into());
            Arc::new(Revision { number, made, restores, spec, experiment, actor: actor.into(), reason, at_micros: 0 })
        };
        let back = |history: &[(i64, Option<i64>, &str)]| {
            let mut list: Vec<_> = history.iter().map(|(number, restores, actor)| revision(*number, *restores, actor)).collect();
            list.reverse();
            previous(&list).map(|revision| revision.number)
        };
        assert_eq!(back(&[(1, None, "k")]), None);
        assert_eq!(back(&[(1, None, "k"), (2, None, "k"), (3, None, "k")]), Some(2));
        assert_eq!(back(&[(1, None, "k"), (2, None, "k"), (3, Some(1), "k")]), None, "twice is not forward again");
        assert_eq!(back(&[(1, None, "k"), (2, None, "k"), (3, None, "k"), (4, Some(2), "k")]), Some(1));
        let ramp = [(1, None, "k"), (2, None, "rollout:1"), (3, None, "rollout:1"), (4, None, "rollout:1")];
        assert_eq!(back(&ramp), Some(1), "not to the step before");
        let other = [(1, None, "k"), (2, None, "rollout:1"), (3, None, "rollout:2")];
        assert_eq!(back(&other), Some(2));
    }
}
