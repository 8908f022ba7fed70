//! Reconciling, from looking to the last row.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::carry::{Carrier, Wanted};
use super::plan::{Action, Available, Below, GiveUp, Plan, Refused};
use super::survey::{Survey, Unknown, survey};
use super::{OldStores, ReconcileError};
use crate::apply::{self, DirectoryLock, StoreLocks};
use crate::check::{self, Code, Finding, Severity};
use crate::collect::{Aside, Layers, RootKind, Roots};
use crate::compare::Identity;
use crate::config::Store;
use crate::counts::Counts;
use crate::escape::show_path;
use crate::linux::locks::{attempt, holder_in_words};
use crate::linux::root::System;
use crate::linux::safe_path::{self, Status, Symlinks};
use crate::linux::tree;
use crate::lower;
use crate::lower::sqlite::SqliteSource;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::nix::{layout, nar};
use crate::observe::{self, Depth, Observed, Rows};
use crate::overlayfs::markers::{Marks, is_opaque, make_opaque};
use crate::records::Memory;
use crate::warm::{self, Warm, WarmError};

/// What is left free besides what is carried: for the database, and for its log.
const SPARE: u64 = 16 << 20;
/// How many paths that need a missing one are named.
const MOST_REFERRERS: usize = 5;

/// What was done, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reconciled {
    /// Rows that were taken from the lower store.
    pub taken: Vec<StorePath>,
    /// Rows whose signatures, derivers and times were.
    pub described: u64,
    /// Objects that were carried, with what each takes up in bytes.
    pub carried: Vec<(StorePath, u64)>,
    /// Objects that Nix has fetched.
    pub fetched: Vec<StorePath>,
    /// Objects that are needed and that neither layer nor an old store has.
    pub missing: Vec<Missing>,
    /// What depends on these.
    pub depending: Vec<StorePath>,
    /// Rows that went since nothing needs them.
    pub dropped: Vec<StorePath>,
    /// Rows that went since they were given up.
    pub given_up: Vec<StorePath>,
    /// Upper copies that went, with what each took up in bytes.
    pub copies: Vec<(StorePath, u64)>,
    /// Upper objects that hide another one of the lower store, with in what they differ.
    pub hiding: Vec<(StorePath, String)>,
    /// Upper objects in whose places those of the lower store are.
    pub replaced: Vec<(StorePath, u64)>,
    /// Whiteouts that went.
    pub whiteouts: Vec<StorePath>,
    /// Objects without rows.
    pub without_rows: Vec<WithoutRow>,
    /// Why nothing was done.
    pub refused: Vec<(StorePath, String)>,
    /// Bytes free on the upper layer's file system.
    pub free: u64,
    /// Whether nothing was done, for what is missing or refused.
    pub is_undone: bool,
}

/// An object that is needed and cannot be found anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Its path.
    pub path: StorePath,
    /// What refers to it: the first few.
    pub referrers: Vec<StorePath>,
    /// Why an old store could not help, if one has it.
    pub why: Option<String>,
}

/// An object of the upper layer without a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WithoutRow {
    /// Its path.
    pub path: StorePath,
    /// What it takes up, in bytes.
    pub bytes: u64,
    /// Whether it hides an object that is valid below.
    pub hides: bool,
    /// Whether it goes.
    pub removed: bool,
}

impl Reconciled {
    /// Whether there was nothing to do.
    pub(crate) fn is_nothing(&self) -> bool {
        let Self {
            taken,
            described,
            carried,
            missing,
            dropped,
            given_up,
            copies,
            replaced,
            whiteouts,
            without_rows,
            refused,
            ..
        } = self;
        taken.is_empty()
            && *described == 0
            && carried.is_empty()
            && missing.is_empty()
            && dropped.is_empty()
            && given_up.is_empty()
            && copies.is_empty()
            && replaced.is_empty()
            && whiteouts.is_empty()
            && !without_rows.iter().any(|it| it.removed)
            && refused.is_empty()
    }
}

