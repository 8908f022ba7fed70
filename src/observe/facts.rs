//! The machine as observed: values only, so that the rules over them are pure.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::compare::Objects;
use crate::config::parts::{Part, Relation};
use crate::linux::file_identity::FileIdentity;
use crate::linux::safe_path::Danger;
use crate::nix::mount_check;
use crate::overlayfs::defaults::Defaults;
use crate::overlayfs::mountinfo::MountInfo;
use crate::records::layer_mark::Mark;
use crate::remedy::Fault;

/// Everything that was looked at for one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Who is asking, and on which kernel.
    pub machine: Machine,
    /// The lower store.
    pub lower: LowerFacts,
    /// The upper layer.
    pub upper_layer: LayerFacts,
    /// The work directory.
    pub workdir: LayerFacts,
    /// The mount at the merged store directory.
    pub mount: MountFacts,
    /// The state directory and those below it that Nix makes, in the order of making.
    pub state: Vec<Place>,
    /// The upper database.
    pub database: DatabaseFacts,
    /// What belongs together: the upper layer, the upper database, and what is remembered.
    pub pairing: Pairing,
    /// What earlier mounts left behind that keeps the overlay from being mounted.
    pub left: LeftByMounts,
    /// Mount points inside the lower store directory or the upper layer: no overlay shows what is
    /// mounted on them.
    pub not_shown: Vec<PathBuf>,
    /// Why the kernel would not mount an overlay with the options described over the lower store
    /// directory, in its words. `None` if it would, or could not be asked.
    pub refused: Option<String>,
    /// How many overlays are stacked below the one described, as far as can be told. The kernel takes
    /// one.
    pub overlays_below: u32,
    /// Where the parts are, whatever their paths.
    pub parts: PartFacts,
    /// The remount hook, if the description has one.
    pub hook: Option<HookFacts>,
}

/// The remount hook, as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookFacts {
    /// Whether it is a program that one can run.
    pub runs: bool,
    /// Where it leads, if it is a symbolic link.
    pub target: Option<PathBuf>,
    /// The component by which others could have another program run in its place, and how, as the
    /// rest of a sentence.
    pub unsafe_because: Option<(PathBuf, String)>,
    /// The running program, unless it was deleted or replaced meanwhile.
    pub program: Option<PathBuf>,
}

/// Where the parts of a store are, whatever their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartFacts {
    /// Which are one, or inside one another.
    pub overlaps: Vec<Overlap>,
    /// Which another store has.
    pub claims: Vec<Claim>,
    /// Descriptions of other stores that cannot be read.
    pub unread: Vec<Unread>,
}

/// Two parts of a store that are one, or of which one is inside the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// A part.
    pub part: Part,
    /// How it lies to the other.
    pub relation: Relation,
    /// The other.
    pub other: Part,
}

/// A part of a store that another store has, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The part.
    pub part: Part,
    /// How it lies to what the other store has. `None` if that is inside the part.
    pub relation: Option<Relation>,
    /// What the other store has, in words.
    pub whose: String,
}

/// A description of another store that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The file.
    pub file: PathBuf,
    /// Why.
    pub why: String,
}

/// Who is asking, and on which kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The effective user.
    pub uid: u32,
    /// Whether this is a user namespace other than the first.
    pub user_namespace: bool,
    /// Whether mounting is permitted here (`CAP_SYS_ADMIN`).
    pub can_mount: bool,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// Whether the kernel has OverlayFS loaded already (it may still load it on demand).
    pub overlay_loaded: bool,
    /// What OverlayFS's options default to, if that can be told.
    pub overlay_defaults: Option<Defaults>,
    /// The `min-free` of the system's `nix.conf`, if it has one that is not zero: Nix then collects
    /// garbage by itself. Looked at by `check` only.
    pub min_free: Option<String>,
    /// The build users' group: its number, if the description names one and it exists.
    pub build_users_gid: Option<u32>,
}

