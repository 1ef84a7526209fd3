//! What goes on in the background of shared limits: ends of loans are sent, loans that go on are renewed, and Redis is looked for
//! while it is away. Knows nothing of requests.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep_until};

use super::wire::{Renewal, Settlement, Spending, Sums};
use super::{CONNECT, Failure, Shared, micros};

/// Redis is looked for again this much later.
const RETRY: Duration = Duration::from_millis(250);
/// The same where it is found again and again and does not stay.
const LONGEST_RETRY: Duration = Duration::from_secs(8);
/// It has stayed when it answered for this long.
const STEADY: Duration = Duration::from_secs(10);
/// Ends of loans that are sent together.
const BATCH: usize = 128;
/// Ends of loans are of no use later: the minute is over and the lease has ended. What they say of money is kept.
const STALE: Duration = Duration::from_secs(120);

/// When Redis is looked for.
struct Search {
    /// `None` while it is away.
    found: Option<Instant>,
    pause: Duration,
    at: Instant,
}

impl Search {
    /// At once, unless it was found a moment ago: then after a pause, which grows.
    fn lost(&mut self, now: Instant) {
        if let Some(found) = self.found.take() {
            let stayed = now.duration_since(found) > STEADY;
            self.pause = if stayed { Duration::ZERO } else { (self.pause * 2).clamp(RETRY, LONGEST_RETRY) };
            self.at = now + self.pause;
        }
    }

    fn failed(&mut self, now: Instant) {
        self.at = now + RETRY;
    }
}

/// What Redis has not heard of.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) ends: VecDeque<(Instant, Settlement)>,
    /// Newest sums of wallets of which ends were forgotten. Nobody else tells them: the next request for such a wallet may be asked
    /// for by another replica.
    sums: HashMap<String, Sums>,
}

impl Waiting {
    /// Forgets what is of no use any more, but no money. Says how many ends.
    pub(super) fn forget(&mut self, now: Instant) -> usize {
        let stale = self.ends.iter().take_while(|(since, _)| now.duration_since(*since) > STALE).count();
        for Spending { name, own } in self.ends.drain(..stale).flat_map(|(_, end)| end.wallets) {
            let newest = self.sums.entry(name).or_insert(own);
            // The total only grows.
            if own[0] >= newest[0] {
                *newest = own;
            }
        }
        stale
    }

    /// The sums as ends of no loan.
    fn sums(&self, node: &Arc<str>) -> Vec<Settlement> {
        let none = |(name, own): (&String, &Sums)| Settlement {
            now: 0,
            loan: "".into(),
            epoch: "".into(),
            node: Arc::clone(node),
            used: 0,
            at: 0,
            meters: Vec::new(),
            wallets: vec![Spending { name: name.clone(), own: *own }],
        };
        self.sums.iter().map(none).collect()
    }
}

