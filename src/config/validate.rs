//! From the keys as written to a validated [`Store`].

use std::path::{Path, PathBuf};

use super::environment::{Environment, LOG_DIR, STATE_DIR, STORE_DIR};
use super::lower::{Resolver, bad_path, read_path};
use super::mount_options;
use super::parts::{self, Places};
use super::path::{BadPath, absolute};
use super::problem::{Problem, Span};
use super::quantity::{Age, Size};
use super::raw::{RawDaemon, RawGc, RawLower, RawStore, RawWarm};
use super::read::{At, ProgramOrFalse, Scalars};
use super::{Daemon, Gc, MetadataSource, Setting, Store, WarmAtUp};
use crate::escape::{shell_quote, show_path};
use crate::nix::url::is_parameter_name;

/// The group that Nix uses unless told otherwise.
const BUILD_USERS_GROUP: &str = "nixbld";

/// Parameters of the store URL that have keys of their own, with those keys.
const OWN_KEYS: &[(&str, &str)] = &[
    ("root", "root"),
    ("real", "real"),
    ("state", "state"),
    ("log", "log"),
    ("store", "store"),
    ("lower-store", "lower-store"),
    ("upper-layer", "upper-layer"),
    ("check-mount", "check-mount"),
    ("remount-hook", "remount-hook"),
];

/// Validates what was read. `whole` is false after an error of syntax: keys may then be missing
/// because the reader lost them, and nothing is said about that.
pub(super) fn validate(
    name: &str,
    raw: &RawStore,
    environment: &Environment,
    whole: bool,
    problems: &mut Vec<Problem>,
) -> Option<Store> {
    let given = Given::read(raw, problems);
    let daemon = daemon(raw.daemon.as_ref(), environment, problems);
    let mut store = directory(
        given.store,
        None,
        "",
        &environment.store_dir,
        STORE_DIR,
        problems,
    );
    // Nix need not be told what it is built with.
    store.given &= store.value != Path::new(STORE_DIR) || environment.store_dir.is_some();
    let lower = raw.lower_store.as_ref().and_then(|lower_store| {
        let mut resolver = Resolver {
            environment,
            auto: match daemon {
                Some(_) => &environment.auto_for_root,
                None => &environment.auto,
            },
            store_dir: &store,
            tell_store_dir: store.given,
            span: lower_store.span.clone(),
            problems,
        };
        resolver.resolve(
            &lower_store.value,
            raw.lower.as_ref().map(|table| &table.value),
        )
    });
    let mount_options = mount_options::read(raw.mount.as_ref(), problems);
    let build_users_group = build_users_group(raw, problems);
    let warm = warm(raw.warm.as_ref(), problems);
    let gc = gc(raw.gc.as_ref(), problems);
    let parameters = parameters(raw.parameters.as_ref(), problems);
    let remount_hook = remount_hook(raw, environment, problems);
    if whole {
        missing(raw, problems);
    }

    let (lower, upper_layer, workdir) = (lower?, given.upper_layer?, given.workdir?);
    // A root that was given and cannot be used leaves nothing that could follow from it.
    if raw.root.is_some() && given.root.is_none() {
        return None;
    }
    let root = given.root.as_deref();
    let real = match given.real {
        Some(real) => Setting {
            value: real,
            given: true,
        },
        None => Setting {
            value: root.map_or_else(|| store.value.clone(), |root| root.join("nix/store")),
            given: false,
        },
    };
    let state = directory(
        given.state,
        root,
        "nix/var/nix",
        &environment.state_dir,
        STATE_DIR,
        problems,
    );
    let log = directory(
        given.log,
        root,
        "nix/var/log/nix",
        &environment.log_dir,
        LOG_DIR,
        problems,
    );
    let mut store = Store {
        name: name.to_owned(),
        arguments: shell_quote(name.as_ref()),
        root: given.root,
        real,
        state,
        log,
        store,
        lower,
        upper_layer,
        workdir,
        check_mount: match &raw.check_mount {
            Some(check_mount) => Setting {
                value: check_mount.value,
                given: true,
            },
            None => Setting {
                value: true,
                given: false,
            },
        },
        remount_hook,
        mount_options,
        build_users_group,
        use_sqlite_wal: raw
            .database
            .as_ref()
            .and_then(|database| database.value.use_sqlite_wal.as_ref())
            .is_none_or(|use_sqlite_wal| use_sqlite_wal.value),
        daemon,
        warm,
        gc,
        parameters,
    };
    // Otherwise Nix would never open the store; a finding says so.
    if !store.check_mount.given && !store.unmatchable_paths().is_empty() {
        store.check_mount.value = false;
    }
    let places = places(raw)?;
    parts::check(&store, &places, problems);
    stacking(&store, &places.lower_store, problems);
    own_daemon(&store, raw, &places.lower_store, problems);
    Some(store)
}

