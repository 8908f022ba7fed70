//! The validated description of one local-overlay store.
//!
//! Everything here is decided: defaults are filled in, `auto` is resolved, paths are absolute and
//! free of `.` and `..`. The words are those of the Nix manual's "Local Overlay Store".

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::names::REMOUNT_HOOK;
use crate::linux::file_identity::FileIdentity;
use crate::nix::layout;
use crate::nix::mount_check::{self, CheckedPath, Unmatchable};
use crate::nix::url::StoreReference;
use crate::overlayfs::options::{MountOption, USERXATTR};
use crate::remedy::{CommandLine, command};

/// The file in [`Store::memory`] that overstore remembers a store in.
pub(crate) const MEMORY_FILE: &str = "state.json";

/// One local-overlay store, as described by one TOML file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The store's name: the file's name without `.toml`. Used in units, records and messages.
    pub name: String,
    /// What to write for the program, in commands of overstore: its name, unless somebody sets it.
    pub program: OsString,
    /// What to write after a command of overstore for this store: the STORE argument as it was
    /// given, after `--root` if that was. The name unless somebody sets it.
    pub arguments: Vec<OsString>,
    /// The file that describes it, if that is known.
    pub file: Option<FileIdentity>,
    /// `root`: the directory that holds the merged store and its state, if one was given.
    pub root: Option<PathBuf>,
    /// The merged store directory: where OverlayFS is mounted. Default `${root}/nix/store`.
    pub real: Setting<PathBuf>,
    /// The state directory, which holds the upper database. Default `${root}/nix/var/nix`.
    pub state: Setting<PathBuf>,
    /// The log directory. Default `${root}/nix/var/log/nix`.
    pub log: Setting<PathBuf>,
    /// The store directory, as it is named inside store paths. Default `/nix/store`.
    pub store: Setting<PathBuf>,
    /// The lower store.
    pub lower: Lower,
    /// `upper-layer`: the directory that takes the new objects.
    pub upper_layer: PathBuf,
    /// `workdir`: OverlayFS's work directory.
    pub workdir: PathBuf,
    /// Whether Nix is to check the mount itself when it opens the store.
    pub check_mount: Setting<bool>,
    /// The program that Nix runs to remount the merged store, or `None` if it was turned off.
    pub remount_hook: Option<PathBuf>,
    /// `when-incomplete`: what becomes of the store's unit where some objects are missing.
    pub when_incomplete: WhenIncomplete,
    /// `lower.when-replaced`: what `up` does where the lower store was replaced.
    pub when_replaced: WhenReplaced,
    /// `mount.options`: further options of OverlayFS, in the order given.
    pub mount_options: Vec<MountOption>,
    /// `permissions.build-users-group`: the group that owns the store directory, if it exists.
    /// `None` when it was set to the empty string.
    pub build_users_group: Option<String>,
    /// `database.use-sqlite-wal`: whether the upper database uses a write-ahead log.
    pub use_sqlite_wal: bool,
    /// `daemon`: the daemon that serves this store, if one does.
    pub daemon: Option<Daemon>,
    /// `warm`: metadata to copy whenever the store is set up, if there is any.
    pub warm: Option<WarmAtUp>,
    /// `gc`: how its garbage is collected on schedule, if it is.
    pub gc: Option<Gc>,
    /// `refresh`: how it is brought to what is below on schedule, if it is.
    pub refresh: Option<RefreshByItself>,
    /// `parameters`: further settings of Nix's store, passed on in the store URL, in key order.
    pub parameters: Vec<(String, String)>,
    /// What is particular about a store that is an ordinary user's own.
    pub own: Option<Own>,
    /// For whom it is set up. For everybody unless it is a user's own, or somebody sets it.
    pub set_up_for: SetUpFor,
}

/// For whom a store is set up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SetUpFor {
    /// For everybody on the machine, until it is taken down.
    #[default]
    Everybody,
    /// For processes of one user, as long as they run.
    Processes,
    /// For one command, with which it is gone. It has no description.
    Command,
}

/// A store without `root` that is an ordinary user's own. Its merged store directory is where the
/// system's own is, or would be, so that it can be mounted for this user's processes alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Where everything is that the description does not place.
    pub directory: PathBuf,
    /// The lower store directory, if the mount covers it: `lower.real` is then another place, at
    /// which it shows in the namespaces of the set-up.
    pub covered: Option<PathBuf>,
}

