//! Support for tests: when it is dropped, nothing may be held in the engine.

use std::time::{Duration, Instant};

use super::handle::EngineHandle;

/// How long the engine gets to notice that everybody left.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asserts on drop that every sequence has ended and that no KV block is held. Declare it before the generations, so that it is
/// dropped after them.
#[derive(Debug)]
pub struct LeakCheck(EngineHandle);

impl LeakCheck {
    /// Watches this engine.
    pub const fn new(engine: EngineHandle) -> Self {
        Self(engine)
    }
}

impl Drop for LeakCheck {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let began = Instant::now();
        let mut stats = self.0.stats();
        while stats.running + stats.waiting > 0 && began.elapsed() < PATIENCE {
            std::thread::yield_now();
            stats = self.0.stats();
        }
        assert_eq!((stats.running, stats.waiting), (0, 0), "sequences are still in the engine: {stats:?}");
        assert_eq!(stats.kv_used, 0, "KV blocks leaked: {stats:?}");
    }
}
