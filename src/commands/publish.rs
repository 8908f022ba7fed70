//! `overstore publish`.

mod image;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use super::{Failure, LongWork, OnInterrupt, Unit, description};
use crate::check::{self, Code};
use crate::cli;
use crate::config::{Chosen, Publication};
use crate::escape::show_path;
use crate::linux::clock;
use crate::linux::root::System;
use crate::lower::publication::Listed;
use crate::nix::store_directory::StoreDirectory;
use crate::observe;
use crate::publish::{
    self, LowerStore, Problems, PublishError, Publisher, Retire, Swept, Told, Verified,
};
use crate::remedy::{Fault, Remedy, command};
use crate::report::{LowerCheckReport, Outcome, PublishReport, PublishedReport};
use crate::systemd::notify::ServiceManager;

pub(super) fn run(arguments: &cli::Publish, json: bool) -> Result<ExitCode, Failure> {
    // What is made is for consumers to read.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Some(directory) = &arguments.check {
        return check(arguments, directory, json);
    }
    if let Some(image) = &arguments.image {
        return image::run(arguments, image, json);
    }
    let publication = description::publication(&named(arguments))?;
    let system = System::here().map_err(Failure::observing)?;
    let manager = ServiceManager::from_environment();
    let left = "consumers see either the previous generation or the new one, complete";
    let work = LongWork::begin(OnInterrupt::End(left), json)?;
    work.step("opening the publication");
    let publisher = Publisher {
        publication: &publication,
        system: &system,
    };
    let mut tell = |told: Told<'_>| tell(told, &manager, &work, arguments.contents);
    let done = if let Some(what) = retiring(arguments) {
        publisher
            .retire(what, arguments.now, &mut tell)
            .map(|swept| (None, swept))
    } else if arguments.list {
        publisher.list(&mut tell).map(|swept| (None, swept))
    } else {
        let chosen = match arguments.all_valid {
            true => &Chosen::AllValid,
            false => &publication.chosen,
        };
        if *chosen == Chosen::AllValid {
            work.suspended(warn_of_all_valid);
        }
        let contents = arguments.contents.then(|| work.counts());
        let published = publisher.publish(chosen, contents, &mut tell);
        published.map(|(generation, swept)| (Some(generation.number), swept))
    };
    drop(work);
    let report = match done {
        Ok((made, swept)) => report(&publication, made, swept),
        Err(PublishError::NotWhole(problems)) => not_whole(&publication, &problems),
        Err(error) => return Err(failure(arguments, error)),
    };
    report.print(json)?;
    Ok(ExitCode::from(report.outcome.exit_code()))
}

fn warn_of_all_valid() {
    super::print_warning(&Fault::new(
        "everything that is valid is published: none of it is freed as long as a generation is \
         kept, and each generation keeps everything in the one before",
    ));
}

fn tell(told: Told<'_>, manager: &ServiceManager, work: &LongWork, bytes: bool) {
    match told {
        Told::Waiting(holder) => {
            let text = format!("waiting for {holder}");
            manager.working(&text);
            work.suspended(|| super::print_note(&text));
        }
        Told::Step(step) => {
            manager.working(step);
            match bytes {
                true => work.counted(step, Unit::Bytes, 0),
                false => work.step(step),
            }
        }
    }
}

/// The publication that is named: the command line demands one, except with `--check`.
fn named(arguments: &cli::Publish) -> OsString {
    arguments.publication.clone().unwrap_or_default()
}

