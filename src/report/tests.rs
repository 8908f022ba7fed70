//! Reports as people and scripts read them.

use std::path::PathBuf;

use super::*;
use crate::check::nix::refuses;
use crate::check::{check, fixture};
use crate::observe::Usage;
use crate::plan::{Allowed, plan};

/// A report in which everything occurs that can.
fn full() -> Report {
    let store = fixture::store(fixture::DESCRIPTION);
    let mut observed = fixture::observed(&store);
    fixture::directory(&mut observed.state[1]).mode = 0o777;
    observed.upper_layer.usage = Usage::Locked(vec![17]);
    observed.upper_layer.strangers = Some(vec!["a\x1b[31m\u{202e}b".into()]);
    observed.machine.build_users_gid = None;
    fixture::directory(&mut observed.upper_layer.place).mode = 0o755;
    let mut report = Report::new(Command::Down, &store.name);
    report.add_findings(check(&store, &observed));
    let steps = plan(&store, &fixture::untouched(&store), Allowed::default()).unwrap();
    report.steps = steps.steps.iter().map(|step| step.report()).collect();
    report.holders = vec![Holder {
        pid: 4711,
        name: "bash".to_owned(),
        how: vec!["its working directory".to_owned()],
    }];
    report.fail(Fault::new("the overlay is in use"));
    report
}

#[test]
fn text_is_grouped_from_below_upwards_with_the_worst_first() {
    insta::assert_snapshot!("text", full().text());
}

#[test]
fn json_has_everything() {
    insta::assert_json_snapshot!("json", full());
}

#[test]
fn what_is_absent_is_left_out() {
    insta::assert_json_snapshot!("json_of_nothing", Report::new(Command::Check, "example"));
}

/// A message of several lines stays below its own name; scripts get it as it is.
#[test]
fn lines_of_a_message_are_indented_for_people_only() {
    let store = fixture::store(fixture::DESCRIPTION);
    let message = "error: no\n  [mount-missing] /x\nso";
    let mut report = Report::new(Command::Check, &store.name);
    report.add_findings(vec![refuses(
        &store,
        &fixture::observed(&store),
        "nix store info",
        message,
    )]);
    let text = report.text();
    let expected =
        "    found:    error: no\n                [mount-missing] /x\n              so\n";
    assert!(text.contains(expected), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["findings"][0]["actual"], message);
}

/// Every line of a report is one: nothing in a name breaks out of it, or colours it.
#[test]
fn hostile_names_stay_in_their_line() {
    let text = full().text();
    let bad = |character: char| character.is_control() && character != '\n';
    assert!(!text.contains(bad) && !text.contains('\u{202e}'), "{text}");
}

#[test]
fn every_outcome_has_its_line_and_exit_code() {
    let outcomes = [
        Outcome::Done,
        Outcome::Unchanged,
        Outcome::NotAsDescribed,
        Outcome::Refused,
        Outcome::Failed,
    ];
    let mut lines = Vec::new();
    for command in [Command::Up, Command::Down, Command::Plan, Command::Check] {
        for outcome in outcomes {
            let mut report = Report::new(command, "example");
            report.outcome = outcome;
            lines.push(format!(
                "{}, {}: {}",
                format!("{command:?}").to_lowercase(),
                outcome.exit_code(),
                report.summary()
            ));
        }
    }
    insta::assert_snapshot!("summaries", lines.join("\n"));
}

#[test]
fn an_error_outweighs_everything_but_a_failure() {
    let store = fixture::store(fixture::DESCRIPTION);
    let mut observed = fixture::observed(&store);
    let mut report = Report::new(Command::Up, "example");
    report.outcome = Outcome::Done;
    report.add_findings(check(&store, &observed));
    assert_eq!(report.outcome, Outcome::Done);
    observed.upper_layer.place.path = PathBuf::from("/elsewhere");
    fixture::unmounted(&mut observed);
    report.add_findings(check(&store, &observed));
    assert_eq!(report.outcome, Outcome::NotAsDescribed);
}
