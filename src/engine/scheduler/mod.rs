//! Decides what each step carries. A deterministic state machine over sequences and the block pool: no tensors, no threads, no
//! clock, nothing of sampling or of who waits for the answer (that is the payload `T`).
//!
//! Promises, held by the tests beside:
//! - a step carries every running sequence that needs one token (a decode), then prefill chunks, oldest first, up to the budget,
//!   which is smaller beside decodes, so that a long prompt does not hold up running answers;
//! - sequences start in the order in which they came; a preempted one goes back before all others;
//! - when blocks run out, the youngest running sequence is preempted (it computes its tokens again later), never an older one
//!   for a younger one's sake, so the oldest always goes on and every sequence ends.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use super::kv::{BlockPool, BlockTable, Sharing};
use crate::model::LogitRows;

/// Bounds of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens in a step; at least `sequences`, so that decodes always fit.
    pub batch_tokens: usize,
    /// Sequences running at the same time.
    pub sequences: usize,
    /// Rows of prompt log-probabilities in a step (each is a row of logits in memory).
    pub prompt_rows: usize,
}

/// A sequence as the scheduler sees it.
#[derive(Debug)]
pub struct Sequence<T> {
    /// Prompt, then generated tokens.
    pub tokens: Vec<u32>,
    /// Length of the prompt.
    pub prompt_len: usize,
    /// Tokens whose keys and values are in the blocks.
    computed: usize,
    /// First position whose logits are still wanted for prompt log-probabilities, if any are.
    rows_from: Option<usize>,
    table: BlockTable,
    /// Everything else; the scheduler does not look inside.
    pub payload: T,
}

impl<T> Sequence<T> {
    /// Blocks, in order of position.
    pub fn blocks(&self) -> &[crate::model::BlockId] {
        self.table.blocks()
    }

    /// Gives the blocks back and keeps the payload.
    pub fn into_payload(self) -> T {
        self.payload
    }

    /// Tokens still to compute before the next token can be chosen; at least 1.
    const fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether a chunk of positions `start..end` must give all its rows.
    fn wants_rows(&self, start: usize, end: usize) -> bool {
        self.rows_from.is_some_and(|from| end > from && start + 1 < self.prompt_len)
    }
}

/// What the payload asks for its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptRows {
    /// Logits of the last token only.
    Last,
    /// Logits of every prompt token.
    All,
}

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedChunk {
    /// Index in [`Scheduler::running`].
    pub sequence: usize,
    /// First position.
    pub start: usize,
    /// Number of tokens, at least one.
    pub len: usize,
    /// Rows whose logits are wanted.
    pub logits: LogitRows,
}

impl PlannedChunk {
    /// The position after the last.
    pub const fn end(&self) -> usize {
        self.start + self.len
    }
}

/// One step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// Chunks: decodes first, then prefills; each sequence at most once.
    pub chunks: Vec<PlannedChunk>,
    /// Sequences that started (or started again) in this step: index in [`Scheduler::running`] and tokens found in the cache.
    pub started: Vec<(usize, usize)>,
    /// Sequences that lost their blocks.
    pub preempted: usize,
}

/// Budget that is left while a step is planned.
struct Room {
    tokens: usize,
    prompt_rows: usize,
}

/// The scheduler.
#[derive(Debug)]
pub struct Scheduler<T> {
    limits: Limits,
    /// Prefill tokens in a step that carries decodes.
    beside_decodes: usize,
    pool: BlockPool,
    waiting: VecDeque<Sequence<T>>,
    /// In order of arrival.
    running: Vec<Sequence<T>>,
}

impl<T> Scheduler<T> {
    /// A scheduler over this pool.
    pub const fn new(limits: Limits, pool: BlockPool) -> Self {
        Self { limits, beside_decodes: limits.batch_tokens, pool, waiting: VecDeque::new(), running: Vec::new() }
    }

