//! A collection from its roots to its end.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, fallocate, fstat, openat};

use super::aside::Aside;
use super::database::Keep;
use super::layers::Layers;
use super::leftovers::{self, Leftovers, Merged, Removed};
use super::nix::{Deletion, Nix, Programs};
use super::optimise::{Optimiser, remount};
use super::root::Roots;
use super::space::Space;
use super::{Choice, Chooser, CollectError, Garbage, Limits, processes};
use crate::apply;
use crate::config::Store;
use crate::counts::Counts;
use crate::linux::safe_path::{self, Symlinks};
use crate::linux::{room, root::System};
use crate::lower::sqlite::SqliteSource;
use crate::nix::path_set::PathSet;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::remedy::Fault;
use crate::warm::{Wanted, Warm};

/// How often a choice is made again after Nix found something alive.
const ROUNDS: usize = 8;

/// With less than this free, in bytes, it is not certain that Nix can open a store.
const ENOUGH_TO_OPEN: u64 = 1 << 20;

/// What to collect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Limits of the choice.
    pub limits: Limits,
    /// Collect only when less than this is free, in bytes.
    pub min_free: Option<u64>,
    /// Stop when this is free, in bytes.
    pub max_free: Option<u64>,
    /// Objects without a row go too.
    pub leftovers: bool,
    /// Go on although rows seem to be lost.
    pub accept_lost_rows: bool,
}

/// What is garbage, and what was done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Roots found.
    pub roots: u64,
    /// Processes that could not be looked into.
    pub unseen_processes: u32,
    /// Objects that went, or would go, with what they free in bytes.
    pub objects: Vec<(StorePath, u64)>,
    /// Rows of objects that are only below that went, or would go.
    pub rows: u64,
    /// Objects in both layers that are garbage above, and are left in both.
    pub both: Vec<StorePath>,
    /// Objects in both layers whose upper copy is gone, with what that frees in bytes.
    pub optimised: Vec<(StorePath, u64)>,
    /// Garbage that Nix did not delete, with what it said.
    pub left: Vec<(StorePath, String)>,
    /// Garbage that is too young, or that was not needed to free enough.
    pub kept_by_limits: u64,
    /// Objects that neither database knows and that were left.
    pub unknown: Vec<StorePath>,
    /// What Nix could not delete although nothing needs it, with what it said.
    pub failed: Option<(StorePath, String)>,
    /// Of the objects that Nix was given, now or by an earlier collection, those that are still there
    /// and have no row any more: the next collection goes on with them.
    pub deleting: BTreeSet<StorePath>,
    /// Leftovers removed, or to be removed.
    pub removed: Removed,
    /// Leftovers that only root can remove.
    pub for_root: Removed,
    /// How many objects of the upper layer have rows afterwards, where that was looked at.
    pub with_row: Option<u64>,
    /// Whether nothing was done because enough is free.
    pub enough_free: bool,
    /// Bytes free afterwards.
    pub free: u64,
    /// Why a remount failed, if one did.
    pub remount: Option<Fault>,
}

/// What a collection tells while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress<'a> {
    /// It waits for somebody who works on the store.
    Waiting(&'a str),
    /// It looks for roots and chooses.
    Choosing,
    /// Nix deletes this many objects.
    Deleting(u64),
    /// Nix has begun with one.
    Deleted,
}

/// Why a store is not collected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Incomplete {
    /// Objects without rows, and none with.
    #[error(
        "the upper layer has {objects} objects and the upper database knows none of them: it is another \
         database, or what was in it is lost"
    )]
    NoRows {
        /// How many objects.
        objects: u64,
    },
    /// Rows without objects, and none with.
    #[error(
        "the upper database knows {rows} objects that are in neither layer, and the upper layer has \
         none that it knows: it is another upper layer, or its disk is not there"
    )]
    NoObjects {
        /// How many rows.
        rows: u64,
    },
    /// Fewer rows with objects than when it was mounted, and objects without rows.
    #[error(
        "the upper database knows {rows} of the objects in the upper layer, after {remembered} when it \
         was last set up or collected, and {objects} are there that it does not know: it is an older \
         one, or a part of it is lost"
    )]
    FewerRows {
        /// How many rows with objects.
        rows: u64,
        /// How many there were.
        remembered: u64,
        /// How many objects without rows.
        objects: u64,
    },
}

