//! What keeps an object alive.

use std::path::PathBuf;

use super::absent::Absent;
use crate::escape::show_path;
use crate::nix::store_path::StorePath;

/// A root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Root {
    /// The object that it keeps.
    pub path: StorePath,
    /// What keeps it.
    pub kind: RootKind,
}

/// What keeps an object alive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RootKind {
    /// A link or a file, in `gcroots` or `profiles`, or one that a link there leads to.
    Link(PathBuf),
    /// A process that has said so (`temproots`): a build, an addition, an evaluation.
    Temporary(String),
    /// A process that runs from it, has it open, or has it in its environment.
    Process {
        /// The process's number.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// A kernel setting that names it.
    Kernel(PathBuf),
    /// Nothing but that it is in both layers, where a collection leaves it.
    BothLayers,
    /// What Nix said when it was asked: a link, or in braces what else.
    Nix(String),
}

impl RootKind {
    /// The root in words.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Link(link) => show_path(link).into_owned(),
            Self::Temporary(file) => format!("a process of Nix (temproots/{file})"),
            Self::Process { pid, name } => format!("process {pid} ({name})"),
            Self::Kernel(file) => show_path(file).into_owned(),
            Self::BothLayers => "it is in both layers, so it is left".to_owned(),
            Self::Nix(what) => what.clone(),
        }
    }
}

/// All roots of a store, valid or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Roots {
    /// The roots, by path.
    pub roots: Vec<Root>,
    /// Links whose targets cannot be seen now and may come back.
    pub absent: Vec<Absent>,
    /// Processes that this one may not look into.
    pub unseen_processes: u32,
    /// Directories of roots that this user may not look into.
    pub unseen_directories: Vec<PathBuf>,
}

impl Roots {
    /// Those that keep this object itself.
    pub(super) fn of(&self, path: &StorePath) -> impl Iterator<Item = &Root> {
        let first = self.roots.partition_point(|root| root.path < *path);
        let rest = self.roots.get(first..).unwrap_or_default();
        rest.iter().take_while(move |root| root.path == *path)
    }

    /// Adds what Nix found: links, or in braces what else, and what they keep.
    pub(super) fn add(&mut self, found: Vec<(String, StorePath)>) {
        let roots = found.into_iter().map(|(link, path)| Root {
            path,
            kind: RootKind::Nix(link),
        });
        self.roots.extend(roots);
        self.roots.sort();
        self.roots.dedup();
    }
}