impl Shared {
    /// Sends ends of loans, renews those that go on, and looks for Redis while it is away; until it is dropped.
    pub(in crate::tenants) async fn keep_up(self) {
        let arriving = self.0.arriving.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut arriving) = arriving else { return std::future::pending().await };
        let mut waiting = Waiting::default();
        let renew_every = self.0.settings.lease / 3;
        let mut renew_at = Instant::now() + renew_every;
        let began = Instant::now();
        let mut search = Search { found: self.connection().map(|_| began), pause: Duration::ZERO, at: began };
        loop {
            let wake_at = if self.connection().is_some() { renew_at } else { search.at };
            tokio::select! {
                end = arriving.recv() => {
                    let now = Instant::now();
                    waiting.ends.extend(end.map(|end| (now, end)));
                    while let Ok(end) = arriving.try_recv() {
                        waiting.ends.push_back((now, end));
                    }
                }
                () = sleep_until(wake_at) => {}
                () = self.0.lost.notified() => {}
            }
            let now = Instant::now();
            let mut back = None;
            let mut connection = match self.connection() {
                Some(connection) => connection,
                None => {
                    search.lost(now);
                    if now < search.at {
                        continue;
                    }
                    match self.connect().await {
                        Ok(connection) => back.insert(connection).clone(),
                        Err(_) => {
                            search.failed(Instant::now());
                            self.forget(&mut waiting, now);
                            continue;
                        }
                    }
                }
            };
            // What was used meanwhile is there before anybody borrows.
            let mut reached = self.send(&mut connection, &mut waiting).await;
            if reached.is_ok() && (back.is_some() || now >= renew_at) {
                renew_at = now + renew_every;
                reached = self.renew(&mut connection).await;
            }
            match (reached, back) {
                (Ok(()), None) => {}
                (Ok(()), Some(connection)) => {
                    search.found = Some(Instant::now());
                    self.set_connection(Some(connection));
                    tracing::info!("Redis answers: limits hold over all replicas again");
                }
                (Err(failure), back) => {
                    if back.is_some() {
                        search.failed(Instant::now());
                    }
                    self.note_loss(&failure.reason);
                    self.forget(&mut waiting, now);
                }
            }
        }
    }

    /// Sends all that waits.
    pub(super) async fn send(&self, connection: &mut MultiplexedConnection, waiting: &mut Waiting) -> Result<(), Failure> {
        if !waiting.sums.is_empty() {
            let sums = waiting.sums(&self.0.node);
            for sums in sums.chunks(BATCH) {
                self.deliver(connection, &sums.iter().collect::<Vec<_>>()).await?;
            }
            waiting.sums.clear();
        }
        while !waiting.ends.is_empty() {
            let batch: Vec<&Settlement> = waiting.ends.iter().take(BATCH).map(|(_, end)| end).collect();
            self.deliver(connection, &batch).await?;
            let sent = batch.len();
            waiting.ends.drain(..sent);
            self.0.done.send_modify(|done| *done += sent as u64);
        }
        Ok(())
    }

    /// Together; where that is refused one by one, without the one that is refused while other things are not: it must not keep all
    /// the others waiting. What is told twice counts once.
    async fn deliver(&self, connection: &mut MultiplexedConnection, ends: &[&Settlement]) -> Result<(), Failure> {
        match self.run::<String>(connection, &self.0.settle, CONNECT, &ends).await {
            Ok(_) => return Ok(()),
            Err(failure) if !failure.refused => return Err(failure),
            Err(_) => {}
        }
        for end in ends {
            match self.run::<String>(connection, &self.0.settle, CONNECT, &[end]).await {
                Ok(_) => {}
                Err(failure) if !failure.refused => return Err(failure),
                Err(Failure { reason, .. }) => {
                    self.probe(connection).await?;
                    tracing::warn!(loan = &*end.loan, reason, "Redis refuses the end of a loan and nothing else: it is left out");
                }
            }
        }
        Ok(())
    }

    fn forget(&self, waiting: &mut Waiting, now: Instant) {
        let stale = waiting.forget(now);
        self.0.done.send_modify(|done| *done += stale as u64);
    }

    async fn renew(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        let loans: Vec<Arc<str>> = self.0.open.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let lease = micros(self.0.settings.lease);
        for loans in loans.chunks(BATCH) {
            self.run::<String>(connection, &self.0.renew, CONNECT, &Renewal { now: 0, lease, loans }).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_does_not_stay_is_looked_for_less_and_less() {
        let began = Instant::now();
        let mut search = Search { found: Some(began), pause: Duration::ZERO, at: began };
        let long = began + STEADY * 2;
        search.lost(long);
        assert_eq!(search.at, long, "at once");
        search.failed(long);
        search.lost(long + RETRY / 2);
        assert_eq!(search.at, long + RETRY, "it is lost once");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let now = search.at;
            search.found = Some(now);
            search.lost(now);
            pauses.push((search.at - now).as_millis());
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
        let found = search.at;
        search.found = Some(found);
        search.lost(found + STEADY * 2);
        assert_eq!(search.at, found + STEADY * 2);
    }
}
