//! Compute threads of one model: fork-join over numbered chunks, claimed one by one.
//!
//! The caller works too, and waits only for chunks that another thread has begun: a worker that the operating system has
//! put aside never holds up a step. Workers spin briefly between operations and park when there is nothing to do.
//! Knows nothing of what it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Turns of the spin loop before a worker parks: some tens of microseconds, longer than the gaps between operations of a step.
const SPINS: u32 = 20_000;
/// Bits of the packed state that hold the next chunk's index, and as many for the number of chunks.
const INDEX_BITS: u32 = 20;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
/// Chunks that one job can number.
const MOST_CHUNKS: usize = INDEX_MASK as usize;

type Job<'a> = &'a (dyn Fn(usize) + Sync);

struct Shared {
    /// `epoch << 40 | chunks << 20 | next`: a claim is a compare-and-set on all three, so it can only be of the current job.
    state: AtomicU64,
    done: AtomicUsize,
    /// Points at the caller's `Job` while chunks of the current epoch are unclaimed or unfinished.
    job: AtomicPtr<()>,
    panicked: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    /// Claims and runs chunks until none is left.
    fn work(&self) {
        loop {
            let state = self.state.load(Ordering::Acquire);
            let (next, chunks) = (state & INDEX_MASK, (state >> INDEX_BITS) & INDEX_MASK);
            if next >= chunks {
                return;
            }
            if self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            let job = self.job.load(Ordering::Acquire).cast::<Job<'_>>();
            // SAFETY: the claim succeeded for the current epoch, so `Pool::run` of that epoch cannot return, and its `Job`
            // stays alive, before this thread counts its chunk as done below.
            let run = unsafe { *job };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(next as usize))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    fn has_work(&self) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        state & INDEX_MASK < (state >> INDEX_BITS) & INDEX_MASK
    }
}

struct Worker {
    thread: Thread,
    parked: Arc<AtomicBool>,
    join: Option<JoinHandle<()>>,
}

/// A fixed set of compute threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    epoch: u64,
    waiting: Waiting,
}

/// What the caller does while another thread finishes its chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// Watches for it: chunks take microseconds.
    Spinning,
    /// Sleeps between looks: a chunk may be held up on purpose.
    Sleeping,
}

/// Time between two looks of a patient caller.
const PATIENCE: std::time::Duration = std::time::Duration::from_micros(100);

impl Pool {
    /// A pool of `threads` threads in all, the caller's included.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let mut pool = Self { shared, workers: Vec::new(), epoch: 0, waiting: Waiting::Spinning };
        for index in 1..threads.max(1) {
            let (shared, parked) = (Arc::clone(&pool.shared), Arc::new(AtomicBool::new(false)));
            let flag = Arc::clone(&parked);
            let join = std::thread::Builder::new().name(format!("compute-{index}")).spawn(move || worker(&shared, &flag))?;
            pool.workers.push(Worker { thread: join.thread().clone(), parked, join: Some(join) });
        }
        Ok(pool)
    }

    /// A pool whose chunks may be held up for long: its caller does not burn a processor meanwhile.
    pub fn new_patient(threads: usize) -> std::io::Result<Self> {
        let mut pool = Self::new(threads)?;
        pool.waiting = Waiting::Sleeping;
        Ok(pool)
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(0..chunks)` on all threads; returns when every chunk is done.
    ///
    /// # Panics
    /// When a chunk panicked.
    pub fn run(&mut self, chunks: usize, job: Job<'_>) {
        if chunks <= 1 || self.workers.is_empty() {
            (0..chunks).for_each(job);
        } else if chunks <= MOST_CHUNKS {
            self.run_numbered(chunks, job);
        } else {
            for start in (0..chunks).step_by(MOST_CHUNKS) {
                self.run_numbered(MOST_CHUNKS.min(chunks - start), &|chunk| job(start + chunk));
            }
        }
    }

    /// As `run`, for at most [`MOST_CHUNKS`] chunks.
    fn run_numbered(&mut self, chunks: usize, job: Job<'_>) {
        self.epoch = (self.epoch + 1) & ((1 << 24) - 1);
        self.shared.done.store(0, Ordering::Relaxed);
        self.shared.job.store(std::ptr::from_ref(&job).cast_mut().cast(), Ordering::Release);
        self.shared.state.store(self.epoch << (2 * INDEX_BITS) | (chunks as u64) << INDEX_BITS, Ordering::SeqCst);
        for worker in &self.workers {
            if worker.parked.swap(false, Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
        self.shared.work();
        let mut spins = 0u32;
        while self.shared.done.load(Ordering::Acquire) < chunks {
            spins += 1;
            // A worker that was put aside in the middle of a chunk needs the core that this loop holds.
            match (spins > SPINS, self.waiting) {
                (false, _) => std::hint::spin_loop(),
                (true, Waiting::Spinning) => std::thread::yield_now(),
                (true, Waiting::Sleeping) => std::thread::sleep(PATIENCE),
            }
        }
        assert!(!self.shared.panicked.swap(false, Ordering::Relaxed), "a compute chunk panicked");
    }
}

fn worker(shared: &Shared, parked: &AtomicBool) {
    loop {
        let mut spins = 0u32;
        while !shared.has_work() {
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            parked.store(true, Ordering::SeqCst);
            if !shared.has_work() && !shared.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            parked.store(false, Ordering::SeqCst);
            spins = 0;
        }
        shared.work();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(join) = worker.join.take() {
                // A worker's panic was caught and reported by `run`.
                drop(join.join());
            }
        }
    }
}

/// A mutable slice whose parts are written by different chunks.
pub struct Parts<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: only `slice` gives access, and its contract asks for disjoint ranges.
unsafe impl<T: Send> Sync for Parts<T> {}

impl<T> Parts<T> {
    /// Borrows `whole` for the length of one `Pool::run`.
    pub fn new(whole: &mut [T]) -> Self {
        Self { start: whole.as_mut_ptr(), len: whole.len() }
    }

    /// The first element, for writers whose parts are not ranges; theirs is the care that no two touch the same element.
    pub const fn pointer(&self) -> *mut T {
        self.start
    }

    /// Elements `range`.
    ///
    /// # Safety
    /// `whole` still lives, and no other chunk touches `range`.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's contract")]
    pub unsafe fn slice(&self, range: std::ops::Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part outside its whole: this is a bug");
        // SAFETY: in bounds by the assertion, exclusive by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn every_chunk_runs_once_over_many_jobs() {
        let mut pool = Pool::new(4).expect("threads start");
        for round in 0..2_000 {
            let counts: Vec<AtomicUsize> = (0..round % 37).map(|_| AtomicUsize::new(0)).collect();
            pool.run(counts.len(), &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn more_chunks_than_can_be_numbered_run_in_parts() {
        let (count, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let chunks = 2 * MOST_CHUNKS + 5;
        Pool::new(2).unwrap().run(chunks, &|i| {
            count.fetch_add(1, Ordering::Relaxed);
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!((count.into_inner(), sum.into_inner()), (chunks, chunks * (chunks - 1) / 2));
    }

    #[test]
    fn a_panicking_chunk_is_reported_and_the_pool_lives_on() {
        let mut pool = Pool::new(2).expect("threads start");
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.run(8, &|i| assert_ne!(i, 3))));
        assert!(outcome.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(8, &|i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 28);
    }
}
