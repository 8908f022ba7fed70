//! The machine one run works on: this one, or one that will be booted from a directory.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};

use crate::escape::show_path;

use super::regular_file::{self, ReadError};
use super::safe_path::{self, Symlinks};
use super::users;

/// Most bytes of a file below `/proc`. The longest of honest ones are `maps` and `mountinfo`: the first
/// has a line of about 100 bytes for each mapping, of which a process can have 65,530, or a million where
/// that was raised (`vm.max_map_count`); the second one of about 200 for each mount, of which a namespace
/// can have 100,000 (`fs.mount-max`).
const LONGEST: u64 = 128 << 20;
/// Most bytes of a process's `environ`: execve(2) takes 6 MiB of arguments and environment at most
/// (`bprm_stack_limits` in the kernel's `exec.c`). Any process can make it show gigabytes that take up no
/// memory (`PR_SET_MM_MAP` of prctl(2)).
const LONGEST_ENVIRONMENT: u64 = 8 << 20;

/// Handles that a run needs whatever its root directory is.
///
/// With `--root DIR` the process changes its root directory to DIR before it looks at anything:
/// every path, and every symbolic link in one, is then taken below DIR, and `mount(2)` records the
/// option text without DIR in it, as Nix's mount check wants after a switch of root. `/proc`, `/run`
/// and `/dev` are those of the running system, so they are opened before.
#[derive(Debug)]
pub struct System {
    proc: OwnedFd,
    run: OwnedFd,
    dev: Option<OwnedFd>,
    root: Option<PathBuf>,
}

impl System {
    /// This machine, as it is.
    ///
    /// # Errors
    /// When `/proc` or `/run` cannot be opened.
    pub fn here() -> io::Result<System> {
        let system = System {
            proc: open_directory(Path::new("/proc"))?,
            run: open_directory(Path::new("/run"))?,
            dev: open_directory(Path::new("/dev")).ok(),
            root: None,
        };
        safe_path::note_user_namespace(&system.read_proc("self/uid_map").unwrap_or_default());
        Ok(system)
    }

    /// The system that will be booted from `root`. Changes the root directory of this process.
    ///
    /// # Errors
    /// When `/proc`, `/run` or `root` cannot be opened, or `chroot(2)` is not permitted.
    pub fn enter(root: &Path) -> io::Result<System> {
        let system = System::here()?;
        let path = std::path::absolute(root)?;
        let directory = safe_path::directory(&path, Symlinks::Follow)?;
        rustix::process::fchdir(&directory)?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")?;
        Ok(System {
            root: Some(root.to_owned()),
            ..system
        })
    }

    /// This machine with another `/run`: there is none in Nix's build sandbox.
    #[cfg(test)]
    pub(crate) fn with_run(run: &Path) -> io::Result<System> {
        Ok(System {
            proc: open_directory(Path::new("/proc"))?,
            run: open_directory(run)?,
            dev: None,
            root: None,
        })
    }

    /// The directory given with `--root`, if one was.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// `/proc` of the running system.
    pub fn proc(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    /// `/run` of the running system.
    pub fn run(&self) -> BorrowedFd<'_> {
        self.run.as_fd()
    }

    /// The content of a file below `/proc`, such as `self/mountinfo`. Mount points in it are as
    /// seen from the root directory in force.
    ///
    /// # Errors
    /// Those of opening and reading it; [`FileTooLarge`](io::ErrorKind::FileTooLarge) where it is longer
    /// than any honest one.
    pub fn read_proc(&self, path: &str) -> io::Result<Vec<u8>> {
        let limit = match path.ends_with("/environ") {
            true => LONGEST_ENVIRONMENT,
            false => LONGEST,
        };
        self.read_proc_up_to(path, limit)
    }

    fn read_proc_up_to(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = openat(&self.proc, path, flags, Mode::empty());
        let file = File::from(
            opened.map_err(|errno| cannot_open(&Path::new("/proc").join(path), errno.into()))?,
        );
        // Sizes in /proc are zero, so the first buffer is chosen here: few reads instead of many.
        let mut content = Vec::with_capacity(16 << 10);
        file.take(limit + 1).read_to_end(&mut content)?;
        match content.len() as u64 > limit {
            true => Err(rustix::io::Errno::FBIG.into()),
            false => Ok(content),
        }
    }

    /// Opens the kernel's log (`/dev/kmsg`) for reading without waiting.
    ///
    /// # Errors
    /// Those of opening it: often only root may.
    pub fn open_kernel_log(&self) -> io::Result<File> {
        let dev = self.dev.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(openat(dev, "kmsg", flags, Mode::empty())?))
    }

    /// The number of a group, or `None` if there is no such group. With `--root`, as the target's
    /// own `/etc/group` has it: its name service is not this system's.
    ///
    /// # Errors
    /// When the group database cannot be read.
    pub fn group(&self, name: &str) -> io::Result<Option<u32>> {
        if self.root.is_none() {
            return users::group(name);
        }
        match regular_file::read(Path::new(users::GROUPS), users::LONGEST) {
            Ok(groups) => Ok(group_number(&String::from_utf8_lossy(&groups), name)),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io::Error::other(format!("{}: {error}", users::GROUPS))),
        }
    }
}

/// Looks a group up in the text of a `group(5)` file.
fn group_number(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| cannot_open(path, errno.into()))
}

/// An error that says what could not be opened.
fn cannot_open(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot open {}: {error}", show_path(path)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_read_up_to_a_limit() {
        let run = tempfile::tempdir().unwrap();
        let system = System::with_run(run.path()).unwrap();
        let long = system.read_proc("self/maps").unwrap();
        assert!(long.len() > 1000);
        let cut = system.read_proc_up_to("self/maps", 1000).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::FileTooLarge);
        let name = system.read_proc("self/comm").unwrap();
        let length = name.len() as u64;
        assert_eq!(system.read_proc_up_to("self/comm", length).unwrap(), name);
        assert!(system.read_proc_up_to("self/comm", length - 1).is_err());
    }

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let groups = "root:x:0:\nnixbld:x:30000:nixbld1,nixbld2\nnix:x:7:\nbroken\n";
        assert_eq!(group_number(groups, "nixbld"), Some(30000));
        assert_eq!(group_number(groups, "nix"), Some(7));
        assert_eq!(group_number(groups, "nixb"), None);
        assert_eq!(group_number(groups, "broken"), None);
    }
}
