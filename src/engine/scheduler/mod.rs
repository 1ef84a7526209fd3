//! Decides what each step carries. A deterministic state machine over sequences and the block pool: no tensors, no threads, no
//! clock, nothing of sampling or of who waits for the answer (that is the payload `T`).
//!
//! Promises, held by the tests beside:
//! - a step carries every running sequence that needs one token (a decode), then prefill chunks, up to the budget, which is smaller
//!   beside decodes, so that a long prompt does not hold up running answers;
//! - prefill, and who starts next, goes to the account that was served least; within one the oldest comes first, and a preempted
//!   sequence goes back before all others of its account;
//! - an account that waits gets its part of the places: the youngest sequence of whoever has most gives way;
//! - when blocks run out, a younger running sequence is preempted (it computes its tokens again later), never an older one
//!   for a younger one's sake, so the oldest always goes on and every sequence ends.

mod shares;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use self::shares::{Shares, Work};
use super::kv::{BlockPool, BlockTable, Sharing};
use super::request::Realm;
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
    /// Who is served.
    account: Realm,
    /// The last plan that has looked at it.
    looked_at: u64,
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
    /// In the order in which they started.
    running: Vec<Sequence<T>>,
    shares: Shares,
    /// Number of plans that were made.
    plans: u64,
}

impl<T> Scheduler<T> {
    /// A scheduler over this pool.
    pub fn new(limits: Limits, pool: BlockPool) -> Self {
        Self {
            limits,
            beside_decodes: limits.batch_tokens,
            pool,
            waiting: VecDeque::new(),
            running: Vec::new(),
            shares: Shares::default(),
            plans: 0,
        }
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
        let account = sharing.realm;
        let present: Vec<Realm> = self.running.iter().chain(&self.waiting).map(|sequence| sequence.account).collect();
        if !present.contains(&account) {
            self.shares.arrive(account, &present);
        }
        self.waiting.push_back(Sequence {
            tokens,
            account,
            looked_at: 0,
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
        self.plans += 1;
        let mut plan = StepPlan::default();
        let mut room = Room { tokens: self.limits.batch_tokens, prompt_rows: self.limits.prompt_rows };
        self.plan_decodes(&mut plan, &mut room);
        if !plan.chunks.is_empty() {
            room.tokens = room.tokens.min(self.beside_decodes);
        }
        // Those that lost their blocks, or wait for some, come before those that have none.
        let mut may_start = plan.preempted == 0;
        while room.tokens > 0 {
            let (prefill, waiting) = (self.next_prefill(), self.next_waiting().filter(|_| may_start));
            match (prefill, waiting) {
                (Some((index, served)), waiting) if waiting.is_none_or(|(_, other)| served <= other) => {
                    self.plan_one(index, &mut plan, &mut room);
                    may_start &= plan.preempted == 0;
                }
                (_, Some((index, _))) => may_start = self.start(index, &mut plan, &mut room),
                (_, None) => break,
            }
        }
        plan
    }

    /// Notes that a chunk of the plan was computed, and makes its full blocks findable.
    pub fn computed(&mut self, chunk: &PlannedChunk) {
        let sequence = &mut self.running[chunk.sequence];
        let is_answer = chunk.len == 1 && chunk.start >= sequence.prompt_len;
        self.shares.served(sequence.account, if is_answer { Work::Generated } else { Work::Prompt(chunk.len) });
        sequence.computed = chunk.end();
        // The last prompt token's row is that of the first generated one.
        let rows_from = sequence.rows_from.map(|from| from.max(chunk.end()));
        sequence.rows_from = rows_from.filter(|from| from + 1 < sequence.prompt_len);
        sequence.table.publish(&sequence.tokens[..sequence.computed]);
    }

    fn plan_decodes(&mut self, plan: &mut StepPlan, room: &mut Room) {
        let mut index = 0;
        while index < self.running.len() && room.tokens > 0 {
            if self.running[index].pending() == 1 {
                self.plan_one(index, plan, room);
            }
            index += 1;
        }
    }

    /// The running sequence whose prefill comes next in this plan, and how much its account was served.
    fn next_prefill(&self) -> Option<(usize, u64)> {
        let left = self.running.iter().enumerate().filter(|(_, sequence)| sequence.looked_at < self.plans);
        let left = left.map(|(index, sequence)| (index, self.shares.of(sequence.account)));
        left.min_by_key(|(index, served)| (*served, *index))
    }

    /// The waiting sequence that starts next, and how much its account was served. Of two that were served alike comes the one that runs
    /// less.
    fn next_waiting(&self) -> Option<(usize, u64)> {
        let mut best: Option<(u64, usize, usize)> = None;
        // Those of one account often stand together; it is looked up once.
        let mut known: Option<(Realm, u64, usize)> = None;
        for (index, sequence) in self.waiting.iter().enumerate() {
            let account = sequence.account;
            let (_, served, places) = known
                .filter(|(known, ..)| *known == account)
                .unwrap_or_else(|| (account, self.shares.of(account), self.places(account)));
            known = Some((account, served, places));
            if best.is_none_or(|best| (served, places, index) < best) {
                best = Some((served, places, index));
            }
        }
        best.map(|(served, _, index)| (index, served))
    }

    /// Plans a chunk of a running sequence; preempts younger ones for its blocks.
    fn plan_one(&mut self, index: usize, plan: &mut StepPlan, room: &mut Room) {
        self.running[index].looked_at = self.plans;
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
            } else if let Some(victim) = self.youngest_after(index) {
                self.preempt(victim, plan, room);
            } else {
                // The youngest waits until an older one ends, or takes its blocks.
                return;
            }
        }
        Self::add(plan, room, chunk);
    }

