//! What is done when: two machines at a time, which is what two cores without KVM can carry.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::scope;
use std::time::Instant;

use anyhow::{Error, Result};

use crate::image::Guest;
use crate::report::{Entry, Outcome, Report};
use crate::runner::{ReadyGuest, Runner};
use crate::scenario::Scenario;

/// How many machines run at once.
const MACHINES: usize = 2;

/// The scenarios to run, by the names of the guests.
pub type Plan<'a> = [(&'a str, Vec<&'a Scenario>)];

enum Job<'a> {
    /// Makes a guest ready, which may need another one to be.
    Prepare { guest: &'a str },
    /// Runs a scenario.
    Run {
        guest: &'a str,
        scenario: &'a Scenario,
    },
}

struct State<'a> {
    waiting: Vec<Job<'a>>,
    ready: BTreeMap<&'a str, Result<Arc<ReadyGuest>, String>>,
    free: usize,
    boots: u32,
    error: Option<Error>,
}

struct Schedule<'a> {
    guests: &'a BTreeMap<String, Guest>,
    runner: &'a Runner,
    report: &'a Mutex<Report>,
    state: Mutex<State<'a>>,
    changed: Condvar,
}

/// Does everything in a plan. Returns how many kernels were started to make guests ready.
///
/// # Errors
/// When a guest that the run cannot go without cannot be made ready.
pub fn run(
    plan: &Plan<'_>,
    guests: &BTreeMap<String, Guest>,
    runner: &Runner,
    report: &Mutex<Report>,
) -> Result<u32> {
    let schedule = Schedule {
        guests,
        runner,
        report,
        state: Mutex::new(State {
            waiting: jobs(plan, guests),
            ready: BTreeMap::new(),
            free: MACHINES,
            boots: 0,
            error: None,
        }),
        changed: Condvar::new(),
    };
    scope(|scope| {
        for _ in 0..MACHINES {
            scope.spawn(|| schedule.work());
        }
    });
    let state = schedule.state.into_inner();
    let state = state.unwrap_or_else(PoisonError::into_inner);
    match state.error {
        Some(error) => Err(error),
        None => Ok(state.boots),
    }
}

/// The jobs, from the one to begin with: guests before what they are needed for, long scenarios
/// before short ones (as far as the number of steps tells), and those that take both places last.
fn jobs<'a>(plan: &Plan<'a>, guests: &'a BTreeMap<String, Guest>) -> Vec<Job<'a>> {
    let mut prepared: Vec<&str> = Vec::new();
    for (name, _) in plan {
        let base = guests[*name].saved.as_deref();
        for guest in base.into_iter().chain([*name]) {
            if !prepared.contains(&guest) {
                prepared.push(guest);
            }
        }
    }
    let mut scenarios: Vec<(&str, &Scenario)> = plan
        .iter()
        .flat_map(|(guest, scenarios)| scenarios.iter().map(|scenario| (*guest, *scenario)))
        .collect();
    scenarios.sort_by_key(|(guest, scenario)| {
        let steps = scenario.steps(guest).count();
        (scenario.machines.len(), usize::MAX - steps)
    });
    let prepare = prepared.into_iter().map(|guest| Job::Prepare { guest });
    let run = scenarios
        .into_iter()
        .map(|(guest, scenario)| Job::Run { guest, scenario });
    prepare.chain(run).collect()
}

impl Job<'_> {
    fn machines(&self) -> usize {
        match self {
            Job::Prepare { .. } => 1,
            Job::Run { scenario, .. } => scenario.machines.len().min(MACHINES),
        }
    }
}

impl<'a> Schedule<'a> {
    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of the threads: takes jobs until none is left.
    fn work(&self) {
        while let Some(job) = self.take() {
            match &job {
                Job::Prepare { guest } => self.prepare(guest),
                Job::Run { guest, scenario } => self.run(guest, scenario),
            }
            self.state().free += job.machines();
            self.changed.notify_all();
        }
    }

    /// The first job that can be done now; waits while others have to be done before.
    fn take(&self) -> Option<Job<'a>> {
        let mut state = self.state();
        loop {
            if state.waiting.is_empty() || state.error.is_some() {
                return None;
            }
            let fit = |job: &Job| job.machines() <= state.free && self.is_possible(job, &state);
            if let Some(position) = state.waiting.iter().position(fit) {
                let job = state.waiting.remove(position);
                state.free -= job.machines();
                return Some(job);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn is_possible(&self, job: &Job, state: &State) -> bool {
        match job {
            Job::Prepare { guest } => {
                let base = self.guests[*guest].saved.as_deref();
                base.is_none_or(|base| state.ready.contains_key(base))
            }
            Job::Run { guest, .. } => state.ready.contains_key(guest),
        }
    }

    /// Makes a guest ready, or finds out that the run goes without it. What any guest lacks that is
    /// not optional is an error.
    fn prepare(&self, name: &'a str) {
        let guest = &self.guests[name];
        let started = Instant::now();
        self.report().doing(format!("{name}: making it ready"));
        let result = match self.runner.image(guest) {
            Ok(image) => {
                let made = started.elapsed().as_secs_f64();
                let base = guest.saved.as_deref().and_then(|base| {
                    let ready = self.state().ready.get(base).cloned();
                    ready.and_then(Result::ok)
                });
                self.runner
                    .prepare(name, guest, &image, base.as_deref())
                    .map(|ready| {
                        self.report().line(&format!(
                            "guest   {name}: {}; image {made:.1} s, ready after {:.1} s",
                            ready.versions,
                            started.elapsed().as_secs_f64()
                        ));
                        Ok(Arc::new(ready))
                    })
            }
            Err(error) if guest.optional => {
                let reason = format!("{error:#}");
                self.report()
                    .line(&format!("SKIPPED guest {name}: {reason}"));
                Ok(Err(reason))
            }
            Err(error) => Err(error),
        };
        let mut state = self.state();
        match result {
            Ok(ready) => {
                state.boots += ready.as_ref().map_or(0, |ready| ready.boots);
                state.ready.insert(name, ready);
            }
            Err(error) => state.error = Some(error),
        }
    }

    fn run(&self, guest: &str, scenario: &Scenario) {
        let ready = self.state().ready.get(guest).cloned();
        let outcome = match ready {
            Some(Ok(ready)) => {
                self.report()
                    .doing(format!("{guest}: {}", scenario.summary));
                Outcome::Run(self.runner.run(scenario, &ready))
            }
            Some(Err(reason)) => Outcome::Skipped(reason),
            None => Outcome::Skipped("the guest is not ready".to_owned()),
        };
        self.report().add(Entry {
            scenario: scenario.name.clone(),
            guest: guest.to_owned(),
            outcome,
        });
    }
}
