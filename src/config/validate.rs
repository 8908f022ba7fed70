//! From the keys as written to a validated [`Store`].

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::lower::{Resolver, read_path};
use super::mount_options;
use super::names::{PROGRAM, REMOUNT_HOOK};
use super::own;
use super::parts::{self, Places};
use super::problem::{Problem, Span};
use super::raw::{RawLower, RawStore};
use super::read::{At, ProgramOrFalse};
use super::store::{GENERATION_LINK, memory};
use super::{Lower, SetUpFor, Setting, Store, WhenIncomplete, WhenReplaced};
use crate::nix::layout::{LOG_DIR, STATE_DIR, STORE_DIR};

/// The group that Nix uses unless told otherwise.
const BUILD_USERS_GROUP: &str = "nixbld";

/// A description on its way to a [`Store`].
pub(super) struct Reading<'a> {
    /// What is taken from the environment.
    pub(super) environment: &'a Environment,
    /// Where problems go.
    pub(super) problems: &'a mut Vec<Problem>,
}

/// Validates what was read. `whole` is false after an error of syntax: keys may then be missing
/// because the reader lost them, and nothing is said about that.
pub(super) fn validate(
    name: &str,
    raw: &RawStore,
    own: Option<PathBuf>,
    environment: &Environment,
    whole: bool,
    problems: &mut Vec<Problem>,
) -> Option<Store> {
    let mut reading = Reading {
        environment,
        problems,
    };
    reading.store(name, raw, own, whole)
}

/// Whether Nix keeps a write-ahead log, which it does unless it was told otherwise.
fn use_sqlite_wal(raw: &RawStore) -> bool {
    let database = raw.database.as_ref();
    database
        .and_then(|database| database.value.use_sqlite_wal.as_ref())
        .is_none_or(|given| given.value)
}

impl Reading<'_> {
    fn store(
        &mut self,
        name: &str,
        raw: &RawStore,
        own: Option<PathBuf>,
        whole: bool,
    ) -> Option<Store> {
        let given = self.given_paths(raw);
        let daemon = self.daemon(raw.daemon.as_ref());
        let store = self.store_directory(given.store);
        let root = given.root.as_deref();
        let (state, log) = self.state_and_log(root, given.state, given.log);
        let lower = match raw.published() {
            Some((publication, table)) => self.published(raw, publication, table, &store, &state),
            None => self.lower(raw, &store, daemon.is_some()),
        };
        let mount_options = mount_options::read(raw.mount.as_ref(), self.problems);
        let build_users_group = self.build_users_group(raw);
        let warm = self.warm(raw.warm.as_ref());
        let gc = self.gc(raw.gc.as_ref());
        let refresh = self.refresh(raw.refresh.as_ref());
        let parameters = self.parameters(raw.parameters.as_ref());
        if whole {
            self.missing(raw);
        }
        let (mut lower, upper_layer, workdir) = (lower?, given.upper_layer?, given.workdir?);
        // A root that was given and cannot be used leaves nothing that could follow from it.
        if raw.root.is_some() && given.root.is_none() {
            return None;
        }
        let real = Setting::or_default(given.real, || {
            root.map_or_else(|| store.value.clone(), |root| root.join("nix/store"))
        });
        let remount_hook = self.remount_hook(raw, &state);
        let own = own.map(|directory| own::own(directory, &real, &mut lower));
        let set_up_for = match &own {
            Some(_) => SetUpFor::Processes,
            None => SetUpFor::Everybody,
        };
        let mut store = Store {
            name: name.to_owned(),
            program: PROGRAM.into(),
            arguments: vec![name.into()],
            file: None,
            root: given.root,
            real,
            state,
            log,
            store,
            lower,
            upper_layer,
            workdir,
            check_mount: Setting::or_default(
                raw.check_mount.as_ref().map(|given| given.value),
                || true,
            ),
            remount_hook,
            when_incomplete: raw
                .when_incomplete
                .as_ref()
                .map_or_else(WhenIncomplete::default, |when| when.value),
            when_replaced: raw
                .lower
                .as_ref()
                .and_then(|lower| lower.value.when_replaced.as_ref())
                .map_or_else(WhenReplaced::default, |when| when.value),
            mount_options,
            build_users_group,
            use_sqlite_wal: use_sqlite_wal(raw),
            daemon,
            warm,
            gc,
            refresh,
            parameters,
            own,
            set_up_for,
        };
        // Otherwise Nix would never open the store; a finding says so.
        if !store.check_mount.given && !store.unmatchable_paths().is_empty() {
            store.check_mount.value = false;
        }
        self.parts_fit(&store, raw)?;
        Some(store)
    }

    /// The state directory and the log directory.
    fn state_and_log(
        &mut self,
        root: Option<&Path>,
        state: Option<PathBuf>,
        log: Option<PathBuf>,
    ) -> (Setting<PathBuf>, Setting<PathBuf>) {
        let variables = self.environment;
        let state = (state, "nix/var/nix", &variables.state_dir, STATE_DIR);
        let log = (log, "nix/var/log/nix", &variables.log_dir, LOG_DIR);
        let [state, log] = [state, log].map(|(given, below, variable, default)| {
            self.directory(given, root, below, variable, default)
        });
        (state, log)
    }

    /// The store directory that store paths name.
    fn store_directory(&mut self, given: Option<PathBuf>) -> Setting<PathBuf> {
        let variable = &self.environment.store_dir;
        let mut store = self.directory(given, None, "", variable, STORE_DIR);
        // Nix need not be told what it is built with.
        store.given &= store.value != Path::new(STORE_DIR) || variable.is_some();
        store
    }

    fn lower(&mut self, raw: &RawStore, store: &Setting<PathBuf>, served: bool) -> Option<Lower> {
        let lower_store = raw.lower_store.as_ref()?;
        let mut resolver = Resolver {
            environment: self.environment,
            // A daemon opens the store as root.
            auto: match served {
                true => &self.environment.auto_for_root,
                false => &self.environment.auto,
            },
            store_dir: store,
            tell_store_dir: store.given,
            span: lower_store.span.clone(),
            problems: self.problems,
        };
        resolver.resolve(
            &lower_store.value,
            raw.lower.as_ref().map(|table| &table.value),
        )
    }

    /// The lower store that is one of a publication.
    fn published(
        &mut self,
        raw: &RawStore,
        publication: &At<String>,
        table: &RawLower,
        store: &Setting<PathBuf>,
        state: &Path,
    ) -> Option<Lower> {
        if let Some(lower_store) = &raw.lower_store {
            self.problems.push(
                Problem::new("`lower-store` does not go with `lower.publication`")
                    .at(&lower_store.span, "one lower store")
                    .at(&publication.span, "another one")
                    .help("keep one of the two"),
            );
        }
        let mut resolver = Resolver {
            environment: self.environment,
            auto: &self.environment.auto,
            store_dir: store,
            tell_store_dir: store.given,
            span: publication.span.clone(),
            problems: self.problems,
        };
        let link = memory(state).join(GENERATION_LINK);
        resolver.resolve_publication(publication, table, &link)
    }

    /// What is wrong between the parts. `None` where a part is not given.
    fn parts_fit(&mut self, store: &Store, raw: &RawStore) -> Option<()> {
        let places = places(raw);
        parts::check(store, &places, self.problems);
        let lower_store = places.lower_store.or(places.publication)?;
        self.stacking(store, &lower_store);
        self.own_daemon(store, raw, &lower_store);
        Some(())
    }
}

