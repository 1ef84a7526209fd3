//! A judge of rollouts that says what a test wants.

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use switchyard::experiments::ExperimentError;
use switchyard::experiments::rollout::Judge;
use switchyard::experiments::settings::Settings;
use switchyard::experiments::verdict::{ArmVerdict, Standing};

/// A judge that says what a test wants.
#[derive(Clone, Default)]
pub struct Judged(Arc<Mutex<Option<(Standing, u64)>>>);

impl Judged {
    pub fn say(&self, standing: Standing, answers: u64) {
        *self.0.lock().unwrap() = Some((standing, answers));
    }
}

impl Judge for Judged {
    fn verdict<'a>(
        &'a self,
        settings: &'a Settings,
        _experiment: &'a str,
        arm: &'a str,
    ) -> BoxFuture<'a, Result<Option<ArmVerdict>, ExperimentError>> {
        let said = self.0.lock().unwrap().clone();
        let why = format!("compared with {}", settings.control);
        let verdict = said.map(|(standing, answers)| ArmVerdict {
            arm: arm.to_owned(),
            standing,
            why,
            answers,
            goal: None,
            guards: vec![],
        });
        Box::pin(std::future::ready(Ok(verdict)))
    }
}
