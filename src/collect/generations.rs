//! Old generations of Nix's profiles: links, each of which is a root.
//!
//! Nix deletes them by path, and takes a lock before: it opens `NAME.lock` beside the profile, makes it
//! if it is missing, follows a link there, and goes round for ever while what it opened is not empty
//! (`lockProfile` and `PathLocks` in its `profiles.cc` and `pathlocks.cc`). So it is only run for profiles
//! in directories in which nobody else can make or change anything. The others are left to their owners.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, openat, readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

use super::CollectError;
use super::database::Keep;
use super::nix::{self, Programs};
use crate::config::Store;
use crate::escape::{counted, show_path};
use crate::linux::safe_path::{self, Status, Symlinks};
use crate::linux::{locks, users};
use crate::remedy::{Fault, Remedy, command};

/// How deep profiles are looked for. Nix's own are three deep.
const DEEPEST: usize = 32;
/// How many of somebody else's profiles are named.
const MOST_NAMED: usize = 8;

/// Has Nix delete the generations of all profiles in the store's state directory that `which` means:
/// `old`, or an age in days such as `14d`. Gives what was left, since somebody else can change it while
/// Nix looks at it.
///
/// # Errors
/// When the profiles cannot be read, or Nix fails.
pub(crate) fn delete(
    programs: &Programs,
    store: &Store,
    keep: Keep,
    which: &str,
) -> Result<Vec<OfOthers>, CollectError> {
    let found = Profiles::find(&store.state)?;
    for profile in found.ours {
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
    Ok(found.of_others)
}

/// Profiles in or below a directory in which somebody else can make or change entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OfOthers {
    /// The directory.
    directory: PathBuf,
    /// Whose it is.
    owner: u32,
    /// The first few of the profiles.
    named: Vec<PathBuf>,
    /// How many there are.
    count: u64,
}

impl OfOthers {
    /// That their old generations were left, and who can delete those that `which` means.
    pub(crate) fn fault(&self, which: &str) -> Fault {
        let mut what = format!(
            "old generations of {} are left, because others than root can change {}:",
            counted(self.count, "profile"),
            show_path(&self.directory)
        );
        for profile in &self.named {
            what += &format!("\n  {}", show_path(profile));
        }
        if self.count > self.named.len() as u64 {
            what += "\n  ...";
        }
        Fault::new(what).remedy(self.remedy(which))
    }

    fn remedy(&self, which: &str) -> Remedy {
        if safe_path::is_trusted(self.owner) {
            return Remedy::say("let nobody else write to the directory, then run this again")
                .run(command!["chmod", "go-w", &self.directory]);
        }
        let owner = users::in_words(self.owner);
        let says = format!("have {owner} delete them with `nix-env`");
        self.named.iter().fold(Remedy::say(says), |says, profile| {
            let which = ["--delete-generations", which].map(OsString::from);
            says.run(command!["nix-env", "--profile", profile].with(which))
        })
    }
}

/// The profiles of a store: links that have generations beside them.
#[derive(Debug, Default)]
struct Profiles {
    ours: Vec<PathBuf>,
    of_others: Vec<OfOthers>,
}

const LISTING: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Profiles {
    /// Those in a state directory.
    fn find(state: &Path) -> Result<Self, CollectError> {
        let directory = safe_path::directory(state, Symlinks::Refuse);
        let directory = directory.map_err(|obstacle| CollectError::State {
            what: obstacle.to_string(),
        })?;
        let mut found = Self::default();
        let path = state.join("profiles");
        let is_ours = directory.status().is_only_ours_to_change();
        match openat(&directory, "profiles", LISTING, Mode::empty()) {
            Ok(profiles) if is_ours => found.walk(&profiles, &path, 0)?,
            Ok(profiles) => found.of_others(&profiles, &path, directory.status().uid),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
            Err(error) => return Err(CollectError::roots(&path, error)),
        }
        found.of_others.retain(|others| others.count > 0);
        Ok(found)
    }

    /// Those in a directory that nobody else can exchange, and below.
    fn walk(&mut self, directory: &OwnedFd, path: &Path, depth: usize) -> Result<(), CollectError> {
        let failed = |error| CollectError::roots(path, error);
        let status = Status::of(directory).map_err(failed)?;
        if !status.is_only_ours_to_change() {
            self.of_others(directory, path, status.uid);
            return Ok(());
        }
        let entries = Entries::read(directory).map_err(failed)?;
        for name in &entries.directories {
            let here = path.join(name);
            if depth == DEEPEST {
                return Err(CollectError::Deep { path: here });
            }
            match openat(directory, name, LISTING, Mode::empty()) {
                Ok(below) => self.walk(&below, &here, depth + 1)?,
                Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
                Err(error) => return Err(CollectError::roots(&here, error)),
            }
        }
        for name in entries.profiles {
            let profile = path.join(&name);
            if let Some(said) = bad_lock(directory, &name) {
                return Err(CollectError::Generations { profile, said });
            }
            self.ours.push(profile);
        }
        Ok(())
    }

    /// Counts those in and below a directory that somebody else can change. Whatever is in the way
    /// there is their affair.
    fn of_others(&mut self, directory: &OwnedFd, path: &Path, owner: u32) {
        let mut others = OfOthers {
            directory: path.to_owned(),
            owner,
            named: Vec::new(),
            count: 0,
        };
        others.count(directory, path, 0);
        self.of_others.push(others);
    }
}

