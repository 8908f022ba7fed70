//! Which parts of a store may be where.

use std::path::{Path, PathBuf};

use super::problem::{Problem, Span};
use super::{Lower, MetadataSource, Store};
use crate::escape::show_path;
use crate::nix::layout;

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The merged store directory.
    Merged,
    /// The upper layer.
    UpperLayer,
    /// The work directory.
    WorkDirectory,
    /// The state directory.
    State,
    /// What Nix keeps in the state directory.
    StateContent,
    /// The log directory.
    Log,
    /// The socket of the store's own daemon.
    Socket,
    /// A directory that holds objects of the lower store.
    LowerDirectory,
    /// The state directory of the lower store.
    LowerState,
    /// The socket of the lower store.
    LowerSocket,
}

/// A path of the description, and what is there for it alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is for.
    pub role: Role,
    /// Its name in messages.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Where the file says so, if it does.
    span: Option<Span>,
}

/// How two parts lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// They are one.
    Same,
    /// The first is inside the second.
    Inside,
}

/// Where the file gives the parts.
#[derive(Default)]
pub(super) struct Places {
    pub(super) real: Option<Span>,
    pub(super) state: Option<Span>,
    pub(super) log: Option<Span>,
    pub(super) upper_layer: Option<Span>,
    pub(super) workdir: Option<Span>,
    pub(super) lower_store: Option<Span>,
    pub(super) lower_real: Option<Span>,
    pub(super) lower_state: Option<Span>,
    pub(super) publication: Option<Span>,
    pub(super) socket: Option<Span>,
}

/// Finds parts that are on the same path, or inside one another where that is wrong.
pub(super) fn check(store: &Store, places: &Places, problems: &mut Vec<Problem>) {
    let parts = of(store, places);
    for (index, one) in parts.iter().enumerate() {
        for other in &parts[index + 1..] {
            let problem = if one.path == other.path {
                same(one, other)
            } else if one.path.starts_with(&other.path) {
                nested(one, other)
            } else if other.path.starts_with(&one.path) {
                nested(other, one)
            } else {
                None
            };
            problems.extend(problem);
        }
    }
}

/// The parts of a store: those of its lower store too, of which nothing is ever written to.
pub(crate) fn parts(store: &Store) -> Vec<Part> {
    of(store, &Places::default())
}

fn of(store: &Store, places: &Places) -> Vec<Part> {
    let part = |role, name: &str, path: &Path, span: Option<&Span>| Part {
        role,
        name: name.to_owned(),
        path: path.to_owned(),
        span: span.cloned(),
    };
    let mut parts = vec![
        part(
            Role::UpperLayer,
            "the upper layer",
            &store.upper_layer,
            places.upper_layer.as_ref(),
        ),
        part(
            Role::WorkDirectory,
            "the work directory",
            &store.workdir,
            places.workdir.as_ref(),
        ),
        part(
            Role::Merged,
            "the merged store directory",
            &store.real,
            places.real.as_ref(),
        ),
        part(
            Role::State,
            "the state directory",
            &store.state,
            places.state.as_ref(),
        ),
        part(
            Role::Log,
            "the log directory",
            &store.log,
            places.log.as_ref(),
        ),
    ];
    // Names below the state directory that Nix or overstore keeps something in.
    let names = layout::STATE_TOP.iter().chain(&["overstore"]);
    parts.extend(names.map(|name| {
        let words = format!("`{name}` in the state directory");
        part(
            Role::StateContent,
            &words,
            &store.state.join(name),
            places.state.as_ref(),
        )
    }));
    if let Some(daemon) = &store.daemon
        && !daemon.system
    {
        parts.push(part(
            Role::Socket,
            "the daemon's socket",
            &daemon.socket,
            places.socket.as_ref(),
        ));
    }
    lower_parts(&store.lower, "the lower store", places, &mut parts);
    parts
}

fn lower_parts(lower: &Lower, whose: &str, places: &Places, parts: &mut Vec<Part>) {
    let top = whose == "the lower store";
    let mut add = |role, what: &str, path: &Path, span: Option<&Span>| {
        let name = match what {
            "directory" => format!("{whose} directory"),
            _ => format!("{whose}'s {what}"),
        };
        let span = span
            .filter(|_| top)
            .or(places.lower_store.as_ref())
            .cloned();
        parts.push(Part {
            role,
            name,
            path: path.to_owned(),
            span,
        });
    };
    add(
        Role::LowerDirectory,
        "directory",
        &lower.real,
        places.lower_real.as_ref(),
    );
    if let Some(publication) = &lower.publication {
        let span = places.publication.as_ref();
        add(Role::LowerState, "publication", publication, span);
        return;
    }
    match &lower.source {
        MetadataSource::Database { state, .. } => {
            add(
                Role::LowerState,
                "state directory",
                state,
                places.lower_state.as_ref(),
            );
        }
        MetadataSource::Daemon { socket } => add(Role::LowerSocket, "socket", socket, None),
        MetadataSource::Overlay {
            state,
            upper_layer,
            lower,
            ..
        } => {
            add(
                Role::LowerState,
                "state directory",
                state,
                places.lower_state.as_ref(),
            );
            add(Role::LowerDirectory, "upper layer", upper_layer, None);
            lower_parts(lower, "the lower store's own lower store", places, parts);
        }
        MetadataSource::Ssh { .. } => {}
    }
}