/// What `up` does where the lower store was replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenReplaced {
    /// It tells what is wrong.
    #[default]
    Report,
    /// It reconciles the store, before it is mounted, where nothing is lost by that.
    Reconcile,
}

/// What becomes of the store's unit where the store is mounted and some of its objects are missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenIncomplete {
    /// It counts as started.
    #[default]
    Start,
    /// It fails.
    Fail,
}

/// The daemon that serves a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Its Unix domain socket.
    pub socket: PathBuf,
    /// Whether it is the system's own nix-daemon.
    pub system: bool,
}

/// Whose metadata is copied from the lower store when the store is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmAtUp {
    /// Everything that is valid below. Nothing else is given then.
    pub all: bool,
    /// The closures of these paths of the lower store, or of what these links lead to.
    pub paths: Vec<PathBuf>,
    /// The closures of what the garbage-collector roots or profiles in these directories point to.
    pub roots: Vec<PathBuf>,
    /// Whether roots keep Nix's collector from undoing it.
    pub keep: bool,
}

/// How the garbage of a store is collected on schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gc {
    /// When: a systemd calendar event; never by itself if `None`.
    pub schedule: Option<String>,
    /// `older-than`, `min-free` and `max-free` as they are given on the command line, as far as they
    /// are given: each an option and its value.
    pub limits: Vec<(&'static str, String)>,
    /// Whether objects that neither database knows are deleted.
    pub leftovers: bool,
    /// Whether it is optimised first.
    pub optimise: bool,
}

/// How a store is brought to what is below on schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshByItself {
    /// When: a systemd calendar event; never by itself if `None`.
    pub schedule: Option<String>,
    /// Whether it is optimised afterwards, also when `refresh` is run by hand.
    pub optimise: bool,
}

/// A value, and whether the configuration gave it or it follows from another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value in force.
    pub value: T,
    /// Whether the configuration file gave it, or a variable of overstore's environment did that
    /// Nix may not see. Nix is told only of those that were given.
    pub given: bool,
}

impl<T> Setting<T> {
    /// What was given, or what follows where nothing was.
    pub(super) fn or_default(given: Option<T>, default: impl FnOnce() -> T) -> Setting<T> {
        match given {
            Some(value) => Setting { value, given: true },
            None => Setting {
                value: default(),
                given: false,
            },
        }
    }
}

impl<T> std::ops::Deref for Setting<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// The lower store: any store that has its store directory in this machine's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lower {
    /// How the configuration wrote it.
    pub given: String,
    /// What Nix is told: `given` with `auto` resolved and the settings of `[lower]` added.
    pub reference: StoreReference,
    /// The lower store directory, OverlayFS's `lowerdir`.
    pub real: PathBuf,
    /// How its metadata is read.
    pub source: MetadataSource,
    /// The directory of the publication that it is of, if it is: the state directory of `source` is
    /// then a link of this store's own, which leads to one of its generations.
    pub publication: Option<PathBuf>,
}

/// How the metadata of a lower store is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataSource {
    /// A local store's SQLite database, `${state}/db/db.sqlite`.
    Database {
        /// The lower store's state directory.
        state: PathBuf,
        /// Whether Nix is told `read-only=true`: it then neither locks nor writes it.
        read_only: bool,
    },
    /// A daemon behind a socket.
    Daemon {
        /// The Unix domain socket.
        socket: PathBuf,
    },
    /// Another local-overlay store: its upper database, then its lower store.
    Overlay {
        /// The middle store's state directory.
        state: PathBuf,
        /// The middle store's upper layer.
        upper_layer: PathBuf,
        /// Whether Nix is told `read-only=true` of the middle store.
        read_only: bool,
        /// The middle store's lower store.
        lower: Box<Lower>,
    },
    /// A daemon on another machine, whose objects are mounted here (`mounted-ssh-ng`).
    Ssh {
        /// The authority of its URL: `user@host`.
        authority: String,
    },
}

impl Store {
    /// A command of overstore that is for no store, for remedies.
    pub(crate) fn bare_command<const N: usize>(&self, words: [&str; N]) -> CommandLine {
        command![self.program].with(words.map(OsString::from))
    }

