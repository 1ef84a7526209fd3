//! The scheduler alone: sequences that want a number of tokens, no model.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::engine::kv::{PrefixCache, blocks_for};

/// A sequence known by its number that ends at a length.
#[derive(Debug)]
struct Toy {
    number: usize,
    full_len: usize,
}

fn scheduler(limits: Limits, blocks: usize) -> Scheduler<Toy> {
    Scheduler::new(limits, BlockPool::new(blocks, PrefixCache::On))
}

fn limits(batch_tokens: usize, sequences: usize) -> Limits {
    Limits { batch_tokens, sequences, prompt_rows: 8 }
}

/// Prompts of different sequences share nothing.
fn push(scheduler: &mut Scheduler<Toy>, number: usize, prompt_len: usize, answer: usize) {
    push_for(scheduler, "one", (number, prompt_len, answer));
}

fn push_for(scheduler: &mut Scheduler<Toy>, account: &str, (number, prompt_len, answer): (usize, usize, usize)) {
    let tokens = (0..prompt_len).map(|position| (number * 1000 + position) as u32).collect();
    let (sharing, account) = (Sharing::default(), Realm::named(account));
    let arrival = Arrival { tokens, prompt_len, sharing, account, rows: PromptRows::Last };
    scheduler.push(arrival, Toy { number, full_len: prompt_len + answer });
}

fn running(scheduler: &Scheduler<Toy>) -> Vec<usize> {
    scheduler.running().iter().map(|sequence| sequence.payload.number).collect()
}

/// Plays the engine's part in a step; returns `(number, start, len)` of the chunks and the numbers that ended.
fn step(scheduler: &mut Scheduler<Toy>) -> (Vec<(usize, usize, usize)>, Vec<usize>) {
    let plan = scheduler.plan();
    let mut done = Vec::new();
    let mut chunks = Vec::new();
    for chunk in &plan.chunks {
        let sequence = scheduler.running_mut(chunk.sequence);
        assert!(blocks_for(chunk.end()) <= sequence.blocks().len(), "the chunk's blocks are there");
        chunks.push((sequence.payload.number, chunk.start, chunk.len));
        if chunk.end() == sequence.tokens.len() {
            assert_ne!(chunk.logits, LogitRows::None);
            sequence.tokens.push(5);
            if sequence.tokens.len() >= sequence.payload.full_len {
                done.push(sequence.payload.number);
            }
        }
        scheduler.computed(chunk);
    }
    drop(scheduler.take_out(|toy| done.contains(&toy.number)));
    (chunks, done)
}

#[test]
fn decodes_come_first_and_prompts_fill_the_rest_in_order_of_arrival() {
    let mut scheduler = scheduler(limits(10, 8), 100);
    push(&mut scheduler, 0, 3, 9);
    assert_eq!(step(&mut scheduler).0, [(0, 0, 3)]);
    push(&mut scheduler, 1, 14, 9);
    push(&mut scheduler, 2, 4, 9);
    assert_eq!(step(&mut scheduler).0, [(0, 3, 1), (1, 0, 9)]);
    assert_eq!(step(&mut scheduler).0, [(0, 4, 1), (1, 9, 5), (2, 0, 4)]);
    assert_eq!(step(&mut scheduler).0, [(0, 5, 1), (1, 14, 1), (2, 4, 1)]);
}

#[test]
fn a_long_prompt_takes_small_chunks_while_others_answer() {
    let mut scheduler = scheduler(limits(100, 8), 100);
    scheduler.bound_prefill_beside_decodes(6);
    push(&mut scheduler, 0, 30, 3);
    assert_eq!(step(&mut scheduler).0, [(0, 0, 30)], "nobody waits for it");
    push(&mut scheduler, 1, 50, 1);
    assert_eq!(step(&mut scheduler).0, [(0, 30, 1), (1, 0, 6)]);
    assert_eq!(step(&mut scheduler), (vec![(0, 31, 1), (1, 6, 6)], vec![0]));
    assert_eq!(step(&mut scheduler).0, [(1, 12, 38)], "nobody waits any more");
}

#[test]
fn no_more_run_than_allowed() {
    let mut scheduler = scheduler(limits(100, 2), 100);
    for number in 0..3 {
        push(&mut scheduler, number, 4, 2);
    }
    assert_eq!(step(&mut scheduler).0.len(), 2);
    assert_eq!(scheduler.waiting(), 1);
    assert_eq!(step(&mut scheduler).1, [0, 1]);
    assert_eq!(step(&mut scheduler).0, [(2, 0, 4)]);
}

