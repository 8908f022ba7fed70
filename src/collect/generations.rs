//! Old generations of Nix's profiles: links, each of which is a root.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::CollectError;
use super::database::Keep;
use super::nix::{self, Programs};
use crate::config::Store;

/// Has Nix delete the generations of all profiles in the store's state directory that `which` means:
/// `old`, or an age in days such as `14d`.
///
/// # Errors
/// When the profiles cannot be read, or Nix fails.
pub(crate) fn delete(
    programs: &Programs,
    store: &Store,
    keep: Keep,
    which: &str,
) -> Result<(), CollectError> {
    let mut profiles = Vec::new();
    let directory = store.state.join("profiles");
    find(&directory, &mut profiles).map_err(|source| CollectError::Roots {
        path: directory.clone(),
        source,
    })?;
    for profile in profiles {
        let failed = |said: String| CollectError::Generations {
            profile: profile.clone(),
            said,
        };
        let output = programs
            .command("nix-env")
            .arg("--profile")
            .arg(&profile)
            .args(["--delete-generations", which, "--store"])
            .arg(OsStr::from_bytes(nix::url(programs, store).as_bytes()))
            .env("NIX_CONFIG", nix::nix_config(store, keep))
            .output()
            .map_err(|error| failed(format!("cannot run nix-env: {error}")))?;
        if !output.status.success() {
            return Err(failed(nix::lines(output.stderr.trim_ascii())));
        }
    }
    Ok(())
}

/// The profiles in a directory and below: links that have generations beside them.
fn find(directory: &Path, profiles: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut names: Vec<OsString> = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            find(&entry.path(), profiles)?;
        } else if kind.is_symlink() {
            names.push(entry.file_name());
        }
    }
    names.sort();
    for name in &names {
        let target = std::fs::read_link(directory.join(name))?;
        if is_generation(target.as_os_str(), name) {
            profiles.push(directory.join(name));
        }
    }
    Ok(())
}

/// Whether a name is that of a generation of a profile: `NAME-NUMBER-link`.
fn is_generation(name: &OsStr, profile: &OsStr) -> bool {
    let number = name
        .as_bytes()
        .strip_prefix(profile.as_bytes())
        .and_then(|rest| rest.strip_prefix(b"-"))
        .and_then(|rest| rest.strip_suffix(b"-link"));
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_links_to_their_generations() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("per-user/alice")).unwrap();
        for (target, name) in [
            ("system-2-link", "system"),
            ("/nix/store/x", "system-1-link"),
            ("/nix/store/x", "system-2-link"),
            ("profile-1-link", "per-user/alice/profile"),
            ("/nix/store/x", "per-user/alice/profile-1-link"),
            ("/home/alice/elsewhere-1-link", "per-user/alice/elsewhere"),
        ] {
            std::os::unix::fs::symlink(target, at(name)).unwrap();
        }
        let mut found = Vec::new();
        find(root.path(), &mut found).unwrap();
        found.sort();
        assert_eq!(found, [at("per-user/alice/profile"), at("system")]);
    }
}
