//! When training may use the processor: a pure decision, and the gate that holds a run's threads to it. Serving always goes first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::pressure::Pressure;
use crate::model::train::Go;

/// How training shares the machine with serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Only while nobody waits for an answer.
    #[default]
    Idle,
    /// As idle, and this many percent of the time also while somebody waits, in slices.
    Share(u8),
    /// Always.
    Exclusive,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Share(percent) => write!(f, "share={percent}%"),
            Self::Exclusive => f.write_str("exclusive"),
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = |text: &str| text.trim_end_matches('%').parse().ok().filter(|percent| (1..=99).contains(percent));
        match text {
            "idle" => Ok(Self::Idle),
            "exclusive" => Ok(Self::Exclusive),
            _ => text
                .strip_prefix("share=")
                .and_then(share)
                .map(Self::Share)
                .ok_or_else(|| format!("{text:?} is no training mode: idle, exclusive, or share=N% with N from 1 to 99")),
        }
    }
}

/// Hours of the day in which training runs, UTC: from a minute of the day to another, over midnight where the first is later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours {
    /// First minute of the day, 0 to 1439.
    pub from: u16,
    /// The minute at which it ends.
    pub to: u16,
}

impl Hours {
    /// Whether a minute of the day lies in them; equal ends mean the whole day.
    pub const fn contain(self, minute: u16) -> bool {
        if self.from < self.to { self.from <= minute && minute < self.to } else { self.from <= minute || minute < self.to }
    }
}

impl std::str::FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let minute = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let (hours, minutes) = (hours.parse::<u16>().ok()?, minutes.parse::<u16>().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let parsed = text.split_once('-').and_then(|(from, to)| Some(Self { from: minute(from)?, to: minute(to)? }));
        parsed.ok_or_else(|| format!("{text:?} are no hours: HH:MM-HH:MM in UTC, such as 22:00-06:00"))
    }
}

/// What the decision looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Sequences that somebody waits for.
    pub waiting: usize,
    /// Time since some fixed moment.
    pub now: Duration,
    /// Minute of the day, UTC.
    pub minute: u16,
}

/// How training is to behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How it shares the machine.
    pub mode: Mode,
    /// Longest time that it goes on once somebody waits.
    pub slice: Duration,
    /// When it runs at all; `None` is always.
    pub hours: Option<Hours>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { mode: Mode::Idle, slice: Duration::from_millis(5), hours: None }
    }
}

/// What a piece of training is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Run.
    Run,
    /// Ask again after this time, or when serving has ended.
    Wait(Duration),
}

/// Longest wait between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Whether the next piece may run. A share is kept by time: of each period the first slice is training's.
pub fn decide(policy: Policy, situation: Situation) -> Decision {
    if policy.hours.is_some_and(|hours| !hours.contain(situation.minute)) {
        return Decision::Wait(LOOK);
    }
    match policy.mode {
        Mode::Exclusive => Decision::Run,
        _ if situation.waiting == 0 => Decision::Run,
        Mode::Idle => Decision::Wait(LOOK),
        Mode::Share(percent) => {
            let period = policy.slice * 100 / u32::from(percent.max(1));
            let at = Duration::from_nanos((situation.now.as_nanos() % period.as_nanos().max(1)) as u64);
            if at < policy.slice { Decision::Run } else { Decision::Wait(period - at) }
        }
    }
}

/// What holds a run's threads between two pieces of work, and stops it.
#[derive(Debug)]
pub struct Gate {
    policy: Mutex<Policy>,
    pressure: Pressure,
    started: Instant,
    stopped: AtomicBool,
    held: AtomicBool,
    /// Set while the policy lets everything through that nobody waits for: then one look at the pressure is enough.
    plain: AtomicBool,
    waits: Mutex<Waits>,
}

/// How long threads have waited before a gate; several at the same time count once.
#[derive(Debug, Default)]
struct Waits {
    threads: usize,
    /// Since when there is one.
    since: Option<Instant>,
    /// Before that.
    before: Duration,
}

/// A thread that waits.
struct Waiting<'a>(&'a Mutex<Waits>);

impl<'a> Waiting<'a> {
    fn new(waits: &'a Mutex<Waits>) -> Self {
        let mut state = waits.lock().unwrap_or_else(PoisonError::into_inner);
        state.threads += 1;
        state.since.get_or_insert_with(Instant::now);
        Self(waits)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.threads -= 1;
        if state.threads == 0
            && let Some(since) = state.since.take()
        {
            state.before += since.elapsed();
        }
    }
}

impl Gate {
    /// A gate before an engine.
    pub fn new(policy: Policy, pressure: Pressure) -> Arc<Self> {
        let plain = AtomicBool::new(policy.hours.is_none());
        let (stopped, held) = (AtomicBool::new(false), AtomicBool::new(false));
        let (policy, waits) = (Mutex::new(policy), Mutex::default());
        Arc::new(Self { policy, pressure, started: Instant::now(), stopped, held, plain, waits })
    }

    /// A gate that is always open, for runs without a server.
    pub fn open() -> Arc<Self> {
        Self::new(Policy { mode: Mode::Exclusive, ..Policy::default() }, Pressure::default())
    }

