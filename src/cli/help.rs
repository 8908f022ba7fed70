//! What `--help` has beside what clap derives: commands in groups, and examples. The manual pages
//! have the same.

use std::fmt::Write;

use clap::Command;
use clap::builder::StyledStr;

/// The commands by what they are for, in the order of `--help`.
pub(crate) const GROUPS: [(&str, &[&str]); 4] = [
    ("Every day", &["new", "up", "down", "exec", "gc"]),
    (
        "Looking",
        &["list", "status", "check", "plan", "url", "bug-report"],
    ),
    (
        "Lower stores",
        &[
            "warm",
            "optimise",
            "refresh",
            "remount",
            "reconcile",
            "publish",
        ],
    ),
    (
        "For packagers",
        &["units", "schema", "completions", "manual"],
    ),
];

/// A command line, and what it does.
pub(crate) type Example = (&'static str, &'static str);

/// Examples of each command, the most common first.
pub(crate) const EXAMPLES: [(&str, &[Example]); 21] = [
    (
        "new",
        &[
            (
                "overstore new > example.toml",
                "begin a description, to be edited",
            ),
            (
                "overstore new --publication > main.toml",
                "begin the description of a publication",
            ),
        ],
    ),
    (
        "up",
        &[
            (
                "overstore up example",
                "set up what /etc/overstore/example.toml describes",
            ),
            (
                "overstore up ./example.toml",
                "the same for a file that is elsewhere",
            ),
            (
                "overstore up --fix-permissions example",
                "also give existing directories the owner and mode that Nix wants",
            ),
        ],
    ),
    (
        "down",
        &[
            ("overstore down example", "unmount it, if nothing uses it"),
            (
                "overstore down --lazy example",
                "detach it now; it goes away with its last user",
            ),
        ],
    ),
    (
        "exec",
        &[
            (
                "overstore exec example -- nix-build release.nix",
                "build in a store that is mounted for this command alone",
            ),
            (
                "overstore exec example",
                "a shell there; a second one joins the first",
            ),
            (
                "overstore exec --ephemeral -- nix build nixpkgs#hello",
                "build in a new store over the machine's own, which is gone afterwards",
            ),
        ],
    ),
    (
        "gc",
        &[
            (
                "overstore gc --dry-run example",
                "list what no root needs, with sizes",
            ),
            (
                "overstore gc --older-than 14d example",
                "delete what came into the upper layer more than two weeks ago",
            ),
            (
                "overstore gc --min-free 10G --max-free 50G --all",
                "make room in every store whose disk is nearly full",
            ),
            (
                "overstore gc --why /nix/store/HASH-NAME example",
                "say what keeps an object",
            ),
        ],
    ),
    (
        "list",
        &[
            ("overstore list", "all stores, a line each"),
            ("overstore list --json", "the same for a script"),
        ],
    ),
    (
        "status",
        &[
            ("overstore status example", "one store at a glance"),
            (
                "overstore status --all --json",
                "everything that a monitor needs",
            ),
            (
                "overstore status --all --sizes --metrics",
                "the same as numbers, for node_exporter",
            ),
            (
                "overstore status --exit-code example",
                "for a script: exit with 1 if there is an error",
            ),
        ],
    ),
    (
        "check",
        &[
            ("overstore check example", "is it as described?"),
            (
                "overstore check --contents --lower example",
                "also hash every object again",
            ),
            ("overstore check --all", "every store of this machine"),
            ("overstore check --list", "all findings that there are"),
        ],
    ),
    (
        "plan",
        &[(
            "overstore plan example",
            "what `up` would do, and how it would end",
        )],
    ),
    (
        "url",
        &[
            (
                "nix path-info --store \"$(overstore url example)\" --all",
                "have Nix open the store",
            ),
            (
                "overstore url --client example",
                "the URL for users of the store's daemon",
            ),
            (
                "overstore url --format nix.conf example",
                "all settings that Nix needs for it",
            ),
        ],
    ),
    (
        "bug-report",
        &[
            (
                "overstore bug-report",
                "write overstore-bug-report.txt, about all stores",
            ),
            (
                "overstore bug-report --output - example",
                "print the same about one store",
            ),
        ],
    ),
    (
        "warm",
        &[
            (
                "overstore warm example /srv/lower/nix/var/nix/profiles/tools",
                "copy the metadata of a profile's closure",
            ),
            (
                "overstore warm --all --keep example",
                "copy everything, and keep Nix's collector from undoing it",
            ),
            (
                "overstore warm --forget example",
                "remove the roots that --keep made",
            ),
        ],
    ),
    (
        "optimise",
        &[
            (
                "overstore optimise --dry-run example",
                "what would be removed, and how much it would free",
            ),
            (
                "overstore optimise example",
                "compare the two copies of each object, and remove equal upper ones",
            ),
        ],
    ),
    (
        "remount",
        &[(
            "overstore remount example",
            "have the kernel look again after the lower store has grown",
        )],
    ),
    (
        "reconcile",
        &[
            (
                "overstore reconcile --dry-run example",
                "what would be done after the lower store was replaced",
            ),
            (
                "overstore reconcile --old /srv/old-image example",
                "put it right, and carry what only the old lower store has",
            ),
        ],
    ),
    (
        "refresh",
        &[
            (
                "overstore refresh --dry-run example",
                "whether there is a newer generation below, and what it lacks",
            ),
            (
                "overstore refresh example",
                "move on to it, while the store is in use",
            ),
            (
                "overstore refresh --all",
                "the same for every store of this machine",
            ),
        ],
    ),
    (
        "publish",
        &[
            (
                "overstore publish main",
                "make a new generation of /etc/overstore/publications/main.toml",
            ),
            ("overstore publish --list main", "list the generations"),
            (
                "overstore publish --retire 3 main",
                "tell the consumers of generation 3 to move on",
            ),
            (
                "overstore publish --image squashfs /srv/lower.squashfs main",
                "pack the same into one image file, with its database",
            ),
            (
                "overstore publish --check /srv/lower",
                "verify a lower store that is already there",
            ),
        ],
    ),
    (
        "units",
        &[(
            "overstore units --output units example.toml",
            "write the units that the generator would make at boot",
        )],
    ),
    (
        "schema",
        &[
            (
                "overstore schema",
                "the schema of a description, for an editor",
            ),
            (
                "overstore schema status",
                "the schema of what `status --json` prints",
            ),
        ],
    ),
    (
        "completions",
        &[(
            "overstore completions bash",
            "print the script; `make install` installs it",
        )],
    ),
    (
        "manual",
        &[(
            "overstore manual man",
            "write the pages to man/man1, man/man5 and man/man8",
        )],
    ),
];