/// Verifies a lower store that is there already.
fn check(arguments: &cli::Publish, directory: &Path, json: bool) -> Result<ExitCode, Failure> {
    let directory = std::path::absolute(directory).map_err(|error| unusable(directory, error))?;
    let system = System::here().map_err(Failure::observing)?;
    let lower = LowerStore::of(&directory).map_err(Failure::machine)?;
    let mut facts = lower.observe(&system).map_err(Failure::machine)?;
    let mut made = Vec::new();
    if arguments.prepare {
        made = lower.prepare(&facts).map_err(Failure::machine)?;
        facts = lower.observe(&system).map_err(Failure::machine)?;
    }
    let prepare = command![
        observe::program_name(),
        "publish",
        "--check",
        directory,
        "--prepare"
    ];
    let LowerStore { real, state } = &lower;
    let mut findings = check::for_owner(real, state, &facts, &prepare, &directory);
    let readable = findings
        .iter()
        .all(|it| !matches!(it.code, Code::LowerMissing | Code::LowerDatabaseMissing));
    if readable {
        let store = StoreDirectory::new(arguments.store.as_os_str().as_bytes());
        let problems = match arguments.contents {
            false => lower.verify(&store, None),
            true => super::with_hashing(json, |counts| {
                let problems = lower.verify(&store, Some(counts));
                match counts.is_stopped() {
                    true => Err(interrupted()),
                    false => Ok(problems),
                }
            })??,
        };
        let problems = problems.map_err(Failure::machine)?;
        let verified = Verified {
            store: &arguments.store,
            real,
            state,
            is_live: lower.is_live(&directory),
        };
        findings.extend(publish::findings(&problems, verified));
    }
    let wrong = !findings.is_empty();
    let report = LowerCheckReport {
        version: 1,
        directory: show_path(&directory).into_owned(),
        outcome: match (wrong, made.is_empty()) {
            (true, _) => Outcome::NotAsDescribed,
            (false, true) => Outcome::Unchanged,
            (false, false) => Outcome::Done,
        },
        made: made
            .iter()
            .map(|path| show_path(path).into_owned())
            .collect(),
        findings,
    };
    report.print(json)?;
    Ok(ExitCode::from(report.outcome.exit_code()))
}

/// A path that is given cannot even be made absolute: it is empty, or the working directory has gone.
fn unusable(path: &Path, error: std::io::Error) -> Failure {
    let what = format!("cannot use {}", show_path(path));
    let failure = Failure::doing(what, error).refusing();
    failure.remedy("name a path from the root directory on")
}

/// Not all was looked at, so nothing is said of what was.
fn interrupted() -> Failure {
    Failure::machine("interrupted: not every object was hashed, and nothing is known of the others")
        .remedy("run it again")
}

/// What is to be retired, if something is.
fn retiring(arguments: &cli::Publish) -> Option<Retire> {
    let number = arguments.retire.map(Retire::Number);
    let age = arguments.retire_older_than.map(|age| {
        let before = clock::now().saturating_sub(age.seconds);
        Retire::Before(before)
    });
    number
        .or(age)
        .or(arguments.retire_all_but.map(Retire::AllBut))
}

fn report(publication: &Publication, made: Option<u64>, swept: Swept) -> PublishReport {
    let unchanged = made.is_none() && swept.retired.is_empty() && swept.removed.is_empty();
    PublishReport {
        version: 1,
        publication: publication.name.clone(),
        outcome: match unchanged {
            true => Outcome::Unchanged,
            false => Outcome::Done,
        },
        made,
        current: swept.current,
        generations: swept.kept.iter().map(generation).collect(),
        retired: swept.retired,
        removed: swept.removed,
        findings: Vec::new(),
    }
}

fn generation(listed: &Listed) -> PublishedReport {
    let generation = &listed.generation;
    PublishedReport {
        number: generation.number,
        time: generation.time,
        paths: generation.paths,
        roots: generation.roots,
        added: generation.added,
        left: generation.left,
        changed: generation.changed,
        retired_until: listed.retired.map(|retired| retired.until),
    }
}

fn not_whole(publication: &Publication, problems: &Problems) -> PublishReport {
    let verified = Verified {
        store: &publication.store,
        real: &publication.real,
        state: &publication.state,
        is_live: true,
    };
    PublishReport {
        outcome: Outcome::NotAsDescribed,
        findings: publish::findings(problems, verified),
        ..report(publication, None, Swept::default())
    }
}

fn failure(arguments: &cli::Publish, error: PublishError) -> Failure {
    let publish = || command![observe::program_name(), "publish", named(arguments)];
    match error {
        PublishError::Current(_) => Failure::not_as_described(error)
            .remedy(Remedy::say("make a newer one first").run(publish())),
        PublishError::NoGeneration(_) => {
            Failure::refused(error).remedy(publish().with(["--list".into()]))
        }
        PublishError::NotValid(_) | PublishError::NoPath(_) | PublishError::Empty => {
            Failure::not_as_described(error)
        }
        PublishError::Registration { .. } => Failure::refused(error),
        error => Failure::machine(error),
    }
}
