//! The stable names of findings.

use schemars::JsonSchema;
use serde::Serialize;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// What a finding is. Every code has a section of its own in `docs/findings.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        pub enum Code {
            $($(#[doc = $doc])+ #[serde(rename = $text)] $name,)+
        }

        impl Code {
            /// All codes, in the order of the manual.
            pub const ALL: &[Code] = &[$(Code::$name),+];

            /// The stable name, such as `mount-missing`.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text),+ }
            }
        }
    };
}

codes! {
    /// The lower store directory is missing, is not a directory or cannot be reached.
    LowerMissing = "lower-missing",
    /// The lower store's database is missing or cannot be read.
    LowerDatabaseMissing = "lower-database-missing",
    /// The lower store's schema is newer than overstore and Nix know, or is no schema.
    LowerSchemaUnknown = "lower-schema-unknown",
    /// Rows of a lower store read as read-only are still in its write-ahead log: Nix cannot see
    /// them.
    LowerWalPending = "lower-wal-pending",
    /// A directory that Nix wants to find on a read-only lower store is missing.
    LowerDirectoryMissing = "lower-directory-missing",
    /// The lower store is on a read-only mount and is not described as read-only.
    LowerNotDescribedReadOnly = "lower-not-described-read-only",
    /// Nix itself would open the lower store for writing.
    LowerWrittenByNix = "lower-written-by-nix",
    /// The lower store's daemon does not answer.
    LowerDaemonSilent = "lower-daemon-silent",
    /// The lower store is not the one that the upper database was made for.
    LowerStoreChanged = "lower-store-changed",
    /// A name in the lower store directory at which Nix's collector stops.
    LowerStranger = "lower-stranger",
    /// A finding of the nested lower store's own mount.
    LowerMountWrong = "lower-mount-wrong",
    /// The overlay would be stacked too deep for the kernel.
    StackingTooDeep = "stacking-too-deep",
    /// The upper layer is missing or is not a directory.
    UpperMissing = "upper-missing",
    /// The upper layer's file system cannot be an upper layer.
    UpperFileSystemUnfit = "upper-file-system-unfit",
    /// Another overlay uses the upper layer.
    UpperInUse = "upper-in-use",
    /// The upper layer's owner or mode is not what Nix would make it.
    UpperPermissions = "upper-permissions",
    /// A name in the upper layer at which Nix's collector stops.
    UpperStranger = "upper-stranger",
    /// `.links` in the upper layer is not an opaque directory: the collector fills it with
    /// whiteouts.
    LinksNotOpaque = "links-not-opaque",
    /// The work directory is missing or is not a directory.
    WorkdirMissing = "workdir-missing",
    /// The work directory and the upper layer are not on the same mount.
    WorkdirElsewhere = "workdir-elsewhere",
    /// A path can be replaced by somebody else, or leads through a symbolic link.
    PathUnsafe = "path-unsafe",
    /// A directory that should be there cannot be reached.
    PathUnreachable = "path-unreachable",
    /// Nothing is mounted at the merged store directory.
    MountMissing = "mount-missing",
    /// Something that is not an overlay is mounted at the merged store directory.
    MountForeign = "mount-foreign",
    /// Something is mounted on top of the overlay that hides it.
    MountHidden = "mount-hidden",
    /// The overlay shows another lower store directory than described.
    LowerdirDiffers = "lowerdir-differs",
    /// The overlay writes to another upper layer than described.
    UpperdirDiffers = "upperdir-differs",
    /// The overlay's work directory is another than described.
    WorkdirDiffers = "workdir-differs",
    /// The lower store directory is not the one that was there when the overlay was mounted.
    LowerReplaced = "lower-replaced",
    /// The overlay's options are not those described.
    MountOptionsDiffer = "mount-options-differ",
    /// An option of the overlay that risks the data.
    MountOptionRisky = "mount-option-risky",
    /// The overlay is read-only.
    MountReadOnly = "mount-read-only",
    /// The kernel has no OverlayFS.
    OverlayUnsupported = "overlay-unsupported",
    /// A state directory is missing or is not a directory.
    StateMissing = "state-missing",
    /// A state directory's owner or mode is not what Nix would make it.
    StatePermissions = "state-permissions",
    /// There is no upper database.
    DatabaseMissing = "database-missing",
    /// The upper database cannot be read.
    DatabaseUnreadable = "database-unreadable",
    /// The upper database's schema is newer than known.
    SchemaUnknown = "schema-unknown",
    /// The upper database lacks something that Nix makes.
    SchemaIncomplete = "schema-incomplete",
    /// The upper database has something that Nix does not make.
    SchemaForeign = "schema-foreign",
    /// SQLite finds the upper database damaged.
    DatabaseDamaged = "database-damaged",
    /// A row of the upper database refers to one that is not there.
    ForeignKeyViolated = "foreign-key-violated",
    /// The upper database's journal mode is not the one described.
    JournalModeDiffers = "journal-mode-differs",
    /// The owner or the mode of the upper database's files is not what Nix would make it.
    DatabasePermissions = "database-permissions",
    /// A row of the upper database whose object is in neither layer.
    RowWithoutObject = "row-without-object",
    /// An object in the upper layer that no database knows.
    ObjectWithoutRow = "object-without-row",
    /// A whiteout or an opaque directory in the upper layer hides a valid object of the lower store.
    LowerObjectHidden = "lower-object-hidden",
    /// An object is in both layers.
    ObjectInBothLayers = "object-in-both-layers",
    /// The metadata of an object differ between the upper database and the lower store.
    MetadataDiffers = "metadata-differs",
    /// An object is not what its metadata says.
    ObjectDamaged = "object-damaged",
    /// Metadata that the description wants copied up was not.
    WarmFailed = "warm-failed",
    /// The layers cannot be compared.
    LayersUnreadable = "layers-unreadable",
    /// The remount hook is missing or cannot be run.
    RemountHookMissing = "remount-hook-missing",
    /// Nix's own mount check cannot pass with these paths.
    MountCheckImpossible = "mount-check-impossible",
    /// Nix's own mount check will not pass.
    MountCheckFails = "mount-check-fails",
    /// The store URL has to be written differently for different versions of Nix.
    UrlDependsOnVersion = "url-depends-on-version",
    /// Nix did not open the store.
    NixRefuses = "nix-refuses",
    /// Something that this user may not look at was not checked.
    NotChecked = "not-checked",
    /// The build users' group does not exist.
    BuildUsersGroupMissing = "build-users-group-missing",
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Code;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_has_a_section_in_the_manual_and_every_section_a_code() {
        let manual = include_str!("../../docs/findings.md");
        let sections: Vec<&str> = manual
            .lines()
            .filter_map(|line| line.strip_prefix("### "))
            .collect();
        let codes: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(sections.len(), codes.len());
        assert_eq!(sections.into_iter().collect::<BTreeSet<_>>(), codes);
    }
}
