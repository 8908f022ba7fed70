//! Paths taken apart and walked by descriptor, so that nobody can swap a component meanwhile, and
//! refused where somebody could swap one later.
//!
//! Nix takes everything by path, each time anew, so a path that root relies on must lead only through
//! directories in which nobody else can rename or replace the next component: not their owner, not
//! everybody, not a group or an access list (whose widest right the group's permission bits show).
//! With the sticky bit, what is root's own cannot be replaced by others. Whom root trusts: user 0.
//!
//! What is only read ([`Symlinks::Follow`]) may lie in directories of another user, as long as the way
//! stays with that one user: the rule of systemd-tmpfiles (an *unsafe path transition*). So it is for
//! ordinary users in everything, who can do no more than they may.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;

use super::exhaustion;
use super::file_identity::FileIdentity;
use crate::escape::show_path;
use crate::remedy::{HasRemedy, Remedy, command, of_io};

/// How many symbolic links one path may lead through, as in the kernel.
const MAXIMUM_LINKS: usize = 40;

/// The user number that stands for all those without one in a user namespace.
const OVERFLOW_UID: u32 = 65534;

/// Whether a path may lead through symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Symlinks {
    /// None: for everything that is written to or mounted. Root's way then leads through root's own
    /// directories only.
    Refuse,
    /// Those of root or ourselves, and those of others to what belongs to the same user: for the
    /// lower store, whose paths are its owner's choice, and who could otherwise have root read, and
    /// show, whatever that user may not.
    Follow,
}

/// What a walk reached: a descriptor of it (`O_PATH`), its path, and its attributes.
#[derive(Debug)]
pub(crate) struct Reached {
    fd: OwnedFd,
    path: PathBuf,
    status: Status,
    /// What the walk led through, from the root directory on, and this at the end.
    way: Vec<Status>,
    /// By which rules the walk goes on from here.
    symlinks: Symlinks,
}

/// The attributes of something reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    /// Which file it is.
    pub identity: FileIdentity,
    /// Type.
    pub kind: FileType,
    /// Permission bits, sticky and set-id bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Number of the mount, as in `/proc/self/mountinfo` (0 before Linux 5.8).
    pub mount_id: u64,
}

/// Who could replace a component of a path. Shown as the rest of a sentence that begins with the
/// component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Danger {
    /// Everybody.
    #[error("is in a directory that everybody may write to and that has no sticky bit")]
    OpenDirectory,
    /// The members of the directory's group, or those of its access list.
    #[error(
        "is in a directory that its group ({group}) or an access list may write to and that has no \
         sticky bit"
    )]
    GroupDirectory {
        /// The group.
        group: u32,
    },
    /// The user that the directory belongs to.
    #[error("belongs to user {entry} in a directory of user {directory}, who could replace it")]
    TheirDirectory {
        /// Whose the component is.
        entry: u32,
        /// Whose the directory is.
        directory: u32,
    },
    /// The user that the directory belongs to, once somebody has made the component.
    #[error("is missing in a directory of user {directory}, who could replace what is made there")]
    NothingThere {
        /// Whose the directory is.
        directory: u32,
    },
    /// The user that a symbolic link on the way belongs to.
    #[error("belongs to user {target}, and a symbolic link of user {link} leads there")]
    TheirLink {
        /// Whose the link is.
        link: u32,
        /// Whose the component is.
        target: u32,
    },
    /// The user that the component belongs to; others than root may make such entries in the directory.
    #[error("belongs to user {entry} in a directory that others than root may write to")]
    TheirEntry {
        /// Whose the component is.
        entry: u32,
    },
}

