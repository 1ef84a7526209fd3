//! The state machine against a deployment that is played: every order of time, evidence, people, crashes and a second process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::experiments::rollout::plan::{Draft, DraftShadow, DraftStep};
use crate::registry::Release;

const START: i64 = 1_800_000_000;

pub(in super::super) fn plan() -> Plan {
    let step = |weight: f64| DraftStep { weight, ..DraftStep::default() };
    let draft = Draft {
        steps: Some(vec![step(1.0), step(10.0), step(100.0)]),
        bake_seconds: Some(60),
        min_samples: Some(20),
        deadline_seconds: Some(300),
        ..Draft::default()
    };
    draft.plan().unwrap()
}

pub(in super::super) fn rollout(plan: Plan) -> Rollout {
    Rollout {
        id: "rollout_1".to_owned(),
        tenant: None,
        deployment: "support".to_owned(),
        control: "stable".to_owned(),
        candidate: Candidate {
            arm: "canary".to_owned(),
            model: Model { model: "support@4".to_owned(), version: None, release: Release::Gate },
        },
        plan,
        experiment: Settings::usual("stable"),
        stage: Stage::Pending,
        phase: Phase::Running,
        base_revision: 7,
        revision: 7,
        applied: true,
        since: START,
        baked: 0,
        samples_before: 0,
        deadline_at: None,
        reason: String::new(),
        created_by: "key_1".to_owned(),
        job: None,
        node: "node".to_owned(),
        created_at: START,
        updated_at: START,
        ended_at: None,
        version: 1,
    }
}

/// A deployment with a history, and what happens in the world.
struct World {
    /// Row of the rollout, as the database has it.
    row: Rollout,
    /// Who made each revision, why, and what it is; the first is the base's.
    history: Vec<(String, String, Option<Target>)>,
    now: i64,
    standing: Standing,
    samples: u64,
    pairs: u64,
    gone: bool,
    events: Vec<Event>,
}

impl World {
    fn new(plan: Plan) -> Self {
        Self {
            row: rollout(plan),
            history: vec![("key_1".to_owned(), "made".to_owned(), Some(Target::Base))],
            now: START,
            standing: Standing::Good,
            samples: 0,
            pairs: 0,
            gone: false,
            events: Vec::new(),
        }
    }

    fn revision(&self) -> i64 {
        6 + self.history.len() as i64
    }

    fn seen(&self) -> Seen {
        let (actor, reason, _) = self.history.last().unwrap().clone();
        Seen {
            deployment: Some(SeenDeployment { revision: self.revision(), actor, reason }),
            candidate: if self.gone { Presence::Gone("it was deleted".to_owned()) } else { Presence::There },
            standing: self.standing.clone(),
            samples: self.samples,
            pairs: self.pairs,
            failed_pairs: 0,
        }
    }

    fn is(&self) -> Option<Target> {
        self.history.last().unwrap().2
    }

    /// Compare-and-set of the row.
    fn write(&mut self, from: &Rollout, after: Rollout, event: Option<Event>) -> bool {
        if self.row.version != from.version {
            return false;
        }
        self.row = Rollout { version: from.version + 1, ..after };
        self.events.extend(event);
        true
    }

    /// Compare-and-set of the deployment.
    fn set(&mut self, rollout: &Rollout) -> Option<i64> {
        if self.revision() != rollout.revision {
            return None;
        }
        self.history.push((rollout.actor(), rollout.why(), Some(rollout.target())));
        Some(self.revision())
    }

    /// One look by a driver that read `row`, which may be out of date; it may be killed after it has changed the deployment.
    fn look(&mut self, row: &Rollout, killed: bool) -> bool {
        match row.decide(&self.seen(), self.now) {
            Act::Move(then) => self.write(row, then.after, then.event),
            Act::Apply => {
                let Some(revision) = self.set(row) else { return false };
                if !killed {
                    let after = row.is_applied(revision, self.samples, self.now);
                    self.write(row, after, None);
                }
                true
            }
            Act::Wait(_) | Act::Rest => false,
        }
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            let row = self.row.clone();
            if !self.look(&row, false) {
                return;
            }
        }
        panic!("it does not come to rest: {:?}", self.row);
    }

    fn pass(&mut self, seconds: i64) {
        self.now += seconds;
        self.settle();
    }

    fn command(&mut self, command: Command) -> Result<(), NotNow> {
        let row = self.row.clone();
        let then = row.command(&command, "because", self.now)?;
        assert!(self.write(&row, then.after, then.event));
        Ok(())
    }
}

