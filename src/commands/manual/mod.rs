//! `overstore manual`: pages made from what the program knows of itself: the definition of its command
//! line, and the schemas of its descriptions.

mod description_page;
mod page;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use clap::Command;

use super::Failure;
use crate::cli::help::{EXAMPLES, GROUPS};
use crate::cli::{self, Manual};
use crate::config::names::{GENERATOR, REMOUNT_HOOK};
use crate::escape::show_path;
use crate::linux::new_directories;
use crate::records::atomic_file;

use page::Page;

/// Writes the manual pages: `DIR/man1`, `DIR/man5` and `DIR/man8`.
pub(super) fn run(arguments: &Manual) -> Result<ExitCode, Failure> {
    let mut definition = cli::command();
    definition.build();
    let commands = definition.get_subcommands().filter(|it| is_described(it));
    let mut pages = vec![program(&definition), description_page::page(), generator()];
    pages.extend(commands.map(command));
    let written = new_directories::named(&arguments.directory)
        .and_then(|directory| pages.iter().try_for_each(|page| write(&directory, page)));
    written.map_err(|error| {
        let directory = show_path(&arguments.directory);
        let what = format!("cannot write the manual pages to {directory}");
        Failure::doing(what, error).remedy("name a directory that you may write to")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn write(directory: &OwnedFd, page: &Page) -> io::Result<()> {
    let section = format!("man{}", page.section);
    let section = new_directories::entry(directory, OsStr::new(&section))?;
    let file = format!("{}.{}", page.title, page.section);
    atomic_file::replace(&section, &file, |file| {
        file.write_all(page.text().as_bytes())
    })
}

/// clap's own `help` has no page.
fn is_described(command: &Command) -> bool {
    command.get_name() != "help" && !command.is_hide_set()
}

/// overstore(1).
fn program(definition: &Command) -> Page {
    let mut page = Page::of_command("overstore", definition);
    for (title, names) in GROUPS {
        page.section(&format!("COMMANDS: {}", title.to_uppercase()));
        for name in names {
            let about = definition
                .find_subcommand(name)
                .and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            page.item(&format!("overstore-{name}(1)"), &[&about]);
        }
    }
    page.section("STORES");
    page.text_of(
        "STORE is a name, or a path to a TOML file: anything that has a / in it or ends in .toml. The \
         file is described in overstore.toml(5).",
    );
    exit_status(&mut page, "overstore");
    files(&mut page);
    page.section("SEE ALSO");
    let commands = definition.get_subcommands().filter(|it| is_described(it));
    let mut pages: Vec<String> = commands
        .map(|it| format!("overstore-{}(1)", it.get_name()))
        .collect();
    pages.push("overstore.toml(5)".to_owned());
    pages.push(format!("{GENERATOR}(8)"));
    pages.push("nix(1)".to_owned());
    page.text_of(&pages.join(", "));
    page
}

/// The page of a command.
fn command(definition: &Command) -> Page {
    let name = definition.get_name();
    let mut page = Page::of_command(&format!("overstore-{name}"), definition);
    let examples = EXAMPLES.iter().find(|(of, _)| *of == name);
    page.section("EXAMPLES");
    for (line, what) in examples.into_iter().flat_map(|(_, examples)| *examples) {
        page.item(line, &[what]);
    }
    exit_status(&mut page, name);
    files(&mut page);
    page.section("SEE ALSO");
    let group = GROUPS.iter().find(|(_, names)| names.contains(&name));
    let mut pages = vec!["overstore(1)".to_owned()];
    let neighbours = group.into_iter().flat_map(|(_, names)| *names);
    pages.extend(
        neighbours
            .filter(|it| **it != name)
            .map(|it| format!("overstore-{it}(1)")),
    );
    pages.push("overstore.toml(5)".to_owned());
    if matches!(name, "gc" | "optimise" | "warm") {
        pages.push("nix-store(1)".to_owned());
    }
    page.text_of(&pages.join(", "));
    page
}

fn exit_status(page: &mut Page, name: &str) {
    page.section("EXIT STATUS");
    let statuses: &[(&str, &str)] = match name {
        "exec" => &[
            ("125", "The store could not be set up."),
            ("126", "The command could not be run."),
            ("127", "The command was not found."),
            ("2", "The command line or the configuration is wrong."),
            ("any", "Otherwise the command's own."),
        ],
        _ => &[
            ("0", "Done, or nothing wrong."),
            ("1", "The store is not as described."),
            ("2", "The command line or the configuration is wrong."),
            ("3", "The machine could not do it."),
        ],
    };
    for (status, meaning) in statuses {
        page.item(status, &[meaning]);
    }
}

fn files(page: &mut Page) {
    page.section("FILES");
    for (file, what) in [
        (
            "/etc/overstore/NAME.toml",
            "The description of the store NAME. Also looked for in /run/overstore and \
             /usr/lib/overstore, and, for ordinary users, first in $XDG_CONFIG_HOME/overstore \
             (~/.config/overstore).",
        ),
        (
            "/etc/overstore/publications/NAME.toml",
            "The description of the publication NAME.",
        ),
        (
            "/run/overstore",
            "What was mounted, until it is unmounted, and locks.",
        ),
        (
            "STATE/overstore",
            "What is remembered of a store, in its state directory.",
        ),
    ] {
        page.item(file, &[what]);
    }
}

/// overstore-generator(8).
fn generator() -> Page {
    let mut page = Page::new(
        GENERATOR,
        "8",
        "make systemd units of local-overlay stores at boot",
    );
    page.section("SYNOPSIS");
    page.text_of(&format!(
        "/usr/lib/systemd/system-generators/{GENERATOR} NORMAL-DIR EARLY-DIR LATE-DIR"
    ));
    page.section("DESCRIPTION");
    for text in [
        "A generator of systemd (see systemd.generator(7)): systemd runs it early at boot, and whenever \
         it reloads its configuration. It is the same program as overstore(1), by another name.",
        "It reads the descriptions in /etc/overstore, /run/overstore and /usr/lib/overstore (if two have \
         the same name, the first one counts) and writes units for each: overstore-NAME.service, which \
         sets the store up at boot, and, if the description says so, a daemon with its socket, and \
         services with timers that collect and refresh. Descriptions of publications make \
         overstore-publish@NAME.service and its timer.",
        "A description that cannot be used makes no unit, and is named in the journal. The other \
         descriptions still get their units.",
        "Where units have to be known when a system is built, as on NixOS, overstore-units(1) writes \
         the same.",
    ] {
        page.text_of(text);
    }
    files(&mut page);
    page.section("SEE ALSO");
    page.text_of(&format!(
        "overstore(1), overstore-units(1), overstore-remount(1) (as {REMOUNT_HOOK}), \
         overstore.toml(5), systemd.generator(7)"
    ));
    page
}