    /// Bounds the prefill tokens of steps that carry decodes; at least 1. Without a bound it is the step's budget.
    pub const fn bound_prefill_beside_decodes(&mut self, tokens: usize) {
        self.beside_decodes = if tokens == 0 { 1 } else { tokens };
    }

    /// Adds a sequence behind all others. Its longest possible history must fit the pool.
    pub fn push(&mut self, prompt: Vec<u32>, sharing: Sharing, rows: PromptRows, payload: T) {
        let prompt_len = prompt.len();
        self.push_begun(prompt, prompt_len, sharing, rows, payload);
    }

    /// Adds a sequence whose answer has begun: the tokens after the first `prompt_len` are the answer's.
    pub fn push_begun(&mut self, tokens: Vec<u32>, prompt_len: usize, sharing: Sharing, rows: PromptRows, payload: T) {
        self.waiting.push_back(Sequence {
            tokens,
            prompt_len,
            computed: 0,
            rows_from: match rows {
                PromptRows::All if prompt_len > 1 => Some(0),
                PromptRows::All | PromptRows::Last => None,
            },
            table: BlockTable::new(self.pool.clone(), sharing),
            payload,
        });
    }

    /// Sequences that hold blocks, oldest first.
    pub fn running(&self) -> &[Sequence<T>] {
        &self.running
    }

    /// One of them.
    pub fn running_mut(&mut self, index: usize) -> &mut Sequence<T> {
        &mut self.running[index]
    }

