//! The loop that sends and receives, one thread for all connections. Latency is counted from the intended time of sending: a
//! server that stands still for a second is late for everybody who would have come in that second.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::outcome::{Failure, Outcome, Sample};
use crate::plan::{Kind, Load, Shares, Times};
use crate::poller::{Poller, connect, keep_little, own_time, time_of};
use crate::request::Writer;
use crate::response::{Response, Seen};

/// How often slow readers read, and how often requests are looked through for those that are over their time.
const TICK: Duration = Duration::from_millis(10);
/// Connections that are opened before an open-loop run begins.
const OPENED_BEFORE: usize = 32;
/// Time between the last preparation and the first request.
const LEAD: Duration = Duration::from_millis(20);

/// One run.
pub struct Run {
    /// Where.
    pub address: SocketAddr,
    /// What.
    pub writer: Writer,
    /// When.
    pub load: Load,
    /// How answers are read.
    pub shares: Shares,
    /// Bytes a second that slow readers read.
    pub slow_bytes: usize,
    /// Not counted, at the beginning.
    pub warmup: Duration,
    /// Counted.
    pub measured: Duration,
    /// For the last answers, at the end.
    pub drain: Duration,
    /// Longest time for an answer.
    pub timeout: Duration,
    /// Most connections of an open loop.
    pub max_connections: usize,
    /// The server's process, where its processor time is wanted.
    pub server: Option<u32>,
    /// Where chance begins.
    pub seed: u64,
}

struct Connection {
    stream: TcpStream,
    /// Tells events of this connection from those of an earlier one in the same place.
    generation: u32,
    response: Response,
    out: Vec<u8>,
    written: usize,
    current: Option<Current>,
}

#[derive(Clone, Copy)]
struct Current {
    kind: Kind,
    intended: Instant,
    first: Option<Instant>,
}

struct Loop<'a> {
    run: &'a Run,
    poller: Poller,
    random: ChaCha8Rng,
    connections: Vec<Option<Connection>>,
    /// Places without a connection.
    vacant: Vec<usize>,
    /// Open connections without a request; the one used last is used first.
    idle: Vec<usize>,
    /// Places of slow readers.
    slow: Vec<usize>,
    /// Intended times of requests that found no connection.
    backlog: VecDeque<(Instant, Kind)>,
    generation: u32,
    buffer: Vec<u8>,
    start: Instant,
    outcome: Outcome,
    busy: usize,
}

impl Run {
    /// Does it.
    pub fn run(&self) -> Result<Outcome> {
        let mut state = Loop {
            run: self,
            poller: Poller::new()?,
            random: ChaCha8Rng::seed_from_u64(self.seed),
            connections: Vec::new(),
            vacant: Vec::new(),
            idle: Vec::new(),
            slow: Vec::new(),
            backlog: VecDeque::new(),
            generation: 0,
            buffer: vec![0; 64 * 1024],
            start: Instant::now(),
            outcome: Outcome::default(),
            busy: 0,
        };
        state.go()?;
        Ok(state.outcome)
    }

    fn end(&self) -> Duration {
        self.warmup + self.measured
    }
}

