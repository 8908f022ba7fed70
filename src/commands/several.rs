//! Commands over several stores: a process each, so that what is wrong with one store, or moves a
//! process into the namespaces of one, is nothing to the others.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::{Failure, description};
use crate::check::Code;
use crate::cli::{self, StoreArgument};
use crate::config::names::PROGRAM;
use crate::escape::show_path;
use crate::linux::programs;
use crate::nix::store_path::StorePath;
use crate::observe;
use crate::report::{self, ListReport, ListedReport, OfStore, Outcome, State, StoresReport};

/// The program that runs, even if another one has taken its place meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Does a command for one store, or, in a process each, for several.
pub(super) fn run(
    stores: &[OsString],
    given: &[OsString],
    json: bool,
    one: impl FnOnce(&StoreArgument) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    match stores {
        [store] => one(&StoreArgument {
            store: store.clone(),
        }),
        // Only `--all` comes without any.
        [] => each(&all(), given, json),
        stores => each(stores, given, json),
    }
}

/// `overstore status --metrics`. What is wrong with a store is in its numbers, and no reason to exit with
/// another code than 0: who writes them into a file goes on.
pub(super) fn metrics(stores: &[OsString], given: &[OsString]) -> Result<ExitCode, Failure> {
    let stores = match stores {
        // Only `--all` comes without any.
        [] => all(),
        stores => stores.to_vec(),
    };
    let mut told = Vec::new();
    for store in &stores {
        told.push(of_store(given, store, true)?);
    }
    let mut out = std::io::stdout().lock();
    report::metrics::write(&mut out, &told)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// `overstore list`.
pub(super) fn list(arguments: &cli::List, json: bool) -> Result<ExitCode, Failure> {
    if arguments.names {
        return names(arguments);
    }
    let mut report = ListReport {
        version: 1,
        stores: Vec::new(),
    };
    for (name, file) in description::named() {
        let mut process = process(&["status".into()], &argument(&name, &file), true);
        let output = process.output().map_err(not_run)?;
        report.stores.push(listed(&name, &file, &output));
    }
    if report.stores.is_empty() {
        none();
    }
    report.print(json)?;
    Ok(ExitCode::SUCCESS)
}

/// Names alone: for completions, so what cannot be typed as it is is left out.
fn names(arguments: &cli::List) -> Result<ExitCode, Failure> {
    let names: Vec<OsString> = match &arguments.below {
        Some(store) => below(&StoreArgument {
            store: store.clone(),
        })?,
        None if arguments.publications => description::named_publications(),
        None => description::named().into_keys().collect(),
    };
    let mut out = std::io::stdout().lock();
    let plain = |name: &OsString| show_path(Path::new(name)).as_bytes() == name.as_bytes();
    for name in names.iter().filter(|name| plain(name)) {
        out.write_all(name.as_bytes())?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The store paths in the lower store directory.
fn below(store: &StoreArgument) -> Result<Vec<OsString>, Failure> {
    let store = description::description(store)?;
    let directory = &store.lower.real;
    let entries = std::fs::read_dir(directory)
        .map_err(|error| Failure::doing(format!("cannot read {}", show_path(directory)), error))?;
    let paths = entries.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        StorePath::parse(name.as_bytes()).ok()?;
        Some(store.store.value.join(name).into_os_string())
    });
    Ok(paths.collect())
}

/// All stores that have a name, as arguments.
fn all() -> Vec<OsString> {
    let stores: Vec<OsString> = description::named()
        .iter()
        .map(|(name, file)| argument(name, file))
        .collect();
    if stores.is_empty() {
        none();
    }
    stores
}

fn none() {
    let begin = match observe::own_descriptions() {
        Some(own) => format!(
            "for one of your own, an empty file will do: {}",
            show_path(&own.join("NAME.toml"))
        ),
        None => "begin with `overstore new`".to_owned(),
    };
    super::print_note(&format!("no store is described here: {begin}"));
}

/// What names a store on a command line: not every name can.
pub(super) fn argument(name: &OsStr, file: &Path) -> OsString {
    match name.as_bytes().ends_with(b".toml") {
        true => file.as_os_str().to_owned(),
        false => name.to_owned(),
    }
}

fn each(stores: &[OsString], given: &[OsString], json: bool) -> Result<ExitCode, Failure> {
    // Whoever runs meanwhile hears of an interrupt too, and ends as it sees fit.
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))
        .map_err(Failure::machine)?;
    let mut report = StoresReport {
        version: 1,
        stores: Vec::new(),
    };
    let mut worst = 0;
    for (number, store) in stores.iter().enumerate() {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        if number > 0 && !json {
            writeln!(std::io::stdout())?;
        }
        let of_store = of_store(given, store, json)?;
        worst = worst.max(of_store.exit_code);
        report.stores.push(of_store);
    }
    if json {
        report::print(&report, true, |_| Ok(()))?;
    }
    if interrupted.load(Ordering::Relaxed) {
        let (done, of) = (report.stores.len(), stores.len());
        super::print_note(&format!("interrupted: {done} of {of} stores were started"));
        super::end_by_interrupt();
    }
    Ok(ExitCode::from(worst))
}

/// What the command came to for one store.
fn of_store(given: &[OsString], store: &OsStr, json: bool) -> Result<OfStore, Failure> {
    let output = process(given, store, json).output().map_err(not_run)?;
    Ok(OfStore {
        store: show_path(Path::new(store)).into_owned(),
        exit_code: exit_code(&output),
        result: serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
    })
}

/// The process for one store. With `json` what it prints is kept.
pub(super) fn process(given: &[OsString], store: &OsStr, json: bool) -> Command {
    let mut command = Command::new(THIS_PROGRAM);
    command.arg0(PROGRAM).args(given);
    if json {
        command.arg("--json");
    }
    command.arg("--").arg(store);
    command.stdin(programs::no_input()).stderr(Stdio::inherit());
    command.stdout(match json {
        true => Stdio::piped(),
        false => Stdio::inherit(),
    });
    command
}

fn not_run(error: std::io::Error) -> Failure {
    Failure::doing("cannot run this program for one of the stores", error)
}

/// One that was killed has not done what it was to do.
fn exit_code(output: &Output) -> u8 {
    let code = output
        .status
        .code()
        .and_then(|code| u8::try_from(code).ok());
    code.unwrap_or(Outcome::Failed.exit_code())
}

/// What `status` told of a store, in a line.
fn listed(name: &OsStr, file: &Path, output: &Output) -> ListedReport {
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    let text = |key: &str| Some(told.get(key)?.as_str()?.to_owned());
    let codes = |key: &str| {
        let codes = told.get("now").and_then(|now| now.get(key)?.as_array());
        let codes = codes.into_iter().flatten().filter_map(Value::as_str);
        codes.map(str::to_owned).collect::<Vec<String>>()
    };
    let (errors, warnings) = (codes("errors"), codes("warnings"));
    let mounted = told.get("mounted").and_then(Value::as_bool);
    let state = match (exit_code(output), mounted) {
        (0, Some(true)) if errors.is_empty() => State::Up,
        (0, Some(true)) => State::UpWithErrors,
        (0, _) if errors.iter().any(|it| it == Code::NotSetUp.as_str()) => State::NotSetUp,
        (0, _) => State::Down,
        (2, _) => State::DescriptionWrong,
        _ => State::Unknown,
    };
    ListedReport {
        store: show_path(Path::new(name)).into_owned(),
        description: show_path(file).into_owned(),
        state,
        findings: errors.into_iter().chain(warnings).collect(),
        real: text("real"),
        lower_store: text("lower-store"),
        failure: text("failure"),
    }
}
