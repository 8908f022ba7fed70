//! A store over a publication, brought to the current generation, while whatever uses it goes on.
//!
//! Nothing is switched before it is known that the new generation has what the upper store took from
//! below, and that its objects can be seen through the mount. The switch itself is one step: a link of
//! the store's own is exchanged. Connections that are open keep the generation that they began with;
//! what they copy from that later is looked for in the next one row by row.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, statat};
use rustix::io::Errno;

use super::error::{Error, walked};
use super::lock::DirectoryLock;
use super::progress::{Progress, Tell};
use super::remount::{RemountError, remount_aside};
use super::{generation, memory};
use crate::check::{self, Finding};
use crate::compare::{AcrossError, Among, Identity, Lacking, Needs, Several, needs};
use crate::config::Store;
use crate::escape::show_path;
use crate::linux::clock;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Symlinks};
use crate::lower::LowerError;
use crate::lower::publication::{Changes, Generation, Publication, PublicationError, path_of};
use crate::nix::store_path::StorePath;
use crate::observe::{self, Depth, LinkFacts, Observed};
use crate::records::{Compared, LowerMemory, Memory};
use crate::remedy::{HasRemedy, Remedy};
use crate::sqlite::snapshot::SnapshotError;

/// How often new objects are looked for before they count as not to be seen.
const TRIES: u32 = 4;
/// The pause before the second try; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// A store over a publication, to be brought to the current generation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refresh<'a> {
    /// The store.
    pub store: &'a Store,
    /// The machine.
    pub system: &'a System,
    /// The publication's directory.
    pub publication: &'a Path,
    /// The store's own link.
    pub link: &'a Path,
    /// Whether nothing is changed.
    pub dry_run: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Refreshed {
    /// The generation that was in use before.
    pub before: u64,
    /// The current one.
    pub current: u64,
    /// Whether the store uses the current one now.
    pub switched: bool,
    /// Whether the overlay was remounted.
    pub remounted: bool,
    /// Rows of the upper database that were compared.
    pub compared: u64,
    /// What the upper store needs, and the current generation lacks. Nothing was switched then.
    pub lacking: Several<Lacking>,
    /// What else is wrong with the current generation. Nothing was switched then.
    pub findings: Vec<Finding>,
}

/// Why a store was not brought to the current generation. It stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefreshError {
    /// The publication cannot be read.
    #[error(transparent)]
    Publication(#[from] PublicationError),
    /// The store has no generation yet, or another one than described.
    #[error("the store uses no generation of {}", show_path(.publication))]
    NotSetUp {
        /// The publication.
        publication: std::path::PathBuf,
        /// What sets the store up.
        remedy: Remedy,
    },
    /// The current generation is not there.
    #[error("generation {number} is current, and is missing")]
    Missing {
        /// Its number.
        number: u64,
    },
    /// The store and the generation cannot be compared.
    #[error("generation {number} cannot be compared with the upper store: {error}")]
    Compare {
        /// Its number.
        number: u64,
        /// Why.
        error: AcrossError,
    },
    /// Objects of it are not to be seen.
    #[error("generation {number} has {path}, and no object of it is to be seen in {}", show_path(.real))]
    NotSeen {
        /// Its number.
        number: u64,
        /// The first that is not.
        path: StorePath,
        /// Where it was looked for.
        real: std::path::PathBuf,
    },
    /// The overlay was not remounted.
    #[error(transparent)]
    Remount(#[from] RemountError),
    /// Something could not be looked at or changed.
    #[error(transparent)]
    Machine(#[from] Error),
}

impl HasRemedy for RefreshError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Publication(error) => error.remedy(),
            Self::NotSetUp { remedy, .. } => remedy.clone(),
            Self::Missing { .. } => {
                Remedy::say("have the owner of the publication make a new generation of it")
            }
            Self::Compare { error, .. } => error.remedy(),
            Self::NotSeen { .. } => Remedy::say(
                "where the lower store directory is a network file system, its caches may need longer: \
                 run it again; otherwise have the owner of the publication verify it (`overstore \
                 publish --check`)",
            ),
            Self::Remount(error) => error.remedy(),
            Self::Machine(error) => error.remedy(),
        }
    }
}

