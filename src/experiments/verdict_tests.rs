//! Simulated experiments: how often verdicts are wrong, and how soon they are right.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::settings::{Direction, Goal, Guard, Metric, Settings};
use super::simulation::Random;
use super::sums::ArmNumbers;
use super::verdict::{ArmVerdict, Evidence, Standing, judge, look, stand};

/// What answers of one arm are like.
#[derive(Clone, Copy)]
struct Arm {
    errors: f64,
    thumbs: f64,
    score: f64,
    /// Factor of a log-normal latency.
    latency: f64,
}

const PLAIN: Arm = Arm { errors: 0.02, thumbs: 0.6, score: 0.5, latency: 1.0 };

struct Trial {
    random: Random,
    settings: Settings,
    evidence: Evidence,
}

impl Trial {
    fn new(seed: u64, settings: &Settings) -> Self {
        let arms = vec![ArmNumbers::new("stable"), ArmNumbers::new("canary")];
        Self { random: Random::new(seed), settings: settings.clone(), evidence: Evidence { arms, split: Vec::new() } }
    }

    /// One answer of an arm (0 is the control).
    fn answer(&mut self, revision: i64, index: usize, arm: Arm) {
        let random = &mut self.random;
        let numbers = &mut self.evidence.arms[index];
        let mut yes = |part: f64| f64::from(u8::from(random.uniform() < part));
        numbers.add(revision, Metric::Errors, yes(arm.errors));
        numbers.add(revision, Metric::Thumbs, yes(arm.thumbs));
        numbers.add(revision, Metric::Refusals, yes(0.05));
        numbers.add(revision, Metric::Score, arm.score + 0.2 * random.normal());
        numbers.add(revision, Metric::FirstToken, 80.0 * arm.latency * (0.7 * random.normal()).exp());
    }

    fn verdict(&self) -> ArmVerdict {
        judge(&self.settings, &self.evidence).remove(0)
    }

    /// The verdict without its words, which take longest.
    fn standing(&self) -> Standing {
        let [control, candidate] = &self.evidence.arms[..] else { unreachable!() };
        stand(&self.settings, candidate, control, &look(&self.settings, candidate, control, 1.0), false)
    }

    /// Answers until the verdict is one of these, looking after each; the candidate gets this share of them.
    fn until(&mut self, most: usize, share: f64, arms: [Arm; 2], wanted: fn(&Standing) -> bool) -> Option<(ArmVerdict, usize)> {
        (1..=most).find_map(|answers| {
            let index = usize::from(self.random.uniform() < share);
            self.answer(1, index, arms[index]);
            wanted(&self.standing()).then(|| (self.verdict(), answers))
        })
    }
}

/// A verdict that says that the arms differ.
const fn is_decided(standing: &Standing) -> bool {
    matches!(standing, Standing::Better | Standing::Worse | Standing::Breached { .. } | Standing::Uneven)
}

fn asking(goal: Option<(Metric, u64)>, guards: &[Metric]) -> Settings {
    let goal = goal.map(|(metric, samples)| Goal { metric, direction: None, samples, margin: None });
    // No tolerance: the hardest case for a promise about false alarms.
    let guards = guards.iter().map(|metric| Guard { tolerance: Some(0.0), ..Guard::of(metric.clone()) }).collect();
    Settings { control: "stable".to_owned(), goal, guards, min_samples: 30 }
}

const GUARDS: [Metric; 3] = [Metric::Errors, Metric::FirstToken, Metric::Refusals];

/// How many of 1,000 experiments without any difference come to a verdict, though somebody looks after every answer.
fn false_verdicts(goal: Metric, share: f64, most: usize) -> usize {
    let settings = asking(Some((goal, 300)), &GUARDS);
    let run = |seed| Trial::new(seed, &settings).until(most, share, [PLAIN; 2], is_decided).is_some();
    (0..1_000).filter(|seed| run(*seed)).count()
}

