//! One file a command: from its arguments to its exit code.

mod check;
mod description;
mod down;
mod exec;
mod gc;
mod generate;
mod new;
mod plan;
mod remount;
mod schema;
mod status;
mod units;
mod up;
mod url;
mod warm;

use std::io::Write;
use std::process::ExitCode;

use crate::apply::Progress;
use crate::cli::{Cli, Command};
use crate::report::{ErrorReport, Outcome, Report};
use crate::systemd::journal::{Journal, Priority};
use crate::systemd::notify::ServiceManager;

use description::{Loaded, load};

/// Why a command stopped. Its text goes to standard error as it is.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or the configuration is wrong: exit code 2.
    #[error("{0}")]
    Refused(String),
    /// The configuration file is wrong, in ways that can be pointed at: exit code 2.
    #[error(transparent)]
    Configuration(#[from] crate::config::Errors),
    /// The machine would not do it: exit code 3.
    #[error("{0}")]
    Machine(String),
    /// The result could not be printed: exit code 3, and silent where the reader went away.
    #[error("cannot write the result: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    /// The failure as JSON has it.
    fn as_report(&self) -> ErrorReport {
        ErrorReport {
            version: 1,
            outcome: match self.exit_code() {
                2 => Outcome::Refused,
                _ => Outcome::Failed,
            },
            failure: match self {
                Failure::Configuration(_) => "the configuration file is wrong".to_owned(),
                _ => self.to_string(),
            },
            mistakes: match self {
                Failure::Configuration(errors) => errors.mistakes(),
                _ => Vec::new(),
            },
        }
    }

    /// The exit code that says so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(_) | Failure::Configuration(_) => 2,
            Failure::Machine(_) | Failure::Output(_) => 3,
        }
    }
}

/// Runs a command line.
///
/// # Errors
/// See [`Failure`]; what the command found out about the store is not an error but its result.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    // What cannot be printed is no JSON either.
    let json = cli.json && cli.command.has_json();
    run_command(cli).inspect_err(|failure| {
        if json && !matches!(failure, Failure::Output(_)) {
            // The exit code and standard error tell the same.
            let _ = failure.as_report().print();
        }
    })
}

/// Prints why a command line could not be read, or the help that it asked for.
pub fn not_run(error: &clap::Error) -> ExitCode {
    let mut arguments = std::env::args_os().take_while(|argument| argument != "--");
    if error.use_stderr() && arguments.any(|argument| argument == "--json") {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let refused = Failure::Refused(text.trim_end().to_owned());
        // The exit code and standard error tell the same.
        let _ = refused.as_report().print();
    }
    match error.print() {
        // The help, or the version, which was all there was to do.
        Err(failed) if !error.use_stderr() => Failure::Output(failed).report(),
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
        Command::Check(arguments) => check::run(&arguments, json),
        Command::Status(arguments) => status::run(&arguments, json),
        Command::Warm(arguments) => warm::run(&arguments, json),
        Command::Gc(arguments) => gc::run(&arguments, json),
        Command::Url(arguments) => url::run(&arguments, json),
        Command::Exec(arguments) => exec::run(&arguments),
        Command::Remount(arguments) => remount::run(&arguments),
        Command::Units(arguments) => units::run(&arguments),
        Command::New => new::run(),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Completions(arguments) => generate::completions(&arguments),
        Command::Manual(arguments) => generate::manual(&arguments),
    }
}

pub use remount::hook as remount_hook;

/// Prints a report, and gives the exit code that says the same.
fn finish(report: &Report, json: bool) -> Result<ExitCode, Failure> {
    match report.print(json) {
        // A reader that went away takes nothing back of what was found.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        printed => printed?,
    }
    if let Some(why) = &report.failure {
        print_error_of(Some(&report.store), why);
    }
    Ok(ExitCode::from(report.outcome.exit_code()))
}

/// Prints an error to standard error; where that is the journal, as an entry.
fn print_error(text: &str) {
    print_error_of(None, text);
}

/// Prints an error, of a store if that is known, for the entry's field.
fn print_error_of(store: Option<&str>, text: &str) {
    let fields = store.map(|name| ("OVERSTORE_STORE", name));
    if let Some(journal) = Journal::behind(std::io::stderr())
        && journal
            .send(Priority::Error, text, fields.as_slice())
            .is_ok()
    {
        return;
    }
    let style = anstyle::AnsiColor::Red.on_default().bold();
    // Nothing is left to tell it to if standard error cannot be written to.
    let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {text}");
}

/// Tells what happens meanwhile: the service manager everything, people only what takes long.
fn tell(progress: &Progress<'_>, manager: &ServiceManager) {
    match progress {
        Progress::Step(step) => manager.working(&step.text),
        Progress::Waiting(holder) => {
            let text = format!("waiting for {holder}");
            manager.working(&text);
            // Nothing is left to tell it to if standard error cannot be written to.
            let _ = writeln!(anstream::stderr(), "{text}");
        }
        Progress::Warning(text) => print_warning(text),
    }
}

/// Prints a warning to standard error.
fn print_warning(text: &str) {
    let style = anstyle::AnsiColor::Yellow.on_default().bold();
    // Nothing is left to tell it to if standard error cannot be written to.
    let _ = writeln!(anstream::stderr(), "{style}warning:{style:#} {text}");
}

impl Failure {
    /// Prints the failure to standard error, for people, and gives the exit code that says so. A
    /// reader of standard output that went away is no reason to complain.
    pub fn report(self) -> ExitCode {
        if let Failure::Output(error) = &self
            && error.kind() == std::io::ErrorKind::BrokenPipe
        {
            return ExitCode::SUCCESS;
        }
        match &self {
            // The journal takes no colours.
            Failure::Configuration(errors) if Journal::behind(std::io::stderr()).is_none() => {
                // Nothing is left to tell it to if standard error cannot be written to.
                let _ = writeln!(anstream::stderr(), "{}", errors.styled());
            }
            _ => print_error(&self.to_string()),
        }
        ExitCode::from(self.exit_code())
    }
}