    /// Number of sequences that hold nothing yet (or nothing any more).
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of waiting sequences of which `is_meant` says yes.
    pub fn waiting_where(&self, is_meant: impl Fn(&T) -> bool) -> usize {
        self.waiting.iter().filter(|sequence| is_meant(&sequence.payload)).count()
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Takes out every sequence, waiting or running, of which `ended` says so. Their blocks are given back when they are dropped.
    pub fn take_out(&mut self, mut ended: impl FnMut(&T) -> bool) -> Vec<Sequence<T>> {
        let mut out: Vec<_> = self.running.extract_if(.., |sequence| ended(&sequence.payload)).collect();
        if self.waiting.iter().any(|sequence| ended(&sequence.payload)) {
            let (gone, stay) = self.waiting.drain(..).partition(|sequence| ended(&sequence.payload));
            self.waiting = stay;
            out.extend::<VecDeque<_>>(gone);
        }
        out
    }

    /// Plans the next step and takes the blocks that it needs. Empty only when there is nothing to do.
    pub fn plan(&mut self) -> StepPlan {
        let mut plan = StepPlan::default();
        let mut room = Room { tokens: self.limits.batch_tokens, prompt_rows: self.limits.prompt_rows };
        self.plan_running(&mut plan, &mut room, |sequence| sequence.pending() == 1);
        if !plan.chunks.is_empty() {
            room.tokens = room.tokens.min(self.beside_decodes);
        }
        self.plan_running(&mut plan, &mut room, |sequence| sequence.pending() > 1);
        if plan.preempted == 0 {
            self.start_waiting(&mut plan, &mut room);
        }
        plan
    }

    /// Notes that a chunk of the plan was computed, and makes its full blocks findable.
    pub fn computed(&mut self, chunk: &PlannedChunk) {
        let sequence = &mut self.running[chunk.sequence];
        sequence.computed = chunk.end();
        // The last prompt token's row is that of the first generated one.
        let rows_from = sequence.rows_from.map(|from| from.max(chunk.end()));
        sequence.rows_from = rows_from.filter(|from| from + 1 < sequence.prompt_len);
        sequence.table.publish(&sequence.tokens[..sequence.computed]);
    }

    fn plan_running(&mut self, plan: &mut StepPlan, room: &mut Room, is_turn: impl Fn(&Sequence<T>) -> bool) {
        let mut index = 0;
        while index < self.running.len() && room.tokens > 0 {
            if is_turn(&self.running[index]) {
                self.plan_one(index, plan, room);
            }
            index += 1;
        }
    }

    /// Plans a chunk of a running sequence; preempts younger ones for its blocks.
    fn plan_one(&mut self, index: usize, plan: &mut StepPlan, room: &mut Room) {
        let Some(mut chunk) = self.chunk_within(index, room) else { return };
        loop {
            let sequence = &mut self.running[index];
            if sequence.table.cover(chunk.end()) {
                break;
            }
            // A shorter chunk in the blocks that there are is progress, too.
            let reach = (sequence.blocks().len() + self.pool.counts().available()) * crate::model::BLOCK_TOKENS;
            if reach > chunk.start {
                chunk.len = reach - chunk.start;
                chunk.logits = Self::logits(sequence, chunk.start, chunk.end());
            } else if index + 1 < self.running.len() {
                self.preempt_youngest(plan, room);
            } else {
                // The youngest waits until an older one ends, or takes its blocks.
                return;
            }
        }
        Self::add(plan, room, chunk);
    }

    fn logits(sequence: &Sequence<T>, start: usize, end: usize) -> LogitRows {
        if sequence.wants_rows(start, end) {
            LogitRows::All
        } else if end == sequence.tokens.len() {
            LogitRows::Last
        } else {
            LogitRows::None
        }
    }

    /// The longest chunk of a sequence that the budget allows.
    fn chunk_within(&self, index: usize, room: &Room) -> Option<PlannedChunk> {
        let sequence = &self.running[index];
        let start = sequence.computed;
        let mut len = sequence.pending().min(room.tokens);
        let mut logits = Self::logits(sequence, start, start + len);
        if logits == LogitRows::All {
            len = len.min(room.prompt_rows);
            logits = Self::logits(sequence, start, start + len);
        }
        (len > 0).then_some(PlannedChunk { sequence: index, start, len, logits })
    }

    fn add(plan: &mut StepPlan, room: &mut Room, chunk: PlannedChunk) {
        room.tokens -= chunk.len;
        if chunk.logits == LogitRows::All {
            room.prompt_rows -= chunk.len;
        }
        plan.chunks.push(chunk);
    }

    fn preempt_youngest(&mut self, plan: &mut StepPlan, room: &mut Room) {
        let Some(mut sequence) = self.running.pop() else { return };
        let index = self.running.len();
        plan.chunks.retain(|chunk| {
            let keep = chunk.sequence != index;
            if !keep {
                room.tokens += chunk.len;
                room.prompt_rows += if chunk.logits == LogitRows::All { chunk.len } else { 0 };
            }
            keep
        });
        plan.preempted += 1;
        sequence.table.clear();
        sequence.computed = 0;
        self.waiting.push_front(sequence);
    }

    /// Starts waiting sequences while there is budget, and blocks for their whole history beside those that running prefills
    /// still need.
    fn start_waiting(&mut self, plan: &mut StepPlan, room: &mut Room) {
        let mut promised: usize = self.running.iter().map(|sequence| sequence.table.missing(sequence.tokens.len())).sum();
        while room.tokens > 0
            && self.running.len() < self.limits.sequences
            && let Some(mut sequence) = self.waiting.pop_front()
        {
            // The last token is always computed, so that there are logits; so is every row that is wanted.
            let findable = (sequence.tokens.len() - 1).min(sequence.rows_from.unwrap_or(usize::MAX));
            let found = sequence.table.take_prefix(&sequence.tokens[..findable]);
            let missing = sequence.table.missing(sequence.tokens.len());
            let starved = sequence.wants_rows(found, sequence.tokens.len()) && room.prompt_rows == 0;
            if starved || promised + missing > self.pool.counts().available() {
                sequence.table.clear();
                self.waiting.push_front(sequence);
                return;
            }
            sequence.computed = found;
            let index = self.running.len();
            self.running.push(sequence);
            plan.started.push((index, found));
            self.plan_one(index, plan, room);
            promised += self.running.get(index).map_or(0, |sequence| sequence.table.missing(sequence.tokens.len()));
        }
    }
}