impl Role {
    /// Whether it belongs to the lower store.
    pub(crate) fn is_lower(self) -> bool {
        matches!(
            self,
            Role::LowerDirectory | Role::LowerState | Role::LowerSocket
        )
    }
}

/// Two parts on one path.
fn same(one: &Part, other: &Part) -> Option<Problem> {
    let why = match (one.role, other.role) {
        (Role::Merged, Role::LowerDirectory) => {
            "the mount would hide the lower store from itself: give this store a `root` or a `real` \
             of its own"
        }
        (one, other) => why_not_same(one, other)?,
    };
    let title = format!("{} and {} are on the same path", one.name, other.name);
    Some(point(title, one, other).help(why))
}

/// `inner` inside `outer`.
fn nested(inner: &Part, outer: &Part) -> Option<Problem> {
    let why = why_not_inside(inner.role, outer.role)?;
    let title = format!("{} is inside {}", inner.name, outer.name);
    Some(point(title, inner, outer).help(why))
}

fn point(title: String, one: &Part, other: &Part) -> Problem {
    let mut problem = Problem::new(title);
    let mut without_place = Vec::new();
    for part in [one, other] {
        let text = format!("{} is `{}`", part.name, show_path(&part.path));
        match &part.span {
            Some(span) => problem = problem.at(span, text),
            None => without_place.push(text),
        }
    }
    for text in without_place {
        problem = problem.note(format!("{text} unless the file says otherwise"));
    }
    problem
}

impl Part {
    /// Why this part may not lie so to another one, if that is so, whatever their paths are.
    pub(crate) fn why_not(&self, relation: Relation, other: &Part) -> Option<&'static str> {
        let (one, other) = (self.role, other.role);
        match relation {
            Relation::Same => why_not_same(one, other),
            // What is in a state directory can be elsewhere all the same.
            Relation::Inside => why_not_inside(one, other).or_else(|| match (one, other) {
                (Role::StateContent, Role::State | Role::StateContent) => None,
                (Role::StateContent, _) => why_not_inside(Role::State, other),
                _ => None,
            }),
        }
    }
}

/// Why something of these two kinds may not be one directory, if that is so.
fn why_not_same(one: Role, other: Role) -> Option<&'static str> {
    use Role::*;
    match (one, other) {
        // What the lower store shares with itself is its own affair, and `db` is in the state
        // directory.
        _ if one.is_lower() && other.is_lower() => None,
        // That a daemon would be its own lower store is said elsewhere, in words of its own.
        (Socket, LowerSocket) => None,
        // The mount point may be the directory that the mount covers, if the lower store directory
        // is there on another path too.
        (Merged, LowerDirectory) => None,
        (State, LowerState) => Some(
            "the two stores would share one database, and garbage collection in one would delete \
             what the other uses: give this store a `state` of its own, or a `root`",
        ),
        _ => Some("each part of a store needs a path of its own"),
    }
}

/// Why nothing of the first kind may be inside something of the second, if that is so.
fn why_not_inside(inner: Role, outer: Role) -> Option<&'static str> {
    use Role::*;
    // The lower store's own parts may be inside one another as its owner likes.
    if inner.is_lower() && outer.is_lower() {
        return None;
    }
    match (inner, outer) {
        (StateContent, State | StateContent) | (State, StateContent) => None,
        (StateContent, _) => None,
        (UpperLayer, WorkDirectory) | (WorkDirectory, UpperLayer) => {
            Some("OverlayFS wants them side by side, on one file system")
        }
        (_, Merged) => {
            Some("the mount would hide it: choose a path outside the merged store directory")
        }
        (_, UpperLayer) => Some(
            "what is in the upper layer shows in the merged store directory, where only store objects \
             belong: choose a path outside of it",
        ),
        (_, WorkDirectory) => {
            Some("the work directory is for OverlayFS alone: choose a path outside of it")
        }
        (_, LowerDirectory) => {
            Some("nothing is ever written to the lower store: choose a path outside of it")
        }
        (Merged | UpperLayer | WorkDirectory | State | Log, LowerState) => {
            Some("nothing is ever written to the lower store's state: choose a path outside of it")
        }
        (LowerDirectory | LowerState, State | Log) => Some(
            "nothing of the lower store is ever written to: choose a path that the lower store is not \
             inside of",
        ),
        (Merged | UpperLayer | WorkDirectory | LowerDirectory, StateContent) => {
            Some("Nix and overstore keep their own things there: choose a path outside of it")
        }
        _ => None,
    }
}
