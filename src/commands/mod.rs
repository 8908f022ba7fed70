//! One file a command: from its arguments to its exit code.

mod bug_report;
mod check;
mod completions;
mod description;
mod down;
mod ephemeral;
mod exec;
mod failure;
mod gc;
mod hashing;
mod long_work;
mod manual;
mod new;
mod nix_settings;
mod not_started;
mod optimise;
mod pid_namespace;
mod plan;
mod private;
mod profiles;
mod publish;
mod reconcile;
mod refresh;
mod remount;
mod schema;
mod several;
mod status;
mod units;
mod up;
mod url;
mod warm;

use std::io::Write;
use std::process::ExitCode;

use crate::apply::Progress;
use crate::cli::{self, Cli, Command};
use crate::config::names::{PROGRAM, STORE_VARIABLE};
use crate::linux::exhaustion;
use crate::plan::Allowed;
use crate::remedy::Fault;
use crate::report::Report;
use crate::systemd::journal::{Journal, Priority};
use crate::systemd::notify::ServiceManager;

use description::{Loaded, load};

use failure::Failure;
use hashing::with_hashing;
use long_work::{LongWork, OnInterrupt, Unit, end_by_interrupt};

/// Runs a command line.
///
/// # Errors
/// See [`Failure`]; what the command found out about the store is not an error but its result.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    exhaustion::expect_descriptors().map_err(Failure::machine)?;
    let json = cli.json;
    if json && !cli.command.has_json() {
        return Err(
            Failure::refused("`--json`: this command has no result to print as JSON")
                .remedy("leave it out"),
        );
    }
    run_command(cli).inspect_err(|failure| {
        if json {
            failure.print_json();
        }
    })
}

/// Prints why a command line could not be read, or the help that it asked for.
pub fn not_run(error: &clap::Error) -> ExitCode {
    let mut arguments = std::env::args_os().take_while(|argument| argument != "--");
    if error.use_stderr() && arguments.any(|argument| argument == "--json") {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        Failure::refused(text.trim_end()).print_json();
    }
    let printed = match error.kind() {
        // Of a command, clap would name the command's own.
        clap::error::ErrorKind::DisplayVersion => {
            writeln!(std::io::stdout(), "{PROGRAM} {}", env!("CARGO_PKG_VERSION"))
        }
        _ => error.print(),
    };
    match printed {
        // The help, or the version, which was all there was to do.
        Err(failed) if !error.use_stderr() => Failure::from(failed).report(),
        // Nothing is left to tell it to if it cannot be printed.
        _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
    }
}

fn run_command(cli: Cli) -> Result<ExitCode, Failure> {
    let json = cli.json;
    match cli.command {
        Command::Up(arguments) => up::run(&arguments, json),
        Command::Down(arguments) => down::run(&arguments, json),
        Command::Plan(arguments) => plan::run(&arguments, json),
        Command::List(arguments) => several::list(&arguments, json),
        Command::Check(arguments) if arguments.list => check::list(json),
        Command::Check(arguments) => several::run(&arguments.stores, &cli.given, json, |store| {
            check::run(&arguments, store, json)
        }),
        Command::Status(arguments) if arguments.metrics => {
            several::metrics(&arguments.stores.stores, &cli.given)
        }
        Command::Status(arguments) => {
            several::run(&arguments.stores.stores, &cli.given, json, |store| {
                status::run(&arguments, store, json)
            })
        }
        Command::Warm(arguments) => warm::run(&arguments, json),
        Command::Gc(arguments) => {
            several::run(&arguments.stores.stores, &cli.given, json, |store| {
                gc::run(&arguments, store, json)
            })
        }
        Command::Optimise(arguments) => optimise::run(&arguments, json),
        Command::Reconcile(arguments) => reconcile::run(&arguments, json),
        Command::Refresh(arguments) => {
            several::run(&arguments.stores.stores, &cli.given, json, |store| {
                refresh::run(&arguments, store, json)
            })
        }
        Command::Publish(arguments) => publish::run(&arguments, json),
        Command::Url(arguments) => url::run(&arguments, json),
        Command::Exec(arguments) => match arguments.store.clone() {
            Some(store) => exec::run(&cli::StoreArgument { store }, &arguments),
            None => ephemeral::run(&arguments),
        },
        Command::Remount(arguments) => remount::run(&arguments),
        Command::BugReport(arguments) => bug_report::run(&arguments, json),
        Command::Units(arguments) => units::run(&arguments),
        Command::New(arguments) => new::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Manual(arguments) => manual::run(&arguments),
    }
}

pub use remount::hook as remount_hook;

impl From<cli::Allowed> for Allowed {
    fn from(flags: cli::Allowed) -> Allowed {
        Allowed {
            fix_permissions: flags.fix_permissions,
            lost_database: flags.accept_lost_database,
            other_layer: flags.accept_other_layer,
            lost_objects: flags.accept_lost_objects,
            restore_marks: flags.restore_marks,
        }
    }
}

/// Prints a report, and gives the exit code that says the same.
fn finish(report: &Report, json: bool) -> Result<ExitCode, Failure> {
    match report.print(json) {
        // A reader that went away takes nothing back of what was found.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        printed => printed?,
    }
    if let Some(why) = &report.failure {
        let remedy = report.remedy.clone().unwrap_or_default();
        print_error(Some(&report.store), &Fault::new(why).remedy(remedy));
    }
    Ok(ExitCode::from(report.outcome.exit_code()))
}

/// Prints an error, and what fixes it, to standard error; where that is the journal, as an entry,
/// with the store in a field of its own if it is known.
fn print_error(store: Option<&str>, fault: &Fault) {
    let fields = store.map(|name| (STORE_VARIABLE, name));
    if let Some(journal) = Journal::behind(std::io::stderr())
        && journal
            .send(Priority::Error, &fault.to_string(), fields.as_slice())
            .is_ok()
    {
        return;
    }
    let style = anstyle::AnsiColor::Red.on_default().bold();
    // Nothing is left to tell it to if standard error cannot be written to.
    let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {fault}");
}

/// Tells what happens meanwhile: the service manager everything, people only what takes long.
fn tell(progress: &Progress<'_>, manager: &ServiceManager) {
    match progress {
        Progress::Step(step) => manager.working(&step.text),
        Progress::Waiting(holder) => {
            let text = format!("waiting for {holder}");
            manager.working(&text);
            print_note(&text);
        }
        Progress::Warning(fault) => print_warning(fault),
    }
}

/// Says where the service manager has not heard how far this is: nothing depends on that.
fn warn_if_deaf(manager: &ServiceManager) {
    if let Err(deaf) = manager.has_heard() {
        print_warning(&Fault::of(&deaf));
    }
}

/// Prints something worth knowing to standard error.
fn print_note(text: &str) {
    // Nothing is left to tell it to if standard error cannot be written to.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Prints a warning to standard error.
fn print_warning(fault: &Fault) {
    let style = anstyle::AnsiColor::Yellow.on_default().bold();
    // Nothing is left to tell it to if standard error cannot be written to.
    let _ = writeln!(anstream::stderr(), "{style}warning:{style:#} {fault}");
}
