//! `overstore publish --image`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::super::{Failure, LongWork, OnInterrupt, description};
use super::{failure, named, tell};
use crate::cli;
use crate::config::{Chosen, Publication, places_of};
use crate::escape::{show, show_path};
use crate::linux::root::System;
use crate::publish::{self, Format, Image, Made, Metadata, Origin, Problems, PublishError, Told};
use crate::report::{ImageReport, Outcome};
use crate::systemd::notify::ServiceManager;

pub(super) fn run(
    arguments: &cli::Publish,
    image: &[OsString],
    json: bool,
) -> Result<ExitCode, Failure> {
    let [kind, file] = image else {
        return Err(Failure::refused("--image takes a kind and a file")
            .remedy("name both, as in `--image squashfs FILE`"));
    };
    let formats = Format::ALL.iter();
    let Some((_, format)) = formats.clone().find(|(name, _)| kind == name) else {
        let names: Vec<_> = formats.map(|(name, _)| *name).collect();
        return Err(Failure::refused(format!(
            "there is no kind of image called {}: expected one of {}",
            show(kind.as_encoded_bytes()),
            names.join(", ")
        ))
        .remedy("name one of these"));
    };
    let file = absolute(Path::new(file))?;
    let origin = origin(arguments)?;
    let system = match origin.metadata {
        Metadata::Live { .. } => Some(System::here().map_err(Failure::observing)?),
        Metadata::Sealed { .. } | Metadata::Registration(_) => None,
    };
    let image = Image {
        origin: &origin,
        system: system.as_ref(),
        format: *format,
        file: &file,
        processors: Some(arguments.processors).filter(|count| *count > 0),
        contents: arguments.contents,
    };
    let manager = ServiceManager::from_environment();
    let left = "the file is either as it was, or the complete new image";
    let work = LongWork::begin(OnInterrupt::End(left), json)?;
    work.step("opening the store");
    let mut tell = |told: Told<'_>| {
        let counts_bytes = told == Told::Step(publish::PACKING);
        tell(told, &manager, &work, counts_bytes);
    };
    let made = image.make(work.counts(), &mut tell);
    drop(work);
    let report = match made {
        Ok(made) => report(&image, made),
        Err(PublishError::NotWhole(problems)) => not_whole(&image, &problems),
        Err(error @ PublishError::NoImage(_)) => return Err(Failure::refused(error)),
        Err(error) => return Err(failure(arguments, error)),
    };
    report.print(json)?;
    Ok(ExitCode::from(report.outcome.exit_code()))
}

/// What is to be packed.
fn origin(arguments: &cli::Publish) -> Result<Origin, Failure> {
    let mut origin = match (&arguments.registration, &arguments.from) {
        (Some(registration), _) => Origin {
            real: absolute(arguments.real.as_ref().unwrap_or(&arguments.store))?,
            store: arguments.store.clone(),
            metadata: Metadata::Registration(absolute(registration)?),
            chosen: Chosen::OwnRoots,
        },
        (None, Some(from)) => of_store(from, &arguments.store)?,
        (None, None) => {
            let Publication {
                real,
                state,
                store,
                chosen,
                use_sqlite_wal,
                ..
            } = description::publication(&named(arguments))?;
            Origin {
                real,
                store,
                metadata: Metadata::Live {
                    state,
                    use_sqlite_wal,
                },
                chosen,
            }
        }
    };
    if arguments.all_valid {
        origin.chosen = Chosen::AllValid;
    }
    if !arguments.paths.is_empty() || !arguments.roots.is_empty() {
        let roots = arguments.roots.iter().map(|path| absolute(path));
        let paths = arguments.paths.iter().map(|path| absolute(path));
        origin.chosen = Chosen::Named {
            paths: paths.collect::<Result<_, _>>()?,
            roots: roots.collect::<Result<_, _>>()?,
        };
    }
    Ok(origin)
}

/// A publication's generation, or a local store.
fn of_store(from: &OsString, store: &Path) -> Result<Origin, Failure> {
    let directory = absolute(Path::new(from))?;
    if directory.is_dir() {
        let generation = Origin::generation(&directory, store).map_err(Failure::machine)?;
        if let Some(generation) = generation {
            return Ok(generation);
        }
    }
    let text = match directory.is_dir() {
        true => directory.as_os_str(),
        false => from,
    };
    let wrong = |what: String| {
        let what = format!("cannot pack {}: {what}", show(from.as_encoded_bytes()));
        Failure::refused(what).remedy(
            "name the root of a store, the directory of a publication, or the URL of a local store",
        )
    };
    let text = text
        .to_str()
        .ok_or_else(|| wrong("it is not UTF-8".into()))?;
    let (real, state) = places_of(text, store).map_err(wrong)?;
    Ok(Origin {
        real,
        store: store.to_owned(),
        metadata: Metadata::Live {
            state,
            use_sqlite_wal: true,
        },
        chosen: Chosen::OwnRoots,
    })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| super::unusable(path, error))
}

fn report(image: &Image<'_>, made: Made) -> ImageReport {
    ImageReport {
        version: 1,
        file: show_path(image.file).into_owned(),
        kind: image.format.name().to_owned(),
        outcome: Outcome::Done,
        paths: made.paths,
        bytes: made.bytes,
        replaced: made.replaced,
        findings: Vec::new(),
    }
}

fn not_whole(image: &Image<'_>, problems: &Problems) -> ImageReport {
    let origin = image.origin;
    let (state, is_live) = match &origin.metadata {
        Metadata::Live { state, .. } => (&**state, true),
        Metadata::Sealed { state } => (&**state, false),
        // There is no database of it that could be repaired.
        Metadata::Registration(file) => (&**file, false),
    };
    let verified = publish::Verified {
        store: &origin.store,
        real: &origin.real,
        state,
        is_live,
    };
    let none = Made {
        paths: 0,
        bytes: 0,
        replaced: false,
    };
    ImageReport {
        outcome: Outcome::NotAsDescribed,
        findings: publish::findings(problems, verified),
        ..report(image, none)
    }
}