impl RefreshError {
    /// Whether it is the owner's side, or what is in it, that has to be changed, and not this machine
    /// that cannot reach it.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::NotSetUp { .. }
            | Self::Missing { .. }
            | Self::Publication(PublicationError::Wrong { .. }) => true,
            Self::Compare { error, .. } => matches!(
                error,
                AcrossError::Source(error)
                    if !matches!(error, LowerError::Snapshot(SnapshotError::Io { .. }))
            ),
            _ => false,
        }
    }
}

/// The generation to go to, and what is known of the way there.
struct Target {
    number: u64,
    now: Generation,
    /// What left or changed since the one in use, and up to which row that says everything.
    known: Option<(Changes, i64)>,
}

impl Target {
    fn among(&self) -> Among<'_> {
        match &self.known {
            Some((changes, after)) => Among::These {
                paths: &changes.paths,
                after: *after,
            },
            None => Among::All,
        }
    }
}

impl Refresh<'_> {
    /// Does it. Two that do this to one store at once do it one after the other.
    ///
    /// # Errors
    /// See [`RefreshError`].
    pub(crate) fn run(&self, tell: Tell<'_>) -> Result<Refreshed, RefreshError> {
        let (before, current) = self.ends()?;
        if before == current {
            return Ok(Refreshed {
                before,
                current,
                ..Refreshed::default()
            });
        }
        let workdir = walked(
            &self.store.workdir,
            safe_path::directory(&self.store.workdir, Symlinks::Refuse),
        )?;
        let _turn = DirectoryLock::wait(&workdir, self.system, &mut |holder| {
            tell(Progress::Waiting(holder));
        })?;
        // Another run may have been there meanwhile.
        let (before, current) = self.ends()?;
        let mut refreshed = Refreshed {
            before,
            current,
            ..Refreshed::default()
        };
        if before != current {
            let publication = Publication::open(self.publication)?;
            let target = self.target(&publication, before, current)?;
            self.go(&target, &mut refreshed, tell)?;
        }
        Ok(refreshed)
    }

    /// The generation in use, and the current one, read afresh.
    fn ends(&self) -> Result<(u64, u64), RefreshError> {
        let current = Publication::open(self.publication)?.current()?;
        match observe::generation_link(self.publication, self.link) {
            LinkFacts::Generation(before) => Ok((before, current)),
            _ => Err(RefreshError::NotSetUp {
                publication: self.publication.to_owned(),
                remedy: Remedy::default()
                    .run(self.store.command(["check"]))
                    .run(self.store.command(["up"])),
            }),
        }
    }

    /// What is known of the current generation.
    fn target(
        &self,
        publication: &Publication,
        before: u64,
        number: u64,
    ) -> Result<Target, RefreshError> {
        let Some(listed) = publication.generation(number)? else {
            return Err(RefreshError::Missing { number });
        };
        let now = listed.generation;
        let compared = Memory::read(self.store).compared;
        let compared = compared.filter(|it| it.generation == before);
        let then = match publication.generation(before) {
            Ok(listed) => listed.map(|listed| listed.generation),
            Err(PublicationError::Wrong { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let known = match (compared, then) {
            (Some(compared), Some(then)) if compared.publication == then.publication => {
                let changes = publication.changes(&then, &now)?;
                changes.map(|changes| (changes, compared.highest))
            }
            _ => None,
        };
        Ok(Target { number, now, known })
    }

    fn go(
        &self,
        target: &Target,
        refreshed: &mut Refreshed,
        tell: Tell<'_>,
    ) -> Result<(), RefreshError> {
        let number = target.number;
        refreshed.findings = self.wrong(number)?;
        if !refreshed.findings.is_empty() {
            return Ok(());
        }
        let needs = self.compare(target)?;
        refreshed.compared = needs.asked;
        refreshed.lacking = needs.lacking;
        if refreshed.lacking.count > 0 || self.dry_run {
            return Ok(());
        }
        refreshed.remounted = self.see(number, &needs.newest)?;
        generation::link(self.link, &path_of(self.publication, number))?;
        // What somebody copied from the one before, since it was compared.
        let again = self.compare(target)?;
        if again.lacking.count > 0 {
            refreshed.lacking = again.lacking;
            generation::link(self.link, &path_of(self.publication, refreshed.before))?;
            return Ok(());
        }
        refreshed.switched = true;
        self.remember(target, &again, tell);
        Ok(())
    }

    fn compare(&self, target: &Target) -> Result<Needs, RefreshError> {
        let state = path_of(self.publication, target.number);
        needs(self.store, &state, target.among()).map_err(|error| RefreshError::Compare {
            number: target.number,
            error,
        })
    }

    /// What keeps Nix from reading the generation, or this store from being one above it.
    fn wrong(&self, number: u64) -> Result<Vec<Finding>, RefreshError> {
        let state = path_of(self.publication, number);
        let facts = observe::observe_generation(self.system, &self.store.lower.real, &state)
            .map_err(Error::Observe)?;
        Ok(check::generation(self.store, &state, &facts))
    }

    /// Sees that new objects are visible: whether the overlay was remounted for that.
    fn see(&self, number: u64, newest: &[StorePath]) -> Result<bool, RefreshError> {
        let observed =
            observe::observe(self.system, self.store, Depth::UpLocked).map_err(Error::Observe)?;
        let mounted = observed.mount.overlay.is_some();
        self.is_ours(&observed)?;
        let merged = match mounted {
            true => &*self.store.real,
            false => &self.store.lower.real,
        };
        let mut pause = PAUSE;
        for attempt in 1.. {
            if mounted {
                remount_aside(self.system, &self.store.real)?;
            }
            let Some(path) = self.unseen(merged, newest)? else {
                break;
            };
            if attempt == TRIES {
                return Err(RefreshError::NotSeen {
                    number,
                    path,
                    real: merged.to_owned(),
                });
            }
            // Over NFS, listing a directory has the client ask what is in it now.
            self.list_lower()?;
            std::thread::sleep(pause);
            pause *= 2;
        }
        Ok(mounted)
    }

    /// What is mounted is this store's overlay over the lower store directory described.
    fn is_ours(&self, observed: &Observed) -> Result<(), RefreshError> {
        let different =
            |identity: &observe::Identity| matches!(identity, observe::Identity::Different(_));
        let overlay = observed.mount.overlay.as_ref();
        match overlay.is_some_and(|it| different(&it.lower) || different(&it.upper)) {
            true => Err(RefreshError::NotSetUp {
                publication: self.publication.to_owned(),
                remedy: Remedy::say("see what is mounted").run(self.store.command(["check"])),
            }),
            false => Ok(()),
        }
    }

    /// The first of these whose object is not to be seen.
    fn unseen(
        &self,
        merged: &Path,
        newest: &[StorePath],
    ) -> Result<Option<StorePath>, RefreshError> {
        let open = |path: &Path| {
            let opened = safe_path::open_directory(path, Symlinks::Follow);
            opened.map_err(|error| unreachable(path, error))
        };
        let (merged, upper) = (open(merged)?, open(&self.store.upper_layer)?);
        let is_there = |layer: &dyn AsFd, path: &StorePath| match statat(
            layer.as_fd(),
            path.as_str(),
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(unreachable(&self.store.lower.real, errno)),
        };
        for path in newest {
            // What the upper layer has, or hides, is its own.
            if !is_there(&merged, path)? && !is_there(&upper, path)? {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }

    fn list_lower(&self) -> Result<(), RefreshError> {
        let real = &self.store.lower.real;
        let list = || -> std::io::Result<()> {
            let directory = safe_path::open_directory(real, Symlinks::Follow)?;
            for entry in Dir::read_from(&directory)? {
                entry?;
            }
            Ok(())
        };
        list().map_err(|error| unreachable(real, error))
    }

    /// Remembers up to where the upper database was compared with which generation.
    fn remember(&self, target: &Target, needs: &Needs, tell: Tell<'_>) {
        let mut remembered = Memory::read(self.store);
        remembered.compared = Some(Compared {
            publication: target.now.publication.clone(),
            generation: target.number,
            time: Some(clock::now()),
            highest: needs.highest,
        });
        // Of a publication that was made anew, too: what is needed is there.
        if let Some(lower) = &mut remembered.lower {
            let schema = lower.identity.as_ref().and_then(|it| it.schema.clone());
            *lower = LowerMemory {
                store: self.store.lower.given.clone(),
                identity: Identity::of(self.store, schema.as_deref()).ok().flatten(),
            };
        }
        memory::write(&remembered, self.store, tell);
    }
}

fn unreachable(path: &Path, error: impl Into<std::io::Error>) -> RefreshError {
    PublicationError::Unreachable {
        path: path.to_owned(),
        error: error.into(),
    }
    .into()
}
