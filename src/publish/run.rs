//! The work: a generation made, generations retired and removed.

use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

use super::database::{Draft, Wanted};
use super::error::PublishError;
use super::place::{Making, Place};
use super::roots::{self, HeldOff, Roots};
use crate::compare::Layer;
use crate::config::{Chosen, Publication};
use crate::counts::Counts;
use crate::linux::clock;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Symlinks};
use crate::lower::publication::{Generation, Listed, OWN, Retired};
use crate::nix::layout;
use crate::nix::schema;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::warm;

/// What is told while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told<'a> {
    /// Another process is waited for.
    Waiting(&'a str),
    /// What is being done.
    Step(&'static str),
}

/// A publication, to be worked on.
pub(crate) struct Publisher<'a> {
    pub publication: &'a Publication,
    pub system: &'a System,
}

/// Where that goes.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(Told<'_>);

/// What is to be retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retire {
    /// The generation of this number.
    Number(u64),
    /// All that are not among so many of the newest.
    AllBut(u64),
    /// All that were made before this time.
    Before(u64),
}

/// What was retired, and what was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Generations that were retired.
    pub retired: Vec<u64>,
    /// Retired generations whose time was over: their databases and roots are gone.
    pub removed: Vec<u64>,
    /// Those that are there now, the oldest first.
    pub kept: Vec<Listed>,
    /// The number of the current one.
    pub current: Option<u64>,
}