/// Why a path could not be walked to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Obstacle {
    /// A component is missing.
    #[error("{} does not exist", show_path(component))]
    Missing {
        /// The missing component.
        component: PathBuf,
        /// The directory that it is missing in.
        nearest: Box<Reached>,
    },
    /// A component is a symbolic link where none may be.
    #[error("{} is a symbolic link", show_path(component))]
    Symlink {
        /// The link.
        component: PathBuf,
    },
    /// A component that should be a directory is something else.
    #[error("{} is not a directory", show_path(component))]
    NotDirectory {
        /// The component.
        component: PathBuf,
        /// What it is.
        kind: FileType,
    },
    /// Somebody else can replace a component.
    #[error("{} {why}", show_path(component))]
    Unsafe {
        /// The component.
        component: PathBuf,
        /// Why.
        why: Danger,
    },
    /// A component could not be looked at.
    #[error("{}: {}", show_path(component), io::Error::from_raw_os_error(*errno))]
    Unreachable {
        /// The component.
        component: PathBuf,
        /// The error number.
        errno: i32,
    },
}

impl HasRemedy for Obstacle {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Missing { .. } => of_io(&Errno::NOENT.into(), Path::new("/")),
            Self::Symlink { component } => {
                Remedy::say("name what the link leads to").run(command!["readlink", "-f", component])
            }
            Self::NotDirectory { component, .. } => {
                of_io(&Errno::NOTDIR.into(), component)
            }
            Self::Unsafe { component, .. } => Remedy::say(
                "see who may write to the directories on the way, and leave that to root and to whoever \
                 runs this",
            )
            .run(command!["namei", "-l", component])
            .or("name another path"),
            Self::Unreachable { component, errno } => {
                of_io(&io::Error::from_raw_os_error(*errno), component)
            }
        }
    }
}

impl From<Obstacle> for io::Error {
    fn from(obstacle: Obstacle) -> io::Error {
        match obstacle {
            Obstacle::Missing { .. } => Errno::NOENT.into(),
            Obstacle::NotDirectory { .. } => Errno::NOTDIR.into(),
            Obstacle::Unreachable { errno, .. } => io::Error::from_raw_os_error(errno),
            obstacle => io::Error::other(obstacle.to_string()),
        }
    }
}

/// Walks an absolute path from the root directory to a directory.
///
/// # Errors
/// See [`Obstacle`].
pub(crate) fn directory(path: &Path, symlinks: Symlinks) -> Result<Reached, Obstacle> {
    let reached = walk(path, symlinks)?;
    match reached.status.kind {
        FileType::Directory => Ok(reached),
        kind => Err(Obstacle::NotDirectory {
            component: reached.path,
            kind,
        }),
    }
}

/// Walks an absolute path from the root directory to a directory, and opens it for reading its
/// entries.
///
/// # Errors
/// See [`Obstacle`]; and those of openat(2).
pub(crate) fn open_directory(path: &Path, symlinks: Symlinks) -> io::Result<OwnedFd> {
    Ok(directory(path, symlinks)?.open()?)
}

/// Walks an absolute path from the root directory to whatever is there.
///
/// # Errors
/// See [`Obstacle`].
pub(crate) fn walk(path: &Path, symlinks: Symlinks) -> Result<Reached, Obstacle> {
    Ok(walk_from(Reached::root(symlinks)?, path, symlinks)?.0)
}

/// Walks an absolute path from the root directory to whatever is there, and gives the directory that
/// it is in, too: of a path that ends in a directory above, there is none.
///
/// # Errors
/// See [`Obstacle`].
pub(crate) fn walk_to_entry(
    path: &Path,
    symlinks: Symlinks,
) -> Result<(Reached, Option<Reached>), Obstacle> {
    walk_from(Reached::root(symlinks)?, path, symlinks)
}

/// [`walk_to_entry`], from a directory that was reached.
///
/// # Errors
/// See [`Obstacle`].
pub(crate) fn walk_to_entry_below(
    start: &Reached,
    path: &Path,
    symlinks: Symlinks,
) -> Result<(Reached, Option<Reached>), Obstacle> {
    walk_from(start.try_clone()?, path, symlinks)
}

/// Walks on from a directory that was reached, to whatever is there: as [`walk`] with the whole
/// path does, without the way to that directory.
///
/// # Errors
/// See [`Obstacle`].
pub(crate) fn walk_below(
    start: &Reached,
    path: &Path,
    symlinks: Symlinks,
) -> Result<Reached, Obstacle> {
    Ok(walk_from(start.try_clone()?, path, symlinks)?.0)
}