/// A store to be collected.
#[derive(Debug)]
pub(crate) struct Collector<'a> {
    /// The store.
    pub store: &'a Store,
    /// The machine.
    pub system: &'a System,
    /// Where Nix is.
    pub programs: &'a Programs,
    /// How Nix's settings stand.
    pub keep: Keep,
    /// What was warmed and stays.
    pub warmed: &'a PathSet,
    /// How many objects of the upper layer had rows when that was remembered.
    pub remembered_rows: u64,
    /// What an earlier collection has given to Nix and did not see deleted. Nix drops the row of an
    /// object before it deletes the object: without a row, it is still garbage.
    pub deleting: &'a BTreeSet<StorePath>,
    /// What to collect.
    pub options: Options,
    /// The roots of the store.
    pub roots: &'a Roots,
}

impl Collector<'_> {
    /// Says what a collection would do now, and changes nothing.
    ///
    /// # Errors
    /// When something cannot be read; the inner error when the store is incomplete.
    pub(crate) fn plan(&self) -> Result<Result<Collected, Incomplete>, CollectError> {
        let layers = Layers::open(self.store)?;
        let mut rounds = Rounds::begin(self, &layers, Power::Root)?;
        if rounds.collected.enough_free {
            return Ok(Ok(rounds.collected));
        }
        let (leftovers, choice) = rounds.look()?;
        if let Some(why) = self.incomplete(&leftovers, &choice) {
            return Ok(Err(why));
        }
        rounds.collected.removed = Removed::of(&leftovers);
        let Given { objects, rows } = rounds.garbage(leftovers, &choice)?;
        rounds.collected.rows = (rows.len() + choice.metadata.len()) as u64;
        rounds.collected.objects = objects;
        Ok(Ok(rounds.collected))
    }

    /// Collects.
    ///
    /// # Errors
    /// When something cannot be read, or Nix fails; the inner error when the store is incomplete.
    pub(crate) fn run(
        &self,
        tell: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Result<Collected, Incomplete>, CollectError> {
        let layers = Layers::open(self.store)?;
        let mut rounds = Rounds::begin(self, &layers, Power::Root)?;
        if rounds.collected.enough_free {
            return Ok(Ok(rounds.collected));
        }
        tell(Progress::Choosing);
        self.give_reserve_back();
        // It is only to be quicker: without room for rows, Nix makes some before it copies them itself.
        self.unless_full(self.warm())?;
        let (mut leftovers, mut choice) = rounds.look()?;
        if let Some(why) = self.incomplete(&leftovers, &choice) {
            return Ok(Err(why));
        }
        if !choice.both.is_empty() || Aside::exists(self.store) {
            // Without room for locks, the copies stay, and the rest makes some.
            self.unless_full(rounds.optimise(&choice.both))?;
            // What only their upper copies needed goes, too.
            (leftovers, choice) = rounds.look()?;
        }
        let mut nix = None;
        for round in 1..=ROUNDS {
            let given = rounds.garbage(leftovers, &choice)?;
            if given.objects.is_empty() && given.rows.is_empty() {
                break;
            }
            let nix = match &mut nix {
                Some(nix) => nix,
                none => none.insert(Nix::start(self.programs, self.store, self.keep)?),
            };
            if rounds.delete(nix, given, tell)? || round == ROUNDS {
                break;
            }
            rounds.roots.add(nix.find_roots()?);
            (leftovers, choice) = rounds.look()?;
        }
        drop(nix);
        if self.options.limits.metadata {
            rounds.delete_metadata(tell)?;
        }
        rounds.finish().map(Ok)
    }

    /// Collects through the store's daemon, what an ordinary user can: objects of the upper layer
    /// alone. The rest is listed.
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    pub(crate) fn run_through(
        &self,
        socket: &Path,
        tell: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Result<Collected, Incomplete>, CollectError> {
        let layers = Layers::open(self.store)?;
        let mut rounds = Rounds::begin(self, &layers, Power::User)?;
        if rounds.collected.enough_free {
            return Ok(Ok(rounds.collected));
        }
        tell(Progress::Choosing);
        let mut nix = Nix::connect(socket, self.store)?;
        for round in 1..=ROUNDS {
            // What this user may not see, Nix does.
            rounds.roots.add(nix.find_roots()?);
            rounds.collected.roots = rounds.roots.roots.len() as u64;
            let (leftovers, choice) = rounds.look()?;
            if round == 1
                && let Some(why) = self.incomplete(&leftovers, &choice)
            {
                return Ok(Err(why));
            }
            rounds.collected.for_root = Removed::of(&leftovers);
            let Given { objects, .. } = rounds.garbage(leftovers, &choice)?;
            let rows = Vec::new();
            if objects.is_empty() || rounds.delete(&mut nix, Given { objects, rows }, tell)? {
                break;
            }
        }
        rounds.collected.free = layers.upper.free()?;
        Ok(Ok(rounds.collected))
    }

    /// The path that Nix stopped at, with what it said.
    fn stopped(
        &self,
        deletion: Deletion,
        given: &BTreeSet<&StorePath>,
    ) -> Result<Option<(StorePath, String)>, CollectError> {
        match deletion {
            Deletion::Done => Ok(None),
            Deletion::Stopped(said) => match self.named(&said, given) {
                Some(path) => Ok(Some((path, said))),
                None => Err(CollectError::Refused { said }),
            },
        }
    }

    fn choose(
        &self,
        layers: &Layers,
        roots: &Roots,
        stays: &[StorePath],
    ) -> Result<Choice, CollectError> {
        let chooser = Chooser {
            store: self.store,
            layers,
            keep: self.keep,
            warmed: self.warmed,
            limits: self.options.limits,
        };
        chooser.choose(roots, stays)
    }

    fn leftovers(&self, layers: &Layers) -> Result<Leftovers, CollectError> {
        let directory = StoreDirectory::new(self.store.store.as_os_str().as_bytes());
        let database = self.store.database();
        crate::lower::retry(
            || Ok(Box::new(SqliteSource::open(&database, directory.clone())?)),
            |rows| {
                let found = Leftovers::find(layers, rows)?;
                rows.confirmed()?;
                Ok(found)
            },
        )
    }

    /// Objects without a row that nobody says he needs: Nix compares hash parts, so what belongs to a
    /// build that is under way is safe.
    fn unknown(&self, leftovers: Leftovers, roots: &Roots) -> Vec<StorePath> {
        let kept: BTreeSet<&str> = roots
            .roots
            .iter()
            .map(|root| root.path.hash_part())
            .collect();
        let mut unknown = leftovers.unknown;
        unknown.retain(|path| !kept.contains(path.hash_part()));
        unknown
    }

    /// As many of the objects as have to go, each with its bytes, and those that need not.
    fn enough<'o>(
        &self,
        layers: &Layers,
        objects: &'o [Garbage],
        free: u64,
    ) -> Result<(Vec<Freeing>, &'o [Garbage]), CollectError> {
        let wanted = self.options.max_free.map(|most| most.saturating_sub(free));
        let mut space = Space::new(&layers.upper);
        let (mut chosen, mut freed) = (Vec::new(), 0_u64);
        let mut group = None;
        for (place, object) in objects.iter().enumerate() {
            if group != Some(object.group) && wanted.is_some_and(|wanted| freed >= wanted) {
                return Ok((chosen, &objects[place..]));
            }
            group = Some(object.group);
            let bytes = space.of(&object.path)?;
            freed += bytes;
            chosen.push((object.path.clone(), bytes));
        }
        Ok((chosen, &[]))
    }

    /// Has the room back that Nix keeps in reserve for a collection on a full disk: it opens no store
    /// where there is none for the index of its log, and gives its reserve back too late. The file keeps
    /// its size, or Nix would fill it again when it opens the store; it deletes it in the collection.
    fn give_reserve_back(&self) {
        if !room::is_short(&self.store.state, ENOUGH_TO_OPEN) {
            return;
        }
        let directory = safe_path::open_directory(&self.store.state.join("db"), Symlinks::Refuse);
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let reserve = directory.and_then(|it| Ok(openat(it, "reserved", flags, Mode::empty())?));
        // Where there is none, or none that has holes, all is as it would be without.
        let Ok(reserve) = reserve else { return };
        let Ok(stat) = fstat(&reserve) else { return };
        // On a device, a hole would be zeros.
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = fallocate(&reserve, hole, 0, size);
        }
    }

    /// What failed, unless there is no room for what it writes: to make some is what this is about.
    fn unless_full(&self, done: Result<(), CollectError>) -> Result<(), CollectError> {
        let Err(error) = done else { return Ok(()) };
        let directories = [&*self.store.state, &self.store.upper_layer];
        match error.is_for_want_of_room() || directories.iter().any(|it| room::is_used_up(it)) {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// Copies what Nix would copy when it looks for roots, at once instead of path by path.
    fn warm(&self) -> Result<(), CollectError> {
        let directory = StoreDirectory::new(self.store.store.as_os_str().as_bytes());
        let database = self.store.database();
        let missing = crate::lower::retry(
            || Ok(Box::new(SqliteSource::open(&database, directory.clone())?)),
            |rows| {
                let mut missing = Vec::new();
                for root in &self.roots.roots {
                    if missing.last() != Some(&root.path) && !rows.is_valid(&root.path)? {
                        missing.push(root.path.clone());
                    }
                }
                rows.confirmed()?;
                Ok::<_, CollectError>(missing)
            },
        )?;
        if missing.is_empty() {
            return Ok(());
        }
        let warm = Warm {
            store: &directory,
            source: &self.store.lower.source,
            objects: &self.store.lower.real,
            database: &self.store.state.join("db"),
            use_sqlite_wal: self.store.use_sqlite_wal,
            counts: &Counts::default(),
        };
        warm.run(Wanted::ValidClosures(&missing), &|_| {})?;
        Ok(())
    }

    /// The path among those that were given that a message of Nix's names.
    fn named(&self, said: &str, given: &BTreeSet<&StorePath>) -> Option<StorePath> {
        let mut named = BTreeSet::new();
        // What cannot be unlinked is named by where it is.
        for directory in [&self.store.store.value, &self.store.real.value] {
            processes::in_text(
                said.as_bytes(),
                directory.as_os_str().as_bytes(),
                &mut named,
            );
        }
        named.into_iter().find(|path| given.contains(path))
    }

    /// Whether a store has lost a part: nothing of it is garbage then that seems to be.
    fn incomplete(&self, leftovers: &Leftovers, choice: &Choice) -> Option<Incomplete> {
        let unknown = leftovers.unknown.iter();
        let objects = unknown.filter(|path| !self.deleting.contains(path));
        let objects = objects.count() as u64;
        if leftovers.with_row > 0 {
            // What Nix deletes itself goes with its row.
            let is_less = leftovers.with_row < self.remembered_rows && objects > 0;
            return (is_less && !self.options.accept_lost_rows).then_some(Incomplete::FewerRows {
                rows: leftovers.with_row,
                remembered: self.remembered_rows,
                objects,
            });
        }
        if choice.lost > 0 {
            return Some(Incomplete::NoObjects { rows: choice.lost });
        }
        (self.options.leftovers && objects > 0).then_some(Incomplete::NoRows { objects })
    }
}

/// Whether Nix says that a path is still needed: in its own words, which end with "since it is still
/// alive", or in those of its derivative Determinate Nix, which name a root or a referrer. No name of an
/// object has a space.
fn is_alive(said: &str) -> bool {
    said.contains("annot delete path '")
}

/// As whom a store is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    /// As root, or as somebody who can do the same.
    Root,
    /// As somebody who has the daemon alone.
    User,
}