#[test]
fn the_youngest_is_preempted_and_comes_back_before_those_behind_it() {
    let mut scheduler = scheduler(limits(64, 8), 3);
    push(&mut scheduler, 0, 16, 20);
    push(&mut scheduler, 1, 15, 17);
    assert_eq!(step(&mut scheduler).0, [(0, 0, 16), (1, 0, 15)]);
    push(&mut scheduler, 2, 4, 1);
    // 0 takes the third block; 2 finds none, and 1 needs one for position 16.
    assert_eq!(step(&mut scheduler).0, [(0, 16, 1), (1, 15, 1)]);
    assert_eq!(step(&mut scheduler).0, [(0, 17, 1)], "1 waits: nobody older needs its block yet");
    let mut seen = Vec::new();
    while !scheduler.is_idle() {
        let (chunks, done) = step(&mut scheduler);
        assert!(!chunks.is_empty());
        seen.extend(done);
    }
    assert_eq!(seen, [0, 2, 1], "2 is short and starts when 0 has ended, behind 1");
    assert_eq!(scheduler.pool.counts().held, 0);
}

#[test]
fn a_full_pool_never_takes_from_the_older() {
    let mut scheduler = scheduler(limits(64, 8), 4);
    push(&mut scheduler, 0, 16, 40);
    push(&mut scheduler, 1, 16, 40);
    let mut order = Vec::new();
    let mut preempted = 0;
    while !scheduler.is_idle() {
        preempted += usize::from(scheduler.waiting() > 0);
        order.extend(step(&mut scheduler).1);
    }
    assert_eq!(order, [0, 1]);
    assert!(preempted > 0, "the second one had to give its blocks back");
}

#[test]
fn a_whole_known_prompt_still_computes_its_last_token() {
    let mut scheduler = scheduler(limits(64, 8), 10);
    for _ in 0..2 {
        push(&mut scheduler, 7, 32, 1);
        step(&mut scheduler);
    }
    push(&mut scheduler, 7, 32, 1);
    // 31 tokens may be found, which is one full block.
    let plan = scheduler.plan();
    assert_eq!(plan.started, [(0, 16)]);
    assert_eq!((plan.chunks[0].start, plan.chunks[0].len), (16, 16));
}