fn walk_from(
    start: Reached,
    path: &Path,
    symlinks: Symlinks,
) -> Result<(Reached, Option<Reached>), Obstacle> {
    let mut here = Reached { symlinks, ..start };
    // What is still to be walked, the next component last.
    let mut rest: Vec<OsString> = names(path).rev().collect();
    let mut above: Vec<Reached> = Vec::new();
    let mut links = 0;
    // Whose link it was that the path led through, if it is somebody to be feared.
    let mut led_by = None;
    while let Some(name) = rest.pop() {
        if name == ".." {
            // Only a symbolic link's target has these; the way up is the one that came down.
            here = match (above.pop(), here.path.parent()) {
                (Some(directory), _) => directory,
                (None, Some(parent)) => walk(parent, symlinks)?,
                (None, None) => here,
            };
            continue;
        }
        let entered = here.enter(&name);
        // Not even whether it is there is told of what is somebody else's.
        if let (Err(_), Some(why)) = (&entered, here.led_astray(led_by)) {
            return Err(Obstacle::Unsafe {
                component: here.path,
                why,
            });
        }
        let next = match entered {
            Ok(next) => next,
            Err(obstacle) => return Err(here.missing_if_followed(obstacle)),
        };
        if next.status.kind != FileType::Symlink {
            above.push(std::mem::replace(&mut here, next));
            continue;
        }
        links += 1;
        if symlinks == Symlinks::Refuse {
            return Err(Obstacle::Symlink {
                component: next.path,
            });
        }
        if links > MAXIMUM_LINKS {
            return Err(next.unreachable(Errno::LOOP));
        }
        if !next.status.trusted() {
            led_by = Some(next.status.uid);
        }
        if here.is_proc() {
            // Such a link leads somewhere by itself, whatever its text says: proc_pid_root(5).
            let next = here.follow(&name)?;
            above.push(std::mem::replace(&mut here, next));
            continue;
        }
        let target = next.target()?;
        if target.is_absolute() {
            above.clear();
            here = Reached::root(symlinks)?;
        }
        rest.extend(names(&target).rev());
    }
    match here.led_astray(led_by) {
        Some(why) => Err(Obstacle::Unsafe {
            component: here.path,
            why,
        }),
        None => Ok((here, above.pop())),
    }
}

/// The names in a path, `..` included.
fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

impl Reached {
    /// What this symbolic link says.
    fn target(self) -> Result<PathBuf, Obstacle> {
        match readlinkat(&self.fd, "", Vec::new()) {
            Ok(target) => Ok(OsString::from_vec(target.into_bytes()).into()),
            Err(errno) => Err(self.unreachable(errno)),
        }
    }

    /// Nothing is made where links are followed: there, what is missing where somebody else could
    /// make it is just missing.
    fn missing_if_followed(self, obstacle: Obstacle) -> Obstacle {
        match obstacle {
            Obstacle::Unsafe {
                component,
                why: Danger::NothingThere { .. },
            } if self.symlinks == Symlinks::Follow => Obstacle::Missing {
                component,
                nearest: Box::new(self),
            },
            obstacle => obstacle,
        }
    }

    /// The root directory of this process.
    ///
    /// # Errors
    /// [`Obstacle::Unreachable`], hardly ever.
    pub(crate) fn root(symlinks: Symlinks) -> Result<Reached, Obstacle> {
        let path = PathBuf::from("/");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open("/", flags, Mode::empty())
            .and_then(|fd| {
                let status = Status::of(&fd)?;
                Ok((fd, status))
            })
            .map(|(fd, status)| Reached {
                fd,
                path: path.clone(),
                status,
                way: vec![status],
                symlinks,
            })
            .map_err(|errno| Obstacle::Unreachable {
                component: path,
                errno: errno.raw_os_error(),
            })
    }

