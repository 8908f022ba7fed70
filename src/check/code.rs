//! The findings there are: each declared once, with all that does not depend on the store at hand.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Part, Severity};

/// Makes a row of the table below: the name of the code in Rust, its stable name, the severities
/// and the parts it can have (the usual one first), whether it stops `up`, and its meaning.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+
       $name:ident($text:literal, [$($severity:ident),+], [$($part:ident),+], $stops_up:ident);)+) => {
        /// What a finding is. Every code has a section of its own in `docs/findings.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        pub enum Code {
            $($(#[doc = $doc])+ #[serde(rename = $text)] $name,)+
        }

        impl Code {
            /// All codes, in the order of the manual.
            pub const ALL: &[Code] = &[$(Code::$name),+];

            /// What is declared of the code.
            pub(crate) fn declaration(self) -> Declaration {
                match self {
                    $(Code::$name => Declaration {
                        code: self,
                        severities: &[$(Severity::$severity),+],
                        parts: &[$(Part::$part),+],
                        stops_up: StopsUp::$stops_up,
                        meaning: concat!($($doc),+).trim_ascii_start(),
                    },)+
                }
            }

            /// The stable name, such as `mount-missing`.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text),+ }
            }
        }
    };
}

/// What is declared of a code.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Declaration {
    /// The code.
    pub code: Code,
    /// The severities that it can have, the usual one first.
    pub severities: &'static [Severity],
    /// The parts of the store that it can be about, the usual one first.
    pub parts: &'static [Part],
    /// Whether `up` does nothing while it is found.
    pub stops_up: StopsUp,
    /// What it means, in a sentence.
    pub meaning: &'static str,
}

/// Whether `up` does nothing while something is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StopsUp {
    /// No: `up` does its steps all the same; one of them may fix it.
    Never,
    /// Where `up` cannot make what is missing: something else is there, or an overlay is mounted
    /// that has another.
    UnlessMade,
    /// Yes: nothing may be mounted over it, and no step fixes it.
    Always,
}

