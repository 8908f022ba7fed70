//! `overstore completions`: what clap makes of the command line's definition, and, beside it, names
//! that are on the machine when somebody completes: of stores, of publications, of paths below.

use std::process::ExitCode;

use clap::{ArgAction, Command};
use clap_complete::Shell;

use super::Failure;
use crate::cli::{self, Completions};

/// What clap calls an argument that is a store.
const STORES: [&str; 2] = ["store", "stores"];

/// Prints a completion script.
pub(super) fn run(arguments: &Completions) -> Result<ExitCode, Failure> {
    let mut definition = cli::command();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut definition, "overstore", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let script = match arguments.shell {
        Shell::Bash => bash(script, &definition),
        Shell::Zsh => zsh(&script),
        Shell::Fish => fish(script, &definition),
        _ => script,
    };
    std::io::Write::write_all(&mut std::io::stdout(), script.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The commands that take a store.
fn with_a_store(definition: &Command) -> Vec<&str> {
    definition
        .get_subcommands()
        .filter(|command| {
            let mut arguments = command.get_positionals();
            arguments.any(|it| STORES.contains(&it.get_id().as_str()) || it.get_id() == "target")
        })
        .map(Command::get_name)
        .collect()
}

/// The options after which there is a value: no store is meant there.
fn with_a_value(definition: &Command) -> Vec<String> {
    let mut options: Vec<String> = definition
        .get_subcommands()
        .flat_map(Command::get_arguments)
        .filter(|it| !matches!(it.get_action(), ArgAction::SetTrue))
        .filter_map(|it| Some(format!("--{}", it.get_long()?)))
        .collect();
    options.sort();
    options.dedup();
    options
}

fn bash(script: String, definition: &Command) -> String {
    let commands = with_a_store(definition);
    let commands: Vec<&str> = commands.into_iter().filter(|it| *it != "warm").collect();
    let text = include_str!("completions.bash")
        .replace("@COMMANDS@", &commands.join("|"))
        .replace("@OPTIONS@", &with_a_value(definition).join("|"));
    // The last lines say what completes, which is now the function that asks for names too.
    script + &text
}

fn zsh(script: &str) -> String {
    let mut text = String::new();
    for line in script.lines() {
        let names = |id: &str| {
            let line = line.trim_start_matches(['\'', '"', '*', ':']);
            line.starts_with(&format!("{id} -- "))
        };
        let helper = match line {
            _ if STORES.into_iter().any(names) || names("target") => "_overstore_stores",
            _ if names("publication") => "_overstore_publications",
            _ if names("paths") => "_overstore_paths_below",
            _ => "",
        };
        let line = match line.rsplit_once(':') {
            Some((rest, last)) if !helper.is_empty() => {
                let quoted = last.trim_start_matches(|it: char| it.is_alphanumeric() || it == '_');
                // Two colons would take away the words before.
                let rest = rest.replacen("*::", "*:", 1);
                format!("{rest}:{helper}{quoted}")
            }
            _ => line.to_owned(),
        };
        text += &line;
        text.push('\n');
        // The helpers have to be there when the script is sourced, and when it is autoloaded.
        if line.starts_with("#compdef") {
            text += include_str!("completions.zsh");
        }
    }
    text
}

fn fish(script: String, definition: &Command) -> String {
    let commands = with_a_store(definition).join(" ");
    script + &include_str!("completions.fish").replace("@COMMANDS@", &commands)
}