    /// Takes one step down from this directory, without following a symbolic link: a link is
    /// reached itself.
    ///
    /// # Errors
    /// See [`Obstacle`].
    pub(crate) fn enter(&self, name: &OsStr) -> Result<Reached, Obstacle> {
        let path = self.path.join(name);
        if self.status.kind != FileType::Directory {
            return Err(Obstacle::NotDirectory {
                component: self.path.clone(),
                kind: self.status.kind,
            });
        }
        if let Some(why) = self.status.replaceable_entries(self.symlinks) {
            return Err(Obstacle::Unsafe {
                component: path,
                why,
            });
        }
        let fd = match self.open_entry(name) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Err(self.missing(path)),
            Err(errno) => {
                return Err(Obstacle::Unreachable {
                    component: path,
                    errno: errno.raw_os_error(),
                });
            }
        };
        let status = Status::of(&fd).map_err(|errno| Obstacle::Unreachable {
            component: path.clone(),
            errno: errno.raw_os_error(),
        })?;
        match self.status.unsafe_transition(&status, self.symlinks) {
            Some(why) => Err(Obstacle::Unsafe {
                component: path,
                why,
            }),
            None => Ok(Reached {
                fd,
                path,
                way: self.way_to(&status),
                status,
                symlinks: self.symlinks,
            }),
        }
    }

    /// Whether a link of this user, if of any, led to what is not theirs.
    fn led_astray(&self, led_by: Option<u32>) -> Option<Danger> {
        let (link, target) = (led_by?, self.status.uid);
        (link != target).then_some(Danger::TheirLink { link, target })
    }

    /// Whether this is a directory of the kernel's own, in procfs.
    fn is_proc(&self) -> bool {
        rustix::fs::fstatfs(&self.fd).is_ok_and(|fs| fs.f_type == rustix::fs::PROC_SUPER_MAGIC)
    }

    /// Has the kernel follow a link of its own.
    fn follow(&self, name: &OsStr) -> Result<Reached, Obstacle> {
        let path = self.path.join(name);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let followed = exhaustion::note(openat(&self.fd, name, flags, Mode::empty()))
            .and_then(|fd| Ok((Status::of(&fd)?, fd)));
        match followed {
            Ok((status, fd)) => Ok(Reached {
                fd,
                path,
                way: self.way_to(&status),
                status,
                symlinks: self.symlinks,
            }),
            Err(errno) => Err(Obstacle::Unreachable {
                component: path,
                errno: errno.raw_os_error(),
            }),
        }
    }

    /// Opens an entry. As a directory first: only that makes an automatic mount point be mounted.
    fn open_entry(&self, name: &OsStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.fd, name, flags | OFlags::DIRECTORY, Mode::empty()) {
            Err(Errno::NOTDIR) => exhaustion::note(openat(&self.fd, name, flags, Mode::empty())),
            result => exhaustion::note(result),
        }
    }

    /// The obstacle of a missing entry: what root makes in somebody else's directory is no safe
    /// place for anybody.
    fn missing(&self, component: PathBuf) -> Obstacle {
        if !self.status.trusted() {
            return Obstacle::Unsafe {
                component,
                why: Danger::NothingThere {
                    directory: self.status.uid,
                },
            };
        }
        match self.try_clone() {
            Ok(nearest) => Obstacle::Missing {
                component,
                nearest: Box::new(nearest),
            },
            Err(obstacle) => obstacle,
        }
    }

    fn try_clone(&self) -> Result<Reached, Obstacle> {
        let fd = self.fd.try_clone().map_err(|error| Obstacle::Unreachable {
            component: self.path.clone(),
            errno: error.raw_os_error().unwrap_or_default(),
        })?;
        Ok(Reached {
            fd,
            path: self.path.clone(),
            status: self.status,
            way: self.way.clone(),
            symlinks: self.symlinks,
        })
    }

    pub(crate) fn unreachable(self, errno: Errno) -> Obstacle {
        Obstacle::Unreachable {
            component: self.path,
            errno: errno.raw_os_error(),
        }
    }

    /// The way on to an entry.
    fn way_to(&self, entry: &Status) -> Vec<Status> {
        let on = std::iter::once(*entry);
        self.way.iter().copied().chain(on).collect()
    }

    /// What the walk led through, links apart, from the root directory to this: one for each
    /// component of [`path`](Self::path).
    pub(crate) fn way(&self) -> &[Status] {
        &self.way
    }

    /// Where the walk led: the path without symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The attributes, as they were when it was reached.
    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// Opens the directory for reading its entries.
    ///
    /// # Errors
    /// Those of openat(2).
    pub(crate) fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        exhaustion::note(openat(&self.fd, ".", flags, Mode::empty()))
    }
}

