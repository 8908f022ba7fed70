//! A command line again, from what was read of it: for the processes that do a command's work on one
//! store each.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};

/// The command's name and its options, but those that say which stores, and in which form to tell of
/// them.
pub(super) fn without_stores(definition: &Command, matches: &ArgMatches) -> Vec<OsString> {
    let Some((name, matches)) = matches.subcommand() else {
        return Vec::new();
    };
    let mut given = vec![OsString::from(name)];
    let options = definition
        .find_subcommand(name)
        .into_iter()
        .flat_map(Command::get_arguments)
        .filter(|it| !["all", "json", "metrics"].contains(&it.get_id().as_str()));
    for option in options {
        let id = option.get_id().as_str();
        let Some(long) = option.get_long() else {
            continue;
        };
        if matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        if matches!(option.get_action(), ArgAction::SetTrue) {
            given.push(format!("--{long}").into());
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            let mut word = OsString::from(format!("--{long}="));
            word.push(value);
            given.push(word);
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use crate::cli::command;

    use super::*;

    fn given(line: &str) -> Vec<String> {
        let mut definition = command();
        let matches = definition
            .try_get_matches_from_mut(line.split(' '))
            .unwrap();
        let given = without_stores(&definition, &matches);
        given
            .into_iter()
            .map(|it| it.into_string().unwrap())
            .collect()
    }

    #[test]
    fn options_are_given_again_and_stores_are_not() {
        assert_eq!(given("overstore status --all --json"), ["status"]);
        assert_eq!(
            given("overstore status --metrics --sizes a"),
            ["status", "--sizes"]
        );
        assert_eq!(
            given("overstore gc --json --min-free 10G a --older-than=14d --leftovers b"),
            ["gc", "--older-than=14d", "--min-free=10G", "--leftovers"]
        );
        assert_eq!(
            given("overstore check --root all all --lower"),
            ["check", "--root=all", "--lower"]
        );
    }
}
