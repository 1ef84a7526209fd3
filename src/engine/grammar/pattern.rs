//! What an answer may be, byte by byte: literals, choices, and runs of a text. A nondeterministic automaton without cycles, built from
//! its end, so that every answer is finite. Pure; knows no tokens.

use toktrie::Recognizer;

/// A place in a pattern under construction: everything from there to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(u32);

#[derive(Debug, Clone, Copy)]
enum Node {
    /// This byte, then on.
    Byte(u8, u32),
    /// Any of `targets[from..to]`.
    Any(u32, u32),
    /// The answer may end.
    End,
}

/// A finished pattern.
#[derive(Debug)]
pub struct Pattern {
    nodes: Vec<Node>,
    targets: Vec<u32>,
    start: u32,
}

/// Where an answer is: places that read a byte next, or the end; ascending.
pub(super) type At = Vec<u32>;

/// A text whose runs an answer may contain: where a run may begin and where it may end, in bytes, both ascending.
#[derive(Debug, Clone, Copy)]
pub struct Runs<'a> {
    /// The text, spelled as the answer spells it.
    pub text: &'a str,
    /// First bytes of runs.
    pub starts: &'a [usize],
    /// Bytes after the last ones.
    pub ends: &'a [usize],
}

/// Builds a pattern from its end to its beginning.
#[derive(Debug, Default)]
pub struct Builder {
    nodes: Vec<Node>,
    targets: Vec<u32>,
}

impl Builder {
    /// The end of the answer.
    pub fn end(&mut self) -> NodeId {
        self.add(Node::End)
    }

    /// This text, then `next`.
    pub fn literal(&mut self, text: &str, next: NodeId) -> NodeId {
        text.bytes().rev().fold(next, |next, byte| self.add(Node::Byte(byte, next.0)))
    }

    /// Any of these.
    pub fn any(&mut self, options: &[NodeId]) -> NodeId {
        let (from, to) = self.list(options.iter().map(|option| option.0));
        self.add(Node::Any(from, to))
    }

    /// A run of the text that is not empty, then `next`. A text without runs leads nowhere.
    pub fn run(&mut self, runs: Runs<'_>, next: NodeId) -> NodeId {
        let starts = self.run_starts(runs, |_, _| Some(next));
        self.any(&starts)
    }

    /// One run, or two with a space between them, the second after the first; then `next`.
    pub fn run_or_two(&mut self, runs: Runs<'_>, next: NodeId) -> NodeId {
        let second = self.run_starts(runs, |_, _| Some(next));
        let (from, to) = self.list(second.iter().map(|start| start.0));
        let first = self.run_starts(runs, |builder, end| {
            let before = u32::try_from(runs.starts.partition_point(|start| *start < end)).unwrap_or(u32::MAX);
            if from.saturating_add(before) >= to {
                return Some(next);
            }
            let second = builder.add(Node::Any(from + before, to));
            let space = builder.literal(" ", second);
            Some(builder.any(&[next, space]))
        });
        self.any(&first)
    }

    /// The pattern that begins at `start`.
    pub fn finish(self, start: NodeId) -> Pattern {
        Pattern { nodes: self.nodes, targets: self.targets, start: start.0 }
    }

    /// The text once more, left at its ends for what `exit` says of each; where its runs begin.
    fn run_starts(&mut self, runs: Runs<'_>, mut exit: impl FnMut(&mut Self, usize) -> Option<NodeId>) -> Vec<NodeId> {
        let mut starts = Vec::with_capacity(runs.starts.len());
        let mut after: Option<NodeId> = None;
        let bytes = runs.text.as_bytes();
        for (index, byte) in bytes.iter().enumerate().rev() {
            let end = index + 1;
            let leaves = runs.ends.binary_search(&end).is_ok().then(|| exit(self, end)).flatten();
            let next = match (leaves, after) {
                (Some(leaves), Some(after)) => self.any(&[leaves, after]),
                (Some(only), None) | (None, Some(only)) => only,
                // Nothing ends behind it.
                (None, None) => continue,
            };
            let here = self.add(Node::Byte(*byte, next.0));
            after = Some(here);
            if runs.starts.binary_search(&index).is_ok() {
                starts.push(here);
            }
        }
        starts.reverse();
        starts
    }

