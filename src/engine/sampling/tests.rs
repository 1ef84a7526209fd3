//! The sampler against a slow one that sorts everything.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

/// The rules of the module's header, written plainly. Candidates are drawn in order of id, or of rank when `top_k` or `top_p` cut.
fn reference(row: &[f32], sampling: &Sampling, prompt: &[u32], generated: &[u32], uniform: f64) -> u32 {
    let mut row = row.to_vec();
    for (id, logit) in row.iter_mut().enumerate() {
        let count = generated.iter().filter(|token| **token as usize == id).count();
        if count > 0 || prompt.iter().any(|token| *token as usize == id) {
            *logit = if *logit > 0.0 { *logit / sampling.repetition_penalty } else { *logit * sampling.repetition_penalty };
        }
        if count > 0 {
            *logit -= sampling.presence_penalty + count as f32 * sampling.frequency_penalty;
        }
        *logit += sampling.logit_bias.iter().filter(|(token, _)| *token as usize == id).map(|(_, bias)| bias).sum::<f32>();
    }
    let mut ranked: Vec<usize> = (0..row.len()).collect();
    ranked.sort_by(|a, b| row[*b].partial_cmp(&row[*a]).unwrap().then(a.cmp(b)));
    let top = row[ranked[0]];
    if sampling.temperature == 0.0 {
        return ranked[0] as u32;
    }
    let weight = |id: &usize| f64::from(((row[*id] - top) / sampling.temperature).exp());
    let mut kept = ranked.clone();
    let mut total: f64 = (0..row.len()).map(|id| weight(&id)).sum();
    if sampling.top_k > 0 {
        kept.truncate(sampling.top_k);
        total = kept.iter().map(weight).sum();
    }
    if sampling.top_p < 1.0 {
        let share = f64::from(sampling.top_p) * total;
        let mut sum = 0.0;
        let reached = kept.iter().position(|id| {
            sum += weight(id);
            sum >= share
        });
        kept.truncate(reached.map_or(kept.len(), |index| index + 1));
    }
    if sampling.top_k == 0 && sampling.top_p >= 1.0 {
        kept.sort_unstable();
    }
    kept.retain(|id| weight(id) >= f64::from(sampling.min_p));
    let target = uniform * kept.iter().map(weight).sum::<f64>();
    let mut sum = 0.0;
    for id in kept.iter().filter(|id| weight(id) > 0.0) {
        sum += weight(id);
        if sum > target {
            return *id as u32;
        }
    }
    *kept.iter().rfind(|id| weight(id) > 0.0).unwrap() as u32
}

fn rows() -> impl Strategy<Value = Vec<f32>> {
    // Whole numbers make ties, and minus infinity happens in masked vocabularies.
    let logit = prop_oneof![8 => -12.0f32..12.0, 4 => (-4i8..4).prop_map(f32::from), 1 => Just(f32::NEG_INFINITY)];
    (prop::collection::vec(logit, 0..600), -3.0f32..3.0, prop_oneof![Just(1.0f32), Just(0.05)]).prop_map(
        |(mut row, last, flat)| {
            row.push(last);
            row.iter().map(|logit| logit * flat).collect()
        },
    )
}