/// What it tells while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many objects are to be carried.
    Carrying(u64),
    /// So many more are.
    Carried(u64),
    /// Rows are written.
    Rows,
}

/// A store to be reconciled with its lower store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reconciler<'a> {
    /// The store.
    pub store: &'a Store,
    /// The machine.
    pub system: &'a System,
    /// Old lower stores.
    pub old: &'a OldStores,
    /// Whether somebody said which these are: the lower store was replaced then.
    pub old_is_given: bool,
    /// What may be given up.
    pub give_up: GiveUp,
    /// Whether objects without rows go.
    pub remove_without_rows: bool,
    /// What roots keep.
    pub roots: &'a Roots,
}

/// What was found, and what becomes of it.
struct Planned {
    survey: Survey,
    plan: Plan,
    /// What is carried, of those that an old store has.
    wanted: Vec<Wanted>,
    /// Those that an old store has otherwise than their rows say.
    wrong: BTreeMap<u32, String>,
}

impl Reconciler<'_> {
    /// Says what a run would do now, and changes nothing. Old stores are believed to have what they
    /// seem to have: nothing is hashed.
    ///
    /// # Errors
    /// When something cannot be read.
    pub(crate) fn plan(&self) -> Result<Reconciled, ReconcileError> {
        let survey = self.survey()?;
        let planned = self.decide(survey, BTreeMap::new())?;
        self.reconciled(&planned, &Layers::open(self.store)?)
    }

    /// Does it: all but what Nix has to do. The store has to be down; with `keep_all`, nothing is done
    /// where something is missing. What is missing, and the rows that depend on it, stay.
    ///
    /// # Errors
    /// When something cannot be read or written, or somebody uses the store.
    pub(crate) fn run(
        &self,
        keep_all: bool,
        tell: &mut dyn FnMut(Step),
        progress: apply::Tell<'_>,
    ) -> Result<Reconciled, ReconcileError> {
        let _locks = self.lock(progress)?;
        let survey = self.survey();
        let observed = self.nobody_has_it(survey.as_ref().ok())?;
        let mut survey = survey?;
        let layers = Layers::open(self.store)?;
        let aside = Aside::open(self.store, self.system)?;
        // Somebody may have been at it until now.
        if self.put_back(&layers, &aside)? || survey.rows.confirm().is_err() {
            survey = self.survey()?;
        }
        let mut planned = self.decide(survey, BTreeMap::new())?;
        let is_refused = |planned: &Planned| {
            let mut actions = planned.plan.actions.iter();
            actions.any(|action| matches!(action, Action::Refuse(_)))
                || keep_all && self.would_lose(planned)
        };
        loop {
            if is_refused(&planned) {
                return Ok(Reconciled {
                    is_undone: true,
                    ..self.reconciled(&planned, &layers)?
                });
            }
            self.room(&layers, &planned)?;
            tell(Step::Carrying(planned.wanted.len() as u64));
            let carrier = Carrier {
                old: self.old,
                layers: &layers,
                aside: &aside,
                marks: self.marks(),
            };
            let not_carried =
                carrier.carry(&planned.wanted, &mut |more| tell(Step::Carried(more)))?;
            if not_carried.is_empty() {
                break;
            }
            let mut wrong = planned.wrong;
            wrong.extend(not_carried.into_iter().map(|it| (it.node, it.why)));
            planned = self.decide(planned.survey, wrong)?;
            // What is carried by now is there.
            let there = |wanted: &Wanted| layers.upper.has(wanted.path.as_str());
            let mut left = Vec::new();
            for wanted in planned.wanted {
                if !there(&wanted)? {
                    left.push(wanted);
                }
            }
            planned.wanted = left;
        }
        let mut done = self.reconciled(&planned, &layers)?;
        self.layers(&layers, &aside, &mut done)?;
        tell(Step::Rows);
        self.rows(&planned, &done)?;
        if done.missing.is_empty() {
            let identity = Identity::of(self.store, observed.lower.schema())?;
            apply::remember_lower(self.store, identity, None, progress);
        }
        done.free = layers.upper.free()?;
        Ok(done)
    }

    /// What is left once Nix has fetched what it could: with [`GiveUp::missing`], the rows of what is
    /// still missing go, and those that depend on it. The store is mounted by now, and may be in use.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub(crate) fn finish(
        &self,
        schema: Option<&str>,
        progress: apply::Tell<'_>,
    ) -> Result<Reconciled, ReconcileError> {
        let layers = Layers::open(self.store)?;
        let planned = self.decide(self.survey()?, BTreeMap::new())?;
        let done = self.reconciled(&planned, &layers)?;
        let left = Reconciled {
            missing: done.missing,
            depending: done.depending,
            given_up: done.given_up,
            ..Reconciled::default()
        };
        self.drop_rows(&left)?;
        if left.missing.is_empty() {
            let identity = Identity::of(self.store, schema)?;
            apply::remember_lower(self.store, identity, Some(self.system), progress);
        }
        Ok(left)
    }

    /// Whether something is missing, or could be that is only needed by a root out of sight.
    fn would_lose(&self, planned: &Planned) -> bool {
        let has = |action| planned.plan.actions.contains(&action);
        has(Action::Missing) || has(Action::Drop) && !self.roots.absent.is_empty()
    }

    /// Nobody else is to use the store meanwhile.
    fn lock(&self, progress: apply::Tell<'_>) -> Result<StoreLocks, ReconcileError> {
        let open = |path| {
            let reached = safe_path::directory(path, Symlinks::Refuse);
            reached.map_err(|obstacle| ReconcileError::read(path)(obstacle.into()))
        };
        let workdir = open(&self.store.workdir)?;
        let turn = DirectoryLock::wait(&workdir, self.system, &mut |holder| {
            progress(apply::Progress::Waiting(holder));
        });
        let turn = turn.map_err(ReconcileError::Locked)?;
        let upper = open(&self.store.upper_layer)?;
        StoreLocks::with_turn(turn, &upper, self.system).map_err(ReconcileError::Locked)
    }

    /// Sees that it is not mounted, also not elsewhere, that no Nix has it open, and that nothing is
    /// wrong with it but what this puts right. What a survey has found is not looked for again.
    fn nobody_has_it(&self, survey: Option<&Survey>) -> Result<Observed, ReconcileError> {
        let observed = match survey {
            Some(survey) => {
                let rows = Rows::Known(survey.objects()?);
                observe::observe_made(self.system, self.store, rows)
            }
            None => observe::observe(self.system, self.store, Depth::UpLocked),
        };
        let observed =
            observed.map_err(|error| ReconcileError::Locked(apply::Error::Observe(error)))?;
        // One that is not this store's, or of another mount namespace, is a finding.
        if observed.mount.overlay.is_some() {
            return Err(ReconcileError::Mounted {
                who: show_path(&self.store.real).into_owned(),
                down: self.store.command(["down"]),
            });
        }
        let replaced = self.old_is_given || self.is_replaced(&observed)?;
        let obstacles = obstacles(self.store, &observed, replaced);
        if !obstacles.is_empty() {
            return Err(ReconcileError::NotAsDescribed(obstacles));
        }
        self.no_nix_has_it()?;
        Ok(observed)
    }

    /// Whether the lower store is the one that is remembered, as far as that is known.
    fn is_remembered(&self, observed: &Observed) -> Result<bool, ReconcileError> {
        match Memory::read(self.store).lower {
            None => Ok(false),
            Some(lower) if lower.identity.is_none() => Ok(true),
            Some(_) => Ok(!self.is_replaced(observed)?),
        }
    }

    /// Remembers the lower store, over which a mounted store has nothing else left to be done, if it is
    /// not remembered: an earlier run may have had no room for that. Whether there is nothing left then.
    ///
    /// # Errors
    /// When something cannot be read.
    pub(crate) fn remember(
        &self,
        observed: &Observed,
        done: &Reconciled,
        progress: apply::Tell<'_>,
    ) -> Result<bool, ReconcileError> {
        if self.is_remembered(observed)? {
            return Ok(true);
        }
        if !self.all_hide(done)? {
            return Ok(false);
        }
        let identity = Identity::of(self.store, observed.lower.schema())?;
        apply::remember_lower(self.store, identity, Some(self.system), progress);
        Ok(true)
    }

    /// Whether the lower store may be another one than before.
    fn is_replaced(&self, observed: &Observed) -> Result<bool, ReconcileError> {
        let Some(then) = Memory::read(self.store).lower.and_then(|it| it.identity) else {
            return Ok(true);
        };
        let now = Identity::now(self.store, observed.lower.schema(), Some(&then))?;
        Ok(now.is_none_or(|now| then.difference(&now).is_some()))
    }

    fn no_nix_has_it(&self) -> Result<(), ReconcileError> {
        let directory = self.store.state.join(layout::DATABASE_DIRECTORY);
        let path = directory.join("big-lock");
        let reached = safe_path::directory(&directory, Symlinks::Refuse);
        let reached = reached.map_err(|o| ReconcileError::read(&directory)(o.into()))?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match openat(&reached, "big-lock", flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(ReconcileError::read(&path)(errno.into())),
        };
        let free = attempt(&file, FlockOperation::NonBlockingLockExclusive);
        if free
            .map_err(|e| ReconcileError::read(&path)(e.into()))?
            .is_some()
        {
            return Ok(());
        }
        let status = Status::of(&file).map_err(|e| ReconcileError::read(&path)(e.into()))?;
        Err(ReconcileError::Open {
            path,
            holder: holder_in_words(self.system, &status),
        })
    }

    /// Copies that `optimise` had put aside are where they were: whether they are needed is decided
    /// anew. Whether there were any.
    fn put_back(&self, layers: &Layers, aside: &Aside) -> Result<bool, ReconcileError> {
        let mut changed = false;
        for path in aside.names()? {
            changed |= aside.put_back(&layers.upper, path.as_str())?;
        }
        if changed {
            aside.sync(&layers.upper)?;
        }
        Ok(changed)
    }

    fn survey(&self) -> Result<Survey, ReconcileError> {
        let expected = show_path(&self.store.store).into_owned();
        if let Some(Identity {
            store_directory: found,
            ..
        }) = Identity::of(self.store, None)?
            && found != expected
        {
            return Err(ReconcileError::StoreDirectory { found, expected });
        }
        // Roots that `warm --keep` made are for metadata: nothing needs what they name.
        let ours = warm::Roots::of(&self.store.state).directory();
        let mut roots = self.roots.clone();
        let is_ours =
            |kind: &RootKind| matches!(kind, RootKind::Link(link) if link.starts_with(&ours));
        roots.roots.retain(|root| !is_ours(&root.kind));
        survey(self.store, &roots)
    }

    /// Makes a plan. `wrong` are those that old stores have otherwise than their rows say.
    fn decide(
        &self,
        survey: Survey,
        wrong: BTreeMap<u32, String>,
    ) -> Result<Planned, ReconcileError> {
        let mut wanted = BTreeMap::new();
        let mut nodes = survey.facts.wanting(self.give_up);
        nodes.retain(|node| !wrong.contains_key(node));
        let mut paths = Vec::new();
        for &node in &nodes {
            paths.push(survey.rows.row(node)?.path);
        }
        for (node, path) in nodes.into_iter().zip(paths) {
            if let Some(bytes) = self.size_in_old(&path) {
                let (hash, size) = ([0; 32], 0);
                let it = Wanted {
                    node,
                    path,
                    hash,
                    size,
                    bytes,
                };
                wanted.insert(node, it);
            }
        }
        let plan = survey
            .facts
            .plan(self.give_up, &|node| match wanted.contains_key(&node) {
                true => Available::Old,
                false => Available::Nowhere,
            });
        let mut wanted: Vec<Wanted> = wanted.into_values().collect();
        wanted.retain(|it| plan.actions[it.node as usize] == Action::Carry);
        self.expect(&mut wanted)?;
        Ok(Planned {
            survey,
            plan,
            wanted,
            wrong,
        })
    }

    /// Notes what the rows say of these.
    fn expect(&self, wanted: &mut [Wanted]) -> Result<(), ReconcileError> {
        let directory = StoreDirectory::new(self.store.store.as_os_str().as_bytes());
        let database = self.store.database();
        let paths: Vec<_> = wanted.iter().map(|it| it.path.clone()).collect();
        let infos = lower::retry(
            || SqliteSource::open(&database, directory.clone()).map(Box::new),
            |source| {
                let answers = lower::answers(source, &paths)?;
                source.confirmed()?;
                Ok::<_, ReconcileError>(answers)
            },
        )?;
        for (it, info) in wanted.iter_mut().zip(infos) {
            if let Some(info) = info {
                it.hash = info.nar_hash;
                it.size = u64::try_from(info.nar_size).unwrap_or(0);
            }
        }
        Ok(())
    }

    /// What an object takes up in an old store, in bytes, if one has it.
    fn size_in_old(&self, path: &StorePath) -> Option<u64> {
        let (_, directory) = self.old.with(path).next()?;
        let mut bytes = 0_u64;
        let visited = tree::visit(directory, path.as_str(), |stat| {
            bytes = bytes.saturating_add(tree::bytes(stat));
            Ok(())
        });
        // What cannot be read is found when it is carried.
        visited.ok().map(|()| bytes)
    }

    /// Sees that what is carried fits.
    fn room(&self, layers: &Layers, planned: &Planned) -> Result<(), ReconcileError> {
        let needed: u64 = planned.wanted.iter().map(|it| it.bytes.max(it.size)).sum();
        let free = layers.upper.free()?;
        if needed > 0 && needed.saturating_add(SPARE) > free {
            return Err(ReconcileError::Room {
                path: self.store.upper_layer.clone(),
                needed,
                free,
            });
        }
        Ok(())
    }

    /// What a plan comes to, by paths.
    fn reconciled(&self, planned: &Planned, layers: &Layers) -> Result<Reconciled, ReconcileError> {
        let Planned {
            survey,
            plan,
            wanted,
            wrong,
        } = planned;
        let path = |node: u32| Ok::<_, ReconcileError>(survey.rows.row(node)?.path);
        let mut done = Reconciled {
            free: layers.upper.free()?,
            whiteouts: survey.whiteouts.clone(),
            ..Reconciled::default()
        };
        let mut missing = Vec::new();
        for (node, &action) in (0_u32..).zip(&plan.actions) {
            match action {
                Action::Keep => {}
                Action::Describe => done.described += 1,
                Action::TakeRow => done.taken.push(path(node)?),
                Action::Carry => {
                    let place = wanted.binary_search_by_key(&node, |it| it.node);
                    let path = path(node)?;
                    let bytes = match place {
                        Ok(place) => wanted[place].bytes,
                        Err(_) => self.size_in_old(&path).unwrap_or(0),
                    };
                    done.carried.push((path, bytes));
                }
                Action::Missing => missing.push(node),
                Action::Drop => done.dropped.push(path(node)?),
                Action::GiveUp => done.given_up.push(path(node)?),
                Action::RemoveCopy => {
                    let path = path(node)?;
                    let bytes = space(layers, &path)?;
                    done.copies.push((path, bytes));
                }
                Action::Hide => {
                    let why = survey.differing.get(&node).cloned().unwrap_or_default();
                    done.hiding.push((path(node)?, why));
                }
                Action::TakeLower => {
                    let path = path(node)?;
                    let bytes = space(layers, &path)?;
                    done.replaced.push((path, bytes));
                }
                Action::Refuse(why) => done.refused.push((path(node)?, Refused::to_string(&why))),
            }
        }
        let referrers = survey.facts.referrers(&missing, MOST_REFERRERS);
        for (node, referrers) in missing.into_iter().zip(referrers) {
            let referrers = referrers.into_iter().map(path);
            done.missing.push(Missing {
                path: path(node)?,
                referrers: referrers.collect::<Result<_, _>>()?,
                why: wrong.get(&node).cloned(),
            });
        }
        for &node in &plan.depending {
            done.depending.push(path(node)?);
        }
        for Unknown { path, below, equal } in &survey.without_rows {
            if *equal {
                done.copies.push((path.clone(), space(layers, path)?));
                continue;
            }
            done.without_rows.push(WithoutRow {
                path: path.clone(),
                bytes: space(layers, path)?,
                hides: *below,
                removed: self.remove_without_rows,
            });
        }
        Ok(done)
    }

    /// Puts the layers right: what goes, goes; what stays hides what is below.
    fn layers(
        &self,
        layers: &Layers,
        aside: &Aside,
        done: &mut Reconciled,
    ) -> Result<(), ReconcileError> {
        let upper = &layers.upper;
        for path in &done.whiteouts {
            let removed = unlinkat(upper.fd(), path.as_str(), AtFlags::empty());
            let place = upper.path().join(path.as_str());
            removed.map_err(|errno| ReconcileError::write(&place)(errno.into()))?;
        }
        let mut kept = Vec::new();
        for (path, bytes) in std::mem::take(&mut done.replaced) {
            match self.lower_is_whole(layers, &path)? {
                None => done.replaced.push((path, bytes)),
                Some(why) => kept.push((path, why)),
            }
        }
        done.hiding.append(&mut kept);
        for (path, _) in &done.hiding {
            self.hide(layers, path)?;
        }
        for it in done.without_rows.iter().filter(|it| !it.removed) {
            self.hide(layers, &it.path)?;
        }
        let sync = |upper: &crate::collect::Layer| {
            let error = ReconcileError::write(upper.path());
            rustix::fs::syncfs(upper.fd()).map_err(|errno| error(errno.into()))
        };
        sync(upper)?;
        let going = done
            .copies
            .iter()
            .chain(&done.replaced)
            .map(|(path, _)| path);
        let unknown = done.without_rows.iter().filter(|it| it.removed);
        for path in going.chain(unknown.map(|it| &it.path)) {
            aside.remove(upper, path.as_str())?;
        }
        sync(upper)
    }

    /// Why the lower object may not take the place of the upper one: it is not what its row says.
    fn lower_is_whole(
        &self,
        layers: &Layers,
        path: &StorePath,
    ) -> Result<Option<String>, ReconcileError> {
        use std::os::fd::AsFd;
        let directory = StoreDirectory::new(self.store.store.as_os_str().as_bytes());
        let mut source = lower::open(&self.store.lower.source, &directory)?;
        let info = lower::answers(&mut *source, std::slice::from_ref(path))?
            .pop()
            .flatten();
        let Some(info) = info else {
            return Ok(Some("the lower store has lost it meanwhile".to_owned()));
        };
        let fd = layers.lower.fd();
        // Nobody knows how much there is to read of one whose row does not say it.
        let limit = match u64::try_from(info.nar_size) {
            Ok(0) | Err(_) => u64::MAX,
            Ok(size) => size,
        };
        Ok(
            match nar::hash_within(fd.as_fd(), path.as_str(), limit, &|_| true) {
                Ok((hash, _)) if hash == info.nar_hash => None,
                Ok(_) => Some("the lower one is not what the lower store says of it".to_owned()),
                Err(error) => Some(format!("the lower one cannot be read: {error}")),
            },
        )
    }

    /// Has a directory of the upper layer hide the one below.
    fn hide(&self, layers: &Layers, path: &StorePath) -> Result<(), ReconcileError> {
        let failed = |errno: Errno| {
            let place = layers.upper.path().join(path.as_str());
            ReconcileError::write(&place)(errno.into())
        };
        match mixes(layers, path, self.marks()).map_err(failed)? {
            Some(object) => make_opaque(&object, self.marks()).map_err(failed),
            None => Ok(()),
        }
    }

    /// Whether all objects hide what is below of their names that are to do so.
    fn all_hide(&self, done: &Reconciled) -> Result<bool, ReconcileError> {
        let layers = Layers::open(self.store)?;
        let hiding = done.hiding.iter().map(|(path, _)| path);
        for path in hiding.chain(done.without_rows.iter().map(|it| &it.path)) {
            let place = layers.upper.path().join(path.as_str());
            let object = mixes(&layers, path, self.marks());
            if object
                .map_err(|errno| ReconcileError::read(&place)(errno.into()))?
                .is_some()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn marks(&self) -> Marks {
        Marks::with_userxattr(self.store.userxattr())
    }

    /// Puts the rows right: those that are taken from below in one transaction, then those that go.
    fn rows(&self, planned: &Planned, done: &Reconciled) -> Result<(), ReconcileError> {
        let mut taken = done.taken.clone();
        taken.extend(done.replaced.iter().map(|(path, _)| path.clone()));
        for (node, action) in (0_u32..).zip(&planned.plan.actions) {
            let row = planned.survey.facts.rows.get(node as usize);
            let is_described = row.is_some_and(|row| row.below == Below::Described);
            if *action == Action::Describe || *action == Action::RemoveCopy && is_described {
                taken.push(planned.survey.rows.row(node)?.path);
            }
        }
        self.with_database(|warm| warm.replace(&taken, &|_| {}))?;
        self.drop_rows(done)
    }

    fn drop_rows(&self, done: &Reconciled) -> Result<(), ReconcileError> {
        let going = [&done.dropped[..], &done.given_up].concat();
        self.with_database(|warm| warm.drop_rows(&going, &|_| {}))?;
        Ok(())
    }

    fn with_database<T>(
        &self,
        work: impl FnOnce(Warm<'_>) -> Result<T, WarmError>,
    ) -> Result<T, ReconcileError> {
        let directory = StoreDirectory::new(self.store.store.as_os_str().as_bytes());
        let database = self.store.state.join(layout::DATABASE_DIRECTORY);
        Ok(work(Warm {
            store: &directory,
            source: &self.store.lower.source,
            objects: &self.store.lower.real,
            database: &database,
            use_sqlite_wal: self.store.use_sqlite_wal,
            counts: &Counts::default(),
        })?)
    }
}

/// What is wrong with a store beside what reconciling puts right: errors. That all objects of the upper
/// layer are missing is none where the lower store was `replaced`: they may have been that one's.
pub(crate) fn obstacles(store: &Store, observed: &Observed, replaced: bool) -> Vec<Finding> {
    let mut findings = check::check(store, observed);
    findings.retain(|finding| {
        finding.severity == Severity::Error
            && !(replaced && finding.code == Code::ObjectsLost)
            && !matches!(
                finding.code,
                Code::MountMissing
                    | Code::RowWithoutObject
                    | Code::LowerObjectHidden
                    | Code::RemountHookMissing
                    | Code::MountCheckImpossible
                    | Code::MountCheckFails
            )
    });
    findings
}

/// The object of the upper layer, if it is a directory with which one below is mixed.
fn mixes(layers: &Layers, path: &StorePath, marks: Marks) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Anything but a directory hides what is below by itself.
    let Ok(object) = openat(layers.upper.fd(), path.as_str(), flags, Mode::empty()) else {
        return Ok(None);
    };
    Ok(match is_opaque(&object, marks)? {
        true => None,
        false => Some(object),
    })
}

/// What an object of the upper layer takes up, in bytes.
fn space(layers: &Layers, path: &StorePath) -> Result<u64, ReconcileError> {
    let mut bytes = 0_u64;
    let visited = tree::visit(layers.upper.fd(), path.as_str(), |stat| {
        bytes = bytes.saturating_add(tree::bytes(stat));
        Ok(())
    });
    let place = layers.upper.path().join(path.as_str());
    visited.map_err(|errno| ReconcileError::read(&place)(errno.into()))?;
    Ok(bytes)
}