    /// Makes the run end soon, wherever it is.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.pressure.wake();
    }

    /// Holds the run where it is, or lets it go on.
    pub fn hold(&self, held: Held) {
        self.held.store(held == Held::Yes, Ordering::Release);
        self.pressure.wake();
    }

    /// Whether the run was told to end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Changes the policy.
    pub fn set(&self, policy: Policy) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
        self.plain.store(policy.hours.is_none(), Ordering::Release);
        self.pressure.wake();
    }

    /// The policy.
    pub fn policy(&self) -> Policy {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the run was held here until now.
    pub fn waited(&self) -> Duration {
        let state = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        state.before + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Returns when the next piece may run.
    pub fn pass(&self) -> Go {
        let mut waiting = None;
        loop {
            if self.is_stopped() {
                return Go::Stop;
            }
            let held = self.held.load(Ordering::Acquire);
            if !held && self.plain.load(Ordering::Acquire) && self.pressure.sequences() == 0 {
                return Go::On;
            }
            let since_1970 = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            let situation = Situation {
                waiting: self.pressure.sequences(),
                now: self.started.elapsed(),
                minute: (since_1970.as_secs() / 60 % 1440) as u16,
            };
            match decide(self.policy(), situation) {
                Decision::Run if !held => return Go::On,
                decision => {
                    waiting.get_or_insert_with(|| Waiting::new(&self.waits));
                    self.pressure.wait(if let Decision::Wait(time) = decision { time } else { LOOK });
                }
            }
        }
    }
}

/// Whether a run is held where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It is.
    Yes,
    /// It goes on.
    No,
}

/// Lets everything else on the machine go before this thread and those that it starts.
pub fn yield_to_others() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a plain system call on this thread; a refusal changes nothing.
        let refused = unsafe {
            let nothing: libc::sched_param = std::mem::zeroed();
            libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const nothing)
        };
        if refused != 0 {
            tracing::warn!("training threads keep the usual priority: {}", std::io::Error::last_os_error());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn situation(waiting: usize, millis: u64) -> Situation {
        Situation { waiting, now: Duration::from_millis(millis), minute: 23 * 60 }
    }

    #[test]
    fn serving_goes_first_unless_it_was_said_otherwise() {
        let policy = |mode| Policy { mode, ..Policy::default() };
        assert_eq!(decide(policy(Mode::Idle), situation(0, 3)), Decision::Run);
        assert!(matches!(decide(policy(Mode::Idle), situation(1, 3)), Decision::Wait(_)));
        assert_eq!(decide(policy(Mode::Exclusive), situation(9, 3)), Decision::Run);
        let run = (0..1000).filter(|ms| decide(policy(Mode::Share(20)), situation(1, *ms)) == Decision::Run).count();
        assert_eq!(run, 200);
        assert_eq!(decide(policy(Mode::Share(20)), situation(1, 24)), Decision::Wait(Duration::from_millis(1)));
    }

    #[test]
    fn nights_go_over_midnight() {
        let nights: Hours = "22:00-06:30".parse().unwrap();
        let inside = |text: &str| nights.contain(text.parse::<Hours>().unwrap().from);
        assert!(inside("22:00-0:00") && inside("3:00-0:00") && !inside("06:30-0:00") && !inside("12:00-0:00"));
        let policy = Policy { mode: Mode::Exclusive, hours: Some("01:00-02:00".parse().unwrap()), ..Policy::default() };
        assert!(matches!(decide(policy, situation(0, 0)), Decision::Wait(_)));
        for bad in ["", "22-6", "24:00-06:00", "10:60-11:00", "nights"] {
            assert!(bad.parse::<Hours>().unwrap_err().contains("HH:MM-HH:MM"), "{bad}");
        }
    }

    #[test]
    fn modes_read_as_they_print() {
        for mode in [Mode::Idle, Mode::Share(7), Mode::Exclusive] {
            assert_eq!(mode.to_string().parse::<Mode>().unwrap(), mode);
        }
        for bad in ["share=0%", "share=100%", "share", "often"] {
            assert!(bad.parse::<Mode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_gate_closes_while_somebody_waits_and_ends_when_it_is_told() {
        let pressure = Pressure::default();
        let gate = Gate::new(Policy::default(), pressure.clone());
        assert_eq!(gate.pass(), Go::On);
        let present = pressure.enter();
        let waiting = Arc::clone(&gate);
        let passed = std::thread::spawn(move || waiting.pass());
        drop(present);
        assert_eq!(passed.join().unwrap(), Go::On);
        gate.hold(Held::Yes);
        let (waiting, before) = (Arc::clone(&gate), gate.waited());
        let passed = std::thread::spawn(move || waiting.pass());
        while gate.waited() <= before {
            std::thread::yield_now();
        }
        gate.hold(Held::No);
        assert_eq!(passed.join().unwrap(), Go::On);
        let waited = gate.waited();
        assert_eq!(gate.pass(), Go::On);
        assert_eq!(gate.waited(), waited, "only waiting counts");
        gate.hold(Held::Yes);
        let waiting = Arc::clone(&gate);
        let passed = std::thread::spawn(move || waiting.pass());
        gate.stop();
        assert_eq!(passed.join().unwrap(), Go::Stop);
    }
}