codes! {
    /// The lower store directory is missing, is not a directory or cannot be reached.
    LowerMissing("lower-missing", [Error], [LowerStore], Always);
    /// The lower store's database is missing or cannot be read.
    LowerDatabaseMissing("lower-database-missing", [Error], [LowerStore], Never);
    /// The lower store's schema is newer than overstore and Nix know, or is no schema.
    LowerSchemaUnknown("lower-schema-unknown", [Error], [LowerStore], Never);
    /// Rows of a lower store read as read-only are still in its write-ahead log: Nix cannot see
    /// them.
    LowerWalPending("lower-wal-pending", [Error], [LowerStore], Never);
    /// A directory that Nix wants to find on a read-only lower store is missing.
    LowerDirectoryMissing("lower-directory-missing", [Warning, Error], [LowerStore], Never);
    /// The lower store is on a read-only mount and is not described as read-only.
    LowerNotDescribedReadOnly("lower-not-described-read-only", [Error], [LowerStore], Never);
    /// Nix itself would open the lower store for writing.
    LowerWrittenByNix("lower-written-by-nix", [Warning], [LowerStore], Never);
    /// A row of the lower store's database has no object.
    LowerRowWithoutObject("lower-row-without-object", [Error], [LowerStore], Never);
    /// A row of the lower store's database that Nix cannot read.
    LowerRowUnreadable("lower-row-unreadable", [Error], [LowerStore], Never);
    /// A row of the lower store's database refers to one that is missing.
    LowerReferenceMissing("lower-reference-missing", [Error], [LowerStore], Never);
    /// The path of a lower store that Nix opens itself leads through a symbolic link.
    LowerPathSymlink("lower-path-symlink", [Error], [LowerStore], Never);
    /// The lower store's daemon does not answer.
    LowerDaemonSilent("lower-daemon-silent", [Error], [LowerStore], Never);
    /// The lower store is not the one that the upper database was made for.
    LowerStoreChanged("lower-store-changed", [Warning], [LowerStore], Never);
    /// The publication of the lower store cannot be read.
    PublicationUnreadable("publication-unreadable", [Warning, Error], [LowerStore], UnlessMade);
    /// The store's own link, through which the lower store's metadata is read, leads to no generation.
    GenerationUnset("generation-unset", [Error], [LowerStore], UnlessMade);
    /// The generation that the store uses is not there any more.
    GenerationGone("generation-gone", [Error], [LowerStore], Never);
    /// The generation that the store uses is retired: it will not be there much longer.
    GenerationRetired("generation-retired", [Warning], [LowerStore], Never);
    /// A newer generation than the one that the store uses is current.
    GenerationBehind("generation-behind", [Note], [LowerStore], Never);
    /// The current generation lacks something that the upper store needs.
    GenerationLacks("generation-lacks", [Error], [LowerStore], Never);
    /// A name in the lower store directory at which Nix's collector stops.
    LowerStranger("lower-stranger", [Warning], [LowerStore], Never);
    /// A finding of the nested lower store's own mount.
    LowerMountWrong("lower-mount-wrong", [Error], [LowerStore], Always);
    /// The overlay would be stacked too deep for the kernel.
    StackingTooDeep("stacking-too-deep", [Error], [Mount], Always);
    /// The upper layer is not the one that the upper database belongs to, and objects are missing.
    UpperReplaced("upper-replaced", [Error], [UpperLayer], Always);
    /// All objects that only the upper layer had are missing.
    ObjectsLost("objects-lost", [Error], [UpperLayer], Always);
    /// The upper layer lost its extended attributes, or has those of another kind of mount.
    MarksLost("marks-lost", [Error], [UpperLayer], Always);
    /// The upper layer is missing or is not a directory.
    UpperMissing("upper-missing", [Error], [UpperLayer], UnlessMade);
    /// The upper layer's file system cannot be an upper layer.
    UpperFileSystemUnfit("upper-file-system-unfit", [Error], [UpperLayer], Always);
    /// The store belongs to another user.
    NotYours("not-yours", [Error], [UpperLayer], Always);
    /// Another overlay uses the upper layer.
    UpperInUse("upper-in-use", [Error], [UpperLayer], Always);
    /// The upper layer's owner or mode is not what Nix would make it.
    UpperPermissions("upper-permissions", [Warning], [UpperLayer], Never);
    /// A name in the upper layer at which Nix's collector stops.
    UpperStranger("upper-stranger", [Warning], [UpperLayer], Never);
    /// A directory that an interrupted addition left in the upper layer: Nix's collector stops at it.
    TemporaryName("temporary-name", [Note], [UpperLayer], Never);
    /// `.links` in the upper layer is not an opaque directory: the collector fills it with
    /// whiteouts.
    LinksNotOpaque("links-not-opaque", [Warning], [UpperLayer], Never);
    /// The work directory is missing or is not a directory.
    WorkdirMissing("workdir-missing", [Error], [WorkDirectory], UnlessMade);
    /// The work directory and the upper layer are not on the same mount.
    WorkdirElsewhere("workdir-elsewhere", [Error], [WorkDirectory], Always);
    /// Another overlay uses the work directory.
    WorkdirInUse("workdir-in-use", [Error], [WorkDirectory], Always);
    /// An earlier mount left in the work directory that no other may follow it.
    WorkdirIncompatible("workdir-incompatible", [Error], [WorkDirectory], Always);
    /// The upper layer or the work directory is marked so that nothing in it can be changed.
    LayerUnchangeable("layer-unchangeable", [Error], [UpperLayer, WorkDirectory], Always);
    /// Something is mounted inside a layer, and the overlay does not show it.
    MountNotShown("mount-not-shown", [Warning], [LowerStore, UpperLayer], Never);
    /// A path can be replaced by somebody else, or leads through a symbolic link.
    PathUnsafe("path-unsafe", [Error], [LowerStore, UpperLayer, WorkDirectory, Mount, State], Always);
    /// Two parts of the store are one directory, or one is inside the other, by way of a mount or a
    /// link.
    PartsOverlap("parts-overlap", [Error], [State, LowerStore, UpperLayer, WorkDirectory, Mount], Always);
    /// A part of the store is another store's.
    PartOfAnotherStore("part-of-another-store", [Error], [State, UpperLayer, WorkDirectory, Mount], Always);
    /// The description of another store cannot be read.
    DescriptionUnreadable("description-unreadable", [Warning], [State], Never);
    /// A directory that should be there cannot be reached.
    PathUnreachable("path-unreachable", [Error], [LowerStore, UpperLayer, WorkDirectory, Mount, State], Always);
    /// The store was never set up: nothing of it exists.
    NotSetUp("not-set-up", [Error], [Mount], Never);
    /// Nothing is mounted at the merged store directory.
    MountMissing("mount-missing", [Error], [Mount], UnlessMade);
    /// The kernel would not mount the overlay.
    MountRefused("mount-refused", [Error], [Mount], Always);
    /// The index of an earlier mount belongs to another lower store directory or upper layer.
    IndexMismatch("index-mismatch", [Error], [Mount], Always);
    /// Something that is not an overlay is mounted at the merged store directory.
    MountForeign("mount-foreign", [Error], [Mount], Always);
    /// Something is mounted on top of the overlay that hides it.
    MountHidden("mount-hidden", [Error], [Mount], Always);
    /// The overlay shows another lower store directory than described.
    LowerdirDiffers("lowerdir-differs", [Error], [Mount], Always);
    /// The overlay writes to another upper layer than described.
    UpperdirDiffers("upperdir-differs", [Error], [Mount], Always);
    /// The overlay's work directory is another than described.
    WorkdirDiffers("workdir-differs", [Error], [Mount], Always);
    /// The lower store directory is not the one that the overlay was mounted over.
    LowerReplaced("lower-replaced", [Error], [Mount], Always);
    /// The overlay's options are not those described.
    MountOptionsDiffer("mount-options-differ", [Warning], [Mount], Never);
    /// An option of the overlay that risks the data.
    MountOptionRisky("mount-option-risky", [Warning], [Mount], Never);
    /// The overlay is read-only.
    MountReadOnly("mount-read-only", [Error], [Mount], Never);
    /// The kernel has no OverlayFS.
    OverlayUnsupported("overlay-unsupported", [Warning], [Mount], Never);
    /// A state directory is missing or is not a directory.
    StateMissing("state-missing", [Warning, Error], [State], UnlessMade);
    /// A state directory's owner or mode is not what Nix would make it.
    StatePermissions("state-permissions", [Error], [State], Never);
    /// The state directory's file system cannot hold a database that Nix uses.
    StateFileSystemUnfit("state-file-system-unfit", [Error, Warning], [State], Never);
    /// The path of a database is longer than SQLite takes.
    DatabasePathTooLong("database-path-too-long", [Error], [UpperDatabase, LowerStore], Always);
    /// There is no upper database.
    DatabaseMissing("database-missing", [Error], [UpperDatabase], Never);
    /// The upper layer holds objects, and the upper database that knows them is gone.
    DatabaseLost("database-lost", [Error], [UpperDatabase], Always);
    /// The upper database cannot be read.
    DatabaseUnreadable("database-unreadable", [Error], [UpperDatabase], Always);
    /// The upper database's schema is newer than known.
    SchemaUnknown("schema-unknown", [Error], [UpperDatabase], Always);
    /// The upper database lacks something that Nix makes.
    SchemaIncomplete("schema-incomplete", [Error], [UpperDatabase], Never);
    /// The upper database has something that Nix does not make.
    SchemaForeign("schema-foreign", [Warning, Note], [UpperDatabase], Never);
    /// SQLite finds the upper database damaged.
    DatabaseDamaged("database-damaged", [Error], [UpperDatabase], Never);
    /// A row of the upper database refers to one that is missing.
    ForeignKeyViolated("foreign-key-violated", [Error], [UpperDatabase], Never);
    /// The upper database's journal mode is not the one described.
    JournalModeDiffers("journal-mode-differs", [Warning], [UpperDatabase], Never);
    /// The owner or the mode of the upper database's files is not what Nix would make it.
    DatabasePermissions("database-permissions", [Error], [UpperDatabase], Never);
    /// A row of the upper database whose object is in neither layer.
    RowWithoutObject("row-without-object", [Error], [UpperDatabase], Never);
    /// A row of the upper database is of another store directory: Nix stops at it.
    RowOfAnotherStore("row-of-another-store", [Error], [UpperDatabase], Never);
    /// An object in the upper layer that no database knows.
    ObjectWithoutRow("object-without-row", [Warning], [UpperLayer], Never);
    /// A whiteout, an opaque directory or what is no object in the upper layer hides a valid object of the lower store.
    LowerObjectHidden("lower-object-hidden", [Error], [UpperLayer], Never);
    /// An object is in both layers.
    ObjectInBothLayers("object-in-both-layers", [Note], [UpperLayer], Never);
    /// The metadata of an object differ between the upper database and the lower store.
    MetadataDiffers("metadata-differs", [Error], [UpperDatabase], Never);
    /// An object is not what its metadata says.
    ObjectDamaged("object-damaged", [Error], [UpperLayer, LowerStore], Never);
    /// Metadata that the description wants copied was not.
    WarmFailed("warm-failed", [Warning], [UpperDatabase], Never);
    /// The layers cannot be compared.
    LayersUnreadable("layers-unreadable", [Warning], [UpperDatabase], Never);
    /// The remount hook is missing or cannot be run.
    RemountHookMissing("remount-hook-missing", [Error], [Nix], Never);
    /// Others could have another program run as the remount hook.
    RemountHookUnsafe("remount-hook-unsafe", [Warning], [Nix], Never);
    /// Nix's own mount check cannot pass with these paths.
    MountCheckImpossible("mount-check-impossible", [Warning, Error], [Nix], Never);
    /// Nix's own mount check will not pass.
    MountCheckFails("mount-check-fails", [Error], [Nix], Never);
    /// The store URL has to be written differently for different versions of Nix.
    UrlDependsOnVersion("url-depends-on-version", [Warning], [Nix], Never);
    /// Nix's own garbage collector usually fails over such a store.
    CollectorFails("collector-fails", [Note], [Nix], Never);
    /// The collections that Nix starts when space runs out free nothing of this store.
    AutomaticCollection("automatic-collection", [Note], [Nix], Never);
    /// Nix did not open the store.
    NixRefuses("nix-refuses", [Error], [Nix], Never);
    /// The build users' group does not exist.
    BuildUsersGroupMissing("build-users-group-missing", [Note], [Nix], Never);
    /// Something that this user may not look at was not checked.
    NotChecked("not-checked", [Note], [LowerStore, UpperLayer, WorkDirectory, Mount, State, UpperDatabase], Never);
}

impl Code {
    /// Whether it says that one object is not to be had, and the store can be used without it.
    pub(crate) fn is_of_a_missing_object(self) -> bool {
        matches!(self, Code::RowWithoutObject | Code::LowerObjectHidden)
    }

    /// Whether it says that the layer or the database that belong together are not.
    pub(crate) fn is_a_loss(self) -> bool {
        matches!(
            self,
            Code::DatabaseLost | Code::UpperReplaced | Code::ObjectsLost | Code::MarksLost
        )
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