/// A path of the description, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The path, as described.
    pub path: PathBuf,
    /// What is there.
    pub found: Found,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Missing {
        /// The deepest ancestor that exists.
        nearest: PathBuf,
        /// Its facts: what is made there is on the same file system.
        above: Stat,
    },
    /// A directory.
    Directory(Stat),
    /// Something else: a file, a socket, ... in words.
    Other(&'static str),
    /// A component of the path (or its end) is a symbolic link where none may be.
    Symlink {
        /// The link.
        component: PathBuf,
        /// The whole path without symbolic links, where it leads anywhere: what the description
        /// should say.
        resolved: Option<PathBuf>,
    },
    /// Somebody else could replace a component of the path, so root cannot rely on it.
    Unsafe {
        /// The component that can be replaced.
        component: PathBuf,
        /// Who can.
        why: Danger,
    },
    /// It could not be looked at.
    Unreachable {
        /// The component at which it failed.
        component: PathBuf,
        /// The error number.
        errno: i32,
    },
}

impl Found {
    /// The directory's facts, if it is one.
    pub fn directory(&self) -> Option<&Stat> {
        match self {
            Found::Directory(stat) => Some(stat),
            _ => None,
        }
    }
}

/// The facts of an existing directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Which directory it is.
    pub identity: FileIdentity,
    /// Permission bits, sticky and set-id bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The file system it is on.
    pub fs: FileSystem,
}

/// A file system, as seen from one directory on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// The name the kernel knows it by (`ext4`, `nfs4`, `overlay`), or its magic number in
    /// hexadecimal where no name is known.
    pub name: String,
    /// `f_fsid` of statfs(2).
    pub fsid: u64,
    /// The mount's number, as in `/proc/self/mountinfo`.
    pub mount_id: u64,
    /// Whether it is read-only there, by the mount or by the superblock.
    pub read_only: bool,
    /// The longest name that it takes, in bytes.
    pub longest_name: u64,
    /// Whether the mount may not be bound elsewhere.
    pub unbindable: bool,
}

/// A layer directory of the overlay (upper layer or work directory).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFacts {
    /// Where it is described to be, and what is there.
    pub place: Place,
    /// Whether the file system stores the extended attributes that OverlayFS needs. `None` if
    /// that cannot be told without writing.
    pub xattrs: Option<bool>,
    /// Whether it stores those that a mount of the other kind (with `userxattr`, or without) needs.
    /// `None` where it was not asked, as it is not where the first are kept.
    pub other_xattrs: Option<bool>,
    /// Whether directory listings tell the type of entries. `None` where the directory is empty.
    pub d_type: Option<bool>,
    /// Whether the directory is marked so that nothing in it can be changed (chattr(1)).
    pub unchangeable: bool,
    /// In the upper layer, the state of `.links`; in the work directory always `Missing`.
    pub links: Links,
    /// Names at the top at which Nix's collector stops: at most a hundred. `None` if they were not
    /// (`up` does not) or could not be looked at.
    pub strangers: Option<Vec<OsString>>,
    /// Directories in which Nix received an object and no longer does, at which its collector stops:
    /// at most a hundred. `None` as for `strangers`.
    pub left: Option<Vec<OsString>>,
    /// Whether another overlay than the one in effect at the merged store directory uses the
    /// directory as its upper layer, in any mount namespace.
    pub usage: Usage,
}

/// What earlier mounts left behind in the layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftByMounts {
    /// What the work directory's `work/incompat` says is incompatible with another mount.
    pub incompatible: Vec<OsString>,
    /// Whether the index was made over another lower store directory.
    pub index_over_another: bool,
    /// Whether the index was made for another upper layer.
    pub index_of_another: bool,
}

/// Who else uses a directory as an upper layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usage {
    /// It was not, or could not be, looked at.
    Unknown,
    /// Nobody else.
    Free,
    /// Other processes hold overstore's lock on it (`overstore exec`): those known.
    Locked(Vec<u32>),
    /// Another overlay: what is known of it, in words.
    Mounted(String),
}

/// The `.links` directory in the upper layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// There is none: the lower store's entries show through, and the collector whites them out.
    Missing,
    /// A directory that is not opaque.
    Transparent,
    /// An opaque directory.
    Opaque,
    /// A directory that is opaque in mounts of the other kind only: the marks that a mount in a user
    /// namespace makes mean nothing to root's, and the other way round.
    Foreign,
    /// Not a directory.
    Other,
    /// It could not be told: without root, `trusted.overlay.*` does not show.
    Unknown,
}