#[test]
fn a_good_candidate_goes_step_by_step_to_all_traffic() {
    let mut world = World::new(plan());
    world.settle();
    assert_eq!((world.row.state(), world.row.weight().percent(), world.is()), ("progressing", 1.0, Some(Target::Step(0))));
    world.pass(59);
    world.samples = 20;
    world.settle();
    assert_eq!(world.row.stage, Stage::Step(0), "it bakes");
    world.pass(1);
    assert_eq!((world.row.weight().percent(), world.row.samples_before), (10.0, 20));
    world.samples = 40;
    world.pass(60);
    assert_eq!(world.row.weight().percent(), 100.0);
    world.samples = 60;
    world.pass(60);
    assert_eq!((world.row.state(), world.is()), ("promoted", Some(Target::Promoted)));
    assert_eq!(world.events, [Event::Started, Event::Step, Event::Step, Event::Promoted]);
    assert!(world.row.ended_at.is_some() && world.row.applied);
}

#[test]
fn a_breach_goes_back_at_once_in_every_state_with_users() {
    for paused in [false, true] {
        let mut world = World::new(plan());
        world.settle();
        if paused {
            world.command(Command::Pause).unwrap();
        }
        world.standing = Standing::Breached("guard errors: 25% of 40 answers, control 2%".to_owned());
        world.pass(1);
        assert_eq!((world.row.state(), world.is()), ("rolled_back", Some(Target::Base)));
        assert!(world.row.reason.contains("guard errors") && world.history.last().unwrap().1.contains("guard errors"));
    }
}

#[test]
fn without_evidence_it_waits_for_a_person_or_a_deadline() {
    let inconclusive = |on_deadline| {
        let mut world = World::new(Plan { on_deadline, ..plan() });
        world.settle();
        world.samples = 19;
        world.pass(60);
        assert_eq!(world.row.state(), "inconclusive");
        assert!(world.row.reason.contains("19 of 20"), "{}", world.row.reason);
        world
    };
    let mut world = inconclusive(OnDeadline::Rollback);
    world.pass(299);
    assert_eq!(world.row.state(), "inconclusive");
    world.pass(1);
    assert_eq!((world.row.state(), world.is()), ("rolled_back", Some(Target::Base)));
    let mut world = inconclusive(OnDeadline::Advance);
    world.pass(300);
    assert_eq!((world.row.state(), world.row.stage), ("progressing", Stage::Step(1)));
    let mut world = inconclusive(OnDeadline::Pause);
    world.pass(300);
    assert_eq!((world.row.state(), world.row.stage), ("paused", Stage::Step(0)));
    // Evidence comes late.
    let mut world = inconclusive(OnDeadline::Rollback);
    world.samples = 20;
    world.pass(1);
    assert_eq!((world.row.state(), world.row.stage), ("progressing", Stage::Step(1)));
    // A person looks.
    let mut world = inconclusive(OnDeadline::Rollback);
    world.command(Command::Resume).unwrap();
    world.settle();
    assert_eq!((world.row.state(), world.row.stage), ("progressing", Stage::Step(1)));
}

#[test]
fn an_open_goal_is_enough_for_more_and_not_for_all() {
    let mut world = World::new(plan());
    world.settle();
    world.standing = Standing::Undecided("the goal is open".to_owned());
    world.samples = 20;
    world.pass(60);
    assert_eq!(world.row.weight().percent(), 10.0);
    world.samples = 40;
    world.pass(60);
    assert_eq!((world.row.state(), world.row.weight().percent()), ("inconclusive", 10.0));
    world.standing = Standing::Good;
    world.pass(1);
    assert_eq!(world.row.weight().percent(), 100.0);
    // There is nothing to compare with any more.
    world.standing = Standing::Undecided("the goal is open".to_owned());
    world.samples = 60;
    world.pass(60);
    assert_eq!(world.row.state(), "promoted");
}

