//! The names by which overstore is known to others: its programs, and the variables it sets.

/// The program.
pub(crate) const PROGRAM: &str = "overstore";
/// The program as Nix's remount hook.
pub const REMOUNT_HOOK: &str = "overstore-remount";
/// The program as a generator of systemd's.
pub const GENERATOR: &str = "overstore-generator";

/// The variable with the name of a store: in the environment of `exec`'s command, and as a field of
/// entries in the journal.
pub(crate) const STORE_VARIABLE: &str = "OVERSTORE_STORE";
/// The variable with the URL of a store.
pub(crate) const URL_VARIABLE: &str = "OVERSTORE_URL";

/// Where descriptions are that have a name, from the directory that counts most; the usual places
/// (systemd.unit(5)).
pub(crate) const DESCRIPTION_DIRECTORIES: [&str; 3] =
    ["/etc/overstore", "/run/overstore", "/usr/lib/overstore"];
