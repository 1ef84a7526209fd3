//! The rollout that a training job asks for in its metadata: texts, as metadata has nothing else. Pure.

use serde_json::{Map, Value};

use super::plan::{Draft, DraftShadow, DraftStep, OnDeadline};
use crate::experiments::ExperimentError;

/// Name of the deployment; begins the names of all others.
const DEPLOYMENT: &str = "rollout";

/// What a job asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Name of the deployment.
    pub deployment: String,
    /// What to do where there is none.
    pub if_missing: IfMissing,
    /// Name of the candidate's arm.
    pub arm: Option<String>,
    /// How.
    pub plan: Draft,
}

/// What to do where there is no deployment of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    /// Nothing.
    Refuse,
    /// Make it, with the base as its only arm.
    Create,
}

/// What a job's metadata says of a rollout; `None`: nothing.
pub fn parse(metadata: &Map<String, Value>) -> Result<Option<Asked>, ExperimentError> {
    let mut texts: Vec<(&str, &str)> = Vec::new();
    for (key, value) in metadata.iter().filter(|(key, _)| *key == DEPLOYMENT || key.starts_with("rollout_")) {
        texts.push((key, value.as_str().unwrap_or_default()));
    }
    let Some(first) = texts.first().map(|(key, _)| (*key).to_owned()) else { return Ok(None) };
    let mut take = |name: &str| {
        let at = texts.iter().position(|(key, _)| *key == name)?;
        Some(texts.remove(at).1.trim())
    };
    let deployment = take(DEPLOYMENT).filter(|name| !name.is_empty()).ok_or_else(|| {
        let problem = format!("the metadata has '{first}', and not which deployment is meant");
        wrong(DEPLOYMENT, &problem)
    })?;
    let if_missing = match take("rollout_create") {
        None | Some("false") => IfMissing::Refuse,
        Some("true") => IfMissing::Create,
        Some(other) => return Err(wrong("rollout_create", &format!("it is {other:?}; 'true' and 'false' are right"))),
    };
    let steps = match take("rollout_steps") {
        None => None,
        Some(text) => {
            let step = |text: &str| number(text, "rollout_steps").map(|weight| DraftStep { weight, ..DraftStep::default() });
            Some(text.split(',').map(step).collect::<Result<_, _>>()?)
        }
    };
    let shadow = match take("rollout_shadow_percent") {
        None => None,
        Some(text) => Some(DraftShadow { percent: number(text, "rollout_shadow_percent")?, ..DraftShadow::default() }),
    };
    let on_deadline = match take("rollout_on_deadline") {
        None => None,
        Some(text) => Some(OnDeadline::named(text).ok_or_else(|| {
            let right = OnDeadline::WORDS.map(|(word, _)| format!("'{word}'")).join(", ");
            wrong("rollout_on_deadline", &format!("it is {text:?}; {right} are right"))
        })?),
    };
    let mut whole = |name: &str| match take(name) {
        None => Ok(None),
        Some(text) => match text.parse::<u32>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(wrong(name, &format!("it is {text:?}; a whole number is right"))),
        },
    };
    let plan = Draft {
        steps,
        bake_seconds: whole("rollout_bake_seconds")?.map(i64::from),
        min_samples: whole("rollout_min_samples")?.map(u64::from),
        deadline_seconds: whole("rollout_deadline_seconds")?.map(i64::from),
        shadow,
        hours: take("rollout_hours").map(str::to_owned),
        on_deadline,
    };
    let arm = take("rollout_arm").map(str::to_owned);
    if let Some((unknown, _)) = texts.first() {
        return Err(wrong(
            unknown,
            "it is not known; rollout, rollout_steps, rollout_bake_seconds, rollout_min_samples, \
             rollout_shadow_percent, rollout_hours, rollout_deadline_seconds, rollout_on_deadline, rollout_arm and \
             rollout_create are",
        ));
    }
    // Said now and not when the job is done.
    plan.clone().plan().map_err(|error| match error {
        ExperimentError::Invalid { field, problem } => ExperimentError::invalid(format!("metadata.rollout ({field})"), problem),
        other => other,
    })?;
    Ok(Some(Asked { deployment: deployment.to_owned(), if_missing, arm, plan }))
}

fn number(text: &str, field: &str) -> Result<f64, ExperimentError> {
    text.trim().parse().map_err(|_| wrong(field, &format!("{text:?} is not a number of percent")))
}

fn wrong(name: &str, problem: &str) -> ExperimentError {
    ExperimentError::invalid(format!("metadata.{name}"), problem)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn of(metadata: Value) -> Result<Option<Asked>, String> {
        parse(metadata.as_object().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_plan_of_texts_is_a_plan() {
        assert_eq!(of(json!({"team": "x", "rollouts": "none of ours"})), Ok(None));
        let asked = of(json!({"rollout": "support", "rollout_steps": "1, 12.5,100", "rollout_bake_seconds": "60",
            "rollout_min_samples": "5", "rollout_shadow_percent": "20", "rollout_hours": "09:00-17:00 UTC",
            "rollout_on_deadline": "pause", "rollout_create": "true"}));
        let asked = asked.unwrap().unwrap();
        assert_eq!((asked.deployment.as_str(), asked.if_missing, asked.arm.clone()), ("support", IfMissing::Create, None));
        let plan = asked.plan.plan().unwrap();
        assert_eq!(plan.steps.iter().map(|step| step.weight.percent()).collect::<Vec<_>>(), [1.0, 12.5, 100.0]);
        assert_eq!((plan.on_deadline, plan.shadow.unwrap().min_samples), (OnDeadline::Pause, 5));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (metadata, part) in [
            (json!({"rollout_steps": "100"}), "metadata.rollout: the metadata has 'rollout_steps'"),
            (json!({"rollout": ""}), "metadata.rollout"),
            (json!({"rollout": "a", "rollout_step": "100"}), "metadata.rollout_step: it is not known; rollout, rollout_steps"),
            (json!({"rollout": "a", "rollout_steps": "1,x,100"}), "\"x\" is not a number"),
            (json!({"rollout": "a", "rollout_steps": "1,50"}), "the last step is 50%"),
            (json!({"rollout": "a", "rollout_bake_seconds": "1h"}), "metadata.rollout_bake_seconds: it is \"1h\""),
            (json!({"rollout": "a", "rollout_create": "yes"}), "metadata.rollout_create"),
            (json!({"rollout": "a", "rollout_on_deadline": "x"}), "'rollback', 'advance', 'pause' are right"),
            (json!({"rollout": "a", "rollout_hours": "9"}), "(hours)"),
        ] {
            let error = of(metadata.clone()).unwrap_err();
            assert!(error.contains(part), "{metadata}: {error}");
        }
    }
}