#[test]
fn experiments_without_a_difference_come_to_a_verdict_in_one_of_twenty_at_most() {
    let cases = [(Metric::Thumbs, 0.5), (Metric::Score, 0.1)];
    for (goal, share) in cases {
        let wrong = false_verdicts(goal.clone(), share, 1_000);
        assert!(wrong <= 50, "{goal} at {share}: {wrong} of 1,000");
    }
}

#[test]
fn a_ramp_through_a_bad_hour_of_everybody_blames_nobody() {
    let settings = asking(Some((Metric::Score, 500)), &GUARDS);
    let wrong = (0..1_000).filter(|seed| {
        let mut trial = Trial::new(*seed, &settings);
        [(0.01, PLAIN), (0.1, PLAIN), (0.5, Arm { errors: 0.15, score: 0.3, latency: 3.0, ..PLAIN })].iter().zip(1..).any(
            |((share, arm), revision)| {
                (0..500).any(|_| {
                    let index = usize::from(trial.random.uniform() < *share);
                    trial.answer(revision, index, *arm);
                    is_decided(&trial.standing())
                })
            },
        )
    });
    let wrong = wrong.count();
    assert!(wrong <= 50, "{wrong} of 1,000");
}

/// Part of the runs that find a better candidate with 1.6 times the sample of a test with one look (two-sided 5 %, power 80 %).
fn power(goal: Metric, one_look: f64, better: Arm) -> f64 {
    let settings = asking(Some((goal, one_look.ceil() as u64)), &GUARDS);
    let most = (1.6 * one_look) as usize;
    let found = (0..300u64).filter(|seed| {
        let mut trial = Trial::new(*seed, &settings);
        (0..most).any(|answers| {
            trial.answer(1, 0, PLAIN);
            trial.answer(1, 1, better);
            // Looking after every answer finds no more than a little; every fourth is faster to simulate.
            answers % 4 == 0 && trial.standing() == Standing::Better
        })
    });
    found.count() as f64 / 300.0
}

/// Squared sum of the normal quantiles of 97.5 % and 80 %.
const ONE_LOOK: f64 = 7.849;

#[test]
fn known_effects_are_found_in_four_of_five_runs_with_at_most_1_6_times_the_sample_of_one_look() {
    for (from, to) in [(0.6, 0.68), (0.6, 0.7)] {
        let n = ONE_LOOK * (from * (1.0 - from) + to * (1.0 - to)) / f64::powi(to - from, 2);
        let found = power(Metric::Thumbs, n, Arm { thumbs: to, ..PLAIN });
        assert!(found >= 0.8, "{found} for {from} to {to}");
    }
    for effect in [0.05, 0.06] {
        let n = ONE_LOOK * 2.0 * 0.04 / (effect * effect);
        let found = power(Metric::Score, n, Arm { score: PLAIN.score + effect, ..PLAIN });
        assert!(found >= 0.8, "{found} for {effect}");
    }
    let n = ONE_LOOK * 2.0 * 0.49 / f64::powi(f64::ln(0.9), 2);
    let found = power(Metric::FirstToken, n, Arm { latency: 0.9, ..PLAIN });
    assert!(found >= 0.8, "{found} for latency");
}

/// Part of the runs in which the guard of errors is broken within so many answers of a candidate that gets a tenth.
fn caught(before: f64, after: f64, within: u64, runs: u64) -> f64 {
    let settings = asking(Some((Metric::Score, 1_000)), &GUARDS);
    let arms = [Arm { errors: before, ..PLAIN }, Arm { errors: after, ..PLAIN }];
    let found = (0..runs).filter(|seed| {
        let mut trial = Trial::new(*seed, &settings);
        loop {
            let index = usize::from(trial.random.uniform() < 0.1);
            trial.answer(1, index, arms[index]);
            if index == 1 {
                if trial.standing() == (Standing::Breached { guard: Metric::Errors }) {
                    return true;
                }
                if trial.evidence.arms[1].answers() >= within {
                    return false;
                }
            }
        }
    });
    found.count() as f64 / runs as f64
}

#[test]
fn guards_catch_errors_in_time() {
    let disaster = caught(0.02, 0.2, 60, 1_000);
    let doubling = caught(0.05, 0.1, 1_500, 100);
    assert!(disaster >= 0.95 && doubling >= 0.95, "{disaster} {doubling}");
}

