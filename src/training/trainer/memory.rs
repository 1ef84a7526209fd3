//! What a run needs of memory, known before it starts: it is made to fit, or refused.

use super::TrainError;
use super::settings::Settings;
use crate::model::config::ModelConfig;
use crate::model::train::{Compute, LOGIT_BYTES, Layout, TrainingBase};

/// Sizes that the data decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Most tokens of a micro-batch.
    pub rows: usize,
    /// Tokens of the longest row.
    pub longest: usize,
    /// Compute threads.
    pub threads: usize,
}

/// Bytes that a run holds at its peak, without the base.
pub fn bytes(config: &ModelConfig, layout: &Layout, settings: &Settings, compute: Compute, sizes: Sizes) -> u64 {
    let Sizes { rows, longest, threads } = sizes;
    let (h, f) = (config.hidden_size, config.intermediate_size);
    let (hq, hkv) = (config.q_width(), config.kv_width());
    let narrow = if compute == Compute::F32 { 4 } else { 2 };
    let low = 4 * (config.heads + 7 * layout.padded);
    let layer = 4 * 2 * h + narrow * (2 * hq + 2 * hkv + 2 * f) + low;
    let kept = if settings.checkpointing { config.layers * 4 * h + layer } else { config.layers * layer };
    let work = 4 * (3 * h + 4 * (hq + hkv) + 5 * f) + 2 * f;
    let head = 4 * 4 * h;
    let logits = LOGIT_BYTES + LOGIT_BYTES / 4;
    let attention = threads * 4 * longest * (4 * config.head_dim + 2 * 48);
    let reference = usize::from(settings.method != super::settings::Method::Supervised);
    let parameters = (4 + reference) * 4 * layout.len;
    (rows * (kept + work + head) + logits + attention + parameters) as u64
}

/// The same for a base and rows of which the longest has `longest` tokens.
pub fn of_run(base: &TrainingBase, settings: &Settings, longest: usize, threads: usize) -> u64 {
    let layout = Layout::new(&base.config, &settings.targets, settings.rank, settings.scale());
    let compute = settings.compute_for(base.is_quantized());
    let rows = settings.batch_size * if settings.packing { settings.context } else { longest };
    bytes(&base.config, &layout, settings, compute, Sizes { rows, longest, threads })
}

/// Settings with which a run fits into `limit` bytes: micro-batches are halved (and more of them make a step, so that steps stay
/// the same size), then activations are computed again. Says what was changed.
pub fn fit(settings: &Settings, limit: u64, needed: impl Fn(&Settings) -> u64) -> Result<(Settings, Vec<String>), TrainError> {
    let (mut fitting, mut changes) = (settings.clone(), Vec::new());
    loop {
        let need = needed(&fitting);
        if need <= limit {
            return Ok((fitting, changes));
        }
        if fitting.batch_size > 1 {
            let (from, rows) = (fitting.batch_size, fitting.batch_size * fitting.accumulation);
            fitting.batch_size = (1..=from / 2).rev().find(|smaller| rows.is_multiple_of(*smaller)).unwrap_or(1);
            fitting.accumulation = rows / fitting.batch_size;
            changes.push(format!(
                "micro-batches of {from} need {} MB of the {} MB that are free: {} rows in each of {} now",
                need >> 20,
                limit >> 20,
                fitting.batch_size,
                fitting.accumulation
            ));
        } else if !fitting.checkpointing {
            fitting.checkpointing = true;
            changes.push("activations are computed again to save memory (checkpointing)".to_owned());
        } else {
            return Err(TrainError::Memory { need_mb: need >> 20, have_mb: limit >> 20 });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_run_is_made_to_fit_or_refused() {
        let settings = Settings { batch_size: 6, accumulation: 2, ..Settings::default() };
        let needed = |settings: &Settings| (settings.batch_size as u64 * if settings.checkpointing { 50 } else { 100 }) << 20;
        assert_eq!(fit(&settings, 700 << 20, needed).unwrap(), (settings.clone(), Vec::new()));
        let (fitting, changes) = fit(&settings, 320 << 20, needed).unwrap();
        assert_eq!((fitting.batch_size, fitting.accumulation, changes.len()), (3, 4, 1));
        let odd = Settings { batch_size: 7, accumulation: 1, ..settings.clone() };
        assert_eq!(fit(&odd, 320 << 20, needed).unwrap().0.accumulation, 7);
        let (fitting, _) = fit(&settings, 60 << 20, needed).unwrap();
        assert!(fitting.checkpointing && fitting.batch_size == 1 && fitting.accumulation == 12);
        let error = fit(&settings, 10 << 20, needed).unwrap_err().to_string();
        assert!(error.contains("50 MB") && error.contains("10 MB"), "{error}");
    }
}
