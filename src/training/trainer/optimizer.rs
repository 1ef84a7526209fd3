//! AdamW with decoupled decay (Loshchilov and Hutter 2019), on one vector of parameters.

use super::settings::Settings;
use crate::model::train::Layout;

/// Moments of the gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    /// Means.
    pub first: Vec<f32>,
    /// Means of squares.
    pub second: Vec<f32>,
}

/// What an update depends on beside the gradients.
#[derive(Clone, Copy)]
pub struct Update<'a> {
    /// Settings of the run.
    pub settings: &'a Settings,
    /// Where what lies.
    pub layout: &'a Layout,
    /// Number of the step, from 1.
    pub step: u64,
    /// Learning rate.
    pub rate: f64,
    /// What gradients are multiplied with first.
    pub factor: f32,
    /// Called before each pair; may block. Once begun an update goes to its end.
    pub between: &'a dyn Fn(),
}

/// Values that are summed in f64 one after the other; the parts' sums follow one another in the same order.
const PART: usize = 1 << 14;

/// Euclidean norm; the order of the sum is fixed. `between` is called now and then, and may block.
pub fn norm(values: &[f32], between: &dyn Fn()) -> f64 {
    let part = |(index, values): (usize, &[f32])| {
        if index.is_multiple_of(64) {
            between();
        }
        values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>()
    };
    values.chunks(PART).enumerate().map(part).sum::<f64>().sqrt()
}

impl AdamW {
    /// At rest.
    pub fn new(len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len] }
    }

    /// One update.
    pub fn update(&mut self, how: Update<'_>, grads: &[f32], values: &mut [f32]) {
        let Update { settings, layout, step, rate, factor, between } = how;
        let (b1, b2) = settings.betas;
        let corrected = |beta: f64| 1.0 - beta.powf(step as f64);
        let root = corrected(b2).sqrt();
        for module in &layout.modules {
            between();
            for (range, ratio) in [(module.a.clone(), 1.0), (module.b.clone(), settings.lora_plus_ratio)] {
                let rate = rate * ratio;
                let (size, kept) = ((rate / corrected(b1)) as f32, (1.0 - rate * settings.weight_decay) as f32);
                let (inverse, epsilon) = ((1.0 / root) as f32, settings.epsilon as f32);
                let (first, second, keep) = ((1.0 - b1) as f32, (1.0 - b2) as f32, b2 as f32);
                let moments = self.first[range.clone()].iter_mut().zip(&mut self.second[range.clone()]);
                for ((value, grad), (m, v)) in values[range.clone()].iter_mut().zip(&grads[range]).zip(moments) {
                    let grad = grad * factor;
                    *m += (grad - *m) * first;
                    *v = *v * keep + grad * grad * second;
                    *value = *value * kept - size * *m / (v.sqrt() * inverse + epsilon);
                }
            }
        }
    }
}
