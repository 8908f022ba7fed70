//! `overstore new`.

use std::io::Write;
use std::process::ExitCode;

use super::Failure;

/// The file to start from: Nix's worked example, and every other key in a comment.
const STARTER: &str = include_str!("starter.toml");

pub(super) fn run() -> Result<ExitCode, Failure> {
    std::io::stdout().write_all(STARTER.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::STARTER;
    use crate::config::{self, Environment, KEYS, Store};

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
        let lines = |key: &str| STARTER.matches(&format!("\n#{key} = ")).count();
        for (table, keys) in KEYS {
            let body = match table {
                "" => STARTER,
                _ => STARTER
                    .split(&format!("\n[{table}]\n"))
                    .nth(1)
                    .expect(table),
            };
            for key in keys {
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
                    parse(&with(key));
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
