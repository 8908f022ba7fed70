//! The directories and files of a local store, as Nix makes them.
//!
//! Source: the constructor of Nix's `LocalStore`, 2.26 to 2.36; modes as seen with 2.26.3 and
//! 2.34.8. Names are relative to the state directory unless it is said otherwise.

use std::path::{Path, PathBuf};

/// Mode of every directory of the state. Nix leaves it to the umask, except for the two `per-user`,
/// whose mode it sets to this each time.
pub const DIRECTORY_MODE: u32 = 0o755;

/// The directories of the state, each after the one it is in.
pub const STATE_DIRECTORIES: &[&str] = &[
    "profiles",
    "temproots",
    "db",
    "gcroots",
    "profiles/per-user",
    "gcroots/per-user",
];

/// The database's directory.
pub const DATABASE_DIRECTORY: &str = "db";

/// The database's file, in its directory.
pub const DATABASE_FILE: &str = "db.sqlite";

/// The directory of the collector's roots.
pub const ROOTS: &str = "gcroots";

/// The profiles.
pub const PROFILES: &str = "profiles";

/// Within [`ROOTS`] and [`PROFILES`], the directory with one for each user.
pub const PER_USER: &str = "per-user";

/// Where running processes say what they use.
pub const TEMPORARY_ROOTS: &str = "temproots";

/// What is at the top of a state directory.
pub const STATE_TOP: &[&str] = &[DATABASE_DIRECTORY, ROOTS, PROFILES, TEMPORARY_ROOTS];

/// Where the database of a store with this state directory is.
pub fn database(state: &Path) -> PathBuf {
    state.join(DATABASE_DIRECTORY).join(DATABASE_FILE)
}

/// A link to `profiles`, by its absolute path. Nix makes it together with `gcroots`, up to 2.29 but
/// not in 2.28.5. It says nothing: the collector looks for roots in `profiles` anyway.
pub const PROFILES_LINK: &str = "gcroots/profiles";

/// What Nix wants to find of a lower store that it opens with `read-only=true`, on a file system
/// that cannot be written to; `.links` in the store directory is wanted as well. Where Nix can, it
/// makes them, `read-only=true` or not.
pub const WANTED_BELOW: &[&str] = &["db", "profiles/per-user", "gcroots/per-user", "temproots"];

/// The store directory that Nix is built with.
pub(crate) const STORE_DIR: &str = "/nix/store";
/// The state directory that Nix is built with.
pub(crate) const STATE_DIR: &str = "/nix/var/nix";
/// The log directory that Nix is built with.
pub(crate) const LOG_DIR: &str = "/nix/var/log/nix";

/// The socket of the system's daemon, relative to the state directory.
pub(crate) const DAEMON_SOCKET: &str = "daemon-socket/socket";

/// The directory of hard links, relative to the store directory.
pub const LINKS: &str = ".links";

/// Space that Nix frees when it collects garbage on a full disk, mode 0600.
///
/// Nix makes it again on every opening, also with `read-only=true` where it can: a collection in a
/// lower store removes it, and the next store above that opens it as root writes it. Where it cannot
/// be made, Nix goes on without.
pub const RESERVED: &str = "db/reserved";

/// Size of [`RESERVED`] in bytes: the default of Nix's `gc-reserved-space`.
pub const RESERVED_SIZE: u64 = 8 << 20;

/// Mode of the store directory: with a build users' group its group may write, but not remove what
/// is another's.
pub fn store_directory_mode(build_users_group: bool) -> u32 {
    if build_users_group { 0o1775 } else { 0o755 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_after_those_they_are_in() {
        for (at, name) in STATE_DIRECTORIES.iter().enumerate() {
            if let Some((parent, _)) = name.rsplit_once('/') {
                assert!(STATE_DIRECTORIES[..at].contains(&parent), "{name}");
            }
        }
        assert!(
            WANTED_BELOW
                .iter()
                .all(|name| STATE_DIRECTORIES.contains(name))
        );
    }
}
