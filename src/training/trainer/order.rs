//! Which rows make which step: a function of the settings and the rows' lengths alone, so that a resumed run needs no cursor but
//! the number of its step.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::settings::Settings;
use crate::model::train::mix;

/// The order of all steps.
#[derive(Debug, Clone)]
pub struct Order {
    lengths: Vec<usize>,
    seed: u64,
    shuffle: bool,
    /// Rows of a micro-batch, or with packing its tokens.
    room: Room,
    accumulation: usize,
    /// First step of each epoch, and the end of the last one.
    starts: Vec<u64>,
    /// The epoch that was asked for last.
    current: Option<(u32, Vec<Vec<Micro>>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Rows(usize),
    Tokens(usize),
}

/// Rows of one micro-batch.
pub type Micro = Vec<usize>;

impl Order {
    /// For rows of these lengths in tokens (a preference pair counts both its answers). There is at least one row.
    pub fn new(settings: &Settings, lengths: Vec<usize>) -> Self {
        let room =
            if settings.packing { Room::Tokens(settings.batch_size * settings.context) } else { Room::Rows(settings.batch_size) };
        let (seed, shuffle) = (settings.seed, settings.shuffle);
        let mut order =
            Self { lengths, seed, shuffle, room, accumulation: settings.accumulation, starts: vec![0], current: None };
        let wanted = |epoch: u32, steps: u64| match settings.max_steps {
            Some(most) => steps < most,
            None => epoch < settings.epochs,
        };
        let (mut epoch, mut steps) = (0, 0);
        while wanted(epoch, steps) {
            steps += order.epoch(epoch).len() as u64;
            epoch += 1;
            order.starts.push(settings.max_steps.map_or(steps, |most| steps.min(most)));
        }
        order
    }

    /// Steps in all.
    pub fn steps(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Steps of the longest epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// The epoch that a step is in, from 0.
    pub fn epoch_of(&self, step: u64) -> u32 {
        (self.starts.partition_point(|start| *start <= step).max(1) - 1) as u32
    }

    /// Micro-batches of a step, from 0.
    pub fn step(&mut self, step: u64) -> Vec<Micro> {
        let epoch = self.epoch_of(step);
        let within = (step - self.starts[epoch as usize]) as usize;
        if let Some((current, steps)) = &self.current
            && *current == epoch
        {
            return steps[within].clone();
        }
        let steps = self.epoch(epoch);
        let wanted = steps[within].clone();
        self.current = Some((epoch, steps));
        wanted
    }

    /// Most tokens of a micro-batch in any epoch.
    pub fn most_tokens(&self) -> usize {
        match self.room {
            Room::Tokens(tokens) => {
                let longest = self.lengths.iter().copied().max().unwrap_or(0);
                tokens.max(longest).min(self.lengths.iter().sum())
            }
            Room::Rows(rows) => {
                let mut lengths = self.lengths.clone();
                lengths.sort_unstable_by(|a, b| b.cmp(a));
                lengths.iter().take(rows).sum()
            }
        }
    }

    /// Steps of an epoch, each its micro-batches.
    fn epoch(&self, epoch: u32) -> Vec<Vec<Micro>> {
        let mut rows: Vec<usize> = (0..self.lengths.len()).collect();
        if self.shuffle {
            rows.shuffle(&mut ChaCha8Rng::seed_from_u64(mix(self.seed ^ mix(u64::from(epoch)))));
        }
        let (mut micros, mut tokens) = (Vec::<Micro>::new(), 0);
        for row in rows {
            let length = self.lengths[row];
            let fits = micros.last().is_some_and(|micro| match self.room {
                Room::Rows(most) => micro.len() < most,
                Room::Tokens(most) => tokens + length <= most,
            });
            if !fits {
                micros.push(Vec::new());
                tokens = 0;
            }
            tokens += length;
            if let Some(micro) = micros.last_mut() {
                micro.push(row);
            }
        }
        micros.chunks(self.accumulation).map(<[Micro]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_epoch_sees_every_row_once_and_no_micro_batch_is_too_large(
            lengths in prop::collection::vec(1usize..64, 1..80),
            batch_size in 1usize..5,
            accumulation in 1usize..4,
            packing: bool,
            epochs in 1u32..4,
            seed: u64,
        ) {
            let settings = Settings { batch_size, accumulation, packing, epochs, seed, context: 64, ..Settings::default() };
            let mut order = Order::new(&settings, lengths.clone());
            let mut seen = vec![0u32; lengths.len()];
            for step in 0..order.steps() {
                prop_assert!(order.epoch_of(step) < epochs);
                let micros = order.step(step);
                prop_assert!((1..=accumulation).contains(&micros.len()));
                for micro in micros {
                    let tokens: usize = micro.iter().map(|row| lengths[*row]).sum();
                    prop_assert!(tokens <= order.most_tokens());
                    let fits = if packing { tokens <= batch_size * 64 } else { micro.len() <= batch_size };
                    prop_assert!(fits);
                    micro.iter().for_each(|row| seen[*row] += 1);
                }
            }
            prop_assert!(seen.iter().all(|count| *count == epochs));
        }

        #[test]
        fn as_many_steps_as_were_asked_for(rows in 1usize..40, steps in 1u64..100) {
            let settings = Settings { max_steps: Some(steps), batch_size: 3, accumulation: 2, ..Settings::default() };
            let mut order = Order::new(&settings, vec![5; rows]);
            prop_assert_eq!(order.steps(), steps);
            prop_assert!(!order.step(steps - 1).is_empty());
        }
    }
}