/// An object, with what it frees in bytes.
type Freeing = (StorePath, u64);

/// What Nix is to delete.
struct Given {
    /// Objects of the upper layer.
    objects: Vec<Freeing>,
    /// Objects that are only below: their rows.
    rows: Vec<StorePath>,
}

/// A collection that is under way: a choice, a deletion, and again where something became alive.
struct Rounds<'a> {
    collector: &'a Collector<'a>,
    layers: &'a Layers,
    power: Power,
    /// All that were found so far.
    roots: Roots,
    /// What Nix found alive.
    stays: Vec<StorePath>,
    /// Of which rows went alone.
    rows: BTreeSet<StorePath>,
    /// How many objects of the upper layer have a row.
    with_row: u64,
    /// What Nix was given, now or by an earlier collection.
    given: BTreeSet<StorePath>,
    collected: Collected,
}

impl<'a> Rounds<'a> {
    fn begin(
        collector: &'a Collector<'a>,
        layers: &'a Layers,
        power: Power,
    ) -> Result<Self, CollectError> {
        let free = layers.upper.free()?;
        let enough = collector
            .options
            .min_free
            .is_some_and(|wanted| free >= wanted);
        Ok(Self {
            collector,
            layers,
            power,
            roots: collector.roots.clone(),
            stays: Vec::new(),
            rows: BTreeSet::new(),
            with_row: 0,
            given: collector.deleting.clone(),
            collected: Collected {
                roots: collector.roots.roots.len() as u64,
                unseen_processes: collector.roots.unseen_processes,
                deleting: collector.deleting.clone(),
                enough_free: enough,
                free,
                ..Collected::default()
            },
        })
    }