impl AsFd for Reached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Status {
    /// The attributes of what a descriptor stands for.
    ///
    /// # Errors
    /// Those of statx(2).
    pub(crate) fn of(fd: impl AsFd) -> Result<Status, Errno> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let found = exhaustion::note(statx(fd, "", flags, mask))?;
        let mode = u32::from(found.stx_mode);
        Ok(Status {
            identity: FileIdentity::from(&found),
            kind: FileType::from_raw_mode(mode),
            mode: mode & 0o7777,
            uid: found.stx_uid,
            gid: found.stx_gid,
            size: found.stx_size,
            mount_id: found.stx_mnt_id,
        })
    }

    /// Whether both are one directory on one mount.
    pub(crate) fn is_same_on_mount(&self, other: &Status) -> bool {
        (self.identity, self.mount_id) == (other.identity, other.mount_id)
    }

    /// Whether the owner is root or ourselves, who need not be feared. In a user namespace the
    /// owner of everything that is not mapped, root included, looks the same: nothing better can be
    /// told there, and nothing there has more rights than its user.
    pub(crate) fn trusted(&self) -> bool {
        is_trusted(self.uid)
    }

    /// Whether nobody to be feared can make, change or remove entries of this directory: the sticky bit
    /// does not help where a name must not be made either.
    pub(crate) fn is_only_ours_to_change(&self) -> bool {
        self.trusted() && self.mode & writable_to_others() == 0
    }

    /// Why others could replace any entry of this directory, if so.
    fn replaceable_entries(&self, symlinks: Symlinks) -> Option<Danger> {
        let sticky = self.mode & 0o1000 != 0;
        if self.mode & 0o002 != 0 && !sticky {
            return Some(Danger::OpenDirectory);
        }
        // Whoever else owns a directory that is only read is trusted with who may write to it.
        let ours = symlinks == Symlinks::Refuse || self.trusted();
        (is_root() && ours && self.mode & 0o020 != 0 && !sticky)
            .then_some(Danger::GroupDirectory { group: self.gid })
    }

    /// Why the step from this directory to an entry is unsafe, if it is.
    fn unsafe_transition(&self, entry: &Status, symlinks: Symlinks) -> Option<Danger> {
        let of_root_only = symlinks == Symlinks::Refuse && is_root();
        if !self.trusted() && (of_root_only || self.uid != entry.uid) {
            return Some(Danger::TheirDirectory {
                entry: entry.uid,
                directory: self.uid,
            });
        }
        (self.mode & writable_to_others() != 0 && self.trusted() && !entry.trusted()
            || self.mode & 0o002 != 0 && !entry.trusted())
        .then_some(Danger::TheirEntry { entry: entry.uid })
    }
}

/// Whether a user is root or ourselves. See [`Status::trusted`].
pub(crate) fn is_trusted(uid: u32) -> bool {
    uid == 0
        || uid == rustix::process::geteuid().as_raw()
        || (uid == OVERFLOW_UID && in_namespace_of_a_user())
}

/// The permission bits of a directory that let in whom root, or anybody else, has to fear.
fn writable_to_others() -> u32 {
    if is_root() { 0o022 } else { 0o002 }
}