/// The paths that the file gives.
struct Given {
    root: Option<PathBuf>,
    real: Option<PathBuf>,
    state: Option<PathBuf>,
    log: Option<PathBuf>,
    store: Option<PathBuf>,
    upper_layer: Option<PathBuf>,
    workdir: Option<PathBuf>,
}

impl Given {
    fn read(raw: &RawStore, problems: &mut Vec<Problem>) -> Given {
        let mut path = |key, given: &Option<At<String>>| read_path(key, given.as_ref()?, problems);
        let real = path("real", &raw.real);
        let state = path("state", &raw.state);
        let log = path("log", &raw.log);
        let store = path("store", &raw.store);
        let upper_layer = path("upper-layer", &raw.upper_layer);
        let workdir = path("workdir", &raw.workdir);
        let root = raw.root.as_ref().and_then(|root| read_root(root, problems));
        Given {
            root,
            real,
            state,
            log,
            store,
            upper_layer,
            workdir,
        }
    }
}

fn read_root(root: &At<String>, problems: &mut Vec<Problem>) -> Option<PathBuf> {
    match absolute(root.value.as_bytes()) {
        Ok(path) => Some(path),
        Err(BadPath::Root) => {
            problems.push(
                Problem::new("`root` is `/`")
                    .at(
                        &root.span,
                        "the store would be in `//nix/store`, which Nix takes for a chroot store: it \
                         redirects every build output",
                    )
                    .help("leave `root` out: the store is then the system's own, in `/nix/store`"),
            );
            None
        }
        Err(bad) => {
            problems.push(bad_path("root", &root.span, root.value.as_bytes(), bad));
            None
        }
    }
}

/// A directory as Nix finds it: given, else below the root, else from the environment, else where
/// Nix is built to have it.
fn directory(
    given: Option<PathBuf>,
    root: Option<&Path>,
    below_root: &str,
    variable: &Option<PathBuf>,
    built_in: &str,
    problems: &mut Vec<Problem>,
) -> Setting<PathBuf> {
    match (given, root, variable) {
        (Some(path), _, _) => Setting {
            value: path,
            given: true,
        },
        (None, Some(root), _) => Setting {
            value: root.join(below_root),
            given: false,
        },
        // The one who opens the store need not have the variable: Nix is told.
        (None, None, Some(path)) => {
            match absolute(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())) {
                Ok(path) => Setting {
                    value: path,
                    given: true,
                },
                Err(bad) => {
                    problems.push(Problem::new(format!(
                        "`{}`, from the environment, {}",
                        show_path(path),
                        bad.what()
                    )));
                    Setting {
                        value: PathBuf::from(built_in),
                        given: false,
                    }
                }
            }
        }
        (None, None, None) => Setting {
            value: PathBuf::from(built_in),
            given: false,
        },
    }
}

fn daemon(
    raw: Option<&At<RawDaemon>>,
    environment: &Environment,
    problems: &mut Vec<Problem>,
) -> Option<Daemon> {
    let raw = &raw?.value;
    let serve = raw.serve.as_ref().filter(|serve| serve.value);
    match (serve, &raw.socket) {
        (Some(serve), Some(socket)) => {
            problems.push(
                Problem::new("`daemon.serve` and `daemon.socket` exclude each other")
                    .at(
                        &serve.span,
                        "this store is served by the system's own daemon",
                    )
                    .at(&socket.span, "this store is served by a daemon of its own")
                    .help("keep one of the two"),
            );
            None
        }
        (Some(_), None) => Some(Daemon {
            socket: environment.socket(),
            system: true,
        }),
        (None, Some(socket)) => {
            let path = read_path("daemon.socket", socket, problems)?;
            Some(Daemon {
                socket: path,
                system: false,
            })
        }
        (None, None) => None,
    }
}