impl Publisher<'_> {
    /// Opens the publication's directory, and removes what killed runs left.
    fn place(&self, told: Tell<'_>) -> Result<(Place, Roots), PublishError> {
        let Publication {
            directory, real, ..
        } = self.publication;
        let place = Place::open(directory, real, self.system, &mut |holder| {
            told(Told::Waiting(holder));
        })?;
        let roots = Roots::of(&self.publication.state, &place.identity.id);
        roots.keep_only(&place.clean()?)?;
        Ok((place, roots))
    }

    /// Makes a generation, makes it the current one, and retires those that the description does not
    /// keep. `contents` has every object hashed.
    pub(crate) fn publish(
        &self,
        chosen: &Chosen,
        contents: Option<&Counts>,
        told: Tell<'_>,
    ) -> Result<(Generation, Swept), PublishError> {
        let (mut place, roots) = self.place(told)?;
        let made = self.generation(&mut place, &roots, chosen, contents, told);
        let generation = made.inspect_err(|_| {
            // The error that matters is the first; the next run does it otherwise.
            let _ = place.clean().and_then(|kept| roots.keep_only(&kept));
        })?;
        let mut swept = Swept::default();
        let keep = self.publication.keep;
        if let Some(newest) = keep.newest {
            self.retire_in(&place, Retire::AllBut(newest.into()), &mut swept)?;
        }
        if let Some(age) = keep.younger_than {
            let before = generation.time.saturating_sub(age);
            self.retire_in(&place, Retire::Before(before), &mut swept)?;
        }
        self.sweep(&place, &roots, &[], &mut swept)?;
        Ok((generation, swept))
    }

    /// Retires generations, and removes those whose time is over; with `now`, also those that are
    /// meant, whenever they were retired.
    pub(crate) fn retire(
        &self,
        what: Retire,
        now: bool,
        told: Tell<'_>,
    ) -> Result<Swept, PublishError> {
        let (place, roots) = self.place(told)?;
        let mut swept = Swept::default();
        let meant = self.retire_in(&place, what, &mut swept)?;
        let at_once = if now { meant } else { Vec::new() };
        self.sweep(&place, &roots, &at_once, &mut swept)?;
        Ok(swept)
    }

    /// Which generations there are. Removes those whose time is over.
    pub(crate) fn list(&self, told: Tell<'_>) -> Result<Swept, PublishError> {
        let (place, roots) = self.place(told)?;
        let mut swept = Swept::default();
        self.sweep(&place, &roots, &[], &mut swept)?;
        Ok(swept)
    }

    fn retire_in(
        &self,
        place: &Place,
        what: Retire,
        swept: &mut Swept,
    ) -> Result<Vec<u64>, PublishError> {
        let current = place.current()?;
        let listed = place.list()?;
        let newer = |number: u64| {
            let newer = listed.iter().filter(|it| it.generation.number > number);
            newer.count() as u64
        };
        let meant: Vec<&Listed> = listed
            .iter()
            .filter(|it| match what {
                Retire::Number(number) => it.generation.number == number,
                Retire::AllBut(newest) => newer(it.generation.number) >= newest,
                Retire::Before(time) => it.generation.time < time,
            })
            .collect();
        if let Retire::Number(number) = what {
            if meant.is_empty() {
                return Err(PublishError::NoGeneration(number));
            }
            if current == Some(number) {
                return Err(PublishError::Current(number));
            }
        }
        let time = clock::now();
        let retired = Retired {
            time,
            until: time.saturating_add(self.publication.keep.grace),
        };
        for listed in &meant {
            let number = listed.generation.number;
            if listed.retired.is_none() && current != Some(number) {
                place.retire(number, retired)?;
                swept.retired.push(number);
            }
        }
        Ok(meant.iter().map(|it| it.generation.number).collect())
    }

    /// Removes the retired generations whose time is over, and those that go at once: first the
    /// generation, then its roots.
    fn sweep(
        &self,
        place: &Place,
        roots: &Roots,
        at_once: &[u64],
        swept: &mut Swept,
    ) -> Result<(), PublishError> {
        let time = clock::now();
        swept.current = place.current()?;
        for listed in place.list()? {
            let number = listed.generation.number;
            let over = listed
                .retired
                .is_some_and(|retired| retired.until <= time || at_once.contains(&number));
            if over && swept.current != Some(number) {
                place.remove(number)?;
                swept.removed.push(number);
            } else {
                swept.kept.push(listed);
            }
        }
        let kept: Vec<u64> = swept.kept.iter().map(|it| it.generation.number).collect();
        roots.keep_only(&kept)
    }

    fn generation(
        &self,
        place: &mut Place,
        roots: &Roots,
        chosen: &Chosen,
        contents: Option<&Counts>,
        told: Tell<'_>,
    ) -> Result<Generation, PublishError> {
        let Publication {
            real, state, store, ..
        } = self.publication;
        let store = StoreDirectory::new(store.as_os_str().as_bytes());
        let objects = self.objects(real)?;
        let _held_off = HeldOff::new(state, self.system, &mut |holder| {
            told(Told::Waiting(holder));
        })?;
        let wanted = wanted(chosen, Some(state), &store)?;
        let before = place.current()?;
        let (number, making) = place.begin()?;
        for directory in layout::STATE_DIRECTORIES {
            making.directory(directory)?;
        }
        making.directory(OWN)?;
        told(Told::Step("copying the database"));
        let (directory, path) = making.database()?;
        let wal = self.publication.use_sqlite_wal;
        let mut draft = Draft::begin(&directory, &path, state, Symlinks::Refuse, wal)?;
        let counts = draft.copy(&wanted, &store)?;
        if counts.paths == 0 {
            return Err(PublishError::Empty);
        }
        told(Told::Step("verifying every row and its object"));
        let problems = draft.verify(&store, &objects, contents)?;
        if problems.count > 0 {
            return Err(PublishError::NotWhole(problems));
        }
        told(Told::Step("comparing with the generation before"));
        let mut generation = Generation {
            version: 1,
            publication: place.identity.id.clone(),
            number,
            before,
            time: clock::now(),
            store: String::from_utf8_lossy(store.as_bytes()).into_owned(),
            paths: counts.paths,
            references: counts.references,
            roots: 0,
            added: counts.paths,
            left: 0,
            changed: 0,
        };
        self.changes(&mut draft, place, &making, &store, &mut generation)?;
        told(Told::Step("making its roots"));
        let mut rooting = roots.begin(number)?;
        draft.tops(&store, |path| rooting.root(&path))?;
        generation.roots = rooting.finish()?;
        draft.finish()?;
        self.seal(&making, &generation)?;
        told(Told::Step("making it the current generation"));
        place.announce(number, &making)?;
        Ok(generation)
    }

    /// The live store directory, with what Nix wants to find in it.
    fn objects(&self, real: &Path) -> Result<Layer, PublishError> {
        let objects = safe_path::open_directory(real, Symlinks::Refuse)
            .map_err(|error| PublishError::io("open", real, error))?;
        let mode = rustix::fs::Mode::from_raw_mode(layout::DIRECTORY_MODE);
        match rustix::fs::mkdirat(&objects, layout::LINKS, mode) {
            Ok(()) | Err(Errno::EXIST) => Ok(Layer {
                path: real.to_owned(),
                directory: objects,
            }),
            Err(errno) => Err(PublishError::io("make", &real.join(layout::LINKS), errno)),
        }
    }

    /// Writes what left or changed since the current generation.
    fn changes(
        &self,
        draft: &mut Draft,
        place: &Place,
        making: &Making,
        store: &StoreDirectory,
        generation: &mut Generation,
    ) -> Result<(), PublishError> {
        let (file, path) = making.changes()?;
        let mut file = BufWriter::new(file);
        let error = |error: std::io::Error| PublishError::io("write", &path, error);
        if let Some(before) = generation.before {
            let (directory, at) = place.database(before)?;
            let Generation { left, changed, .. } = generation;
            generation.added = draft.changes(&directory, &at, |path, stays| {
                let name = match store.parse(path.as_bytes()) {
                    Ok(path) => path,
                    // The generation before was verified.
                    Err(what) => {
                        let path = at.join(layout::DATABASE_FILE);
                        return Err(PublishError::Record { path, what });
                    }
                };
                let (sign, count) = match stays {
                    true => ('~', &mut *changed),
                    false => ('-', &mut *left),
                };
                *count += 1;
                writeln!(file, "{sign} {name}").map_err(error)
            })?;
        }
        file.flush().map_err(error)
    }

    /// What Nix wants to find beside the database, and what the generation is.
    fn seal(&self, making: &Making, generation: &Generation) -> Result<(), PublishError> {
        let name = "db/schema";
        making
            .file(name, 0o644)?
            .write_all(schema::VERSION.to_string().as_bytes())
            .map_err(|error| PublishError::io("write", &making.path().join(name), error))?;
        // A consumer's Nix would make it, in the generation. Without blocks: nobody needs the space.
        making
            .file(layout::RESERVED, 0o600)?
            .set_len(layout::RESERVED_SIZE)
            .map_err(|error| {
                PublishError::io("write", &making.path().join(layout::RESERVED), error)
            })?;
        making.describe(generation)
    }
}

/// What goes in of a store with this state directory, if that is known.
pub(super) fn wanted(
    chosen: &Chosen,
    state: Option<&Path>,
    store: &StoreDirectory,
) -> Result<Wanted, PublishError> {
    Ok(match (chosen, state) {
        (Chosen::AllValid, _) | (Chosen::OwnRoots, None) => Wanted::All,
        (Chosen::OwnRoots, Some(state)) => Wanted::Closures {
            paths: Vec::new(),
            valid: roots::own(state, store)?,
        },
        (Chosen::Named { paths, roots }, _) => {
            let mut valid = Vec::new();
            for directory in roots {
                valid.extend(warm::find_roots(directory, store)?);
            }
            let paths: Result<Vec<StorePath>, _> = paths
                .iter()
                .map(|path| {
                    warm::resolve(path, store).ok_or_else(|| PublishError::NoPath(path.clone()))
                })
                .collect();
            Wanted::Closures {
                paths: paths?,
                valid,
            }
        }
    })
}
