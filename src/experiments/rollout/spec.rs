//! What a deployment is to be like at each target of a rollout: a pure function of what it was before.

use super::state::{Rollout, Target};
use crate::experiments::{Arm, Shadow, Spec, Weight};

/// The spec for where the rollout is, made of the one that it began with. `None` is that one itself, to be gone back to.
pub fn wanted(base: &Spec, rollout: &Rollout) -> Option<Spec> {
    match rollout.target() {
        Target::Base => None,
        Target::Shadow => Some(shadowed(base, rollout)),
        Target::Step(step) => {
            let weight = rollout.plan.steps.get(step)?.weight;
            Some(split(base, rollout, weight))
        }
        Target::Promoted => Some(promoted(base, rollout)),
    }
}

fn shadowed(base: &Spec, rollout: &Rollout) -> Spec {
    let shadow = rollout.plan.shadow.as_ref().map(|shadow| Shadow {
        target: rollout.candidate.model.clone(),
        percent: shadow.percent,
        max_tokens_per_day: Some(shadow.max_tokens_per_day),
    });
    Spec { shadow, ..base.clone() }
}

/// The candidate beside the others, which share what is left as they shared the whole.
fn split(base: &Spec, rollout: &Rollout, weight: Weight) -> Spec {
    let mut arms: Vec<Arm> = base.arms.iter().filter(|arm| arm.name != rollout.candidate.arm).cloned().collect();
    let rest = weight.rest();
    let mut left = rest;
    for arm in &mut arms {
        arm.weight = arm.weight.of(rest);
        left = left.less(arm.weight);
    }
    // What is lost by rounding down.
    if let Some(arm) = arms.iter_mut().find(|arm| arm.name == rollout.control) {
        arm.weight = arm.weight.plus(left);
    }
    arms.push(Arm { name: rollout.candidate.arm.clone(), target: rollout.candidate.model.clone(), weight });
    let mut fallback = base.fallback.clone();
    // Whoever tries something new is not to be left without an answer.
    if fallback.is_empty() {
        fallback.push(rollout.control.clone());
    }
    Spec { arms, fallback, experiment: Some(rollout.experiment.clone()), ..base.clone() }
}

/// The control's arm with the candidate's model. What else got traffic gets none, and is there to be gone back to.
fn promoted(base: &Spec, rollout: &Rollout) -> Spec {
    let mut spec = base.clone();
    spec.arms.retain(|arm| arm.name != rollout.candidate.arm || arm.name == rollout.control);
    for arm in &mut spec.arms {
        arm.weight = Weight::NONE;
        if arm.name == rollout.control {
            *arm = Arm { name: arm.name.clone(), target: rollout.candidate.model.clone(), weight: Weight::ALL };
        }
    }
    let (candidate, control) = (&rollout.candidate.arm, &rollout.control);
    spec.fallback.retain(|name| name != candidate || name == control);
    spec
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::super::state::tests::{plan, rollout};
    use super::super::state::{Phase, Stage};
    use super::*;
    use crate::experiments::Target as Model;
    use crate::registry::Release;

    fn model(name: &str) -> Model {
        Model { model: name.to_owned(), version: None, release: Release::Gate }
    }

    fn base(weights: &[u32]) -> Spec {
        let arm = |(index, weight): (usize, &u32)| Arm {
            name: if index == 0 { "stable".to_owned() } else { format!("arm-{index}") },
            target: model("support@3"),
            weight: Weight::of_percent(f64::from(*weight) / 100.0).unwrap(),
        };
        Spec { arms: weights.iter().enumerate().map(arm).collect(), ..Spec::single("stable", model("support@3")) }
    }

    #[test]
    fn a_promoted_candidate_takes_the_place_of_the_control() {
        let rollout = rollout(plan()).command(&super::super::state::Command::Promote, "", 1).unwrap().after;
        let spec = wanted(&base(&[7_500, 2_500]), &rollout).unwrap();
        spec.check().unwrap();
        let arms: Vec<_> = spec.arms.iter().map(|arm| (arm.name.as_str(), arm.target.model.as_str(), arm.weight)).collect();
        assert_eq!(arms, [("stable", "support@4", Weight::ALL), ("arm-1", "support@3", Weight::NONE)]);
    }

    proptest! {
        #[test]
        fn every_split_is_whole_and_only_the_candidate_gains(first in 0u32..=10_000, second in 0u32..=10_000, weight in 1u32..=10_000) {
            let (first, second) = (first, second.min(10_000 - first));
            let base = base(&[first, second, 10_000 - first - second]);
            let mut last = base.clone();
            for weight in [weight.div_ceil(3), weight, 10_000] {
                let mut plan = plan();
                plan.steps[0].weight = Weight::of_percent(f64::from(weight) / 100.0).unwrap();
                let rollout = Rollout { stage: Stage::Step(0), phase: Phase::Running, ..rollout(plan) };
                let spec = wanted(&base, &rollout).unwrap();
                spec.check().unwrap();
                prop_assert_eq!(spec.arm("canary").unwrap().weight, rollout.weight());
                for arm in &last.arms {
                    let now = spec.arm(&arm.name).unwrap().weight;
                    // The control also gets what rounding leaves, a hundredth of a percent for each arm at most.
                    let more = now.percent() - arm.weight.percent();
                    prop_assert!(arm.name == "canary" || more <= 0.031, "{} {}", arm.name, more);
                }
                last = spec;
            }
        }
    }
}
