//! Log lines on their way to standard error: gathered in memory, written many at a time by a thread of their own, so that no
//! request waits for whoever reads them. Knows nothing of what they say.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// A line waits this long for company; warnings and errors do not.
const GATHER: Duration = Duration::from_millis(10);
/// Bytes that may wait for a reader; what is more is lost, and how much is said later.
const MOST: usize = 4 << 20;

/// Lines on their way. Clones are the same.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write, or a hurry.
    come: Condvar,
    /// Something was written.
    gone: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines that found no room.
    lost: u64,
    hurry: bool,
    writing: bool,
}

impl Lines {
    /// Starts the thread.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let lines = Self(Arc::default());
        let shared = Arc::clone(&lines.0);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || shared.run(out))?;
        Ok(lines)
    }

    fn push(&self, line: &[u8], level: Level) {
        let mut state = self.0.state();
        let first = state.waiting.is_empty();
        if state.waiting.len() + line.len() > MOST {
            state.lost += 1;
        } else {
            state.waiting.extend_from_slice(line);
        }
        let hurry = level <= Level::WARN;
        state.hurry |= hurry;
        drop(state);
        if first || hurry {
            self.0.come.notify_one();
        }
    }

    /// Waits until everything is written, `patience` at most.
    pub(super) fn flush(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut state = self.0.state();
        while !state.waiting.is_empty() || state.writing {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state.hurry = true;
            self.0.come.notify_one();
            state = self.0.gone.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn run(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.state();
            while state.waiting.is_empty() {
                state = self.come.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if !state.hurry {
                state =
                    self.come.wait_timeout_while(state, GATHER, |state| !state.hurry).unwrap_or_else(PoisonError::into_inner).0;
            }
            std::mem::swap(&mut batch, &mut state.waiting);
            let lost = std::mem::take(&mut state.lost);
            state.hurry = false;
            state.writing = true;
            drop(state);
            if lost > 0 {
                // Writing to a vector does not fail.
                let _ = writeln!(batch, "{lost} log lines were lost: standard error did not take them");
            }
            // Nobody is left to tell if this fails.
            let _ = out.write_all(&batch).and_then(|()| out.flush());
            batch.clear();
            self.state().writing = false;
            self.gone.notify_all();
        }
    }
}

/// Takes one event's line.
pub(super) struct Line<'a> {
    lines: &'a Lines,
    level: Level,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.push(line, self.level);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { lines: self, level: *metadata.level() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Says what was written, and writes only when it is let.
    struct Slow {
        written: Sender<String>,
        leave: Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.leave.recv().unwrap();
            self.written.send(String::from_utf8(bytes.to_vec()).unwrap()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let ((written, out), (let_go, leave)) = (channel(), channel());
        let lines = Lines::start(Slow { written, leave }).unwrap();
        for _ in 0..3 {
            let_go.send(()).unwrap();
        }
        lines.push(b"one\n", Level::WARN);
        lines.push(b"two\n", Level::INFO);
        lines.flush(LONG);
        lines.push(b"three\n", Level::INFO);
        lines.flush(LONG);
        assert_eq!(out.try_iter().collect::<String>(), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_reader_that_reads_nothing_holds_nobody_up() {
        let ((written, out), (let_go, leave)) = (channel(), channel());
        let lines = Lines::start(Slow { written, leave }).unwrap();
        let line = vec![b'y'; MOST / 8];
        for _ in 0..100 {
            lines.push(&line, Level::INFO);
        }
        lines.flush(Duration::ZERO);
        for _ in 0..3 {
            let_go.send(()).unwrap();
        }
        lines.push(b"after\n", Level::INFO);
        lines.flush(LONG);
        let all: String = out.try_iter().collect();
        assert!(all.contains(" log lines were lost: "), "{}", all.len());
    }
}