#[test]
fn a_slower_candidate_breaches_its_guard_and_a_tolerated_one_does_not() {
    let settings = Settings { goal: None, ..Settings::usual("stable") };
    let slow = |latency: f64| {
        let mut trial = Trial::new(7, &settings);
        trial.until(4_000, 0.5, [PLAIN, Arm { latency, ..PLAIN }], |standing| standing.must_go_back())
    };
    let (verdict, _) = slow(2.0).unwrap();
    assert_eq!(verdict.standing, Standing::Breached { guard: Metric::FirstToken });
    assert!(verdict.why.contains("first_token_ms") && verdict.why.contains("25 % that are tolerated"), "{}", verdict.why);
    assert!(slow(1.15).is_none());
}

#[test]
fn standings_follow_the_numbers() {
    let mut settings = asking(Some((Metric::Thumbs, 200)), &[Metric::Errors]);
    let stand = |settings: &Settings, answers: usize, candidate: Arm| {
        let mut trial = Trial::new(3, settings);
        for _ in 0..answers {
            trial.answer(1, 0, PLAIN);
            trial.answer(1, 1, candidate);
        }
        trial.verdict()
    };
    assert_eq!(stand(&settings, 0, PLAIN).standing, Standing::Waiting { needed: 30 });
    let verdict = stand(&settings, 100, PLAIN);
    assert_eq!(verdict.standing, Standing::Undecided { needed: 220 });
    assert!(verdict.why.contains("the difference is between"), "{}", verdict.why);
    assert_eq!(stand(&settings, 320, PLAIN).standing, Standing::Inconclusive);
    assert_eq!(stand(&settings, 320, Arm { thumbs: 0.9, ..PLAIN }).standing, Standing::Better);
    assert_eq!(stand(&settings, 320, Arm { thumbs: 0.3, ..PLAIN }).standing, Standing::Worse);
    settings.goal.as_mut().unwrap().direction = Some(Direction::Lower);
    assert_eq!(stand(&settings, 320, Arm { thumbs: 0.3, ..PLAIN }).standing, Standing::Better);
    settings.goal.as_mut().unwrap().margin = Some(0.5);
    assert_eq!(stand(&settings, 300, PLAIN).standing, Standing::NotWorse);
    settings.goal = None;
    assert_eq!(stand(&settings, 100, PLAIN).standing, Standing::Holding);
    let broken = stand(&settings, 100, Arm { errors: 0.5, ..PLAIN });
    assert_eq!(broken.standing, Standing::Breached { guard: Metric::Errors });
    assert!(broken.why.contains(" of 100 (") && broken.why.contains("more than chance explains"), "{}", broken.why);
    let mut uneven = Trial::new(1, &settings);
    uneven.evidence.split = vec![0.0, 8.0];
    assert_eq!(uneven.verdict().standing, Standing::Uneven);
}

#[test]
fn sums_of_parts_judge_like_the_whole() {
    let settings = asking(Some((Metric::Score, 200)), &GUARDS);
    let mut whole = Trial::new(5, &settings);
    let mut parts = [Trial::new(5, &settings), Trial::new(5, &settings)];
    for answer in 0..400 {
        let value = f64::from(answer % 7);
        let (arm, part) = (answer as usize % 2, answer as usize / 3 % 2);
        for metric in [Metric::Score, Metric::Errors] {
            let value = if metric == Metric::Errors { f64::from(u8::from(answer % 20 == 0)) } else { value };
            whole.evidence.arms[arm].add(1, metric.clone(), value);
            parts[part].evidence.arms[arm].add(1, metric, value);
        }
    }
    let [mut sum, other] = parts;
    for (into, from) in sum.evidence.arms.iter_mut().zip(&other.evidence.arms) {
        for (metric, revisions) in &from.metrics {
            for (revision, sums) in revisions {
                into.metrics.entry(metric.clone()).or_default().entry(*revision).or_default().merge(sums);
            }
        }
    }
    assert_eq!(sum.verdict(), whole.verdict());
}
