//! KV blocks: who holds which, and which of them can be read again. Knows block numbers, token ids, adapter versions and realms;
//! never the tensors behind them, nor who is scheduled when.

mod pool;
mod table;

pub use pool::{BlockCounts, BlockPool, PrefixCache, Sharing};
pub use table::BlockTable;

use crate::model::BLOCK_TOKENS;

/// Blocks that `tokens` positions take.
pub const fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

#[cfg(test)]
mod tests;
