//! The remount hook: a program that Nix runs, as root where root's Nix does.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::HookFacts;
use super::environment::program;
use crate::linux::exhaustion;
use crate::linux::safe_path::{self, Obstacle, Symlinks};

/// Looks at the hook.
pub(super) fn observe(hook: &Path) -> HookFacts {
    HookFacts {
        runs: runs(hook),
        target: std::fs::read_link(hook).ok(),
        unsafe_because: unsafe_because(hook),
        program: program(),
    }
}

/// Whether a path is that of a program that this process may run.
fn runs(program: &Path) -> bool {
    let is_file = exhaustion::look(program).is_some_and(|found| found.is_file());
    is_file && rustix::fs::accessat(CWD, program, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// Who could have another program run: by replacing the hook or what it leads to, or by writing to
/// that.
fn unsafe_because(hook: &Path) -> Option<(PathBuf, String)> {
    let reached = safe_path::walk(hook, Symlinks::Follow).and_then(|program| {
        // What is only read may be another user's; this is run.
        safe_path::walk(program.path(), Symlinks::Refuse)
    });
    match reached {
        Ok(program) => {
            let status = program.status();
            let why = if !status.trusted() {
                format!("belongs to user {}", status.uid)
            } else if status.mode & 0o022 != 0 {
                format!("has mode {:04o}: others may write to it", status.mode)
            } else {
                return None;
            };
            Some((program.path().to_owned(), why))
        }
        Err(Obstacle::Unsafe { component, why }) => Some((component, why.to_string())),
        // Whatever else is the matter: it does not run.
        Err(_) => None,
    }
}