impl Reading<'_> {
    fn build_users_group(&mut self, raw: &RawStore) -> Option<String> {
        let given = raw
            .permissions
            .as_ref()
            .and_then(|table| table.value.build_users_group.as_ref());
        let Some(group) = given else {
            return Some(BUILD_USERS_GROUP.to_owned());
        };
        if group.value.is_empty() {
            return None;
        }
        if group
            .value
            .contains(|c: char| c == ':' || c == '/' || c.is_whitespace() || c.is_control())
        {
            self.problems.push(
                Problem::new("`permissions.build-users-group` is not the name of a group").at(
                    &group.span,
                    "expected a name such as `nixbld`, or `\"\"` for none",
                ),
            );
        }
        Some(group.value.clone())
    }
}

impl Reading<'_> {
    fn remount_hook(&mut self, raw: &RawStore, state: &Path) -> Option<PathBuf> {
        let Some(hook) = &raw.remount_hook else {
            let installed = self.environment.remount_hook.clone();
            return installed.or_else(|| Some(memory(state).join(REMOUNT_HOOK)));
        };
        match &hook.value {
            ProgramOrFalse::False => None,
            ProgramOrFalse::Program(path) => {
                let path = At {
                    value: path.clone(),
                    span: hook.span.clone(),
                };
                read_path("remount-hook", &path, self.problems)
            }
        }
    }
}

impl Reading<'_> {
    /// Keys that have to be there.
    fn missing(&mut self, raw: &RawStore) {
        let example = "every description needs this key: ";
        for (present, key, help) in [
            (
                raw.lower_store.is_some() || raw.published().is_some(),
                "lower-store",
                "the store below, such as `lower-store = \"/mnt/example/store-a\"`, or \"auto\" for the \
             system's own",
            ),
            (
                raw.upper_layer.is_some(),
                "upper-layer",
                "the directory that takes the new objects, such as `upper-layer = \"/mnt/example/store-b\"`",
            ),
            (
                raw.workdir.is_some(),
                "workdir",
                "OverlayFS's work directory, on the same file system as the upper layer, such as `workdir \
             = \"/mnt/example/workdir\"`",
            ),
        ] {
            let misspelled = self
                .problems
                .iter()
                .any(|problem| problem.meant.as_deref() == Some(key));
            if !present && !misspelled {
                self.problems.push(
                    Problem::new(format!("`{key}` is missing")).help(format!("{example}{help}")),
                );
            }
        }
    }
}

fn places(raw: &RawStore) -> Places {
    let span = |given: &Option<At<String>>| given.as_ref().map(|given| given.span.clone());
    let root = span(&raw.root);
    let lower = raw.lower.as_ref().map(|table| &table.value);
    let in_lower =
        |key: fn(&RawLower) -> &Option<At<String>>| lower.and_then(|table| span(key(table)));
    Places {
        real: span(&raw.real).or(root.clone()).or(span(&raw.store)),
        state: span(&raw.state).or(root.clone()),
        log: span(&raw.log).or(root),
        upper_layer: span(&raw.upper_layer),
        workdir: span(&raw.workdir),
        lower_store: span(&raw.lower_store),
        lower_real: in_lower(|table| &table.real),
        lower_state: in_lower(|table| &table.state),
        publication: in_lower(|table| &table.publication),
        socket: raw
            .daemon
            .as_ref()
            .and_then(|table| span(&table.value.socket)),
    }
}

impl Reading<'_> {
    /// The kernel stacks two overlays and no more.
    fn stacking(&mut self, store: &Store, lower_store: &Span) {
        if store.lower.depth() > 1 {
            self.problems.push(
            Problem::new("this store would be a third overlay on top of two others")
                .at(lower_store, "a local-overlay store over another local-overlay store")
                .help(
                    "the kernel stacks two overlays and no more: take the lower store of one of them \
                     as this store's `lower-store`",
                ),
        );
        }
    }
}