/// Adds groups and examples to what clap has derived.
pub(super) fn add_to(command: Command) -> Command {
    let groups = groups(&command);
    let mut command = command.help_template(groups);
    for (name, examples) in EXAMPLES {
        command = command.mut_subcommand(name, |it| {
            let examples = shown(&it, examples);
            it.after_help(examples)
        });
    }
    command
}

/// The help of the program as a whole.
fn groups(command: &Command) -> StyledStr {
    let styles = command.get_styles();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let mut text = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    for (title, names) in GROUPS {
        let _ = write!(text, "\n{header}{title}:{header:#}\n");
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {literal}{name:<12}{literal:#}{about}");
        }
    }
    let _ = write!(
        text,
        "\n{header}Options:{header:#}\n{{options}}{{after-help}}"
    );
    StyledStr::from(text)
}

fn shown(command: &Command, examples: &[Example]) -> StyledStr {
    let styles = command.get_styles();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let mut text = format!("{header}Examples:{header:#}");
    for (line, what) in examples {
        let _ = write!(text, "\n  {literal}{line}{literal:#}\n      {what}");
    }
    StyledStr::from(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::cli::command;

    use super::*;

    #[test]
    fn every_command_is_in_one_group_and_has_examples() {
        let command = command();
        let names: BTreeSet<&str> = command
            .get_subcommands()
            .filter(|it| !it.is_hide_set())
            .map(Command::get_name)
            .collect();
        let grouped: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        assert_eq!(grouped.len(), names.len());
        assert_eq!(grouped.into_iter().collect::<BTreeSet<_>>(), names);
        let with_examples: BTreeSet<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
        assert_eq!(with_examples, names);
    }

    /// The list of commands fits a terminal.
    #[test]
    fn every_command_is_told_in_one_line() {
        for command in command().get_subcommands() {
            let about = command.get_about().map(ToString::to_string);
            let width = 14 + about.unwrap_or_default().chars().count();
            assert!(width <= 80, "{}", command.get_name());
        }
    }

    /// What an example says can be typed.
    #[test]
    fn examples_are_command_lines() {
        for (name, examples) in EXAMPLES {
            for (line, _) in examples {
                let begin = line.find("overstore ").unwrap();
                let line = line[begin..].split(['>', ')', '"']).next().unwrap();
                let words = line.split_whitespace();
                let matches = command().try_get_matches_from(words);
                let matches = matches.unwrap_or_else(|error| panic!("{line}: {error}"));
                assert_eq!(matches.subcommand_name(), Some(name), "{line}");
            }
        }
    }
}