prop_compose! {
    fn samplings()(
        temperature in prop_oneof![Just(0.0f32), Just(1.0), 0.01f32..3.0],
        top_p in prop_oneof![Just(1.0f32), 0.0f32..1.0, 0.95f32..1.0],
        top_k in prop_oneof![Just(0usize), 1usize..40, 200usize..400],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0],
        penalties in prop_oneof![Just((0.0f32, 0.0f32, 1.0f32)), (-2.0f32..2.0, -2.0f32..2.0, 0.5f32..2.0)],
        logit_bias in prop_oneof![Just(vec![]), prop::collection::vec((0u32..300, -100.0f32..100.0), 1..2)],
        seed in any::<u64>(),
    ) -> Sampling {
        let (presence_penalty, frequency_penalty, repetition_penalty) = penalties;
        Sampling { temperature, top_p, top_k, min_p, presence_penalty, frequency_penalty, repetition_penalty, logit_bias: logit_bias.into(), seed }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn choices_equal_the_reference(
        row in rows(),
        sampling in samplings(),
        prompt in prop::collection::vec(0u32..300, 1..20),
        generated in prop::collection::vec(0u32..300, 0..20),
    ) {
        let mut sampler = Sampler::new(sampling.clone(), &prompt);
        generated.iter().for_each(|&token| sampler.accept(token));
        let uniform = sampler.uniform();
        let expected = reference(&row, &sampling, &prompt, &generated, uniform);
        let mut scratch = Scratch::default();
        prop_assert_eq!(sampler.sample(&row, &mut scratch), Ok(expected));
        prop_assert_eq!(sampler.sample(&row, &mut scratch), Ok(expected), "asking again changes nothing");
    }

    #[test]
    fn the_best_are_those_of_a_full_sort(row in rows(), count in 0usize..310) {
        let mut sorted: Vec<(f32, u32)> = row.iter().copied().zip(0..).collect();
        sorted.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap().then(a.1.cmp(&b.1)));
        prop_assert_eq!(best(&row), Ok(sorted[0]));
        sorted.truncate(count);
        let mut found = Vec::new();
        select_best(&row, count, &mut found);
        prop_assert_eq!(found, sorted);
    }

    #[test]
    fn log_probabilities_equal_a_double_precision_softmax(row in rows(), top in 0usize..6, pick in any::<prop::sample::Index>()) {
        let token = pick.index(row.len());
        let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        let expected = |id: usize| (f64::from(row[id]).exp() / total).ln();
        let close = |value: f32, id: usize| {
            let expected = expected(id);
            f64::from(value) == expected || (f64::from(value) - expected).abs() < 1e-5
        };
        let found = logprob(&row, token as u32, top, &mut Scratch::default()).unwrap();
        prop_assert!(close(found.logprob, token), "{} against {}", found.logprob, expected(token));
        prop_assert_eq!(found.top.len(), top.min(row.len()));
        for (id, value) in found.top {
            prop_assert!(close(value, id as usize));
        }
    }
}

#[test]
fn draws_follow_the_distribution() {
    let row = [1.0f32.ln(), 2.0f32.ln(), 3.0f32.ln(), 4.0f32.ln()];
    let mut sampler = Sampler::new(Sampling { seed: 7, ..Sampling::default() }, &[0]);
    let mut counts = [0u32; 4];
    for _ in 0..20_000 {
        let token = sampler.sample(&row, &mut Scratch::default()).unwrap();
        counts[token as usize] += 1;
        sampler.accept(token);
    }
    for (count, share) in counts.into_iter().zip([0.1, 0.2, 0.3, 0.4]) {
        // 20,000 draws: the standard error is at most 0.0035.
        assert!((f64::from(count) / 20_000.0 - share).abs() < 0.012, "{counts:?}");
    }
}

#[test]
fn a_seed_names_its_draws_whatever_was_computed_in_between() {
    let row: Vec<f32> = (0..50).map(|id| (id % 7) as f32).collect();
    let answer = |seed, repeats: usize| -> Vec<u32> {
        let mut sampler = Sampler::new(Sampling { seed, ..Sampling::default() }, &[0]);
        let mut scratch = Scratch::default();
        (0..20)
            .map(|_| {
                let token = (0..repeats).map(|_| sampler.sample(&row, &mut scratch).unwrap()).last().unwrap();
                sampler.accept(token);
                token
            })
            .collect()
    };
    assert_eq!(answer(1, 1), answer(1, 3));
    assert_ne!(answer(1, 1), answer(2, 1));
}

#[test]
fn rows_that_are_no_distribution_are_refused_by_name() {
    let mut sampler = Sampler::new(Sampling { presence_penalty: 1.0, ..Sampling::default() }, &[0]);
    let mut scratch = Scratch::default();
    for (row, error) in [
        (vec![0.0, f32::NAN, 1.0], SampleError::NotANumber),
        (vec![0.0; 40].into_iter().chain([f32::NAN]).collect(), SampleError::NotANumber),
        (vec![f32::NAN; 40], SampleError::NotANumber),
        (vec![f32::NEG_INFINITY; 3], SampleError::NotFinite),
        (vec![f32::INFINITY, 0.0], SampleError::NotFinite),
        (vec![], SampleError::NotFinite),
    ] {
        assert_eq!(sampler.sample(&row, &mut scratch), Err(error), "{row:?}");
        assert_eq!(logprob(&row, 0, 2, &mut scratch), Err(error), "{row:?}");
    }
}