impl OfOthers {
    fn count(&mut self, directory: &OwnedFd, path: &Path, depth: usize) {
        let Ok(entries) = Entries::read(directory) else {
            return;
        };
        for name in &entries.profiles {
            self.count += 1;
            if self.named.len() < MOST_NAMED {
                self.named.push(path.join(name));
            }
        }
        for name in entries.directories.iter().filter(|_| depth < DEEPEST) {
            if let Ok(below) = openat(directory, name, LISTING, Mode::empty()) {
                self.count(&below, &path.join(name), depth + 1);
            }
        }
    }
}

/// What is in a directory, sorted.
#[derive(Debug, Default)]
struct Entries {
    directories: Vec<OsString>,
    /// Links to generations of their own.
    profiles: Vec<OsString>,
}

impl Entries {
    fn read(directory: &OwnedFd) -> Result<Self, Errno> {
        let mut found = Self::default();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Not every file system says it while it lists.
                FileType::Unknown => {
                    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                        // Gone meanwhile.
                        Err(Errno::NOENT) => continue,
                        Err(error) => return Err(error),
                    }
                }
                known => known,
            };
            match kind {
                FileType::Directory => found.directories.push(name.to_owned()),
                FileType::Symlink => match readlinkat(directory, name, Vec::new()) {
                    Ok(target) if is_generation(OsStr::from_bytes(target.to_bytes()), name) => {
                        found.profiles.push(name.to_owned());
                    }
                    Ok(_) | Err(Errno::NOENT | Errno::INVAL) => {}
                    Err(error) => return Err(error),
                },
                _ => {}
            }
        }
        found.directories.sort();
        found.profiles.sort();
        Ok(found)
    }
}

/// Why Nix's lock of a profile is none, if it is there and Nix would wait for ever, or somebody has left
/// it there: Nix's is an empty file of whoever has made it.
fn bad_lock(directory: &OwnedFd, profile: &OsStr) -> Option<String> {
    let mut name = profile.to_owned();
    name.push(".lock");
    remove_given_up(directory, &name);
    let lock = match statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(lock) => lock,
        Err(Errno::NOENT) => return None,
        Err(error) => return Some(format!("its lock: {}", std::io::Error::from(error))),
    };
    let is_file = FileType::from_raw_mode(lock.st_mode) == FileType::RegularFile;
    let is_ours = safe_path::is_trusted(lock.st_uid);
    (!is_file || lock.st_size != 0 || !is_ours).then(|| {
        format!(
            "{} is no lock of Nix's; remove it if nobody needs it",
            show_path(Path::new(&name))
        )
    })
}

/// What Nix writes into a lock that it removes, for those who wait for it.
const GIVEN_UP: &[u8] = b"d";

/// Removes a lock that Nix has given up, and could not remove: it would go round at it for ever.
fn remove_given_up(directory: &OwnedFd, lock: &OsStr) {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = openat(directory, lock, flags, Mode::empty()) else {
        return;
    };
    let Ok(status) = Status::of(&file) else {
        return;
    };
    let mut content = [0; GIVEN_UP.len() + 1];
    let is_given_up = safe_path::is_trusted(status.uid)
        && rustix::io::read(&file, &mut content).is_ok_and(|length| content[..length] == *GIVEN_UP);
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    if is_given_up && matches!(locks::attempt(&file, exclusive), Ok(Some(()))) {
        // Nobody else can exchange it in this directory. Where it cannot be removed, the look at it says so.
        let _ = unlinkat(directory, lock, AtFlags::empty());
    }
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

    /// Makes profiles: targets, and the links to them.
    fn links(root: &Path, links: &[(&str, &str)]) {
        for (target, name) in links {
            std::os::unix::fs::symlink(target, root.join(name)).unwrap();
        }
    }

    #[test]
    fn profiles_are_links_to_their_generations() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().canonicalize().unwrap();
        let at = |name: &str| path.join("profiles").join(name);
        std::fs::create_dir_all(at("per-user/root")).unwrap();
        links(
            &path.join("profiles"),
            &[
                ("system-2-link", "system"),
                ("/nix/store/x", "system-1-link"),
                ("/nix/store/x", "system-2-link"),
                ("profile-1-link", "per-user/root/profile"),
                ("/nix/store/x", "per-user/root/profile-1-link"),
                ("/root/elsewhere-1-link", "per-user/root/elsewhere"),
            ],
        );
        let found = Profiles::find(&path).unwrap();
        assert_eq!(found.ours, [at("per-user/root/profile"), at("system")]);
        assert_eq!(found.of_others, []);
        // What Nix would wait for, and what it would follow.
        for make in [
            (|lock| std::fs::write(lock, "x").unwrap()) as fn(&Path),
            |lock| std::os::unix::fs::symlink("/etc/passwd", lock).unwrap(),
        ] {
            let lock = at("system.lock");
            make(&lock);
            let error = Profiles::find(&path).unwrap_err();
            assert!(error.to_string().contains("system.lock"), "{error}");
            std::fs::remove_file(lock).unwrap();
        }
        // What Nix has left does not stay.
        std::fs::write(at("system.lock"), "d").unwrap();
        Profiles::find(&path).unwrap();
        assert!(!at("system.lock").exists());
        std::fs::write(at("system.lock"), "").unwrap();
        assert_eq!(Profiles::find(&path).unwrap().ours.len(), 2);
    }
}