/// Whether this process has root's rights over the machine, and not only those of a user in a user
/// namespace of that user's.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root() && !in_namespace_of_a_user()
}

/// Whether this process is in a user namespace in which the user number that stands for all others
/// is nobody's own: those that a user makes.
static NAMESPACE_OF_A_USER: AtomicBool = AtomicBool::new(false);

fn in_namespace_of_a_user() -> bool {
    NOTED.call_once(|| {
        // Nobody has taken note yet, so nobody has changed the root directory either.
        let map = std::fs::read("/proc/self/uid_map").unwrap_or_default();
        NAMESPACE_OF_A_USER.store(lacks_overflow_user(&map), Ordering::Relaxed);
    });
    NAMESPACE_OF_A_USER.load(Ordering::Relaxed)
}

/// Whether note has been taken.
static NOTED: Once = Once::new();

/// Takes note of the user namespace, from `/proc/self/uid_map`: at the beginning, when another one
/// is entered, and not from below a root directory that somebody else has filled.
pub(crate) fn note_user_namespace(uid_map: &[u8]) {
    NOTED.call_once(|| {});
    NAMESPACE_OF_A_USER.store(lacks_overflow_user(uid_map), Ordering::Relaxed);
}

/// Whether no line of a map, of first number inside, first outside, and how many, has the user number
/// that stands for all others.
fn lacks_overflow_user(uid_map: &[u8]) -> bool {
    let text = String::from_utf8_lossy(uid_map);
    let mut ranges = text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u64>);
        let first = fields.next()?.ok()?;
        Some(first..first.saturating_add(fields.nth(1)?.ok()?))
    });
    !text.trim().is_empty() && !ranges.any(|range| range.contains(&u64::from(OVERFLOW_UID)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    /// A scratch directory below the sticky `/tmp`, by its own path.
    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        (directory, path)
    }

    /// What is in the way is told in one line, whatever it is called.
    #[test]
    fn hostile_names_stay_in_their_line() {
        let (_keep, root) = scratch();
        let hostile = root.join("a\n\u{202e}\x1b[31mb");
        let shown = format!(r"{}/a\n\u{{202e}}\u{{1b}}[31mb", show_path(&root));
        let told = |path: &Path| match directory(path, Symlinks::Refuse) {
            Ok(_) => panic!("reached"),
            Err(obstacle) => obstacle.to_string(),
        };
        assert_eq!(told(&hostile), format!("{shown} does not exist"));
        fs::write(&hostile, "").unwrap();
        assert_eq!(told(&hostile), format!("{shown} is not a directory"));
        assert_eq!(
            told(&hostile.join("c")),
            format!("{shown} is not a directory")
        );
        fs::remove_file(&hostile).unwrap();
        symlink("/", &hostile).unwrap();
        assert_eq!(told(&hostile), format!("{shown} is a symbolic link"));
        fs::remove_file(&hostile).unwrap();
        fs::create_dir(&hostile).unwrap();
        fs::set_permissions(&hostile, fs::Permissions::from_mode(0o777)).unwrap();
        let entry = hostile.join("c");
        fs::create_dir(&entry).unwrap();
        let danger = Danger::OpenDirectory;
        assert_eq!(told(&entry), format!("{shown}/c {danger}"));
    }

    #[test]
    fn a_directory_is_reached_by_its_own_identity() {
        let (_keep, root) = scratch();
        fs::create_dir_all(root.join("a/b")).unwrap();
        let reached = directory(&root.join("a//./b/"), Symlinks::Refuse).unwrap();
        let stat = rustix::fs::stat(root.join("a/b")).unwrap();
        assert_eq!(reached.path(), root.join("a/b"));
        assert_eq!(reached.status().identity, FileIdentity::from(&stat));
        assert_ne!(reached.status().mount_id, 0);
    }

    #[test]
    fn a_missing_component_gives_the_nearest_directory() {
        let (_keep, root) = scratch();
        match directory(&root.join("a/b"), Symlinks::Refuse) {
            Err(Obstacle::Missing { component, nearest }) => {
                assert_eq!(component, root.join("a"));
                assert_eq!(nearest.path(), root);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn symbolic_links_are_refused_or_followed() {
        let (_keep, root) = scratch();
        fs::create_dir_all(root.join("real/below")).unwrap();
        symlink("real", root.join("relative")).unwrap();
        symlink(root.join("relative/../real"), root.join("absolute")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for link in ["relative", "absolute"] {
            let path = root.join(link).join("below");
            assert!(matches!(
                directory(&path, Symlinks::Refuse),
                Err(Obstacle::Symlink { component }) if component == root.join(link)
            ));
            let reached = directory(&path, Symlinks::Follow).unwrap();
            assert_eq!(reached.path(), root.join("real/below"));
        }
        assert!(matches!(
            directory(&root.join("loop"), Symlinks::Follow),
            Err(Obstacle::Unreachable { errno, .. }) if errno == Errno::LOOP.raw_os_error()
        ));
    }

    #[test]
    fn a_file_is_no_directory() {
        let (_keep, root) = scratch();
        fs::write(root.join("file"), "").unwrap();
        for path in ["file", "file/below"] {
            assert!(matches!(
                directory(&root.join(path), Symlinks::Refuse),
                Err(Obstacle::NotDirectory { component, kind: FileType::RegularFile })
                    if component == root.join("file")
            ));
        }
        assert!(walk(&root.join("file"), Symlinks::Refuse).is_ok());
    }

    #[test]
    fn directories_open_to_everybody_are_refused() {
        let (_keep, root) = scratch();
        fs::create_dir_all(root.join("open/below")).unwrap();
        fs::set_permissions(root.join("open"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            directory(&root.join("open/below"), Symlinks::Refuse),
            Err(Obstacle::Unsafe { component, .. }) if component == root.join("open/below")
        ));
        fs::set_permissions(root.join("open"), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(directory(&root.join("open/below"), Symlinks::Refuse).is_ok());
    }

    /// Owners, as systemd-tmpfiles judges them. Needs root to give directories away.
    #[test]
    fn directories_of_others_are_refused() {
        if !rustix::process::geteuid().is_root() {
            crate::skip::skip("root", "giving directories away needs it");
            return;
        }
        let (_keep, root) = scratch();
        let make = |path: &str, uid: u32, mode: u32| {
            fs::create_dir_all(root.join(path)).unwrap();
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
            chown(root.join(path), Some(uid), None).unwrap();
        };
        make("hers", 1000, 0o755);
        make("hers/also", 1000, 0o755);
        make("hers/ours", 0, 0o755);
        make("hers/his", 1001, 0o755);
        make("sticky", 0, 0o1777);
        make("sticky/hers", 1000, 0o755);
        make("sticky/ours", 0, 0o755);
        let is_unsafe = |path: &str| match directory(&root.join(path), Symlinks::Refuse) {
            Err(Obstacle::Unsafe { component, .. }) => {
                assert_eq!(component, root.join(path));
                true
            }
            other => other.map(|_| false).unwrap(),
        };
        assert!(!is_unsafe("hers"));
        assert!(is_unsafe("hers/also"));
        assert!(is_unsafe("hers/ours"));
        assert!(is_unsafe("hers/his"));
        assert!(is_unsafe("hers/missing"));
        assert!(is_unsafe("sticky/hers"));
        assert!(!is_unsafe("sticky/ours"));
        // What is only read may be all of one user's.
        let reads = |path: &str| directory(&root.join(path), Symlinks::Follow).is_ok();
        assert!(reads("hers/also"));
        assert!(!reads("hers/ours"));
        assert!(!reads("hers/his"));
        assert!(!reads("sticky/hers"));

        make("team", 0, 0o2775);
        make("team/ours", 0, 0o755);
        make("builders", 0, 0o1775);
        make("builders/ours", 0, 0o755);
        make("builders/hers", 1000, 0o755);
        assert!(!is_unsafe("team"));
        assert!(is_unsafe("team/ours"));
        assert!(!reads("team/ours"));
        assert!(!is_unsafe("builders/ours"));
        assert!(is_unsafe("builders/hers"));
        assert!(!reads("builders/hers"));
    }

    /// An access list shows in the group's permission bits, whoever it names.
    #[test]
    fn access_lists_are_seen() {
        if !rustix::process::geteuid().is_root() {
            crate::skip::skip("root", "giving directories away needs it");
            return;
        }
        let (_keep, root) = scratch();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        // Version 2; owner rwx, user 1000 rwx, group r-x, mask rwx, others r-x (acl(5), posix_acl.h).
        let entries: [(u16, u16, u32); 5] = [
            (0x01, 7, u32::MAX),
            (0x02, 7, 1000),
            (0x04, 5, u32::MAX),
            (0x10, 7, u32::MAX),
            (0x20, 5, u32::MAX),
        ];
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        let name = "system.posix_acl_access";
        match rustix::fs::setxattr(root.join("a"), name, &list, rustix::fs::XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {
                return crate::skip::skip("access lists", "the file system has none");
            }
            result => result.unwrap(),
        }
        assert!(matches!(
            directory(&root.join("a/b"), Symlinks::Refuse),
            Err(Obstacle::Unsafe {
                why: Danger::GroupDirectory { .. },
                ..
            })
        ));
    }

    #[test]
    fn namespaces_of_users_are_told_by_their_map() {
        for (map, of_a_user) in [
            ("         0          0 4294967295\n", false),
            ("0 100000 65536\n", false),
            ("1000 1000 1\n", true),
            ("0 1000 1\n1 100000 65533\n", true),
            ("", false),
        ] {
            assert_eq!(lacks_overflow_user(map.as_bytes()), of_a_user, "{map:?}");
        }
    }

    /// A link of somebody else leads to what is the same user's, and nowhere else. Needs root to give
    /// links away.
    #[test]
    fn links_of_others_lead_to_what_is_theirs() {
        if !rustix::process::geteuid().is_root() {
            crate::skip::skip("root", "giving links away needs it");
            return;
        }
        let (_keep, root) = scratch();
        fs::create_dir_all(root.join("hers/store/below")).unwrap();
        fs::create_dir_all(root.join("ours/below")).unwrap();
        fs::write(root.join("ours/secret"), "secret").unwrap();
        for path in ["hers", "hers/store", "hers/store/below"] {
            chown(root.join(path), Some(1000), None).unwrap();
        }
        let link = |target: &Path, name: &str, uid: u32| {
            symlink(target, root.join(name)).unwrap();
            std::os::unix::fs::lchown(root.join(name), Some(uid), None).unwrap();
        };
        link(Path::new("store"), "hers/to-hers", 1000);
        link(&root.join("ours"), "hers/to-ours", 1000);
        link(&root.join("ours/secret"), "hers/to-secret", 1000);
        link(Path::new("../our-link"), "hers/through-ours", 1000);
        link(Path::new("ours"), "our-link", 0);
        let walk = |path: &str| walk(&root.join(path), Symlinks::Follow);
        let reached = walk("hers/to-hers/below").unwrap();
        assert_eq!(reached.path(), root.join("hers/store/below"));
        assert_eq!(
            walk("our-link/below").unwrap().path(),
            root.join("ours/below")
        );
        for path in [
            "hers/to-ours",
            "hers/to-ours/below",
            "hers/to-secret",
            "hers/through-ours",
            "hers/through-ours/below",
        ] {
            assert!(
                matches!(
                    walk(path),
                    Err(Obstacle::Unsafe {
                        why: Danger::TheirLink {
                            link: 1000,
                            target: 0
                        },
                        ..
                    })
                ),
                "{path}"
            );
        }
        assert!(matches!(
            walk("hers/missing"),
            Err(Obstacle::Missing { .. })
        ));
        assert!(matches!(
            directory(&root.join("hers/missing"), Symlinks::Refuse),
            Err(Obstacle::Unsafe { .. })
        ));
    }
}