/// The lower store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerFacts {
    /// The lower store directory.
    pub directory: Place,
    /// The directory's path without symbolic links, where it has some.
    pub resolved: Option<PathBuf>,
    /// Names at the top that are no store paths and that the upper layer does not hide, if they were
    /// asked for. At most a hundred.
    pub strangers: Option<Vec<OsString>>,
    /// The metadata source.
    pub source: SourceFacts,
    /// The publication that it is of, if it is.
    pub publication: Option<PublicationFacts>,
}

/// The publication of the lower store, and what of it this store uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationFacts {
    /// What is at the store's own link.
    pub link: LinkFacts,
    /// The number of the current generation, or why that cannot be told.
    pub current: Result<u64, Fault>,
    /// What is known of the generation that the link leads to, or why that cannot be told. `None`
    /// inside if it is not there.
    pub used: Result<Option<UsedGeneration>, Fault>,
}

/// A store's own link to a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkFacts {
    /// There is none.
    Missing,
    /// It leads to the generation of this number.
    Generation(u64),
    /// It leads to something that is no generation of the publication described.
    Elsewhere(PathBuf),
    /// Something else is there: in words.
    Other(Cow<'static, str>),
}

/// The generation that a store uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedGeneration {
    /// When it was made, in seconds since 1970.
    pub time: u64,
    /// Until when it stays, in seconds since 1970, if it is retired.
    pub retired_until: Option<u64>,
}

impl PublicationFacts {
    /// The generation that is read: the one in use, else the current one.
    pub fn read(&self) -> Option<u64> {
        match (&self.link, &self.current) {
            (LinkFacts::Generation(number), _) => Some(*number),
            (LinkFacts::Missing, Ok(current)) => Some(*current),
            _ => None,
        }
    }

    /// Whether there is nothing that could be read.
    pub fn out_of_reach(&self) -> bool {
        match self.link {
            LinkFacts::Missing => self.current.is_err(),
            LinkFacts::Generation(_) => !matches!(self.used, Ok(Some(_))),
            LinkFacts::Elsewhere(_) | LinkFacts::Other(_) => true,
        }
    }
}

/// The metadata source of the lower store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceFacts {
    /// A local store's database.
    Database {
        /// What is at `${state}/db/db.sqlite`.
        database: FileFacts,
        /// The write-ahead log. `None` if it was not looked at: Nix reads the log of a store that is
        /// not described as read-only, and `up` takes no time for a log without an index.
        log: Option<LogFacts>,
        /// The content of `${state}/db/schema`, if it can be read.
        schema: Option<String>,
        /// The state directory.
        state: Place,
        /// Which of the directories that Nix wants to find are missing.
        missing: Vec<PathBuf>,
    },
    /// A daemon's socket.
    Daemon {
        /// The daemon's version if it answered, or why it did not. `None` if it was not asked: `up`
        /// does not.
        answer: Option<Result<String, Fault>>,
    },
    /// Another local-overlay store.
    Overlay {
        /// Its upper database.
        upper: Box<SourceFacts>,
        /// The mount at its merged store directory.
        mount: Box<MountFacts>,
        /// Its lower store.
        lower: Box<LowerFacts>,
    },
    /// A daemon on another machine: not looked at.
    Ssh,
}

/// A write-ahead log beside a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFacts {
    /// There is none, or nothing in it that is not in the database too.
    Empty,
    /// So many pages in it are not in the database.
    Pending(u64),
    /// Something else is in its place: in words.
    Other(Cow<'static, str>),
    /// It could not be read: the error number.
    Unreadable(i32),
}

/// A file that has to be there and readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFacts {
    /// It is not there.
    Missing,
    /// It is there.
    File {
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Size in bytes.
        size: u64,
    },
    /// Something else is there: in words.
    Other(Cow<'static, str>),
    /// It could not be looked at: the error number.
    Unreachable(i32),
}

impl Place {
    /// The component at which the way to a directory ends, if it does not lead there.
    pub(crate) fn in_the_way(&self) -> Option<PathBuf> {
        match &self.found {
            Found::Directory(_) => None,
            Found::Missing { nearest, .. } => {
                let rest = self.path.strip_prefix(nearest).ok()?;
                Some(nearest.join(rest.components().next()?))
            }
            Found::Other(_) => Some(self.path.clone()),
            Found::Symlink { component, .. }
            | Found::Unsafe { component, .. }
            | Found::Unreachable { component, .. } => Some(component.clone()),
        }
    }
}

