//! Which versions are in memory. Without a budget those in service stay, and a few others; with one, those that were used last stay as
//! far as they fit, in service or not; some have to stay all the same. Counts bytes; knows no files or requests.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use crate::ids::VersionId;
use crate::model::lora::PreparedAdapter;

/// Versions kept ready without a budget that are not in service, so that requests for an exact one do not read it each time.
const KEPT_READY: usize = 4;

/// Versions in memory.
#[derive(Debug, Default)]
pub(super) struct Residents {
    /// Most bytes; `None` is no bound.
    budget: Option<usize>,
    /// Every version that somebody holds.
    alive: HashMap<VersionId, Weak<PreparedAdapter>>,
    /// Held here, the last one used first.
    kept: VecDeque<Arc<PreparedAdapter>>,
    /// What versions took that were in memory once.
    sizes: HashMap<VersionId, usize>,
    /// Those that have to stay, used or not.
    pins: HashMap<VersionId, Pin>,
    counts: Counts,
}

/// A version has to stay.
#[derive(Debug)]
struct Pin {
    /// As an operator knows it.
    model: String,
    /// Whoever wants it to.
    holders: Weak<()>,
}

/// Versions that have to stay though together they take more than the budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excess {
    /// As an operator knows them.
    pub models: Vec<String>,
    /// What they take.
    pub bytes: usize,
    /// Most bytes of all adapters.
    pub budget: usize,
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Versions that were read into memory.
    pub loaded: u64,
    /// Versions that left it for others.
    pub evicted: u64,
}

/// The memory of adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residency {
    /// Most bytes; `None` is no bound.
    pub budget: Option<usize>,
    /// Bytes now.
    pub bytes: usize,
    /// Versions now.
    pub versions: usize,
    /// What happened since the start.
    pub counts: Counts,
}

impl Residents {
    /// Nothing in memory yet.
    pub(super) fn new(budget: Option<usize>) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Whether there is a budget, for which versions in service leave memory, too.
    pub(super) const fn has_budget(&self) -> bool {
        self.budget.is_some()
    }

    /// A version, if it is in memory; as the one used last, if it is kept here.
    pub(super) fn take(&mut self, id: &VersionId) -> Option<Arc<PreparedAdapter>> {
        let adapter = self.get(id)?;
        if self.budget.is_some() || self.kept.iter().any(|kept| kept.id == *id) {
            self.keep(&adapter);
        }
        Some(adapter)
    }

    /// A version, if it is in memory.
    pub(super) fn get(&self, id: &VersionId) -> Option<Arc<PreparedAdapter>> {
        self.alive.get(id).and_then(Weak::upgrade)
    }

    /// Notes a version that came into memory.
    pub(super) fn came(&mut self, adapter: &Arc<PreparedAdapter>) {
        self.alive.retain(|_, held| held.strong_count() > 0);
        self.alive.insert(adapter.id, Arc::downgrade(adapter));
        if self.budget.is_some() {
            self.sizes.insert(adapter.id, adapter.bytes);
        }
        self.counts.loaded += 1;
    }

    /// Keeps a version, as the one used last; others may leave for it.
    pub(super) fn keep(&mut self, adapter: &Arc<PreparedAdapter>) {
        self.kept.retain(|kept| kept.id != adapter.id);
        self.kept.push_front(Arc::clone(adapter));
        match self.budget {
            None => self.kept.truncate(KEPT_READY),
            Some(_) => self.make_room(0),
        }
    }

    /// Has a version stay for as long as what is returned is held.
    pub(super) fn pin(&mut self, id: VersionId, model: &str) -> Arc<()> {
        self.pins.retain(|_, pin| pin.holders.strong_count() > 0);
        if let Some(holders) = self.pins.get(&id).and_then(|pin| pin.holders.upgrade()) {
            return holders;
        }
        let holders = Arc::new(());
        self.pins.insert(id, Pin { model: model.to_owned(), holders: Arc::downgrade(&holders) });
        holders
    }

    /// Those that have to stay, where they take more than the budget.
    pub(super) fn excess(&self) -> Option<Excess> {
        let (budget, bytes) = (self.budget?, self.pinned_bytes());
        let mut models: Vec<String> =
            self.pins.values().filter(|pin| pin.holders.strong_count() > 0).map(|pin| pin.model.clone()).collect();
        models.sort_unstable();
        (bytes > budget).then_some(Excess { models, bytes, budget })
    }

