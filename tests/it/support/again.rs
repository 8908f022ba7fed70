//! Commands that are disturbed at any of their steps, and run again.

use super::{Outcome, Run, World, sample};

/// What happens to a command at one of the calls by which it changes something.
#[derive(Clone, Copy)]
pub enum Disturbance {
    /// It is killed.
    Kill,
    /// The call fails.
    Fail,
}

/// The errors with which calls fail, in turns.
const ERRORS: [&str; 5] = ["EIO", "ENOSPC", "EROFS", "EPERM", "ENOMEM"];

/// A command that may be disturbed: run once more it ends with the same.
pub struct Again<'a> {
    pub world: &'a World,
    pub words: &'a [&'a str],
    /// Makes what it begins with.
    pub fresh: &'a dyn Fn(),
    /// Tells what there is after it.
    pub left: &'a dyn Fn() -> String,
}

impl<'a> Again<'a> {
    /// Disturbs it at about so many of its steps, at all where large suites run whole.
    #[track_caller]
    pub fn ends_alike(&self, disturbance: Disturbance, about: usize) {
        let words = self.words;
        (self.fresh)();
        let (outcome, trace) = self.command().traced();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        let wanted = (self.left)();
        let points = match disturbance {
            Disturbance::Kill => trace.kill_points(),
            Disturbance::Fail => trace.failing_points(),
        };
        let points = sample(points, about);
        let mut disturbed = 0;
        for (number, (call, nth)) in points.iter().enumerate() {
            (self.fresh)();
            let (what, outcome) = match disturbance {
                Disturbance::Kill => ("killed", self.command().killed_at(call, *nth)),
                Disturbance::Fail => {
                    let error = ERRORS[number % ERRORS.len()];
                    let outcome = self.command().failing_at(call, *nth, error);
                    let what = format!("{words:?}: {error} at {call} {nth}");
                    assert_ended(&outcome, &what);
                    // Where writing fails, so may what is told.
                    if !call.contains("write") {
                        assert_says_why(&outcome, &what);
                        assert_says_what_fixes_it(&outcome, &what);
                    }
                    (error, outcome)
                }
            };
            // Not each run makes a call as often as another one, and not each failure stops it.
            disturbed += usize::from(outcome.code() != Some(0));
            let again = self.command().run();
            let what = format!("{words:?}: {what} at {call} {nth}");
            assert_eq!(again.code(), Some(0), "{what}: {outcome} {again}");
            let found = (self.left)();
            assert!(
                found == wanted,
                "{what}: {outcome} {found}\nshould be {wanted}"
            );
        }
        if matches!(disturbance, Disturbance::Kill) {
            assert!(
                disturbed * 2 > points.len(),
                "{disturbed} of {}",
                points.len()
            );
        }
    }

    fn command(&self) -> Run<'a> {
        self.world.command(self.words.iter().copied())
    }
}

/// A command ended by itself, and without a panic.
fn assert_ended(outcome: &Outcome, what: &str) {
    assert!(
        matches!(outcome.code(), Some(0..=3 | 125..=127)),
        "{what}: {outcome}"
    );
    let said = format!("{}{}", outcome.stdout(), outcome.stderr());
    assert!(!said.contains("panicked"), "{what}: {outcome}");
}

/// Each error that is told has a remedy. What another program said is that one's.
#[track_caller]
fn assert_says_what_fixes_it(outcome: &Outcome, what: &str) {
    let said = format!("{}{}", outcome.stdout(), outcome.stderr());
    let is_ours = said.lines().any(|line| line.starts_with("error: "));
    assert!(
        outcome.code() == Some(0) || !is_ours || said.contains("remedy: "),
        "{what}: without a remedy: {outcome}"
    );
}

/// Nothing panicked, and what was not done is told.
#[track_caller]
pub fn assert_says_why(outcome: &Outcome, what: &str) {
    let said = [&outcome.out[..], &outcome.err].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains("panicked"), "{what}: {outcome}");
    assert!(
        outcome.code() == Some(0) || !said.trim().is_empty(),
        "{what}: {outcome}"
    );
}
