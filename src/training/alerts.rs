//! What somebody who follows a run should look at: a loss that does not fall, rows that are learned by heart. Pure.

/// Steps that are averaged before they are compared.
const WINDOW: usize = 20;
/// Averages in a row that are no better than the best before them.
const FLAT: u32 = 5;
/// A loss must fall by this share of itself to count as falling.
const LEAST_FALL: f64 = 0.005;
/// Evaluations in a row that are worse than the best one.
const WORSE: u32 = 2;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Alerts {
    window: Vec<f64>,
    best: Option<f64>,
    flat: u32,
    best_held_out: Option<f64>,
    worse: u32,
}

impl Alerts {
    /// After a step.
    pub fn after_step(&mut self, loss: f64) -> Option<String> {
        self.window.push(loss);
        if self.window.len() < WINDOW {
            return None;
        }
        let mean = self.window.drain(..).sum::<f64>() / WINDOW as f64;
        if self.best.is_none_or(|best| mean < best * (1.0 - LEAST_FALL)) {
            self.best = Some(mean);
            self.flat = 0;
            return None;
        }
        self.flat += 1;
        (self.flat == FLAT).then(|| {
            let steps = WINDOW * FLAT as usize;
            format!("The training loss has not fallen for {steps} steps; fewer epochs or another learning rate may do.")
        })
    }

    /// After the held-out rows were measured.
    pub fn after_evaluation(&mut self, loss: f64) -> Option<String> {
        if self.best_held_out.is_none_or(|best| loss < best) {
            self.best_held_out = Some(loss);
            self.worse = 0;
            return None;
        }
        self.worse += 1;
        (self.worse == WORSE).then(|| {
            "The loss of the held-out rows rises: rows are learned by heart (overfitting). An earlier checkpoint may serve better."
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_loss_is_quiet_and_a_flat_one_is_told_once() {
        let mut alerts = Alerts::default();
        assert!((0..200).all(|index| alerts.after_step(5.0 - f64::from(index) * 0.02).is_none()));
        let told = (0..400).filter(|_| alerts.after_step(1.02).is_some()).count();
        assert_eq!(told, 1);
        assert!([3.0, 2.0, 2.1].iter().all(|loss| alerts.after_evaluation(*loss).is_none()));
        assert!(alerts.after_evaluation(2.2).is_some() && alerts.after_evaluation(2.3).is_none());
        assert!(alerts.after_evaluation(1.0).is_none());
    }
}
