//! Decides what each step carries. A deterministic state machine over sequences and the block pool: no tensors, no threads, no
//! clock, nothing of sampling or of who waits for the answer (that is the payload `T`).
//!
//! Promises, held by the tests beside:
//! - a step carries every running sequence that needs one token (a decode), then prefill chunks, up to the budget, which is smaller
//!   beside decodes, so that a long prompt does not hold up running answers;
//! - prefill, and who starts next, goes to the account that was served least; within one the oldest comes first, and a preempted
//!   sequence goes back before all others of its account;
//! - an account that waits gets its part of the places: the youngest sequence of whoever has most gives way, where that is enough;
//!   one that has its part already holds nobody else up;
//! - when blocks run out, a younger running sequence is preempted (it computes its tokens again later), never an older one
//!   for a younger one's sake, so the oldest always goes on and every sequence ends.

mod shares;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

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

/// What a sequence begins with.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Prompt, then what there is of the answer already.
    pub tokens: Vec<u32>,
    /// Length of the prompt.
    pub prompt_len: usize,
    /// Who may read its blocks.
    pub sharing: Sharing,
    /// Who is served, whoever may read them.
    pub account: Realm,
    /// What is asked for the prompt.
    pub rows: PromptRows,
}

/// A sequence as the scheduler sees it.
#[derive(Debug)]
pub struct Sequence<T> {
    /// Prompt, then generated tokens.
    pub tokens: Vec<u32>,
    /// Length of the prompt.
    pub prompt_len: usize,
    /// Tokens at the end that are guesses: they are there from [`Scheduler::guess`] to [`Sequence::take_guesses`].
    guesses: usize,
    /// Tokens whose keys and values are in the blocks.
    computed: usize,
    /// First position whose logits are still wanted for prompt log-probabilities, if any are.
    rows_from: Option<usize>,
    /// Who is served.
    account: Realm,
    /// Its place among all that wait: the lowest came first, or goes back before the others.
    turn: i64,
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
        self.tokens.len() - self.guesses - self.computed
    }

    /// Whether its next step is one token of its answer.
    pub const fn is_decoding(&self) -> bool {
        self.pending() == 1 && self.computed >= self.prompt_len
    }

    /// Number of guesses at the end of its tokens.
    pub const fn guessed(&self) -> usize {
        self.guesses
    }

    /// Takes the guesses that its step has carried from the end of its tokens.
    pub fn take_guesses(&mut self) -> Vec<u32> {
        self.tokens.split_off(self.tokens.len() - std::mem::take(&mut self.guesses))
    }

    fn forget_guesses(&mut self, kept: usize) {
        self.tokens.truncate(self.tokens.len() - self.guesses + kept);
        self.guesses = kept;
    }

    /// Blocks that it still needs for all its tokens.
    fn missing(&self) -> usize {
        self.table.missing(self.tokens.len())
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
    /// By account, each in the order of its turns; no account without any.
    waiting: BTreeMap<Realm, VecDeque<Sequence<T>>>,
    /// The first turn that was given, and the last.
    turns: (i64, i64),
    /// In the order in which they started.
    running: Vec<Sequence<T>>,
    /// Running sequences of each account while a step is planned; no account without any.
    places: BTreeMap<Realm, usize>,
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
            waiting: BTreeMap::new(),
            turns: (0, 0),
            running: Vec::new(),
            places: BTreeMap::new(),
            shares: Shares::default(),
            plans: 0,
        }
    }

    /// Bounds the prefill tokens of steps that carry decodes; at least 1. Without a bound it is the step's budget.
    pub const fn bound_prefill_beside_decodes(&mut self, tokens: usize) {
        self.beside_decodes = if tokens == 0 { 1 } else { tokens };
    }

    /// Adds a sequence behind all others. Its longest possible history must fit the pool.
    pub fn push(&mut self, arrival: Arrival, payload: T) {
        let Arrival { tokens, prompt_len, sharing, account, rows } = arrival;
        if !self.waiting.contains_key(&account) {
            let waiting: Vec<Realm> = self.waiting.keys().copied().collect();
            let running: Vec<Realm> = self.running.iter().map(|sequence| sequence.account).collect();
            self.shares.arrive(account, &waiting, &running);
        }
        self.turns.1 += 1;
        self.waiting.entry(account).or_default().push_back(Sequence {
            tokens,
            account,
            turn: self.turns.1,
            looked_at: 0,
            prompt_len,
            guesses: 0,
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

    /// Has the next step carry guesses of how a running sequence that decodes goes on: `guess` appends them to its tokens and says how
    /// many. Where there is no room for all of them there are fewer; none takes a block that another sequence might need.
    pub fn guess(&mut self, index: usize, guess: impl FnOnce(&mut Vec<u32>, &mut T) -> usize) {
        let (available, running) = (self.pool.counts().available(), self.running.len());
        let sequence = &mut self.running[index];
        sequence.guesses = guess(&mut sequence.tokens, &mut sequence.payload);
        let covered = sequence.blocks().len() * crate::model::BLOCK_TOKENS;
        if available <= running {
            sequence.forget_guesses(sequence.guesses.min(covered.saturating_sub(sequence.computed + 1)));
        }
    }

    /// Number of sequences that hold nothing yet (or nothing any more).
    pub fn waiting(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Number of waiting sequences of which `is_meant` says yes.
    pub fn waiting_where(&self, is_meant: impl Fn(&T) -> bool) -> usize {
        self.waiting.values().flatten().filter(|sequence| is_meant(&sequence.payload)).count()
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Takes out every sequence, waiting or running, of which `ended` says so. Their blocks are given back when they are dropped.
    pub fn take_out(&mut self, mut ended: impl FnMut(&T) -> bool) -> Vec<Sequence<T>> {
        let mut out: Vec<_> = self.running.extract_if(.., |sequence| ended(&sequence.payload)).collect();
        for queue in self.waiting.values_mut() {
            if !queue.iter().any(|sequence| ended(&sequence.payload)) {
                continue;
            }
            let (gone, stay) = queue.drain(..).partition(|sequence| ended(&sequence.payload));
            *queue = stay;
            out.extend::<VecDeque<_>>(gone);
        }
        self.waiting.retain(|_, queue| !queue.is_empty());
        out
    }

    /// Plans the next step and takes the blocks that it needs. Empty only when there is nothing to do.
    pub fn plan(&mut self) -> StepPlan {
        self.plans += 1;
        self.places.clear();
        for sequence in &self.running {
            *self.places.entry(sequence.account).or_default() += 1;
        }
        let mut plan = StepPlan::default();
        let mut room = Room { tokens: self.limits.batch_tokens, prompt_rows: self.limits.prompt_rows };
        self.plan_decodes(&mut plan, &mut room);
        if !plan.chunks.is_empty() {
            room.tokens = room.tokens.min(self.beside_decodes);
        }
        // Those that lost their blocks, or wait for some, come before those that have none.
        let mut may_start = plan.preempted == 0;
        let mut passed = Vec::new();
        while room.tokens > 0 {
            let (prefill, waiting) = (self.next_prefill(), self.next_waiting(&passed).filter(|_| may_start));
            match (prefill, waiting) {
                (Some((index, served)), waiting) if waiting.is_none_or(|(_, other)| served <= other) => {
                    self.plan_one(index, &mut plan, &mut room);
                    may_start &= plan.preempted == 0;
                }
                (_, Some((account, _))) => {
                    if !self.start(account, &passed, &mut plan, &mut room) {
                        // Whoever has its part waits for its own; the others wait for whoever has not.
                        may_start = self.has_its_part(account, &self.places);
                        passed.push(account);
                    }
                }
                (_, None) => break,
            }
        }
        // Who is not carried this time is asked again.
        let carried = |index| plan.chunks.iter().any(|chunk| chunk.sequence == index);
        for (index, sequence) in self.running.iter_mut().enumerate().filter(|(_, sequence)| sequence.guesses > 0) {
            if !carried(index) {
                sequence.forget_guesses(0);
            }
        }
        plan
    }

    /// Notes that a chunk of the plan was computed (of guesses, those that were right), and makes its full blocks findable.
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

    /// The account, of those that were not passed over, whose first waiting sequence starts next, and how much it was served. Of two that
    /// were served alike comes the one that runs less, and then the one that waits longer.
    fn next_waiting(&self, passed: &[Realm]) -> Option<(Realm, u64)> {
        let accounts = self.waiting.iter().filter(|(account, _)| !passed.contains(account));
        let ranked = accounts.filter_map(|(account, queue)| {
            let places = self.places.get(account).copied().unwrap_or_default();
            Some((self.shares.of(*account), places, queue.front()?.turn, *account))
        });
        ranked.min().map(|(served, _, _, account)| (account, served))
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
            if sequence.guesses > 0 {
                sequence.forget_guesses(0);
                chunk.len = 1;
                chunk.logits = LogitRows::Last;
            } else if reach > chunk.start {
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
        (index + 1..self.running.len()).max_by_key(|&other| (self.places.get(&self.running[other].account), other))
    }

    /// Whether an account has as many places as are its part beside those that have some.
    fn has_its_part(&self, account: Realm, places: &BTreeMap<Realm, usize>) -> bool {
        let own = places.get(&account).copied();
        let accounts = places.len() + usize::from(own.is_none());
        own.is_some_and(|own| own >= (self.limits.sequences / accounts).max(1))
    }

    /// The sequences that give way to an account that waits, so that it has a place and `missing` blocks beside those that running
    /// prefills still need: as few as are enough, each the youngest of whoever has most then. Never the oldest of all, nor one of an
    /// account that was passed over: it was served less. `None` where those who would are not enough: then nobody does.
    fn giving_way_to(&self, account: Realm, passed: &[Realm], missing: usize) -> Option<Vec<usize>> {
        let mut places = self.places.clone();
        let mut going: Vec<usize> = Vec::new();
        loop {
            let staying = || (0..self.running.len()).filter(|index| !going.contains(index));
            let promised: usize = staying().map(|index| &self.running[index]).map(Sequence::missing).sum();
            let freed = self.pool.freed(going.iter().flat_map(|index| self.running[*index].blocks()));
            let has_place = self.running.len() - going.len() < self.limits.sequences;
            if has_place && promised + missing <= self.pool.counts().available() + freed {
                return Some(going);
            }
            if self.has_its_part(account, &places) {
                return None;
            }
            let willing = staying().skip(1).filter(|other| !passed.contains(&self.running[*other].account));
            let victim = willing.max_by_key(|&other| (places.get(&self.running[other].account), other))?;
            let theirs = places.get_mut(&self.running[victim].account)?;
            let own = self.places.get(&account).copied().unwrap_or_default();
            if *theirs <= own + 1 {
                return None;
            }
            *theirs -= 1;
            going.push(victim);
        }
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
    fn chunk_within(&mut self, index: usize, room: &Room) -> Option<PlannedChunk> {
        let sequence = &mut self.running[index];
        let start = sequence.computed;
        if sequence.guesses > 0 {
            let most = room.tokens.min(room.prompt_rows).saturating_sub(1);
            sequence.forget_guesses(sequence.guesses.min(most));
        }
        if sequence.guesses > 0 {
            return Some(PlannedChunk { sequence: index, start, len: 1 + sequence.guesses, logits: LogitRows::All });
        }
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
        sequence.forget_guesses(0);
        if let Some(places) = self.places.get_mut(&sequence.account) {
            *places -= 1;
        }
        self.places.retain(|_, places| *places > 0);
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
        self.turns.0 -= 1;
        sequence.turn = self.turns.0;
        self.waiting.entry(sequence.account).or_default().push_front(sequence);
    }

    /// Starts an account's first waiting sequence, if there is a place, and blocks for its whole history beside those that running
    /// prefills still need; others may have to give way for it. Whether it did.
    fn start(&mut self, account: Realm, passed: &[Realm], plan: &mut StepPlan, room: &mut Room) -> bool {
        if self.running.len() >= self.limits.sequences && self.has_its_part(account, &self.places) {
            return false;
        }
        let Some(mut sequence) = self.waiting.get_mut(&account).and_then(VecDeque::pop_front) else { return false };
        // The last token is always computed, so that there are logits; so is every row that is wanted.
        let findable = (sequence.tokens.len() - 1).min(sequence.rows_from.unwrap_or(usize::MAX));
        let found = sequence.table.take_prefix(&sequence.tokens[..findable]);
        let starved = sequence.wants_rows(found, sequence.tokens.len()) && room.prompt_rows == 0;
        let way = if starved { None } else { self.giving_way_to(account, passed, sequence.missing()) };
        let Some(mut going) = way else {
            sequence.table.clear();
            self.waiting.entry(account).or_default().push_front(sequence);
            return false;
        };
        // The youngest first: of one account the oldest stands before the others then, and no index moves under another.
        going.sort_unstable();
        going.into_iter().rev().for_each(|victim| self.preempt(victim, plan, room));
        self.waiting.retain(|_, queue| !queue.is_empty());
        *self.places.entry(account).or_default() += 1;
        sequence.computed = found;
        let index = self.running.len();
        self.running.push(sequence);
        plan.started.push((index, found));
        self.plan_one(index, plan, room);
        true
    }
}