#[test]
fn a_pause_stops_the_clock() {
    let mut world = World::new(plan());
    world.samples = 100;
    world.settle();
    world.pass(50);
    world.command(Command::Pause).unwrap();
    world.samples = 200;
    world.pass(1_000);
    assert_eq!(world.row.state(), "paused");
    world.command(Command::Resume).unwrap();
    world.pass(9);
    assert_eq!(world.row.stage, Stage::Step(0));
    world.pass(1);
    assert_eq!(world.row.stage, Stage::Step(1));
    assert_eq!(
        world.command(Command::Resume).unwrap_err().to_string(),
        "The rollout rollout_1 is progressing and cannot be resumed."
    );
}

#[test]
fn shadow_comes_first_and_what_fails_in_silence_is_shown_to_nobody() {
    let shadow = DraftShadow { percent: 20.0, ..DraftShadow::default() };
    let mut draft = Draft { shadow: Some(shadow), bake_seconds: Some(60), min_samples: Some(20), ..Draft::default() };
    let mut world = World::new(draft.clone().plan().unwrap());
    world.settle();
    assert_eq!((world.row.state(), world.row.weight().percent(), world.is()), ("shadow", 0.0, Some(Target::Shadow)));
    world.pairs = 20;
    world.pass(60);
    assert_eq!((world.row.state(), world.is()), ("progressing", Some(Target::Step(0))));
    assert_eq!(world.events, [Event::Started, Event::Step]);
    draft.min_samples = Some(10);
    let mut world = World::new(draft.plan().unwrap());
    world.settle();
    let seen = Seen { pairs: 10, failed_pairs: 2, ..world.seen() };
    let Act::Move(then) = world.row.decide(&seen, world.now) else { panic!() };
    assert_eq!((then.after.state(), then.after.reason.as_str()), ("rolled_back", "2 of 10 shadow answers failed"));
}

#[test]
fn it_goes_forward_in_its_hours_only_and_back_at_any() {
    // START is 2027-01-15, a Friday, at 08:00 UTC.
    let hours = Some("09:00-10:00 UTC".parse().unwrap());
    let mut world = World::new(Plan { hours, ..plan() });
    world.settle();
    let Act::Wait(wait) = world.row.decide(&world.seen(), world.now) else { panic!() };
    assert_eq!((world.row.state(), wait.until), ("pending", Some(START + 3_600)));
    world.pass(3_600);
    assert_eq!(world.row.stage, Stage::Step(0));
    world.samples = 100;
    world.now = START + 7_200;
    world.settle();
    assert_eq!(world.row.stage, Stage::Step(0), "its hours are over");
    world.standing = Standing::Breached("guard".to_owned());
    world.pass(1);
    assert_eq!(world.row.state(), "rolled_back");
}

#[test]
fn whoever_changes_the_deployment_takes_over() {
    let mut world = World::new(plan());
    world.settle();
    world.history.push(("key_2".to_owned(), "by hand".to_owned(), None));
    world.pass(1);
    assert_eq!((world.row.state(), world.is()), ("aborted", None));
    assert!(world.row.reason.contains("superseded: key_2"), "{}", world.row.reason);
    let mut world = World::new(plan());
    world.settle();
    let seen = Seen { deployment: None, ..world.seen() };
    let Act::Move(then) = world.row.decide(&seen, world.now) else { panic!() };
    assert_eq!((then.after.state(), then.after.reason.as_str()), ("aborted", "the deployment was removed"));
    world.gone = true;
    world.pass(1);
    assert_eq!((world.row.state(), world.is()), ("rolled_back", Some(Target::Base)));
}

#[test]
fn what_cannot_be_brought_about_goes_back() {
    let mut world = World::new(plan());
    let row = world.row.clone();
    assert!(world.look(&row, false));
    let then = world.row.is_refused("its gate did not pass", world.now).unwrap();
    assert_eq!(then.after.state(), "rolled_back");
    let row = world.row.clone();
    assert!(world.write(&row, then.after, then.event));
    world.settle();
    assert_eq!((world.is(), world.row.applied), (Some(Target::Base), true));
    assert_eq!(world.row.is_refused("x", world.now), None);
}

#[derive(Debug, Clone)]
enum Happening {
    Time(i64),
    Samples(u64),
    Unclear,
    Undecided,
    Good,
    Breach,
    Gone,
    Look {
        killed: bool,
    },
    /// A second process that has read the row earlier looks now.
    Remember,
    LookByMemory {
        killed: bool,
    },
    Person(Command),
    Stranger,
}

