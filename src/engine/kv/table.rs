//! The block table of one sequence: takes blocks from the pool, shares full ones, gives all of them back when dropped.

use super::blocks_for;
use super::pool::{Before, BlockPool, BlockTokens, Sharing};
use crate::engine::request::Realm;
use crate::model::{BLOCK_TOKENS, BlockId};

/// Blocks of one sequence in order of position. Whoever holds a block holds all the blocks before it, too, so a cached block is
/// never older than those that continue it and eviction takes ends before beginnings.
#[derive(Debug)]
pub struct BlockTable {
    pool: BlockPool,
    sharing: Sharing,
    blocks: Vec<BlockId>,
    /// Blocks at the front that are in the prefix index.
    indexed: usize,
    /// The last indexed one.
    tail: Before,
}

impl BlockTable {
    /// An empty table for a sequence.
    pub const fn new(pool: BlockPool, sharing: Sharing) -> Self {
        Self { pool, sharing, blocks: Vec::new(), indexed: 0, tail: Before::Root(sharing) }
    }

    /// Block numbers in order of position.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Takes the longest known prefix of `tokens` into an empty table; returns how many tokens it covers (whole blocks).
    pub fn take_prefix(&mut self, tokens: &[u32]) -> usize {
        debug_assert!(self.blocks.is_empty(), "a prefix goes into an empty table");
        if self.sharing.realm == Realm::NOBODY {
            return 0;
        }
        for tokens in tokens.as_chunks::<BLOCK_TOKENS>().0 {
            let Some((block, number)) = self.pool.take_indexed(self.tail, tokens) else { break };
            self.blocks.push(block);
            self.indexed += 1;
            self.tail = Before::Entry(number);
        }
        self.blocks.len() * BLOCK_TOKENS
    }

    /// Blocks still missing to cover `tokens` positions.
    pub fn missing(&self, tokens: usize) -> usize {
        blocks_for(tokens).saturating_sub(self.blocks.len())
    }

    /// Takes what is missing to cover `tokens` positions; takes nothing and says no when the pool has not enough.
    pub fn cover(&mut self, tokens: usize) -> bool {
        let missing = self.missing(tokens);
        missing == 0 || self.pool.take(missing, &mut self.blocks)
    }

    /// Makes full blocks findable; `computed` are the tokens whose keys and values are in the blocks.
    /// Where another sequence was first with the same content, its block replaces ours (rows are bit-identical).
    pub fn publish(&mut self, computed: &[u32]) {
        if self.sharing.realm == Realm::NOBODY {
            return;
        }
        let full: &[BlockTokens] = computed.as_chunks::<BLOCK_TOKENS>().0;
        while self.indexed < full.len() && self.indexed < self.blocks.len() {
            let (tokens, own) = (&full[self.indexed], self.blocks[self.indexed]);
            let number = match self.pool.take_indexed(self.tail, tokens) {
                Some((block, number)) => {
                    self.pool.give_back(own);
                    self.blocks[self.indexed] = block;
                    number
                }
                None => match self.pool.index(own, self.tail, tokens) {
                    Some(number) => number,
                    None => return,
                },
            };
            self.indexed += 1;
            self.tail = Before::Entry(number);
        }
    }

    /// Gives every block back.
    pub fn clear(&mut self) {
        // The end first: it is the first to be evicted.
        for block in self.blocks.drain(..).rev() {
            self.pool.give_back(block);
        }
        self.indexed = 0;
        self.tail = Before::Root(self.sharing);
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.clear();
    }
}
