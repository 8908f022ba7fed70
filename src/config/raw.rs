//! The keys of the file, as written. Their doc comments are the descriptions in the JSON schema.

use super::read::{At, ProgramOrFalse, Scalars, table};
use super::store::{WhenIncomplete, WhenReplaced};

table! {
    /// The description of one local-overlay store of Nix, for overstore.
    ///
    /// Paths are absolute and have no `..`.
    RawStore {
        /// The directory that holds the merged store and its state: `real`, `state` and `log` are
        /// below it unless they are given. Without it they are the system's own.
        #[schemars(example = "/mnt/example/merged-store")]
        "root" root: String,
        /// The merged store directory, where OverlayFS is mounted. Default: `${root}/nix/store`,
        /// without `root` the same as `store`.
        #[schemars(example = "/mnt/example/merged-store/nix/store")]
        "real" real: String,
        /// The state directory, which holds the upper database. Default: `${root}/nix/var/nix`,
        /// without `root` the environment's NIX_STATE_DIR or `/nix/var/nix`.
        "state" state: String,
        /// The directory of build logs. Default: `${root}/nix/var/log/nix`, without `root` the
        /// environment's NIX_LOG_DIR or `/nix/var/log/nix`.
        "log" log: String,
        /// The store directory, as store paths name it. Default: the environment's NIX_STORE_DIR,
        /// or `/nix/store`.
        "store" store: String,
        /// The lower store: a path (a local store with that root), `local`, `daemon`, `auto`, or a
        /// store URL: `local://`, `unix://`, `local-overlay://` or `mounted-ssh-ng://`. Required, unless
        /// `lower.publication` is given; then it must be left out.
        #[schemars(example = "/mnt/example/store-a")]
        "lower-store" lower_store: String,
        /// The upper layer: the directory that takes the new store objects.
        #[schemars(required, example = "/mnt/example/store-b")]
        "upper-layer" upper_layer: String,
        /// OverlayFS's work directory, on the same file system as the upper layer.
        #[schemars(required, example = "/mnt/example/workdir")]
        "workdir" workdir: String,
        /// Whether Nix checks the mount when it opens the store. Default: `true`, unless a path has
        /// a character that Nix's check cannot match.
        "check-mount" check_mount: bool,
        /// The program that Nix runs to have the merged store remounted, or `false` for none.
        /// Default: `overstore-remount`, beside the running program.
        "remount-hook" remount_hook: ProgramOrFalse,
        /// Whether the store's unit counts as started (`start`) or as failed (`fail`) if the store is
        /// mounted but some of its objects are missing. Default: `start`.
        "when-incomplete" when_incomplete: WhenIncomplete,
        /// What the URL in `lower-store` does not tell.
        "lower" lower: RawLower,
        /// The OverlayFS mount.
        "mount" mount: RawMount,
        /// Owners and modes.
        "permissions" permissions: RawPermissions,
        /// The upper database.
        "database" database: RawDatabase,
        /// The daemon that serves this store.
        "daemon" daemon: RawDaemon,
        /// Metadata to copy from the lower store whenever the store is set up.
        "warm" warm: RawWarm,
        /// When and how the garbage of the upper layer is collected on schedule.
        "gc" gc: RawGc,
        /// When and how the store follows the lower store on schedule.
        "refresh" refresh: RawRefresh,
        /// Other settings of Nix's store, passed on in the store URL.
        #[schemars(example = serde_json::json!({ "require-sigs": false }))]
        "parameters" parameters: Scalars,
    }
}

table! {
    /// What the URL in `lower-store` does not tell.
    #[schemars(rename = "Lower")]
    RawLower {
        /// The lower store directory. Default: what Nix takes it to be.
        "real" real: String,
        /// The lower store's state directory. Default: what Nix takes it to be.
        "state" state: String,
        /// Whether Nix is told that the lower store is read-only: it then neither locks nor writes
        /// its database. Default: `false`.
        "read-only" read_only: bool,
        /// The directory of a publication, as it is mounted here: its current generation is the lower
        /// store's metadata. `real` is then required, and the store is read-only.
        #[schemars(example = &"/mnt/example/publications/main")]
        "publication" publication: String,
        /// What `up` does if the lower store was replaced: report what is wrong (`report`), or put the
        /// store right before it is mounted, as `overstore reconcile` does, if nothing is lost by that
        /// (`reconcile`). Default: `report`.
        "when-replaced" when_replaced: WhenReplaced,
    }
}

