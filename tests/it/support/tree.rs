//! The Debian trees with real Nix.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::skip;

/// A Debian tree that holds real Nix, made and cached by `tests/trees`. Shared by all tests: only
/// to be read.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    /// Its name to `tests/trees`.
    pub name: &'static str,
    /// Where the tree is on this machine.
    pub path: &'static Path,
}

impl Tree {
    /// Debian 13: Nix 2.26. `None` where it is not to be had, which is reported with [`skip`].
    pub fn trixie() -> Option<Self> {
        static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        Self::named("trixie", &FOUND)
    }

    /// Debian sid: the newest Nix that Debian has (2.34 or later). `None` where it is not to be
    /// had, which is reported with [`skip`]; CI accepts that.
    pub fn sid() -> Option<Self> {
        static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        Self::named("sid", &FOUND)
    }

    /// Debian 13 with Podman, which is a large package: for `make soak`. `None` where it is not to be had,
    /// which is reported with [`skip`].
    pub fn podman() -> Option<Self> {
        static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        Self::named("podman", &FOUND)
    }

    /// The trees there are: to be looped over by tests that hold for every Nix. The missing ones
    /// are reported with [`skip`].
    pub fn all() -> Vec<Self> {
        [Self::trixie(), Self::sid()]
            .into_iter()
            .flatten()
            .collect()
    }

    fn named(
        name: &'static str,
        found: &'static OnceLock<Result<PathBuf, String>>,
    ) -> Option<Self> {
        match found.get_or_init(|| find_or_make(name)) {
            Ok(path) => Some(Self { name, path }),
            Err(reason) => {
                skip(name, reason);
                None
            }
        }
    }
}

fn find_or_make(name: &str) -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees");
    let made = Command::new(&script)
        .arg(name)
        .output()
        .map_err(|error| format!("{}: {error}", script.display()))?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        return Err(said
            .lines()
            .last()
            .unwrap_or("tests/trees failed")
            .to_owned());
    }
    let mut path = made.stdout;
    path.pop_if(|last| *last == b'\n');
    Ok(OsString::from_vec(path).into())
}