    /// Whether so many bytes fit when the versions that nobody uses have left; or nobody uses any but those that have to stay, so that
    /// waiting would not help.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let Some(budget) = self.budget else { return true };
        let idle: usize = self.kept.iter().filter(|kept| is_idle(kept)).map(|kept| kept.bytes).sum();
        let in_use = self.bytes().saturating_sub(idle);
        in_use.saturating_add(bytes) <= budget || in_use <= self.pinned_bytes()
    }

    /// Lets the versions that nobody uses leave, the one not used for longest first, until so many more bytes fit.
    pub(super) fn make_room(&mut self, bytes: usize) {
        let Some(budget) = self.budget else { return };
        let mut held = self.bytes();
        while held.saturating_add(bytes) > budget {
            let Some(idle) = self.kept.iter().rposition(is_idle) else { break };
            held -= self.kept.remove(idle).map_or(0, |left| left.bytes);
            self.counts.evicted += 1;
        }
    }

    /// Bytes that a version will take: what it took, or else what its files have.
    pub(super) fn size(&self, id: &VersionId, file_bytes: u64) -> usize {
        self.sizes.get(id).copied().unwrap_or_else(|| usize::try_from(file_bytes).unwrap_or(usize::MAX))
    }

    /// Versions that nothing mentions any more leave with their last user.
    pub(super) fn forget_all_but(&mut self, referenced: &BTreeSet<VersionId>) {
        self.kept.retain(|kept| referenced.contains(&kept.id));
        self.sizes.retain(|id, _| referenced.contains(id));
    }

    /// What there is.
    pub(super) fn residency(&self) -> Residency {
        let versions = self.alive.values().filter(|held| held.strong_count() > 0).count();
        Residency { budget: self.budget, bytes: self.bytes(), versions, counts: self.counts }
    }

    fn bytes(&self) -> usize {
        self.alive.values().filter_map(Weak::upgrade).map(|adapter| adapter.bytes).sum()
    }

    fn pinned_bytes(&self) -> usize {
        let pinned = self.pins.iter().filter(|(_, pin)| pin.holders.strong_count() > 0);
        pinned.filter_map(|(id, _)| self.get(id)).map(|adapter| adapter.bytes).sum()
    }
}

/// Whether a version that is kept here is held by nobody else.
fn is_idle(kept: &Arc<PreparedAdapter>) -> bool {
    Arc::strong_count(kept) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(digit: u8, bytes: usize) -> Arc<PreparedAdapter> {
        Arc::new(PreparedAdapter { id: VersionId::new([digit; 32]), bytes, max_rank: 1, inner: Box::new(()) })
    }

    fn come(residents: &mut Residents, digit: u8) -> Arc<PreparedAdapter> {
        let adapter = version(digit, 10);
        residents.came(&adapter);
        residents.keep(&adapter);
        adapter
    }

    fn has(residents: &Residents, digit: u8) -> bool {
        residents.get(&VersionId::new([digit; 32])).is_some()
    }

    #[test]
    fn those_used_last_stay_within_the_budget() {
        let mut residents = Residents::new(Some(30));
        (1..=3).for_each(|digit| drop(come(&mut residents, digit)));
        drop(residents.take(&VersionId::new([1; 32])));
        drop(come(&mut residents, 4));
        assert_eq!((1..=4).map(|digit| has(&residents, digit)).collect::<Vec<_>>(), [true, false, true, true]);
        let now = residents.residency();
        assert_eq!((now.bytes, now.versions, now.counts), (30, 3, Counts { loaded: 4, evicted: 1 }));
    }

    #[test]
    fn what_is_in_use_stays_and_whoever_comes_waits() {
        let mut residents = Residents::new(Some(20));
        let (one, two) = (come(&mut residents, 1), come(&mut residents, 2));
        assert!(!residents.has_room(10), "both are in use");
        residents.make_room(10);
        assert!(has(&residents, 1) && has(&residents, 2));
        drop(one);
        assert!(!residents.has_room(11) && residents.has_room(10));
        assert!(has(&residents, 1), "asking makes nobody leave");
        residents.make_room(10);
        assert!(!has(&residents, 1) && has(&residents, 2), "the one that nobody used left");
        drop(two);
        assert!(residents.has_room(20) && residents.has_room(21), "more than the budget, but nothing that waiting would bring");
    }

    #[test]
    fn what_has_to_stay_is_nothing_to_wait_for() {
        let mut residents = Residents::new(Some(15));
        let one = come(&mut residents, 1);
        let pin = residents.pin(one.id, "a@1");
        assert!(residents.has_room(10), "room beside it never comes");
        assert_eq!(residents.excess(), None);
        let two = come(&mut residents, 2);
        assert!(!residents.has_room(10), "but the other one will leave");
        let other = residents.pin(two.id, "b@7");
        assert!(residents.has_room(10));
        let excess = residents.excess().map(|excess| (excess.models, excess.bytes, excess.budget));
        assert_eq!(excess, Some((vec!["a@1".to_owned(), "b@7".to_owned()], 20, 15)));
        drop((two, other));
        residents.make_room(0);
        assert!(!has(&residents, 2) && has(&residents, 1));
        drop((one, pin));
        residents.make_room(15);
        assert!(!has(&residents, 1), "it need not stay any more");
    }

    #[test]
    fn without_a_budget_a_few_are_kept_and_all_that_is_held_is_found() {
        let mut residents = Residents::new(None);
        let held = version(9, 1_000_000);
        residents.came(&held);
        (1..=6).for_each(|digit| drop(come(&mut residents, digit)));
        assert_eq!((1..=6).filter(|&digit| has(&residents, digit)).collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert!(has(&residents, 9) && residents.has_room(usize::MAX));
    }

    #[test]
    fn sizes_are_known_from_before() {
        let mut residents = Residents::new(Some(30));
        drop(come(&mut residents, 1));
        assert_eq!(residents.size(&VersionId::new([1; 32]), 99), 10);
        assert_eq!(residents.size(&VersionId::new([2; 32]), 99), 99);
        residents.forget_all_but(&BTreeSet::new());
        assert!(!has(&residents, 1));
    }
}
