//! Hidden states of one prompt on their way to one vector. The sum is in the order of positions, whatever the chunks were.

use super::request::Pooling;
use super::sampling::SampleError;
use crate::model::LogitRows;

/// What is known so far.
#[derive(Debug)]
pub(super) struct Pool {
    pooling: Pooling,
    /// Of the mean: sums. Of the last token: its state.
    sums: Vec<f64>,
    /// Positions that are in the sums.
    taken: usize,
}

impl Pool {
    pub(super) const fn new(pooling: Pooling) -> Self {
        Self { pooling, sums: Vec::new(), taken: 0 }
    }

    /// Whether rows of prompts that were computed before are of no use.
    pub(super) fn wants_every_row(&self) -> bool {
        self.pooling == Pooling::Mean
    }

    /// What is wanted of a chunk that was planned for logits.
    pub(super) fn wanted(&self, planned: LogitRows) -> LogitRows {
        match (self.pooling, planned) {
            (Pooling::Mean, _) => LogitRows::HiddenAll,
            (Pooling::Last, LogitRows::None) => LogitRows::None,
            (Pooling::Last, _) => LogitRows::HiddenLast,
        }
    }

    /// Takes the rows of the positions from `first` on; those that were taken before add nothing.
    pub(super) fn take(&mut self, first: usize, rows: &[f32], width: usize) -> Result<(), SampleError> {
        for (position, row) in (first..).zip(rows.chunks_exact(width.max(1))) {
            match self.pooling {
                Pooling::Last => self.sums = row.iter().copied().map(f64::from).collect(),
                Pooling::Mean if position < self.taken => continue,
                Pooling::Mean if position > self.taken => return Err(SampleError::NoRow { position: self.taken }),
                Pooling::Mean => {
                    self.sums.resize(width, 0.0);
                    self.sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
                }
            }
            self.taken = position + 1;
        }
        Ok(())
    }

    /// The vector of a prompt of this length.
    pub(super) fn finish(self, prompt: usize) -> Result<Vec<f32>, SampleError> {
        if self.taken != prompt || prompt == 0 {
            return Err(SampleError::NoRow { position: self.taken });
        }
        let count = match self.pooling {
            Pooling::Mean => prompt as f64,
            Pooling::Last => 1.0,
        };
        #[expect(clippy::cast_possible_truncation, reason = "hidden states are f32")]
        let vector: Vec<f32> = self.sums.iter().map(|sum| (sum / count) as f32).collect();
        if vector.iter().all(|value| value.is_finite()) { Ok(vector) } else { Err(SampleError::NoState) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn pooled(pooling: Pooling, rows: &[[f32; 2]], cuts: &[usize]) -> Vec<f32> {
        let mut pool = Pool::new(pooling);
        let mut first = 0;
        for end in cuts.iter().copied().chain([rows.len()]) {
            let end = end.clamp(first, rows.len());
            pool.take(first, rows[first..end].as_flattened(), 2).unwrap();
            first = end;
        }
        pool.finish(rows.len()).unwrap()
    }

    #[test]
    fn the_mean_is_of_all_rows_and_the_last_one_is_itself() {
        let rows = [[1.0, 8.0], [2.0, -4.0], [6.0, 2.0]];
        assert_eq!(pooled(Pooling::Mean, &rows, &[]), [3.0, 2.0]);
        assert_eq!(pooled(Pooling::Last, &rows, &[2]), [6.0, 2.0]);
    }

    #[test]
    fn rows_that_are_missing_or_no_numbers_are_errors() {
        let mut pool = Pool::new(Pooling::Mean);
        pool.take(0, &[1.0, 1.0], 2).unwrap();
        assert!(pool.take(2, &[1.0, 1.0], 2).is_err());
        assert!(pool.finish(2).is_err());
        let mut broken = Pool::new(Pooling::Last);
        broken.take(0, &[1.0, f32::NAN], 2).unwrap();
        assert!(matches!(broken.finish(1), Err(SampleError::NoState)));
    }

    proptest! {
        #[test]
        fn chunks_and_repetitions_change_no_bit(
            rows in prop::collection::vec(prop::array::uniform2(-1e3f32..1e3), 1..40), mut cuts in prop::collection::vec(0usize..40, 0..5),
            again in 0usize..40,
        ) {
            cuts.sort_unstable();
            let whole = pooled(Pooling::Mean, &rows, &[]);
            prop_assert_eq!(&whole, &pooled(Pooling::Mean, &rows, &cuts));
            // A preempted sequence computes its rows again.
            let mut pool = Pool::new(Pooling::Mean);
            pool.take(0, rows[..again.min(rows.len())].as_flattened(), 2).unwrap();
            pool.take(0, rows.as_flattened(), 2).unwrap();
            prop_assert_eq!(whole, pool.finish(rows.len()).unwrap());
        }
    }
}