    fn list(&mut self, targets: impl Iterator<Item = u32>) -> (u32, u32) {
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let from = number(self.targets.len());
        self.targets.extend(targets);
        (from, number(self.targets.len()))
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX))
    }
}

impl Pattern {
    /// Whether a text is a whole answer.
    pub fn allows(&self, text: &str) -> bool {
        let mut at = self.start();
        text.bytes().for_each(|byte| at = self.step(&at, byte));
        self.may_end(&at)
    }

    /// Where every answer begins.
    pub(super) fn start(&self) -> At {
        let mut at = At::new();
        self.enter(self.start, &mut at);
        settle(&mut at, 0);
        at
    }

    /// Where `byte` leads; nowhere when it is not allowed.
    pub(super) fn step(&self, at: &[u32], byte: u8) -> At {
        let mut next = At::new();
        self.step_into(at, byte, &mut next);
        settle(&mut next, 0);
        next
    }

    /// Whether the answer may end here.
    pub(super) fn may_end(&self, at: &[u32]) -> bool {
        at.iter().any(|&node| matches!(self.nodes.get(node as usize), Some(Node::End)))
    }

    /// The bytes that may come next, each once.
    pub(super) fn next_bytes(&self, at: &[u32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = at
            .iter()
            .filter_map(|&node| match self.nodes.get(node as usize) {
                Some(Node::Byte(byte, _)) => Some(*byte),
                _ => None,
            })
            .collect();
        bytes.sort_unstable();
        bytes.dedup();
        bytes
    }

    fn step_into(&self, at: &[u32], byte: u8, next: &mut At) {
        for &node in at {
            if let Some(&Node::Byte(wanted, then)) = self.nodes.get(node as usize)
                && wanted == byte
            {
                self.enter(then, next);
            }
        }
    }

    /// Adds the places that are reached without reading.
    fn enter(&self, node: u32, at: &mut At) {
        match self.nodes.get(node as usize) {
            Some(&Node::Any(from, to)) => {
                let targets = self.targets.get(from as usize..to as usize).unwrap_or_default();
                targets.iter().for_each(|&target| self.enter(target, at));
            }
            Some(_) => at.push(node),
            None => {}
        }
    }
}

/// Each place once, from `base` on.
fn settle(at: &mut At, base: usize) {
    if at.len() - base < 2 {
        return;
    }
    at[base..].sort_unstable();
    let mut kept = base + 1;
    for index in base + 1..at.len() {
        if at[index] != at[kept - 1] {
            at[kept] = at[index];
            kept += 1;
        }
    }
    at.truncate(kept);
}

/// Reads bytes from a place on and takes them back: what the tree of tokens is walked with.
pub(super) struct Reader<'a> {
    pattern: &'a Pattern,
    /// Places after each byte that was read, one after another.
    places: At,
    /// Where each of them begins.
    borders: Vec<usize>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(pattern: &'a Pattern, at: &[u32]) -> Self {
        Self { pattern, places: at.to_vec(), borders: vec![0] }
    }
}

impl Recognizer for Reader<'_> {
    fn pop_bytes(&mut self, count: usize) {
        let kept = self.borders.len().saturating_sub(count).max(1);
        if let Some(&end) = self.borders.get(kept) {
            self.places.truncate(end);
        }
        self.borders.truncate(kept);
    }

    fn collapse(&mut self) {
        let top = self.borders.last().copied().unwrap_or(0);
        self.places.drain(..top);
        self.borders = vec![0];
    }

    fn trie_finished(&mut self) {
        let read = self.borders.len() - 1;
        self.pop_bytes(read);
    }

    fn try_push_byte(&mut self, byte: u8) -> bool {
        let (from, end) = (self.borders.last().copied().unwrap_or(0), self.places.len());
        for index in from..end {
            if let Some(&Node::Byte(wanted, then)) = self.pattern.nodes.get(self.places[index] as usize)
                && wanted == byte
            {
                self.pattern.enter(then, &mut self.places);
            }
        }
        if self.places.len() == end {
            return false;
        }
        settle(&mut self.places, end);
        self.borders.push(end);
        true
    }
}