impl LowerFacts {
    /// What the `schema` file of its database says, if it is one and has one; of a nested store, that
    /// of the store at its bottom.
    pub fn schema(&self) -> Option<&str> {
        match &self.source {
            SourceFacts::Database { schema, .. } => schema.as_deref(),
            SourceFacts::Overlay { lower, .. } => lower.schema(),
            _ => None,
        }
    }
}

/// The mount at a merged store directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFacts {
    /// The merged store directory as it is now, mounted or not.
    pub place: Place,
    /// All mounts at exactly that path, topmost first.
    pub stack: Vec<MountInfo>,
    /// Overlays at exactly that path that nobody sees: something was mounted over a directory above.
    pub buried: Vec<MountInfo>,
    /// Where an overlay is mounted that the path lies in, and that writes to the upper layer, or to
    /// the directory that this is in.
    pub above: Option<PathBuf>,
    /// The overlay that is in effect there: the topmost mount, or the one that the topmost
    /// read-only bind mount shows.
    pub overlay: Option<OverlayFacts>,
    /// What Nix's own text check will say.
    pub nix_check: mount_check::Verdict,
}

/// The overlay in effect at the merged store directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayFacts {
    /// Its line of `mountinfo`.
    pub info: MountInfo,
    /// Whether it is reached through a bind mount of the same overlay on top of it.
    pub under_bind: bool,
    /// Whether it really shows the lower store directory that is described.
    pub lower: Identity,
    /// Whether it really writes to the upper layer that is described.
    pub upper: Identity,
    /// Whether its work directory is the one that is described, if that is known.
    pub workdir: Identity,
    /// What `up` recorded of the lower store directory when it mounted, compared with now.
    /// `None` where nothing was recorded for this mount.
    pub recorded: Option<Recorded>,
}

/// The result of comparing what a mount shows with the directory it is described to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// It shows that directory: every sample agrees.
    Same,
    /// It shows something else: in words, which sample differs and how.
    Different(String),
    /// Nothing to compare: no sample (an empty directory).
    Unknown,
}

/// The lower store directory when it was mounted, against now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// The same device, inode, file system and mount.
    Same,
    /// Not the same: in words.
    Different(String),
}

/// The upper database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseFacts {
    /// `db.sqlite`.
    pub file: FileFacts,
    /// The content of the `schema` file, if it is there; or why that cannot be told.
    pub schema: Result<Option<String>, String>,
    /// `big-lock`.
    pub big_lock: FileFacts,
    /// `reserved`.
    pub reserved: FileFacts,
    /// What is inside, if it was looked at (`check` does, `up` does not).
    pub content: Option<Result<DatabaseContent, String>>,
}

/// What belongs together: the upper layer, the upper database, and what is remembered of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairing {
    /// The mark on the upper layer.
    pub mark: Mark,
    /// Whether anything of the store is remembered.
    pub remembered: bool,
    /// The mark that is remembered.
    pub remembered_mark: Option<String>,
    /// How many objects of the layer had a row when it was mounted last, as far as is remembered.
    pub remembered_rows: u64,
    /// Whether it is remembered that somebody gave up what is lost.
    pub accepted_loss: bool,
    /// How many store objects are in the upper layer.
    pub objects: u64,
    /// The rows of the upper database.
    pub rows: Rows,
}

/// The rows of the upper database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// There is no upper database.
    NoDatabase,
    /// Each was looked at.
    Known(Objects),
    /// They cannot be read: why. Empty where that is said elsewhere.
    Unknown(String),
}

/// What is inside a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseContent {
    /// The schema, judged against what Nix makes.
    pub schema: crate::nix::schema::Verdict,
    /// Whether it is in WAL mode. The other journal modes do not show in a database: each process
    /// chooses one for itself.
    pub wal: bool,
    /// What `pragma quick_check` says, `ok` left out.
    pub quick_check: Vec<String>,
    /// Violations of foreign keys: at most the first hundred, in words.
    pub foreign_keys: Vec<String>,
}