    /// A command of overstore for this store, for remedies.
    pub(crate) fn command<const N: usize>(&self, words: [&str; N]) -> CommandLine {
        self.bare_command(words)
            .with(self.arguments.iter().cloned())
    }

    /// The paths that Nix's own mount check can never match, each with its key and the reason.
    pub fn unmatchable_paths(&self) -> Vec<(&'static str, &Path, Unmatchable)> {
        let paths = [
            (CheckedPath::Real, "real", self.real.as_path()),
            (CheckedPath::Lower, "lower.real", &self.lower.real),
            (CheckedPath::Upper, "upper-layer", &self.upper_layer),
            (CheckedPath::Work, "workdir", &self.workdir),
        ];
        let bad = paths.into_iter().filter_map(|(part, key, path)| {
            let why = mount_check::unmatchable(part, path.as_os_str().as_bytes())?;
            Some((key, path, why))
        });
        bad.collect()
    }

    /// Whether the description wants the overlay's marks in `user.overlay.*`.
    pub(crate) fn userxattr(&self) -> bool {
        let mut options = self.mount_options.iter();
        options.any(|option| option.name == USERXATTR)
    }

    /// The options of the overlay besides its layers: those described, and the one for marks in
    /// `user.overlay.*` where the mount needs it.
    pub(crate) fn overlay_options(&self, userxattr: bool) -> Vec<MountOption> {
        let mut options = self.mount_options.clone();
        if userxattr && !self.userxattr() {
            options.push(MountOption {
                name: USERXATTR.to_owned(),
                value: None,
            });
        }
        options
    }

    /// The upper database's file.
    pub fn database(&self) -> PathBuf {
        layout::database(&self.state)
    }

    /// The directory of overstore's own memory of this store.
    pub fn memory(&self) -> PathBuf {
        memory(&self.state)
    }

    /// Whether the remount hook is the link in the state directory, which `up` makes.
    pub(crate) fn hook_is_made(&self) -> bool {
        self.remount_hook == Some(self.memory().join(REMOUNT_HOOK))
    }
}

/// The link of a store's own, in the directory of overstore's own, to the generation that lies below.
pub(super) const GENERATION_LINK: &str = "generation";

/// The directory of overstore's own in a state directory.
pub(super) fn memory(state: &Path) -> PathBuf {
    state.join("overstore")
}

impl Lower {
    /// The same store with another generation of its publication, by the directory of that.
    pub(crate) fn with_generation(mut self, generation: PathBuf) -> Lower {
        if let MetadataSource::Database { state, .. } = &mut self.source {
            self.reference
                .set("state", generation.as_os_str().as_bytes());
            *state = generation;
        }
        self
    }

    /// Has the lower store directory be at another path.
    pub(super) fn show_at(&mut self, path: PathBuf) {
        self.reference.set("real", path.as_os_str().as_bytes());
        self.real = path;
    }

    /// Whether the metadata source is one that Nix itself opens for writing although it lies below:
    /// a local or nested store that is not described as read-only.
    pub fn written_by_nix(&self) -> bool {
        match &self.source {
            MetadataSource::Database { read_only, .. }
            | MetadataSource::Overlay { read_only, .. } => !read_only,
            MetadataSource::Daemon { .. } | MetadataSource::Ssh { .. } => false,
        }
    }

    /// The store at the bottom: of a nested store the lowest one, else this one.
    pub fn bottom(&self) -> &Lower {
        match &self.source {
            MetadataSource::Overlay { lower, .. } => lower.bottom(),
            _ => self,
        }
    }

    /// How many OverlayFS mounts lie below: 0 unless the lower store is an overlay itself.
    pub fn depth(&self) -> usize {
        match &self.source {
            MetadataSource::Overlay { lower, .. } => 1 + lower.depth(),
            _ => 0,
        }
    }

    /// The publication that it is of, and the link of the store's own to one of its generations.
    pub(crate) fn published(&self) -> Option<(&Path, &Path)> {
        Some((self.publication.as_deref()?, self.state()?))
    }

    /// The directory of the metadata source's state, if it is in this machine's file system.
    pub fn state(&self) -> Option<&Path> {
        match &self.source {
            MetadataSource::Database { state, .. } | MetadataSource::Overlay { state, .. } => {
                Some(state)
            }
            MetadataSource::Daemon { .. } | MetadataSource::Ssh { .. } => None,
        }
    }
}
