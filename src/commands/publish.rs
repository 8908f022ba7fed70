//! `overstore publish`.

use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use indicatif::ProgressBar;

use super::{Failure, description, with_hashing};
use crate::cli;
use crate::config::{Chosen, Publication};
use crate::linux::clock;
use crate::linux::root::System;
use crate::nix::layout;
use crate::nix::store_directory::StoreDirectory;
use crate::observe;
use crate::publish::{self, Listed, Problems, PublishError, Publisher, Retire, Swept, Told};
use crate::remedy::{Fault, Remedy, command};
use crate::report::{Outcome, PublishReport, PublishedReport};
use crate::systemd::notify::ServiceManager;

pub(super) fn run(arguments: &cli::Publish, json: bool) -> Result<ExitCode, Failure> {
    let publication = description::publication(&arguments.publication)?;
    let system = System::here().map_err(Failure::observing)?;
    // What is made is for consumers to read.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let manager = ServiceManager::from_environment();
    // Hidden where standard error is no terminal.
    let bar = ProgressBar::new_spinner();
    let publisher = Publisher {
        publication: &publication,
        system: &system,
    };
    let mut tell = |told: Told<'_>| match told {
        Told::Waiting(holder) => {
            let text = format!("waiting for {holder}");
            manager.working(&text);
            bar.suspend(|| super::print_note(&text));
        }
        Told::Step(step) => {
            manager.working(step);
            bar.set_message(step);
            bar.tick();
        }
    };
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
            super::print_warning(&Fault::new(
                "everything that is valid is published: nothing of it is freed as long as a \
                 generation is kept, and each generation keeps all of the one before",
            ));
        }
        match arguments.contents {
            false => publisher.publish(chosen, None, &mut tell),
            true => with_hashing(|progress| publisher.publish(chosen, Some(progress), &mut tell))?,
        }
        .map(|(generation, swept)| (Some(generation.number), swept))
    };
    bar.finish_and_clear();
    let report = match done {
        Ok((made, swept)) => report(&publication, made, swept),
        Err(PublishError::NotWhole(problems)) => not_whole(&publication, &problems),
        Err(error) => return Err(failure(arguments, error)),
    };
    report.print(json)?;
    Ok(ExitCode::from(report.outcome.exit_code()))
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
    let store = StoreDirectory::new(publication.store.as_os_str().as_bytes());
    let database = layout::database(&publication.state);
    PublishReport {
        outcome: Outcome::NotAsDescribed,
        findings: publish::findings(problems, &store, &database),
        ..report(publication, None, Swept::default())
    }
}

fn failure(arguments: &cli::Publish, error: PublishError) -> Failure {
    let publish = || command![observe::program_name(), "publish", arguments.publication];
    match error {
        PublishError::Current(_) => Failure::not_as_described(error)
            .remedy(Remedy::say("make a newer one first").run(publish())),
        PublishError::NoGeneration(_) => {
            Failure::refused(error).remedy(publish().with(["--list".into()]))
        }
        PublishError::NotValid(_) | PublishError::NoPath(_) | PublishError::Empty => {
            Failure::not_as_described(error)
        }
        error => Failure::machine(error),
    }
}
