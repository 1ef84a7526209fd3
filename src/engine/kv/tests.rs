//! Tests of the pool and the tables.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;
use crate::engine::request::Realm;
use crate::ids::VersionId;

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).collect()
}

fn of(version: Option<VersionId>) -> Sharing {
    Sharing { version, realm: Realm::default() }
}

fn computed(pool: &BlockPool, version: Option<VersionId>, tokens: &[u32]) -> BlockTable {
    let mut table = BlockTable::new(pool.clone(), of(version));
    assert!(table.cover(tokens.len()));
    table.publish(tokens);
    table
}

#[test]
fn a_dropped_table_gives_everything_back_and_its_prefix_is_found_again() {
    let pool = BlockPool::new(8, PrefixCache::On);
    let history = tokens(40);
    let first = computed(&pool, None, &history).blocks().to_vec();
    assert_eq!(pool.counts(), BlockCounts { total: 8, held: 0, cached: 2 });
    let mut again = BlockTable::new(pool.clone(), of(None));
    assert_eq!(again.take_prefix(&history), 32);
    assert_eq!(again.blocks(), &first[..2]);
    assert_eq!(pool.counts().held, 2);
}

#[test]
fn versions_and_histories_do_not_share() {
    let pool = BlockPool::new(8, PrefixCache::On);
    let history = tokens(32);
    let _held = computed(&pool, None, &history);
    let other = Some(VersionId::new([1; 32]));
    assert_eq!(BlockTable::new(pool.clone(), of(other)).take_prefix(&history), 0);
    let elsewhere = Sharing { version: None, realm: Realm::named("another tenant") };
    assert_eq!(BlockTable::new(pool.clone(), elsewhere).take_prefix(&history), 0);
    // The same second block after another first block is another history.
    let mut changed = history;
    changed[0] = 99;
    assert_eq!(BlockTable::new(pool.clone(), of(None)).take_prefix(&changed), 0);
    assert_eq!(BlockTable::new(pool, of(None)).take_prefix(&changed[16..]), 0);
}

#[test]
fn twins_end_up_with_the_same_blocks() {
    let pool = BlockPool::new(8, PrefixCache::On);
    let history = tokens(32);
    let mut twins = [BlockTable::new(pool.clone(), of(None)), BlockTable::new(pool.clone(), of(None))];
    for twin in &mut twins {
        assert!(twin.cover(33));
    }
    assert_eq!(pool.counts().held, 6);
    for twin in &mut twins {
        twin.publish(&history);
    }
    assert_eq!(twins[0].blocks()[..2], twins[1].blocks()[..2]);
    assert_eq!(pool.counts().held, 4);
}

#[test]
fn the_least_recently_used_end_is_evicted_first() {
    let pool = BlockPool::new(4, PrefixCache::On);
    let (old, new): (Vec<u32>, Vec<u32>) = (tokens(32), (100..132).collect());
    drop(computed(&pool, None, &old));
    drop(computed(&pool, None, &new));
    assert_eq!(pool.counts(), BlockCounts { total: 4, held: 0, cached: 4 });
    let mut taker = BlockTable::new(pool.clone(), of(None));
    assert!(taker.cover(16));
    assert_eq!(BlockTable::new(pool.clone(), of(None)).take_prefix(&old), 16);
    assert_eq!(BlockTable::new(pool.clone(), of(None)).take_prefix(&new), 32);
    assert!(!taker.cover(80), "more than there is");
    assert_eq!(taker.blocks().len(), 1, "nothing is taken when it is not enough");
}

#[test]
fn off_means_that_nothing_is_kept() {
    let pool = BlockPool::new(4, PrefixCache::Off);
    drop(computed(&pool, None, &tokens(32)));
    assert_eq!(pool.counts(), BlockCounts { total: 4, held: 0, cached: 0 });
    assert_eq!(BlockTable::new(pool, of(None)).take_prefix(&tokens(32)), 0);
}