    /// What is in the upper layer beside valid objects, and what of these is garbage.
    fn look(&self) -> Result<(Leftovers, Choice), CollectError> {
        let leftovers = self.collector.leftovers(self.layers)?;
        let choice = self
            .collector
            .choose(self.layers, &self.roots, &self.stays)?;
        Ok((leftovers, choice))
    }

    /// Removes the upper copies of what is garbage above and in both layers.
    fn optimise(&mut self, both: &[StorePath]) -> Result<(), CollectError> {
        let optimiser = Optimiser {
            store: self.collector.store,
            system: self.collector.system,
            trust_databases: false,
        };
        let optimised = optimiser.remove(self.layers, both, &mut |_| {})?;
        self.collected.optimised = optimised.objects;
        self.collected.remount = optimised.remount;
        Ok(())
    }

    /// What Nix is to be given. What it is not given, is noted.
    fn garbage(&mut self, leftovers: Leftovers, choice: &Choice) -> Result<Given, CollectError> {
        let collector = self.collector;
        let free = self.layers.upper.free()?;
        let (mut objects, rest) = collector.enough(self.layers, &choice.objects, free)?;
        self.collected.kept_by_limits = choice.young + rest.len() as u64;
        let rows = match rest {
            [] => choice.visited.clone(),
            rest => self.choose_without(rest)?.visited,
        };
        self.collected.both.clone_from(&choice.both);
        self.with_row = leftovers.with_row;
        self.collected.unknown.clear();
        let mut space = Space::new(&self.layers.upper);
        for path in collector.unknown(leftovers, &self.roots) {
            let was_given = self.given.contains(&path);
            if self.power == Power::User || !(collector.options.leftovers || was_given) {
                self.collected.unknown.push(path);
            } else if !self.stays.contains(&path) {
                let bytes = space.of(&path)?;
                objects.push((path, bytes));
            }
        }
        Ok(Given { objects, rows })
    }

