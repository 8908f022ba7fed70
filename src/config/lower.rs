//! From a store reference to a lower store: `auto` resolved, directories and metadata source found
//! as Nix finds them (source: `LocalFSStoreConfig`, `UDSRemoteStoreConfig`,
//! `LocalOverlayStoreConfig`; 2.26 to 2.36).

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::environment::{Auto, Environment};
use super::path::{BadPath, absolute};
use super::problem::{Problem, Span};
use super::raw::RawLower;
use super::read::At;
use super::{Lower, MetadataSource};
use crate::escape::{show, show_path};
use crate::nix::layout::STATE_DIR;
use crate::nix::url::{StoreKind, StoreReference, UrlRules};

/// What a lower store is resolved with.
pub(super) struct Resolver<'a> {
    /// The environment of the one who will open the store.
    pub(super) environment: &'a Environment,
    /// What `auto` is for the one who will open the store.
    pub(super) auto: &'a Auto,
    /// The store directory of the upper store, which the lower store has to share.
    pub(super) store_dir: &'a Path,
    /// Whether Nix has to be told the store directory.
    pub(super) tell_store_dir: bool,
    /// The place of `lower-store`.
    pub(super) span: Span,
    /// Where problems go.
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Resolver<'_> {
    /// Resolves `lower-store`, with what `[lower]` adds.
    pub(super) fn resolve(&mut self, given: &str, table: Option<&RawLower>) -> Option<Lower> {
        let mut reference = match StoreReference::parse(given) {
            Ok(reference) => reference,
            Err(error) => {
                let problem =
                    Problem::new("`lower-store` cannot be used").at(&self.span, error.to_string());
                self.problems.push(match error.help() {
                    Some(help) => problem.help(help),
                    None => problem,
                });
                return None;
            }
        };
        let before = self.problems.len();
        let auto = reference.kind == StoreKind::Auto;
        self.resolve_auto(&mut reference);
        if let Some(table) = table {
            self.add_table(&mut reference, table, auto);
        }
        let lower = self.complete(reference, given)?;
        (self.problems.len() == before).then_some(lower)
    }

    /// The lower store that a publication in `[lower]` makes, read through the link `link`.
    pub(super) fn resolve_publication(
        &mut self,
        given: &At<String>,
        table: &RawLower,
        link: &Path,
    ) -> Option<Lower> {
        let others = [
            (
                "state",
                table.state.as_ref().map(|it| &it.span),
                "the generation has it",
            ),
            (
                "read-only",
                table.read_only.as_ref().map(|it| &it.span),
                "what is published is read-only",
            ),
        ];
        for (key, span, why) in others {
            let Some(span) = span else { continue };
            self.problems.push(
                Problem::new(format!(
                    "`lower.{key}` does not go with `lower.publication`"
                ))
                .at(span, why)
                .at(&given.span, "the publication")
                .help(format!("leave `lower.{key}` out")),
            );
        }
        if table.real.is_none() {
            self.problems.push(
                Problem::new("`lower.real` is missing")
                    .at(&given.span, "a publication has only metadata")
                    .help("name the directory of the objects, as it is mounted here"),
            );
        }
        let before = self.problems.len();
        let directory = read_path("lower.publication", given, self.problems);
        let real = read_path("lower.real", table.real.as_ref()?, self.problems);
        let (directory, real) = (directory?, real?);
        let mut reference = StoreReference::new(StoreKind::Local);
        reference.set("real", real.as_os_str().as_bytes());
        reference.set("state", link.as_os_str().as_bytes());
        reference.set("read-only", "true");
        let lower = self.complete(reference, &given.value)?;
        (self.problems.len() == before).then_some(Lower {
            publication: Some(directory),
            ..lower
        })
    }

    /// Adds what the URL does not tell.
    fn add_table(&mut self, reference: &mut StoreReference, table: &RawLower, auto: bool) {
        let stateless = match &reference.kind {
            StoreKind::Daemon { .. } if auto => Some("`auto` is the daemon here, and a daemon"),
            StoreKind::Daemon { .. } | StoreKind::MountedSsh { .. } => Some("a daemon"),
            _ => None,
        };
        if let Some(real) = &table.real {
            self.add(reference, "real", &real.span, real.value.as_bytes());
        }
        if let Some(state) = &table.state {
            match stateless {
                None => self.add(reference, "state", &state.span, state.value.as_bytes()),
                Some(who) => {
                    self.has_no(reference, "state", &state.span, who, "keeps its own state")
                }
            }
        }
        if let Some(read_only) = &table.read_only {
            match stateless {
                None if read_only.value => {
                    self.add(reference, "read-only", &read_only.span, b"true")
                }
                None => self.add(reference, "read-only", &read_only.span, b"false"),
                Some(who) => {
                    let why = "opens its own database, and nothing below is written through it";
                    self.has_no(reference, "read-only", &read_only.span, who, why);
                }
            }
        }
    }

    fn add(&mut self, reference: &mut StoreReference, name: &str, span: &Span, value: &[u8]) {
        if reference.get(name).is_some() {
            self.problems.push(
                Problem::new(format!("`lower.{name}` is given twice"))
                    .at(span, "given here")
                    .at(
                        &self.span,
                        format!("and by the URL in `lower-store`, as `{name}=`"),
                    )
                    .help("keep one of the two"),
            );
            return;
        }
        if name != "read-only"
            && let Err(bad) = absolute(value)
        {
            self.problems
                .push(bad_path(&format!("lower.{name}"), span, value, bad));
            return;
        }
        reference.set(name, value);
    }

    fn has_no(
        &mut self,
        reference: &StoreReference,
        name: &str,
        span: &Span,
        who: &str,
        why: &str,
    ) {
        let mut problem = Problem::new(format!("`lower.{name}` does not go with this lower store"))
            .at(span, format!("{who} {why}"))
            .at(&self.span, "the lower store");
        problem = match reference.kind {
            StoreKind::MountedSsh { .. } => problem.help(format!("leave `lower.{name}` out")),
            _ => problem.help(format!(
                "leave `lower.{name}` out, or write the store as a local one (`local`, or its root) to \
                 have its database read without the daemon"
            )),
        };
        self.problems.push(problem);
    }

    /// Makes `auto` what it is for the one who will open the store.
    fn resolve_auto(&mut self, reference: &mut StoreReference) {
        if reference.kind != StoreKind::Auto {
            return;
        }
        // Versions of Nix look at different places to tell what these are.
        for name in ["root", "state"] {
            if reference.get(name).is_some() {
                self.problems.push(
                    Problem::new(format!(
                        "`auto` with `{name}` is not the same store for every Nix"
                    ))
                    .at(
                        &self.span,
                        "`auto` depends on whether the state directory is writable, and versions \
                         of Nix differ in \
                         which one they mean",
                    )
                    .help(format!(
                        "write `local?{name}=...`, or `unix://SOCKET` for a daemon"
                    )),
                );
            }
        }
        let bare = reference.parameters().next().is_none();
        reference.kind = match self.auto {
            Auto::Daemon => StoreKind::Daemon { socket: None },
            Auto::Local | Auto::InHome(_) => StoreKind::Local,
        };
        if let (Auto::InHome(root), true) = (self.auto, bare) {
            reference.set("root", root.as_os_str().as_bytes());
        }
    }

    /// Finds what Nix finds for a reference.
    fn complete(&mut self, mut reference: StoreReference, given: &str) -> Option<Lower> {
        self.resolve_auto(&mut reference);
        self.share_store_dir(&mut reference);
        let root = self.path(&mut reference, "root");
        let state = self.path(&mut reference, "state");
        let real = self.path(&mut reference, "real");
        let (root, state, real) = (root?, state?, real?);
        let real = real_of(real, root.as_deref(), self.store_dir);
        let source = match reference.kind.clone() {
            // Resolved above.
            StoreKind::Auto | StoreKind::Local => MetadataSource::Database {
                state: self.state(&mut reference, root.as_deref(), state),
                read_only: self.read_only(&reference)?,
            },
            StoreKind::Daemon { socket } => {
                let socket = match socket {
                    Some(socket) => self.socket(&mut reference, &socket)?,
                    None => {
                        self.default_socket(&mut reference, root.is_some() || state.is_some())?
                    }
                };
                MetadataSource::Daemon { socket }
            }
            StoreKind::LocalOverlay => {
                let state = self.state(&mut reference, root.as_deref(), state);
                let read_only = self.read_only(&reference)?;
                let upper_layer = self.middle_upper_layer(&mut reference)?;
                let inner = match reference.lower_store() {
                    Some(inner) => inner.clone(),
                    // Nix's default.
                    None => StoreReference::new(StoreKind::Auto),
                };
                let text = inner.render(UrlRules::Since2_34);
                let lower = self.complete(inner, &text)?;
                reference.set("lower-store", lower.reference.clone());
                MetadataSource::Overlay {
                    state,
                    upper_layer,
                    read_only,
                    lower: Box::new(lower),
                }
            }
            StoreKind::MountedSsh { authority } => MetadataSource::Ssh { authority },
        };
        Some(Lower {
            given: given.to_owned(),
            reference,
            real,
            source,
            publication: None,
        })
    }

    /// A path among the parameters, in its one form: `Some(None)` if it is not there, `None` if it
    /// cannot be used.
    fn path(&mut self, reference: &mut StoreReference, name: &str) -> Option<Option<PathBuf>> {
        let Some(value) = reference.text(name).map(<[u8]>::to_vec) else {
            return Some(None);
        };
        match absolute(&value) {
            Ok(path) => {
                reference.set(name, path.as_os_str().as_bytes());
                Some(Some(path))
            }
            Err(BadPath::Root) if name == "root" => {
                self.problems.push(
                    Problem::new("the lower store's root is `/`")
                        .at(&self.span, "Nix takes a store with the root `/` for a chroot store, in `//nix/store`")
                        .help("write `lower-store = \"local\"` for the system's own store"),
                );
                None
            }
            Err(bad) => {
                self.problems.push(bad_path(
                    &format!("{name}` in `lower-store"),
                    &self.span,
                    &value,
                    bad,
                ));
                None
            }
        }
    }

    fn state(
        &mut self,
        reference: &mut StoreReference,
        root: Option<&Path>,
        state: Option<PathBuf>,
    ) -> PathBuf {
        match (state, root) {
            (Some(state), _) => state,
            (None, Some(root)) => root.join("nix/var/nix"),
            (None, None) => match &self.environment.state_dir {
                // The one who opens the store need not have the variable: Nix is told.
                Some(state) => {
                    reference.set("state", state.as_os_str().as_bytes());
                    state.clone()
                }
                None => PathBuf::from(STATE_DIR),
            },
        }
    }

    fn read_only(&mut self, reference: &StoreReference) -> Option<bool> {
        match reference.text("read-only") {
            None | Some(b"false" | b"no" | b"0") => Some(false),
            Some(b"true" | b"yes" | b"1") => Some(true),
            Some(other) => {
                self.problems.push(
                    Problem::new("`read-only` in `lower-store` has the wrong value").at(
                        &self.span,
                        format!("expected `true` or `false`, found `{}`", show(other)),
                    ),
                );
                None
            }
        }
    }

    fn socket(&mut self, reference: &mut StoreReference, socket: &[u8]) -> Option<PathBuf> {
        match absolute(socket) {
            Ok(path) => {
                let bytes = path.as_os_str().as_bytes().to_vec();
                reference.kind = StoreKind::Daemon {
                    socket: Some(bytes),
                };
                Some(path)
            }
            Err(bad) => {
                self.problems
                    .push(bad_path("lower-store", &self.span, socket, bad));
                None
            }
        }
    }

    /// The socket of `daemon`.
    fn default_socket(&mut self, reference: &mut StoreReference, moved: bool) -> Option<PathBuf> {
        if moved {
            let socket = self.environment.socket();
            self.problems.push(
                Problem::new("which socket this is depends on the version of Nix")
                    .at(
                        &self.span,
                        "since 2.35 the one below `root` or `state`, before that the system's own",
                    )
                    .help(format!(
                        "name the socket: `unix://{}?root=...` is the system's own",
                        show_path(&socket)
                    )),
            );
            return None;
        }
        if let Some(socket) = &self.environment.daemon_socket {
            // As with the state directory.
            let bytes = socket.as_os_str().as_bytes().to_vec();
            reference.kind = StoreKind::Daemon {
                socket: Some(bytes),
            };
        }
        Some(self.environment.socket())
    }

    fn middle_upper_layer(&mut self, reference: &mut StoreReference) -> Option<PathBuf> {
        let upper_layer = self.path(reference, "upper-layer")?;
        if upper_layer.is_none() {
            self.problems.push(
                Problem::new("the local-overlay store in `lower-store` has no `upper-layer`")
                    .at(&self.span, "Nix does not open it without one")
                    .help("add `&upper-layer=DIRECTORY` to the URL"),
            );
        }
        upper_layer
    }

    /// Sees to it that the lower store has the upper store's store directory: otherwise Nix reads
    /// none of its store paths.
    fn share_store_dir(&mut self, reference: &mut StoreReference) {
        match reference.text("store") {
            None if self.tell_store_dir => {
                reference.set("store", self.store_dir.as_os_str().as_bytes());
            }
            Some(store) if absolute(store).as_deref() != Ok(self.store_dir) => {
                let (lower, upper) = (show(store), show_path(self.store_dir));
                self.problems.push(
                    Problem::new("the lower store has another store directory")
                        .at(
                            &self.span,
                            format!(
                                "its store paths begin with `{lower}`, this store's with `{upper}`"
                            ),
                        )
                        .help("the key `store` is that of this store: both have to be the same"),
                );
            }
            _ => {}
        }
    }
}