fn warm(raw: Option<&At<RawWarm>>, problems: &mut Vec<Problem>) -> Option<WarmAtUp> {
    let table = raw?;
    let raw = &table.value;
    let mut read = |key: &str, list: &Option<At<Vec<At<String>>>>| -> Vec<PathBuf> {
        let items = list.iter().flat_map(|list| &list.value).enumerate();
        items
            .filter_map(|(index, path)| read_path(&format!("{key}[{index}]"), path, problems))
            .collect()
    };
    let paths = read("warm.paths", &raw.paths);
    let roots = read("warm.roots", &raw.roots);
    let is_true = |key: &Option<At<bool>>| key.as_ref().is_some_and(|key| key.value);
    let lists = [&raw.paths, &raw.roots].into_iter().flatten();
    let given = lists.clone().find(|list| !list.value.is_empty());
    if let (Some(all), Some(list)) = (raw.all.as_ref().filter(|all| all.value), given) {
        problems.push(
            Problem::new("`warm.all` leaves nothing for `warm.paths` and `warm.roots`")
                .at(&all.span, "everything that is valid below is copied up")
                .at(&list.span, "this is part of it")
                .help("keep one of the two"),
        );
        return None;
    }
    if !is_true(&raw.all) && given.is_none() {
        if let Some(keep) = raw.keep.as_ref().filter(|keep| keep.value) {
            problems.push(
                Problem::new("`warm.keep` has nothing to keep")
                    .at(&keep.span, "nothing is copied up")
                    .help("give `warm.paths`, `warm.roots` or `warm.all`, too"),
            );
        }
        return None;
    }
    Some(WarmAtUp {
        all: is_true(&raw.all),
        paths,
        roots,
        keep: is_true(&raw.keep),
    })
}

fn gc(raw: Option<&At<RawGc>>, problems: &mut Vec<Problem>) -> Option<Gc> {
    let raw = &raw?.value;
    let mut limits = Vec::new();
    let mut limit = |key: &str, option, given: &Option<At<String>>, wrong: Option<&str>| {
        let Some(given) = given else { return };
        match wrong {
            None => limits.push((option, given.value.clone())),
            Some(expected) => problems
                .push(Problem::new(format!("`gc.{key}` cannot be read")).at(&given.span, expected)),
        }
    };
    let age = |given: &Option<At<String>>| given.as_ref()?.value.parse::<Age>().err();
    let size = |given: &Option<At<String>>| given.as_ref()?.value.parse::<Size>().err();
    let older_than = &raw.older_than;
    limit("older-than", "--older-than", older_than, age(older_than));
    limit("min-free", "--min-free", &raw.min_free, size(&raw.min_free));
    limit("max-free", "--max-free", &raw.max_free, size(&raw.max_free));
    let schedule = match &raw.schedule {
        None => (!limits.is_empty()).then(|| "daily".to_owned()),
        Some(given) if given.value.trim().is_empty() || given.value.contains(['\n', '%']) => {
            problems.push(
                Problem::new("`gc.schedule` is no calendar event")
                    .at(
                        &given.span,
                        "expected one of systemd, such as `daily` or `Sun 03:00`",
                    )
                    .help("`systemd-analyze calendar` tells what one means"),
            );
            return None;
        }
        Some(given) => Some(given.value.clone()),
    };
    Some(Gc {
        schedule,
        limits,
        leftovers: raw.leftovers.as_ref().is_some_and(|given| given.value),
    })
}

fn build_users_group(raw: &RawStore, problems: &mut Vec<Problem>) -> Option<String> {
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
        problems.push(
            Problem::new("`permissions.build-users-group` is not the name of a group").at(
                &group.span,
                "expected a name such as `nixbld`, or `\"\"` for none",
            ),
        );
    }
    Some(group.value.clone())
}

fn remount_hook(
    raw: &RawStore,
    environment: &Environment,
    problems: &mut Vec<Problem>,
) -> Option<PathBuf> {
    let Some(hook) = &raw.remount_hook else {
        return environment.remount_hook.clone();
    };
    match &hook.value {
        ProgramOrFalse::False => None,
        ProgramOrFalse::Program(path) => {
            let path = At {
                value: path.clone(),
                span: hook.span.clone(),
            };
            read_path("remount-hook", &path, problems)
        }
    }
}