#[test]
fn prompt_rows_are_bounded_and_never_skipped() {
    let mut scheduler = scheduler(limits(64, 8), 10);
    push(&mut scheduler, 1, 20, 1);
    step(&mut scheduler);
    let (sharing, account) = (Sharing::default(), Realm::named("one"));
    let arrival = Arrival { tokens: (1000..1020).collect(), prompt_len: 20, sharing, account, rows: PromptRows::All };
    scheduler.push(arrival, Toy { number: 1, full_len: 21 });
    let mut chunks = Vec::new();
    while !scheduler.is_idle() {
        let plan = scheduler.plan();
        chunks.push((plan.chunks[0].start, plan.chunks[0].len, plan.chunks[0].logits));
        scheduler.computed(&plan.chunks[0]);
        let ended = plan.chunks[0].end() == 20;
        drop(scheduler.take_out(|_| ended));
    }
    assert_eq!(chunks, [(0, 8, LogitRows::All), (8, 8, LogitRows::All), (16, 4, LogitRows::All)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_step_keeps_the_promises_and_everything_ends(
        batch in 8usize..40,
        sequences in 1usize..8,
        blocks in 5usize..12,
        arrivals in prop::collection::vec((0usize..4, 1usize..60, 1usize..20), 1..25),
    ) {
        let mut scheduler = scheduler(limits(batch, sequences), blocks);
        let mut pause = 0;
        let mut arrivals = arrivals.into_iter().enumerate().peekable();
        let mut first_start = Vec::new();
        let mut steps = 0;
        while arrivals.peek().is_some() || !scheduler.is_idle() {
            while pause == 0 && let Some((number, (wait, prompt, answer))) = arrivals.next() {
                push(&mut scheduler, number, prompt, answer);
                pause = wait;
            }
            pause = usize::saturating_sub(pause, 1);
            let had_work = !scheduler.is_idle();
            let before: Vec<usize> = scheduler.running().iter().map(|sequence| sequence.payload.number).collect();
            let (chunks, _) = step(&mut scheduler);
            prop_assert_eq!(chunks.is_empty(), !had_work, "work means progress");
            prop_assert!(chunks.iter().map(|chunk| chunk.2).sum::<usize>() <= batch);
            prop_assert!(chunks.len() <= sequences);
            let prefills = chunks.iter().position(|chunk| chunk.2 > 1).unwrap_or(chunks.len());
            prop_assert!(chunks[..prefills].iter().map(|chunk| chunk.0).is_sorted(), "decodes by age: {:?}", chunks);
            if let Some(oldest) = before.first() {
                prop_assert!(chunks.iter().any(|chunk| chunk.0 == *oldest), "the oldest always goes on");
            }
            for (number, ..) in chunks {
                if !first_start.contains(&number) {
                    first_start.push(number);
                }
            }
            steps += 1;
            prop_assert!(steps < 20_000, "no livelock");
        }
        prop_assert!(first_start.is_sorted(), "started in order of arrival: {:?}", first_start);
        prop_assert_eq!(scheduler.pool.counts().held, 0);
    }
}

#[test]
fn an_account_with_many_requests_does_not_hold_up_another() {
    let mut scheduler = scheduler(limits(16, 4), 100);
    for number in 0..20 {
        push_for(&mut scheduler, "many", (number, 8, 30));
    }
    for _ in 0..6 {
        step(&mut scheduler);
    }
    assert_eq!((scheduler.running().len(), scheduler.waiting()), (4, 16));
    push_for(&mut scheduler, "few", (100, 8, 3));
    let (chunks, _) = step(&mut scheduler);
    assert!(chunks.contains(&(100, 0, 8)), "it starts in the next step, in the place of the youngest: {chunks:?}");
    assert_eq!(running(&scheduler), [0, 1, 2, 100]);
    step(&mut scheduler);
    let (_, done) = step(&mut scheduler);
    assert_eq!(done, [100]);
    step(&mut scheduler);
    assert_eq!(scheduler.running()[3].payload.number, 3, "and who gave way goes on before those behind it");
}

#[test]
fn nobody_gives_way_to_an_account_that_has_its_part() {
    let mut scheduler = scheduler(limits(64, 4), 100);
    for number in 0..4 {
        push_for(&mut scheduler, "a", (number, 4, 50));
    }
    step(&mut scheduler);
    for number in 10..16 {
        push_for(&mut scheduler, "b", (number, 4, 50));
    }
    for _ in 0..12 {
        step(&mut scheduler);
        let places = scheduler.running().iter().filter(|sequence| sequence.payload.number >= 10).count();
        assert_eq!((places, scheduler.running().len()), (2, 4));
    }
}

#[test]
fn time_away_is_no_credit() {
    let mut shares = Shares::default();
    let [one, two] = ["one", "two"].map(Realm::named);
    shares.arrive(one, &[], &[]);
    shares.served(one, Work::Prompt(1_000));
    shares.arrive(two, &[one], &[one]);
    assert_eq!(shares.of(two), 1_000);
    shares.served(two, Work::Generated);
    // One goes and comes back: it is behind by what two was served, and no more.
    shares.arrive(one, &[two], &[]);
    assert_eq!(shares.of(one), 1_002);
    // Ahead of the others it stays ahead, though it was away.
    shares.served(one, Work::Prompt(50));
    shares.arrive(one, &[two], &[two]);
    assert_eq!((shares.of(one), shares.of(two)), (1_052, 1_002));
    // Nor is time in which it ran alone what others have to wait for, as nobody did.
    shares.served(one, Work::Prompt(500));
    shares.arrive(two, &[], &[one, two]);
    assert_eq!(shares.of(two), 1_552);
    shares.arrive(two, &[], &[]);
    assert_eq!((shares.of(one), shares.of(two)), (0, 0), "alone there is nobody to be fair to");
}

#[test]
fn an_account_that_was_merely_there_does_not_come_before_others_for_long() {
    let mut scheduler = scheduler(limits(16, 4), 1_000);
    push_for(&mut scheduler, "quiet", (0, 4, 900));
    let mut number = 1;
    let mut busy = |scheduler: &mut Scheduler<Toy>| {
        while scheduler.waiting.get(&Realm::named("busy")).map_or(0, VecDeque::len) < 4 {
            push_for(scheduler, "busy", (number, 12, 1));
            number += 1;
        }
        step(scheduler).0
    };
    (0..200).for_each(|_| drop(busy(&mut scheduler)));
    // So far one was served about 400, the other about 2,400.
    (0..50).for_each(|index| push_for(&mut scheduler, "quiet", (1_000 + index, 12, 1)));
    let served: usize =
        (0..20).flat_map(|_| busy(&mut scheduler)).filter(|chunk| (1..1_000).contains(&chunk.0)).map(|chunk| chunk.2).sum();
    assert!(served >= 80, "{served} tokens in 20 steps");
}

#[test]
fn an_account_that_has_its_part_does_not_hold_up_one_that_has_none() {
    let mut scheduler = scheduler(limits(64, 6), 1_000);
    for account in ["b", "a"] {
        for number in 0..8 {
            push_for(&mut scheduler, account, (if account == "a" { number } else { 10 + number }, 4, 500));
        }
        step(&mut scheduler);
    }
    let places = |scheduler: &Scheduler<Toy>| running(scheduler).iter().filter(|number| **number < 10).count();
    assert_eq!((places(&scheduler), scheduler.running().len()), (3, 6), "a and b have three each, and more that wait");
    scheduler.shares.served(Realm::named("b"), Work::Prompt(1_000));
    scheduler.shares.served(Realm::named("c"), Work::Prompt(500));
    push_for(&mut scheduler, "c", (31, 4, 500));
    step(&mut scheduler);
    assert_eq!((places(&scheduler), scheduler.running().len()), (3, 6), "b gives way, who was served most");
    assert!(running(&scheduler).contains(&31), "though a comes before c");
}

#[test]
fn nobody_gives_way_where_that_is_not_enough() {
    // One block is the oldest's, who never gives way: the whole pool cannot be had.
    let mut scheduler = scheduler(limits(64, 8), 4);
    for number in 0..3 {
        push_for(&mut scheduler, "a", (number, 8, 6));
    }
    step(&mut scheduler);
    push_for(&mut scheduler, "b", (10, 60, 2));
    let plan = scheduler.plan();
    assert_eq!((plan.preempted, plan.chunks.len()), (0, 3));
    // Where it is enough they do.
    assert_eq!(scheduler.take_out(|toy| toy.number == 10).len(), 1);
    push_for(&mut scheduler, "b", (11, 40, 2));
    assert_eq!(scheduler.plan().preempted, 2);
    assert_eq!(running(&scheduler), [0, 11]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whoever shares the places: everything ends, each account's in the order in which it came, and whoever gives way does so for
    /// somebody who starts, or for an older one.
    #[test]
    fn with_several_accounts_everything_ends(
        (batch, sequences, blocks) in (8usize..40, 1usize..8, 5usize..12),
        arrivals in prop::collection::vec((0usize..4, 1usize..60, 1usize..20, 0usize..4), 1..25),
    ) {
        let mut scheduler = scheduler(limits(batch, sequences), blocks);
        let accounts: Vec<usize> = arrivals.iter().map(|arrival| arrival.3).collect();
        let mut arrivals = arrivals.into_iter().enumerate().peekable();
        let (mut pause, mut steps) = (0, 0);
        let mut first_start: Vec<usize> = Vec::new();
        while arrivals.peek().is_some() || !scheduler.is_idle() {
            while pause == 0 && let Some((number, (wait, prompt, answer, account))) = arrivals.next() {
                push_for(&mut scheduler, ["a", "b", "c", "d"][account], (number, prompt, answer));
                pause = wait;
            }
            pause = usize::saturating_sub(pause, 1);
            let had_work = !scheduler.is_idle();
            let (chunks, _) = step(&mut scheduler);
            prop_assert_eq!(chunks.is_empty(), !had_work, "work means progress");
            prop_assert!(chunks.iter().map(|chunk| chunk.2).sum::<usize>() <= batch && chunks.len() <= sequences);
            for (number, ..) in chunks {
                if !first_start.contains(&number) {
                    first_start.push(number);
                }
            }
            prop_assert!(scheduler.waiting.values().all(|queue| !queue.is_empty()));
            prop_assert!(scheduler.waiting.values().all(|queue| queue.iter().map(|sequence| sequence.turn).is_sorted()));
            steps += 1;
            prop_assert!(steps < 20_000, "no livelock");
        }
        for account in 0..4 {
            prop_assert!(first_start.iter().filter(|number| accounts[**number] == account).is_sorted(), "{:?}", first_start);
        }
        prop_assert_eq!(scheduler.pool.counts().held, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Of accounts that always have something to do none is served more than others by more than what a few steps carry.
    #[test]
    fn backlogged_accounts_are_served_alike(
        prompts in proptest::collection::vec(1..60usize, 3),
        answers in proptest::collection::vec(1..20usize, 3),
    ) {
        let mut scheduler = scheduler(limits(32, 6), 400);
        let names = ["a", "b", "c"];
        let mut number = 0;
        let mut served = [0u64; 3];
        let mut owner = std::collections::HashMap::new();
        for round in 0..300 {
            for account in 0..3 {
                let there = scheduler.running().iter().chain(scheduler.waiting.values().flatten());
                let mine = there.filter(|sequence| sequence.account == Realm::named(names[account])).count();
                for _ in mine..8 {
                    push_for(&mut scheduler, names[account], (number, prompts[account], answers[account]));
                    owner.insert(number, account);
                    number += 1;
                }
            }
            let (chunks, _) = step(&mut scheduler);
            prop_assert!(!chunks.is_empty());
            if round >= 100 {
                for (number, start, len) in chunks {
                    let account = owner[&number];
                    served[account] += if len == 1 && start >= prompts[account] { 2 } else { len as u64 };
                }
            }
        }
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        prop_assert!(most - least <= 600, "{served:?}");
    }
}