/// Where the objects of a store are that may be named with `real`, or with `root`, and has this store
/// directory.
fn real_of(real: Option<PathBuf>, root: Option<&Path>, store_dir: &Path) -> PathBuf {
    match (real, root) {
        (Some(real), _) => real,
        (None, Some(root)) => root.join("nix/store"),
        (None, None) => store_dir.to_owned(),
    }
}

/// Where the objects are of the store that a URL names, as [`Lower::real`](super::Lower) has it, for a
/// store whose store directory is `store_dir`.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn objects_of(url: &[u8], store_dir: &Path) -> Result<PathBuf, String> {
    let text = std::str::from_utf8(url).map_err(|_| "it is not UTF-8".to_owned())?;
    let reference = StoreReference::parse(text).map_err(|error| error.to_string())?;
    let path = |name: &str| match reference.text(name) {
        None => Ok(None),
        Some(value) => match absolute(value) {
            Ok(path) => Ok(Some(path)),
            Err(bad) => Err(format!("`{name}` in it {}", bad.what())),
        },
    };
    Ok(real_of(path("real")?, path("root")?.as_deref(), store_dir))
}

/// Where a local store has its objects and its state: of a URL as Nix reads it, or of a directory, which
/// is its root; for the store directory `store_dir`.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn places_of(url: &str, store_dir: &Path) -> Result<(PathBuf, PathBuf), String> {
    let reference = StoreReference::parse(url).map_err(|error| error.to_string())?;
    if reference.kind != StoreKind::Local {
        return Err("only a local store has a database here".to_owned());
    }
    let path = |name: &str| match reference.text(name) {
        None => Ok(None),
        Some(value) => match absolute(value) {
            Ok(path) => Ok(Some(path)),
            Err(bad) => Err(format!("`{name}` in it {}", bad.what())),
        },
    };
    let root = path("root")?;
    let below = |root: &PathBuf| root.join("nix/var/nix");
    let state = path("state")?.or_else(|| root.as_ref().map(below));
    let real = real_of(path("real")?, root.as_deref(), store_dir);
    Ok((real, state.unwrap_or_else(|| STATE_DIR.into())))
}

/// A path of the file that cannot be used.
pub(super) fn bad_path(key: &str, span: &Span, value: &[u8], bad: BadPath) -> Problem {
    Problem::new(format!("`{key}` {}", bad.what()))
        .at(span, format!("found `{}`", show(value)))
        .help(bad.help())
}

/// A path of the file.
pub(super) fn read_path(
    key: &str,
    given: &At<String>,
    problems: &mut Vec<Problem>,
) -> Option<PathBuf> {
    match absolute(given.value.as_bytes()) {
        Ok(path) => Some(path),
        Err(bad) => {
            problems.push(bad_path(key, &given.span, given.value.as_bytes(), bad));
            None
        }
    }
}

/// The paths of a list of the file that can be used.
pub(super) fn read_paths(
    key: &str,
    list: &Option<At<Vec<At<String>>>>,
    problems: &mut Vec<Problem>,
) -> Vec<PathBuf> {
    let items = list.iter().flat_map(|list| &list.value).enumerate();
    items
        .filter_map(|(index, path)| read_path(&format!("{key}[{index}]"), path, problems))
        .collect()
}
