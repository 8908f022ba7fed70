//! `overstore new`.

use std::io::Write;
use std::process::ExitCode;

use super::Failure;
use crate::cli;

/// The file to start from: Nix's worked example, and every other key in a comment.
const STARTER: &str = include_str!("starter.toml");

/// The same for a publication.
const PUBLICATION: &str = include_str!("publication-starter.toml");

pub(super) fn run(arguments: &cli::New) -> Result<ExitCode, Failure> {
    let starter = match arguments.publication {
        true => PUBLICATION,
        false => STARTER,
    };
    std::io::stdout().write_all(starter.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{PUBLICATION, STARTER};
    use crate::config::{self, Environment, KEYS, PUBLICATION_KEYS, Store};

    fn parse(text: &str) -> Store {
        let environment = Environment {
            remount_hook: Some(PathBuf::from("/usr/bin/overstore-remount")),
            ..Environment::default()
        };
        config::parse("example", "example.toml", text, &environment)
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The starter file with one commented key in force.
    fn with(key: &str) -> String {
        STARTER.replacen(&format!("\n#{key} = "), &format!("\n{key} = "), 1)
    }

    #[test]
    fn has_every_key_and_parses_with_each_of_them() {
        parse(STARTER);
        every_key(STARTER, &KEYS, |text| {
            drop(parse(&without_what_excludes(text)))
        });
    }

    /// A publication goes with the directory of the objects, and with no other lower store.
    fn without_what_excludes(text: &str) -> String {
        match text.contains("\npublication = ") {
            true => text
                .replace("\nlower-store = ", "\n#lower-store = ")
                .replace(
                    "\n#real = \"/mnt/example/store-a",
                    "\nreal = \"/mnt/example/store-a",
                ),
            false => text.to_owned(),
        }
    }

    #[test]
    fn the_one_of_a_publication_has_every_key() {
        let parse = |text: &str| {
            let parsed = config::parse_publication("example", "example.toml", text);
            parsed.unwrap_or_else(|errors| panic!("{errors}"))
        };
        parse(PUBLICATION);
        every_key(PUBLICATION, &PUBLICATION_KEYS, |text| drop(parse(text)));
    }

    /// A starter file has every key of these tables, and parses with each that is in a comment.
    fn every_key(starter: &str, keys: &[(&str, &[&str])], parse: impl Fn(&str)) {
        let lines = |key: &str| starter.matches(&format!("\n#{key} = ")).count();
        for (table, keys) in keys {
            let body = match *table {
                "" => starter,
                _ => starter
                    .split(&format!("\n[{table}]\n"))
                    .nth(1)
                    .expect(table),
            };
            for key in *keys {
                let written = [
                    format!("#{key} = "),
                    format!("{key} = "),
                    format!("[{key}]"),
                ];
                let there = body
                    .lines()
                    .any(|line| written.iter().any(|start| line.starts_with(start)));
                assert!(there, "{table} {key}");
                if lines(key) == 1 {
                    parse(&starter.replacen(&format!("\n#{key} = "), &format!("\n{key} = "), 1));
                }
            }
        }
    }

    #[test]
    fn shows_the_defaults() {
        let keys = [
            "store",
            "check-mount",
            "remount-hook",
            "when-incomplete",
            "when-replaced",
            "options",
            "build-users-group",
            "use-sqlite-wal",
            "serve",
        ];
        for key in keys {
            let (with, without) = (parse(&with(key)), parse(STARTER));
            let plain = |mut store: Store| {
                store.store.given = false;
                store.check_mount.given = false;
                store
            };
            assert_eq!(plain(with), plain(without), "{key}");
        }
    }
}