table! {
    /// The OverlayFS mount.
    #[schemars(rename = "Mount")]
    RawMount {
        /// Further mount options of OverlayFS, each `name` or `name=value`. Default: none.
        #[schemars(example = ["index=on"])]
        "options" options: Vec<At<String>>,
    }
}

table! {
    /// Owners and modes.
    #[schemars(rename = "Permissions")]
    RawPermissions {
        /// The group that owns the store directory if it exists, as Nix's setting of the same name.
        /// Empty for none. Default: `nixbld`.
        "build-users-group" build_users_group: String,
    }
}

table! {
    /// The upper database.
    #[schemars(rename = "Database")]
    RawDatabase {
        /// Whether the upper database uses a write-ahead log, as Nix's setting of the same name. Must
        /// be `false` on NFS. Default: `true`.
        "use-sqlite-wal" use_sqlite_wal: bool,
    }
}

table! {
    /// The daemon that serves this store. Without `serve` and `socket` there is none.
    #[schemars(rename = "Daemon")]
    RawDaemon {
        /// Whether the system's own nix-daemon serves this store. Default: `false`.
        "serve" serve: bool,
        /// The socket of a nix-daemon of this store's own.
        #[schemars(example = "/run/overstore/example/socket")]
        "socket" socket: String,
    }
}

table! {
    /// Metadata to copy from the lower store whenever the store is set up: see `overstore warm`.
    #[schemars(rename = "Warm")]
    RawWarm {
        /// Whether everything that is valid below is copied. Default: `false`.
        "all" all: bool,
        /// Paths of the lower store, or links to them, whose closures are copied. Default: none.
        #[schemars(example = ["/run/current-system"])]
        "paths" paths: Vec<At<String>>,
        /// Directories of garbage-collector roots or profiles: the closures of what these point to
        /// are copied. Default: none.
        #[schemars(example = ["/nix/var/nix/gcroots"])]
        "roots" roots: Vec<At<String>>,
        /// Whether roots keep Nix's collector from removing the metadata. Default: `false`.
        "keep" keep: bool,
    }
}

table! {
    /// When and how the garbage of the upper layer is collected on schedule: see `overstore gc`. The
    /// store's units have a timer that does it.
    #[schemars(rename = "Gc")]
    RawGc {
        /// When: a systemd calendar event. Default: `daily` if a limit is given, otherwise never.
        #[schemars(example = &"hourly")]
        "schedule" schedule: String,
        /// Only what came into the upper layer longer ago than this. Default: everything.
        #[schemars(example = &"14d")]
        "older-than" older_than: String,
        /// Only if less than this is free on the upper layer's file system. Default: always.
        #[schemars(example = &"10G")]
        "min-free" min_free: String,
        /// Only until this is free there, oldest first. Default: everything.
        #[schemars(example = &"50G")]
        "max-free" max_free: String,
        /// Whether objects that neither database knows are deleted, also when `overstore gc` is run by hand.
        /// Default: `false`.
        "leftovers" leftovers: bool,
        /// Whether what is in both layers is removed from the upper one first: see `overstore
        /// optimise`. Default: `false`.
        "optimise" optimise: bool,
    }
}

table! {
    /// When and how the store follows the lower store on schedule: see `overstore refresh`. The store's
    /// units have a timer that does it.
    #[schemars(rename = "Refresh")]
    RawRefresh {
        /// When: a systemd calendar event. Default: never.
        #[schemars(example = &"hourly")]
        "schedule" schedule: String,
        /// Whether what is in both layers is removed from the upper one afterwards: see `overstore
        /// optimise`. Default: `false`.
        "optimise" optimise: bool,
    }
}

impl RawStore {
    /// The publication that the lower store is of, with the table that names it.
    pub(super) fn published(&self) -> Option<(&At<String>, &RawLower)> {
        let table = &self.lower.as_ref()?.value;
        Some((table.publication.as_ref()?, table))
    }
}
