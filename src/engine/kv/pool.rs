//! The block pool: reference counts, the free list, and the prefix index over blocks whose content is known.
//!
//! A block is held (referenced by at least one table), cached (held by nobody, content known, may be taken back or evicted)
//! or free. The prefix index is exact: an entry's key is the unique number of the entry before it and the block's own tokens,
//! so equal keys mean equal histories under the same adapter version, whatever the hash function does.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::engine::request::Realm;
use crate::ids::VersionId;
use crate::model::{BLOCK_TOKENS, BlockId};

/// Whether computed prefixes are kept for later requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrefixCache {
    /// Full blocks are shared by sequences with the same adapter version and history.
    #[default]
    On,
    /// Every sequence computes its whole prompt.
    Off,
}

/// How many blocks are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockCounts {
    /// All.
    pub total: usize,
    /// Held by sequences.
    pub held: usize,
    /// Held by nobody, content reusable.
    pub cached: usize,
}

impl BlockCounts {
    /// Blocks that a sequence could get now.
    pub const fn available(&self) -> usize {
        self.total - self.held
    }
}

/// Which sequences may read each other's blocks: those whose keys and values are computed with the same weights, in the same realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sharing {
    /// Adapter version; `None` is the base.
    pub version: Option<VersionId>,
    /// Realm.
    pub realm: Realm,
}

/// What stands before a block: nothing (then it is the first of its kind of sequence), or an indexed block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Before {
    /// The block is the first one of a sequence.
    Root(Sharing),
    /// The unique number of the entry before.
    Entry(u64),
}

pub(super) type BlockTokens = [u32; BLOCK_TOKENS];

type Key = (Before, BlockTokens);

#[derive(Debug, Default)]
struct Block {
    holders: usize,
    /// Number and key of the block's entry in the index.
    entry: Option<(u64, Key)>,
    /// When the last holder left; key into `State::cached`.
    left_at: u64,
}

#[derive(Debug)]
struct State {
    blocks: Vec<Block>,
    free: Vec<BlockId>,
    /// Cached blocks by the moment their last holder left: first in, first evicted.
    cached: BTreeMap<u64, BlockId>,
    index: HashMap<Key, BlockId>,
    /// Source of entry numbers and moments; never repeats.
    clock: u64,
    cache: PrefixCache,
}

/// The pool. Clones are the same pool; it lives on one thread.
#[derive(Debug, Clone)]
pub struct BlockPool(Rc<RefCell<State>>);

impl BlockPool {
    /// A pool of blocks `0..total`.
    pub fn new(total: usize, cache: PrefixCache) -> Self {
        let blocks = std::iter::repeat_with(Block::default).take(total).collect();
        // Popped from the end: block 0 is given out first.
        let free = (0..total).rev().map(|block| block as BlockId).collect();
        Self(Rc::new(RefCell::new(State { blocks, free, cached: BTreeMap::new(), index: HashMap::new(), clock: 0, cache })))
    }

    /// How many blocks are in which state.
    pub fn counts(&self) -> BlockCounts {
        let state = self.0.borrow();
        let (total, cached) = (state.blocks.len(), state.cached.len());
        BlockCounts { total, held: total - state.free.len() - cached, cached }
    }

    /// How many blocks nobody would hold any more if holds on `blocks` were given back; one that is named twice is held twice.
    pub fn freed<'a>(&self, blocks: impl Iterator<Item = &'a BlockId>) -> usize {
        let mut given = HashMap::<BlockId, usize>::new();
        blocks.for_each(|block| *given.entry(*block).or_default() += 1);
        let state = self.0.borrow();
        given.iter().filter(|(block, holds)| state.blocks[**block as usize].holders == **holds).count()
    }

    /// Takes `count` blocks of unknown content onto the end of `blocks`; takes none when there are not enough.
    pub(super) fn take(&self, count: usize, blocks: &mut Vec<BlockId>) -> bool {
        let mut state = self.0.borrow_mut();
        if state.free.len() + state.cached.len() < count {
            return false;
        }
        blocks.extend((0..count).map_while(|_| state.take_one()));
        true
    }

    /// Takes the indexed block with these tokens after `before`, and its entry's number.
    pub(super) fn take_indexed(&self, before: Before, tokens: &BlockTokens) -> Option<(BlockId, u64)> {
        let mut state = self.0.borrow_mut();
        let block = *state.index.get(&(before, *tokens))?;
        let number = state.blocks[block as usize].entry.as_ref()?.0;
        state.hold(block);
        Some((block, number))
    }

    /// Indexes a held block; returns its entry's number, or `None` when the cache is off. The key must not be indexed yet.
    pub(super) fn index(&self, block: BlockId, before: Before, tokens: &BlockTokens) -> Option<u64> {
        let mut state = self.0.borrow_mut();
        if state.cache == PrefixCache::Off {
            return None;
        }
        let (number, key) = (state.tick(), (before, *tokens));
        state.blocks[block as usize].entry = Some((number, key));
        state.index.insert(key, block);
        Some(number)
    }

    /// Gives one hold on `block` back.
    pub(super) fn give_back(&self, block: BlockId) {
        let mut state = self.0.borrow_mut();
        let left_at = state.tick();
        let entry = &mut state.blocks[block as usize];
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        entry.left_at = left_at;
        if entry.entry.is_some() {
            state.cached.insert(left_at, block);
        } else {
            state.free.push(block);
        }
    }
}

impl State {
    const fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn hold(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block as usize];
        entry.holders += 1;
        if entry.holders == 1 {
            let left_at = entry.left_at;
            self.cached.remove(&left_at);
        }
    }

    fn take_one(&mut self) -> Option<BlockId> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => {
                let (_, block) = self.cached.pop_first()?;
                if let Some((_, key)) = self.blocks[block as usize].entry.take() {
                    self.index.remove(&key);
                }
                block
            }
        };
        self.blocks[block as usize].holders = 1;
        Some(block)
    }
}
