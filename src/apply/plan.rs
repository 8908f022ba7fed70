//! What is to be done, as values: the steps from the machine as observed to the store as described.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

/// The steps that `up` takes, in order. Empty when there is nothing to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

/// One step. Each is atomic or safe to repeat: a process killed between or within steps leaves a
/// state from which a new plan leads to the same end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a directory, and its missing parents as root's own with mode 0755.
    MakeDirectory {
        /// Where.
        path: PathBuf,
        /// Permission bits, sticky bit included; the umask is not applied.
        mode: u32,
        /// The group, or `None` for the process's own.
        gid: Option<u32>,
    },
    /// Give an existing directory the owner and mode that Nix would give it (only with
    /// `--fix-permissions`).
    FixPermissions {
        /// Which.
        path: PathBuf,
        /// Permission bits, sticky bit included.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Make `.links` in the upper layer, opaque, so that the lower store's entries do not show.
    MakeLinksOpaque {
        /// The upper layer.
        upper_layer: PathBuf,
        /// Whether `user.overlay.*` is used instead of `trusted.overlay.*`.
        userxattr: bool,
    },
    /// Make what Nix makes in the state directory and is not there: directories, the link
    /// `gcroots/profiles`.
    MakeState {
        /// The state directory.
        state: PathBuf,
    },
    /// Make the upper database, or finish one whose making was interrupted.
    MakeDatabase {
        /// The state directory.
        state: PathBuf,
        /// Whether it uses a write-ahead log.
        wal: bool,
    },
    /// Mount the overlay, compare what it shows, and record it.
    Mount {
        /// The merged store directory.
        real: PathBuf,
        /// The lower store directory.
        lower: PathBuf,
        /// The upper layer.
        upper_layer: PathBuf,
        /// The work directory.
        workdir: PathBuf,
    },
}

/// A step as it is shown: by `plan`, by `up`, and as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StepReport {
    /// What kind of step: `make-directory`, `mount`, ...
    pub step: &'static str,
    /// The path it is about, escaped where it cannot be printed.
    pub subject: String,
    /// The step in words, as one would say it to a person.
    pub text: String,
}