fn happening() -> impl Strategy<Value = Happening> {
    let person = prop::sample::select(vec![Command::Pause, Command::Resume, Command::Promote, Command::Abort]);
    prop_oneof![
        20 => any::<bool>().prop_map(|killed| Happening::Look { killed }),
        5 => Just(Happening::Remember),
        5 => any::<bool>().prop_map(|killed| Happening::LookByMemory { killed }),
        5 => (1i64..90).prop_map(Happening::Time),
        5 => (1u64..40).prop_map(Happening::Samples),
        1 => Just(Happening::Unclear),
        1 => Just(Happening::Undecided),
        2 => Just(Happening::Good),
        1 => Just(Happening::Breach),
        1 => Just(Happening::Gone),
        2 => person.prop_map(Happening::Person),
        1 => Just(Happening::Stranger),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens_nobody_gets_what_was_not_decided(happenings in prop::collection::vec(happening(), 1..120)) {
        let mut world = World::new(plan());
        let mut memory = world.row.clone();
        let mut strangers = 0;
        for happening in happenings {
            let (before, row, moves) = (world.history.len(), world.row.clone(), world.events.len());
            match happening {
                Happening::Time(seconds) => world.now += seconds,
                Happening::Samples(samples) => world.samples += samples,
                Happening::Unclear => world.standing = Standing::Unclear("not enough".to_owned()),
                Happening::Undecided => world.standing = Standing::Undecided("the goal is open".to_owned()),
                Happening::Good => world.standing = Standing::Good,
                Happening::Breach => world.standing = Standing::Breached("guard".to_owned()),
                Happening::Gone => world.gone = true,
                Happening::Look { killed } => { let row = world.row.clone(); world.look(&row, killed); }
                Happening::Remember => memory = world.row.clone(),
                Happening::LookByMemory { killed } => { let row = memory.clone(); world.look(&row, killed); }
                Happening::Person(command) => { let _ = world.command(command); }
                Happening::Stranger => {
                    strangers += 1;
                    world.history.push(("key_2".to_owned(), "by hand".to_owned(), None));
                }
            }
            // One revision at a time, and each what a row had decided by then.
            prop_assert!(world.history.len() <= before + 1);
            // A rollout that is over stays so, in its phase.
            if row.phase.is_over() {
                prop_assert_eq!(row.phase, world.row.phase);
                prop_assert_eq!(moves, world.events.len());
            }
            // A step forward: baked and proven, or a person's.
            if let (Stage::Step(from), Stage::Step(to)) = (row.stage, world.row.stage) {
                prop_assert!(to == from || to == from + 1);
                if to > from && row.phase == Phase::Running {
                    prop_assert!(row.applied && world.now - row.since >= 60 && world.samples - row.samples_before >= 20);
                    let whole = world.row.weight().percent() == 100.0;
                    prop_assert!(world.standing == Standing::Good || !whole && matches!(world.standing, Standing::Undecided(_)));
                }
            }
        }
        // The candidate's share only rises step by step, and after a way back there is no way forward.
        let mut last = None;
        for (_, _, target) in &world.history {
            match (last, target) {
                (Some(Target::Step(from)), Some(Target::Step(to))) => prop_assert!(*to == from + 1),
                (Some(Target::Promoted), Some(other)) => prop_assert_eq!(*other, Target::Base),
                (Some(Target::Base), Some(Target::Step(to))) => prop_assert_eq!(*to, 0),
                _ => {}
            }
            last = *target;
        }
        // Once all is quiet, the deployment is what the row says, or a stranger's.
        world.settle();
        if strangers == 0 {
            prop_assert_eq!(world.is(), Some(world.row.target()));
            prop_assert!(world.row.applied);
        } else if world.is().is_none() {
            prop_assert!(world.row.phase.is_over());
        }
        // And it ends, if anybody lets it.
        if world.row.phase == Phase::Paused {
            world.command(Command::Resume).unwrap();
        }
        for _ in 0..10 {
            world.samples += 20;
            world.pass(400);
        }
        prop_assert!(world.row.phase.is_over() && world.row.applied, "{:?}", world.row);
        let begun = world.events.iter().filter(|event| **event == Event::Started).count();
        prop_assert!(begun <= 1);
    }
}