fn parameters(raw: Option<&At<Scalars>>, problems: &mut Vec<Problem>) -> Vec<(String, String)> {
    let Some(raw) = raw else { return Vec::new() };
    let mut parameters = Vec::new();
    for (name, value) in &raw.value.0 {
        let problem = if let Some((_, key)) = OWN_KEYS.iter().find(|(own, _)| own == name) {
            Problem::new(format!("`parameters.{name}` is set by overstore itself"))
                .at(&value.key, "it follows from the description")
                .help(format!("write `{key}` at the top of the file"))
        } else if name == "use-sqlite-wal" {
            Problem::new("`use-sqlite-wal` is no parameter of a store URL")
                .at(&value.key, "Nix takes it from nix.conf alone")
                .help("write it below the line `[database]`")
        } else if name == "workdir" {
            Problem::new("`workdir` is no parameter of a store URL")
                .at(&value.key, "only OverlayFS knows of it")
                .help("write `workdir` at the top of the file")
        } else if !is_parameter_name(name) {
            Problem::new(format!(
                "`{}` cannot be the name of a parameter",
                name.escape_debug()
            ))
            .at(&value.key, "expected letters, digits, `-` and `_`")
        } else if value.text.contains('\0') {
            Problem::new(format!("`parameters.{name}` has a byte 0"))
                .at(&value.span, "no setting of Nix can have one")
        } else {
            parameters.push((name.clone(), value.text.clone()));
            continue;
        };
        problems.push(problem);
    }
    parameters
}

/// Keys that have to be there.
fn missing(raw: &RawStore, problems: &mut Vec<Problem>) {
    let example = "it is one of the three keys that every description has: ";
    for (present, key, help) in [
        (
            raw.lower_store.is_some(),
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
        let misspelled = problems
            .iter()
            .any(|problem| problem.meant.as_deref() == Some(key));
        if !present && !misspelled {
            problems
                .push(Problem::new(format!("`{key}` is missing")).help(format!("{example}{help}")));
        }
    }
}

fn places(raw: &RawStore) -> Option<Places> {
    let span = |given: &Option<At<String>>| given.as_ref().map(|given| given.span.clone());
    let root = span(&raw.root);
    let lower = raw.lower.as_ref().map(|table| &table.value);
    let in_lower =
        |key: fn(&RawLower) -> &Option<At<String>>| lower.and_then(|table| span(key(table)));
    Some(Places {
        real: span(&raw.real).or(root.clone()).or(span(&raw.store)),
        state: span(&raw.state).or(root.clone()),
        log: span(&raw.log).or(root),
        upper_layer: span(&raw.upper_layer)?,
        workdir: span(&raw.workdir)?,
        lower_store: span(&raw.lower_store)?,
        lower_real: in_lower(|table| &table.real),
        lower_state: in_lower(|table| &table.state),
        socket: raw
            .daemon
            .as_ref()
            .and_then(|table| span(&table.value.socket)),
    })
}

/// The kernel stacks two overlays and no more.
fn stacking(store: &Store, lower_store: &Span, problems: &mut Vec<Problem>) {
    if store.lower.depth() > 1 {
        problems.push(
            Problem::new("this store would be a third overlay on top of two others")
                .at(lower_store, "a local-overlay store over another local-overlay store")
                .help(
                    "the kernel stacks two overlays and no more: take the lower store of one of them \
                     as this store's `lower-store`",
                ),
        );
    }
}

/// A daemon whose store has that daemon's own socket below connects to itself without end.
fn own_daemon(store: &Store, raw: &RawStore, lower_store: &Span, problems: &mut Vec<Problem>) {
    let Some(daemon) = &store.daemon else { return };
    let mut lower = &store.lower;
    loop {
        match &lower.source {
            MetadataSource::Daemon { socket } if *socket == daemon.socket => {
                let mut problem =
                    Problem::new("the lower store is the daemon that serves this store").at(
                        lower_store,
                        format!("this daemon listens on `{}`", show_path(socket)),
                    );
                if let Some(table) = &raw.daemon {
                    let place = table.value.socket.as_ref().map(|socket| &socket.span);
                    let place = place.or(table.value.serve.as_ref().map(|serve| &serve.span));
                    if let Some(place) = place {
                        problem = problem.at(place, "and so does the one that serves this store");
                    }
                }
                problems.push(problem.help(
                    "it would connect to itself without end: write `lower-store = \"local\"` to read \
                     the lower store's database, or give this store a daemon with another `socket`",
                ));
                return;
            }
            MetadataSource::Overlay { lower: below, .. } => lower = below,
            _ => return,
        }
    }
}
