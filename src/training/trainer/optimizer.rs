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

/// Values that are summed in f64 one after the other; the parts' sums follow one another in the same order.
const PART: usize = 1 << 14;

/// Euclidean norm; the order of the sum is fixed.
pub fn norm(values: &[f32]) -> f64 {
    let part = |values: &[f32]| values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
    values.chunks(PART).map(part).sum::<f64>().sqrt()
}

impl AdamW {
    /// At rest.
    pub fn new(len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len] }
    }

    /// One update; `step` counts from 1, gradients are multiplied with `factor` first.
    pub fn update(
        &mut self,
        settings: &Settings,
        layout: &Layout,
        step: u64,
        rate: f64,
        factor: f32,
        grads: &[f32],
        values: &mut [f32],
    ) {
        let (b1, b2) = settings.betas;
        let corrected = |beta: f64| 1.0 - beta.powf(step as f64);
        let root = corrected(b2).sqrt();
        for module in &layout.modules {
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