impl Loop<'_> {
    fn go(&mut self) -> Result<()> {
        let opened = match self.run.load {
            Load::Open { .. } => OPENED_BEFORE.min(self.run.max_connections),
            Load::Closed { connections } => connections,
        };
        for _ in 0..opened {
            let place = self.open(false)?;
            self.idle.push(place);
        }
        let mut times = match self.run.load {
            Load::Open { rate, arrivals, burst } => Some(Times::new(rate, arrivals, burst, self.run.end(), self.run.seed)),
            Load::Closed { .. } => None,
        };
        self.start = Instant::now() + LEAD;
        let mut next = times.as_mut().and_then(Iterator::next);
        if times.is_none() {
            std::thread::sleep(LEAD);
            let now = Instant::now();
            for _ in 0..opened {
                self.send_next(now);
            }
        }
        let (end, measured_from) = (self.start + self.run.end(), self.start + self.run.warmup);
        let mut next_tick = self.start + TICK;
        let mut times_before = None;
        let mut tokens = Vec::new();
        loop {
            let now = Instant::now();
            if times_before.is_none() && now >= measured_from {
                times_before = Some(self.processor_times());
            }
            while let Some(at) = next.map(|at| self.start + at).filter(|at| *at <= now) {
                let kind = self.run.shares.draw(&mut self.random);
                self.dispatch(at, kind);
                next = times.as_mut().and_then(Iterator::next);
            }
            if now >= next_tick {
                self.tick(now);
                next_tick = now + TICK;
            }
            if now >= end && self.outcome.generator_time.is_none() {
                self.take_times(times_before);
            }
            let idle = self.busy == 0 && self.backlog.is_empty();
            if now >= end && (idle || now >= end + self.run.drain) {
                break;
            }
            let until = next.map(|at| self.start + at).filter(|at| *at < next_tick).unwrap_or(next_tick);
            tokens.clear();
            self.poller.wait(until.saturating_duration_since(now), &mut tokens)?;
            for token in &tokens {
                self.event(*token);
            }
        }
        self.outcome.unfinished = self.unfinished();
        self.outcome.connections = self.connections.len();
        self.outcome.measured = self.run.measured;
        Ok(())
    }

    fn processor_times(&self) -> (Duration, Option<Duration>) {
        (own_time(), self.run.server.and_then(time_of))
    }

    fn take_times(&mut self, before: Option<(Duration, Option<Duration>)>) {
        let (own, server) = self.processor_times();
        let Some((own_before, server_before)) = before else { return };
        self.outcome.generator_time = Some(own.saturating_sub(own_before));
        self.outcome.server_time = server.zip(server_before).map(|(after, before)| after.saturating_sub(before));
    }

    /// Requests of the measured time that have no answer yet.
    fn unfinished(&self) -> u64 {
        let running =
            self.connections.iter().flatten().filter_map(|connection| connection.current.map(|current| current.intended));
        let waiting = self.backlog.iter().map(|(intended, _)| *intended);
        running.chain(waiting).filter(|intended| self.is_measured(*intended)).count() as u64
    }

    fn is_measured(&self, at: Instant) -> bool {
        at >= self.start + self.run.warmup && at < self.start + self.run.end()
    }

    fn open(&mut self, slow: bool) -> Result<usize> {
        let stream = connect(self.run.address)?;
        stream.set_nodelay(true)?;
        if slow {
            keep_little(&stream);
        }
        self.generation = self.generation.wrapping_add(1);
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.poller.watch(&stream, (u64::from(self.generation) << 32) | place as u64)?;
        self.connections[place] = Some(Connection {
            stream,
            generation: self.generation,
            response: Response::default(),
            out: Vec::new(),
            written: 0,
            current: None,
        });
        Ok(place)
    }

    fn close(&mut self, place: usize) {
        if let Some(connection) = self.connections[place].take() {
            self.busy -= usize::from(connection.current.is_some());
            self.vacant.push(place);
            self.idle.retain(|idle| *idle != place);
            self.slow.retain(|slow| *slow != place);
        }
    }

    /// Sends on an idle connection, on a new one, or later.
    fn dispatch(&mut self, intended: Instant, kind: Kind) {
        let place = match kind {
            Kind::Slow => None,
            Kind::Whole | Kind::Stream => self.idle.pop(),
        };
        let place = match place {
            Some(place) => place,
            None if self.connections.len() - self.vacant.len() < self.run.max_connections => {
                match self.open(kind == Kind::Slow) {
                    Ok(place) => place,
                    Err(_) => return self.failed(intended, Failure::Connect),
                }
            }
            None => return self.backlog.push_back((intended, kind)),
        };
        self.send(place, intended, kind);
    }

    /// The next request of a closed loop, on any idle connection.
    fn send_next(&mut self, now: Instant) {
        let kind = match self.run.shares.draw(&mut self.random) {
            // A closed loop has its connections; slow readers would take theirs out of it.
            Kind::Slow => Kind::Stream,
            kind => kind,
        };
        self.dispatch(now, kind);
    }

    fn send(&mut self, place: usize, intended: Instant, kind: Kind) {
        let Some(connection) = &mut self.connections[place] else { return };
        self.run.writer.write(kind, &mut self.random, &mut connection.out);
        connection.written = 0;
        connection.response.reset();
        connection.current = Some(Current { kind, intended, first: None });
        self.busy += 1;
        if kind == Kind::Slow {
            self.slow.push(place);
        }
        if self.is_measured(intended) {
            self.outcome.sent += 1;
            self.outcome.lags.push(Instant::now().saturating_duration_since(intended));
        }
        self.write(place);
    }

    fn write(&mut self, place: usize) {
        let Some(connection) = &mut self.connections[place] else { return };
        while connection.written < connection.out.len() {
            match connection.stream.write(&connection.out[connection.written..]) {
                Ok(0) => return self.broke(place, Failure::Reset),
                Ok(written) => connection.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.broke(place, Failure::Reset),
            }
        }
    }

    fn event(&mut self, token: u64) {
        let place = (token & u64::from(u32::MAX)) as usize;
        let Some(Some(connection)) = self.connections.get(place) else { return };
        if u64::from(connection.generation) != token >> 32 {
            return;
        }
        if connection.written < connection.out.len() {
            self.write(place);
            if self.connections[place].as_ref().is_none_or(|connection| connection.written == 0) {
                return;
            }
        }
        match self.connections[place].as_ref().map(|connection| connection.current) {
            Some(Some(Current { kind: Kind::Slow, .. })) | None => {}
            Some(_) => self.read(place, usize::MAX),
        }
    }

    /// Reads what is there, `most` bytes at most.
    fn read(&mut self, place: usize, mut most: usize) {
        while most > 0 {
            let Some(connection) = &mut self.connections[place] else { return };
            let size = self.buffer.len().min(most);
            let bytes = match connection.stream.read(&mut self.buffer[..size]) {
                Ok(0) => return self.broke(place, Failure::Reset),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.broke(place, Failure::Reset),
            };
            most -= bytes;
            let Some(current) = &mut connection.current else { return self.close(place) };
            let seen = connection.response.feed(&self.buffer[..bytes]);
            if connection.response.body_began && current.first.is_none() {
                current.first = Some(Instant::now());
            }
            match seen {
                Err(_) => return self.broke(place, Failure::NotHttp),
                Ok(Seen::End) => return self.answered(place),
                // A short read has taken all there was.
                Ok(Seen::More) if bytes < size => return,
                Ok(Seen::More) => {}
            }
        }
    }

    fn answered(&mut self, place: usize) {
        let now = Instant::now();
        let Some(connection) = &mut self.connections[place] else { return };
        let Some(Current { kind, intended, first }) = connection.current.take() else { return };
        self.busy -= 1;
        let (status, closes) = (connection.response.status, connection.response.closes);
        let broken = status == 200 && kind != Kind::Whole && !connection.response.is_whole_stream();
        let counted = match self.run.load {
            Load::Open { .. } => intended,
            // What was answered in the measured time is what the server can do.
            Load::Closed { .. } => now,
        };
        if self.is_measured(counted) {
            if broken {
                self.outcome.fail(Failure::BrokenStream);
            } else {
                let first = first.unwrap_or(now).saturating_duration_since(intended);
                let latency = now.saturating_duration_since(intended);
                let at = intended.saturating_duration_since(self.start);
                self.outcome.record(Sample { kind, status, at, latency, first });
            }
        }
        if closes || kind == Kind::Slow {
            self.close(place);
        } else {
            self.idle.push(place);
        }
        self.go_on(now);
    }

    /// After an end: what waited, or the next of a closed loop.
    fn go_on(&mut self, now: Instant) {
        if let Some((intended, kind)) = self.backlog.pop_front() {
            self.dispatch(intended, kind);
        } else if matches!(self.run.load, Load::Closed { .. }) && now < self.start + self.run.end() {
            self.send_next(now);
        }
    }

    fn broke(&mut self, place: usize, failure: Failure) {
        let current = self.connections[place].as_ref().and_then(|connection| connection.current);
        self.close(place);
        // A connection that nobody used may be closed by the server at any time.
        let Some(current) = current else { return };
        self.failed(current.intended, failure);
        self.go_on(Instant::now());
    }

    fn failed(&mut self, intended: Instant, failure: Failure) {
        if self.is_measured(intended) {
            self.outcome.fail(failure);
        }
    }

    fn tick(&mut self, now: Instant) {
        let allowance = (self.run.slow_bytes as f64 * TICK.as_secs_f64()).ceil() as usize;
        for place in self.slow.clone() {
            self.read(place, allowance.max(1));
        }
        let overdue: Vec<usize> = (0..self.connections.len())
            .filter(|place| {
                let current = self.connections[*place].as_ref().and_then(|connection| connection.current);
                current.is_some_and(|current| now.saturating_duration_since(current.intended) > self.run.timeout)
            })
            .collect();
        for place in overdue {
            self.broke(place, Failure::Timeout);
        }
    }
}
