//! Which parts of a store may be where.

use std::path::{Path, PathBuf};

use super::problem::{Problem, Span};
use super::{Lower, MetadataSource, Store};
use crate::escape::show_path;
use crate::nix::layout;

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
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

/// A path of the description.
struct Part {
    role: Role,
    /// Its name in messages.
    name: String,
    path: PathBuf,
    /// Where the file says so, if it does.
    span: Option<Span>,
}

/// Where the file gives the parts.
pub(super) struct Places {
    pub(super) real: Option<Span>,
    pub(super) state: Option<Span>,
    pub(super) log: Option<Span>,
    pub(super) upper_layer: Span,
    pub(super) workdir: Span,
    pub(super) lower_store: Span,
    pub(super) lower_real: Option<Span>,
    pub(super) lower_state: Option<Span>,
    pub(super) socket: Option<Span>,
}

/// Finds parts that are on the same path, or inside one another where that is wrong.
pub(super) fn check(store: &Store, places: &Places, problems: &mut Vec<Problem>) {
    let parts = parts(store, places);
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

fn parts(store: &Store, places: &Places) -> Vec<Part> {
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
            Some(&places.upper_layer),
        ),
        part(
            Role::WorkDirectory,
            "the work directory",
            &store.workdir,
            Some(&places.workdir),
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
        && let Some(span) = &places.socket
    {
        parts.push(part(
            Role::Socket,
            "the daemon's socket",
            &daemon.socket,
            Some(span),
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
        let span = Some(span.filter(|_| top).unwrap_or(&places.lower_store).clone());
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
    fn is_lower(self) -> bool {
        matches!(
            self,
            Role::LowerDirectory | Role::LowerState | Role::LowerSocket
        )
    }
}

/// Two parts on one path.
fn same(one: &Part, other: &Part) -> Option<Problem> {
    // What the lower store shares with itself is its own affair, and `db` is in the state directory.
    if one.role.is_lower() && other.role.is_lower() {
        return None;
    }
    // That a daemon would be its own lower store is said elsewhere, in words of its own.
    if (one.role, other.role) == (Role::Socket, Role::LowerSocket) {
        return None;
    }
    let why = match (one.role, other.role) {
        (Role::State, Role::LowerState) => {
            "the two stores would share one database, and garbage collection in one would delete \
             what the other uses: give this store a `state` of its own, or a `root`"
        }
        (Role::Merged, Role::LowerDirectory) => {
            "the mount would hide the lower store from itself: give this store a `root` or a `real` \
             of its own"
        }
        _ => "each part of a store needs a path of its own",
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
        (Merged | UpperLayer | WorkDirectory | LowerDirectory, StateContent) => {
            Some("Nix and overstore keep their own things there: choose a path outside of it")
        }
        _ => None,
    }
}