    /// The choice where limits leave these objects: they go on needing what they refer to.
    fn choose_without(&self, left: &[Garbage]) -> Result<Choice, CollectError> {
        let left = left.iter().map(|object| object.path.clone());
        let stays: Vec<StorePath> = left.chain(self.stays.iter().cloned()).collect();
        self.collector.choose(self.layers, &self.roots, &stays)
    }

    /// Has Nix delete objects, and rows of others: whether that was all, or something is alive.
    fn delete(
        &mut self,
        nix: &mut Nix,
        Given { objects, rows }: Given,
        tell: &mut dyn FnMut(Progress<'_>),
    ) -> Result<bool, CollectError> {
        let paths: BTreeSet<&StorePath> =
            objects.iter().map(|(path, _)| path).chain(&rows).collect();
        if self.power == Power::Root && !objects.is_empty() {
            self.remember(&objects, tell);
        }
        tell(Progress::Deleting(paths.len() as u64));
        let deletion = nix.delete(paths.iter().copied(), &mut || tell(Progress::Deleted));
        if self.power == Power::Root {
            // After a failure too: what was deleted until then would go on showing.
            let remounted = remount(self.collector.system, &self.collector.store.real);
            self.collected.remount = self.collected.remount.take().or(remounted);
        }
        let stopped = self.collector.stopped(deletion?, &paths)?;
        for (path, bytes) in objects {
            if !self.layers.upper.has(path.as_str())? {
                self.collected.objects.push((path, bytes));
            }
        }
        let Some((path, said)) = stopped else {
            self.rows.extend(rows);
            return Ok(true);
        };
        if !is_alive(&said) {
            self.collected.failed = Some((path.clone(), said.clone()));
        }
        self.collected.left.push((path.clone(), said));
        self.stays.push(path);
        Ok(false)
    }

    /// Remembers what Nix is given, before it is: also where this is killed meanwhile, the next
    /// collection knows whose rows are gone.
    fn remember(&mut self, objects: &[(StorePath, u64)], tell: &mut dyn FnMut(Progress<'_>)) {
        self.given
            .extend(objects.iter().map(|(path, _)| path.clone()));
        let Collector { store, system, .. } = self.collector;
        let rows = self.with_row.saturating_sub(objects.len() as u64);
        // On a full disk nothing can be written, and room is what this is about.
        let mut waiting = |holder: &str| tell(Progress::Waiting(holder));
        let _ = apply::remember_deleting(store, system, &self.given, rows, &mut waiting);
    }

    /// Has rows go of lower objects that nothing above needs, also those that Nix has copied for what it
    /// just deleted.
    fn delete_metadata(&mut self, tell: &mut dyn FnMut(Progress<'_>)) -> Result<(), CollectError> {
        let collector = self.collector;
        // With either setting Nix looks for the outputs or the derivers of what it deletes, and copies
        // the rows of those that are valid below: the ones that went before would come back.
        let keep = Keep {
            derivations: false,
            outputs: false,
            ..collector.keep
        };
        let mut nix = None;
        for round in 1..=ROUNDS {
            let mut choice = collector.choose(self.layers, &self.roots, &self.stays)?;
            if !choice.objects.is_empty() {
                choice = self.choose_without(&choice.objects)?;
            }
            if choice.metadata.is_empty() {
                break;
            }
            let nix = match &mut nix {
                Some(nix) => nix,
                none => none.insert(Nix::start(collector.programs, collector.store, keep)?),
            };
            let (objects, rows) = (Vec::new(), choice.metadata);
            if self.delete(nix, Given { objects, rows }, tell)? || round == ROUNDS {
                break;
            }
            self.roots.add(nix.find_roots()?);
        }
        Ok(())
    }

    /// Removes what interrupted work has left.
    fn finish(mut self) -> Result<Collected, CollectError> {
        let leftovers = self.collector.leftovers(self.layers)?;
        self.collected.with_row = Some(leftovers.with_row);
        let left = leftovers
            .unknown
            .iter()
            .filter(|path| self.given.contains(path));
        self.collected.deleting = left.cloned().collect();
        self.collected.rows = self.rows.len() as u64;
        let Collector { store, system, .. } = self.collector;
        let merged = Merged::open(&store.real)?;
        let mut is_in_use = |path: &StorePath| leftovers::is_in_use(store, system, path);
        self.collected.removed = merged.remove(&leftovers, &mut is_in_use)?;
        self.collected.free = self.layers.upper.free()?;
        Ok(self.collected)
    }
}