    /// The sequence that gives its blocks to an older one: the youngest of the account that runs most.
    fn youngest_after(&self, index: usize) -> Option<usize> {
        (index + 1..self.running.len()).max_by_key(|&other| (self.places(self.running[other].account), other))
    }

    /// Number of running sequences of an account.
    fn places(&self, account: Realm) -> usize {
        self.running.iter().filter(|sequence| sequence.account == account).count()
    }

    /// The sequence that gives its place to an account that waits: the youngest of whoever has most, unless the one that waits has its
    /// part already. Never the oldest of all.
    fn giving_way_to(&self, account: Realm) -> Option<usize> {
        let mut accounts: Vec<Realm> = self.running.iter().map(|sequence| sequence.account).collect();
        accounts.push(account);
        accounts.sort_unstable();
        accounts.dedup();
        let (own, part) = (self.places(account), self.limits.sequences / accounts.len());
        if own >= part {
            return None;
        }
        let victim = (1..self.running.len()).max_by_key(|&other| (self.places(self.running[other].account), other))?;
        (self.places(self.running[victim].account) > own + 1).then_some(victim)
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

    /// Takes a running sequence's blocks; it waits before the others of its account.
    fn preempt(&mut self, index: usize, plan: &mut StepPlan, room: &mut Room) {
        let mut sequence = self.running.remove(index);
        plan.chunks.retain_mut(|chunk| {
            let keep = chunk.sequence != index;
            if !keep {
                room.tokens += chunk.len;
                room.prompt_rows += if chunk.logits == LogitRows::All { chunk.len } else { 0 };
            }
            chunk.sequence -= usize::from(chunk.sequence > index);
            keep
        });
        plan.started.retain_mut(|(started, _)| {
            let keep = *started != index;
            *started -= usize::from(*started > index);
            keep
        });
        plan.preempted += 1;
        sequence.table.clear();
        sequence.computed = 0;
        self.waiting.push_front(sequence);
    }

    /// Starts a waiting sequence, if there is a place, and blocks for its whole history beside those that running prefills still need;
    /// others may have to give way for it. Whether another may be tried.
    fn start(&mut self, index: usize, plan: &mut StepPlan, room: &mut Room) -> bool {
        let account = self.waiting[index].account;
        if self.running.len() == self.limits.sequences && self.giving_way_to(account).is_none() {
            return false;
        }
        let Some(mut sequence) = self.waiting.remove(index) else { return false };
        // The last token is always computed, so that there are logits; so is every row that is wanted.
        let findable = (sequence.tokens.len() - 1).min(sequence.rows_from.unwrap_or(usize::MAX));
        let found = sequence.table.take_prefix(&sequence.tokens[..findable]);
        let missing = sequence.table.missing(sequence.tokens.len());
        let starved = sequence.wants_rows(found, sequence.tokens.len()) && room.prompt_rows == 0;
        let mut at = index;
        while !starved && !self.has_place(missing) {
            let Some(victim) = self.giving_way_to(account) else { break };
            self.preempt(victim, plan, room);
            at += 1;
        }
        if starved || !self.has_place(missing) {
            sequence.table.clear();
            self.waiting.insert(at, sequence);
            return false;
        }
        sequence.computed = found;
        let index = self.running.len();
        self.running.push(sequence);
        plan.started.push((index, found));
        self.plan_one(index, plan, room);
        true
    }

    fn has_place(&self, missing: usize) -> bool {
        let promised: usize = self.running.iter().map(|sequence| sequence.table.missing(sequence.tokens.len())).sum();
        self.running.len() < self.limits.sequences && promised + missing <= self.pool.counts().available()
    }
}
