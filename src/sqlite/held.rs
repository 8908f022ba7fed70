//! A database opened in a directory that is held by descriptor.
//!
//! SQLite opens by path, and opens again: the log, its index, a journal, whenever it wants one of
//! them. Whoever can exchange a directory on the way then has one of these made, or written to,
//! somewhere else. So its system calls that take a path are replaced, which is what its interface
//! for that is for (`xSetSystemCall`): below a path that stands for a descriptor they open what that
//! descriptor has, follow no link, and take nothing but regular files, without waiting for one. All
//! other paths go to the calls that were there before. `/proc/self/fd` would do as well where there
//! is a `/proc`; with `--root` there need not be one.
//!
//! How long the directory's own path is no longer matters to SQLite either, which takes 512 bytes.
//!
//! Beside `vfs`, this is the package's only module with `unsafe` code, and for the same reason.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::mem;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;

use nix::libc;
use rusqlite::{Connection, OpenFlags, ffi};

use crate::escape::percent_encode;
use crate::linux::exhaustion;

/// What the paths begin with that stand for a descriptor, whose number follows. Nothing is ever
/// looked for there.
const PREFIX: &str = "/overstore-held-directory/";

/// A connection to a database in a directory that is held as long as the connection lives.
#[derive(Debug)]
pub(crate) struct HeldConnection {
    // In this order: closing a database may remove files.
    connection: Connection,
    directories: Vec<OwnedFd>,
}

impl HeldConnection {
    /// Opens the database called `name` in `directory`. `query` is what follows its name in the URI.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub(super) fn open(
        directory: BorrowedFd<'_>,
        name: &str,
        query: &str,
        flags: OpenFlags,
        vfs: &CStr,
    ) -> rusqlite::Result<Self> {
        if *REPLACED != ffi::SQLITE_OK {
            return Err(failure(*REPLACED, "cannot replace SQLite's system calls"));
        }
        let (directory, uri) = hold(directory, name, query)?;
        let connection = Connection::open_with_flags_and_vfs(uri, flags, vfs)?;
        Ok(Self {
            connection,
            directories: vec![directory],
        })
    }

    /// Attaches the database called `name` in another directory as `schema`.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub(super) fn attach(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &str,
        query: &str,
        schema: &str,
    ) -> rusqlite::Result<()> {
        let (directory, uri) = hold(directory, name, query)?;
        self.directories.push(directory);
        self.connection
            .execute(&format!("attach ? as {schema}"), [uri])?;
        Ok(())
    }

    /// Closes the database, and tells how that went.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub(crate) fn close(self) -> rusqlite::Result<()> {
        self.connection.close().map_err(|(_, error)| error)
    }
}

impl Deref for HeldConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// A descriptor of a directory, to be held, and SQLite's name of the database called `name` in it.
fn hold(directory: BorrowedFd<'_>, name: &str, query: &str) -> rusqlite::Result<(OwnedFd, String)> {
    let directory = directory
        .try_clone_to_owned()
        .map_err(|error| failure(ffi::SQLITE_CANTOPEN, &error.to_string()))?;
    let number = directory.as_raw_fd();
    let uri = format!(
        "file:{PREFIX}{number}/{}{query}",
        percent_encode(name.as_bytes())
    );
    Ok((directory, uri))
}

fn failure(code: c_int, text: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(text.to_owned()))
}

type OnPath = unsafe extern "C" fn(*const c_char) -> c_int;
type OnPathAndNumber = unsafe extern "C" fn(*const c_char, c_int) -> c_int;
type OnPathAndMode = unsafe extern "C" fn(*const c_char, libc::mode_t) -> c_int;
type Open = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;
type OnStatus = unsafe extern "C" fn(*const c_char, *mut libc::stat) -> c_int;

/// The system calls that were there before.
struct Calls {
    open: Open,
    stat: OnStatus,
    lstat: OnStatus,
    access: OnPathAndNumber,
    unlink: OnPath,
    mkdir: OnPathAndMode,
    rmdir: OnPath,
}

static BEFORE: LazyLock<Option<Calls>> = LazyLock::new(|| {
    // SAFETY: as SQLite's source declares them, beside the table of their names; `register` has
    // asked that the file system has all of them.
    unsafe {
        Some(Calls {
            open: mem::transmute::<SystemCall, Open>(before(c"open")?),
            stat: mem::transmute::<SystemCall, OnStatus>(before(c"stat")?),
            lstat: mem::transmute::<SystemCall, OnStatus>(before(c"lstat")?),
            access: mem::transmute::<SystemCall, OnPathAndNumber>(before(c"access")?),
            unlink: mem::transmute::<SystemCall, OnPath>(before(c"unlink")?),
            mkdir: mem::transmute::<SystemCall, OnPathAndMode>(before(c"mkdir")?),
            rmdir: mem::transmute::<SystemCall, OnPath>(before(c"rmdir")?),
        })
    }
});

type SystemCall = unsafe extern "C" fn();

/// The system call of this name that SQLite uses now.
fn before(name: &CStr) -> Option<SystemCall> {
    // SAFETY: SQLite gives null or a file system that lives as long as the process, whose function
    // takes itself and a name that ends in zero.
    unsafe {
        let unix = ffi::sqlite3_vfs_find(c"unix".as_ptr());
        let unix = unix.as_mut()?;
        unix.xGetSystemCall?(unix, name.as_ptr())
    }
}

/// Whether the system calls are replaced: SQLite's code of success, or another.
static REPLACED: LazyLock<c_int> = LazyLock::new(replace);

/// Replaces the system calls. The table is one for all of SQLite's file systems for Unix.
fn replace() -> c_int {
    if BEFORE.is_none() {
        return ffi::SQLITE_NOTFOUND;
    }
    // SAFETY: the functions have the types that SQLite's source declares for these names. Each is a
    // word in a table; whoever calls one meanwhile gets the old one or the new, which does the same
    // for every path that was there before.
    unsafe {
        let calls: [(&CStr, SystemCall); 7] = [
            (c"open", mem::transmute::<Open, SystemCall>(open)),
            (c"stat", mem::transmute::<OnStatus, SystemCall>(stat)),
            (c"lstat", mem::transmute::<OnStatus, SystemCall>(lstat)),
            (
                c"access",
                mem::transmute::<OnPathAndNumber, SystemCall>(access),
            ),
            (c"unlink", mem::transmute::<OnPath, SystemCall>(unlink)),
            (c"mkdir", mem::transmute::<OnPathAndMode, SystemCall>(mkdir)),
            (c"rmdir", mem::transmute::<OnPath, SystemCall>(rmdir)),
        ];
        let Some(unix) = ffi::sqlite3_vfs_find(c"unix".as_ptr()).as_mut() else {
            return ffi::SQLITE_NOTFOUND;
        };
        let Some(set) = unix.xSetSystemCall else {
            return ffi::SQLITE_NOTFOUND;
        };
        for (name, call) in calls {
            match set(unix, name.as_ptr(), Some(call)) {
                ffi::SQLITE_OK => {}
                other => return other,
            }
        }
    }
    ffi::SQLITE_OK
}

/// Where a path leads.
enum Place {
    /// To a name in a held directory; to `.`, the directory itself.
    Held(c_int, *const c_char),
    /// To what nobody has: the way to the held directories, or below one of their entries.
    Nowhere,
    /// Elsewhere.
    Elsewhere,
}

/// # Safety
/// `path` has to end in zero; what is returned lives as long as it.
unsafe fn place(path: *const c_char) -> Place {
    // SAFETY: see above.
    let text = unsafe { CStr::from_ptr(path) }.to_bytes();
    let Some(rest) = text.strip_prefix(PREFIX.as_bytes()) else {
        let way = PREFIX.trim_end_matches('/').as_bytes();
        return match text == way {
            true => Place::Nowhere,
            false => Place::Elsewhere,
        };
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&rest[..digits]);
    let Some(number) = number.ok().and_then(|number| number.parse().ok()) else {
        return Place::Nowhere;
    };
    match &rest[digits..] {
        [] => Place::Held(number, c".".as_ptr()),
        [b'/', name @ ..] if !name.is_empty() && !name.contains(&b'/') => {
            // SAFETY: it lies within the path, before its zero.
            Place::Held(number, unsafe { path.add(PREFIX.len() + digits + 1) })
        }
        _ => Place::Nowhere,
    }
}

/// Fails as a system call does.
fn fail(number: c_int) -> c_int {
    nix::errno::Errno::from_raw(number).set();
    -1
}

/// Calls `held` with a descriptor and a name where a path leads into a held directory, and otherwise
/// `elsewhere`.
///
/// # Safety
/// `path` has to end in zero.
unsafe fn call(
    path: *const c_char,
    held: impl FnOnce(c_int, *const c_char) -> c_int,
    elsewhere: impl FnOnce(&Calls) -> c_int,
) -> c_int {
    // SAFETY: see above.
    match (unsafe { place(path) }, &*BEFORE) {
        (Place::Held(directory, name), _) => held(directory, name),
        (Place::Elsewhere, Some(before)) => elsewhere(before),
        _ => fail(libc::ENOENT),
    }
}

// SAFETY of all of these: SQLite passes names that end in zero and places for the results, as to the
// system calls of these names.

unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    unsafe {
        call(
            path,
            |directory, name| {
                let flags = flags | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
                let opened = libc::openat(directory, name, flags, mode as libc::mode_t);
                if opened < 0 {
                    let number = nix::errno::Errno::last_raw();
                    let errno = rustix::io::Errno::from_raw_os_error(number);
                    let _ = exhaustion::note::<()>(Err(errno));
                    return fail(number);
                }
                if CStr::from_ptr(name) == c"." {
                    return opened;
                }
                let mut status: libc::stat = mem::zeroed();
                if libc::fstat(opened, &raw mut status) == 0
                    && status.st_mode & libc::S_IFMT == libc::S_IFREG
                {
                    return opened;
                }
                libc::close(opened);
                fail(libc::EINVAL)
            },
            |before| (before.open)(path, flags, mode),
        )
    }
}

unsafe extern "C" fn stat(path: *const c_char, status: *mut libc::stat) -> c_int {
    unsafe {
        let at = libc::AT_SYMLINK_NOFOLLOW;
        call(
            path,
            |directory, name| libc::fstatat(directory, name, status, at),
            |before| (before.stat)(path, status),
        )
    }
}

unsafe extern "C" fn lstat(path: *const c_char, status: *mut libc::stat) -> c_int {
    unsafe {
        let at = libc::AT_SYMLINK_NOFOLLOW;
        call(
            path,
            |directory, name| libc::fstatat(directory, name, status, at),
            |before| (before.lstat)(path, status),
        )
    }
}

unsafe extern "C" fn access(path: *const c_char, mode: c_int) -> c_int {
    unsafe {
        call(
            path,
            |directory, name| libc::faccessat(directory, name, mode, 0),
            |before| (before.access)(path, mode),
        )
    }
}

unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    unsafe {
        call(
            path,
            |directory, name| libc::unlinkat(directory, name, 0),
            |before| (before.unlink)(path),
        )
    }
}

unsafe extern "C" fn mkdir(path: *const c_char, mode: libc::mode_t) -> c_int {
    unsafe {
        call(
            path,
            |directory, name| libc::mkdirat(directory, name, mode),
            |before| (before.mkdir)(path, mode),
        )
    }
}

unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    unsafe {
        call(
            path,
            |directory, name| libc::unlinkat(directory, name, libc::AT_REMOVEDIR),
            |before| (before.rmdir)(path),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::sqlite::open::{to_read, to_write};

    const BUSY: Duration = Duration::from_secs(5);

    fn make(directory: &Path, mode: &str) {
        fs::create_dir_all(directory).unwrap();
        let connection = Connection::open(directory.join("db.sqlite")).unwrap();
        let sql = format!("pragma journal_mode = {mode}; create table t (x)");
        connection.execute_batch(&sql).unwrap();
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Whatever comes to be at the directory's path, all of the database's files are those of the
    /// directory that was opened: also those that SQLite only opens, or makes, later.
    #[test]
    fn an_exchanged_directory_gets_nothing() {
        for (mode, wal, beside) in [
            ("wal", true, &["db.sqlite-shm", "db.sqlite-wal"][..]),
            ("delete", true, &["db.sqlite-journal"]),
            ("delete", false, &["db.sqlite-journal", "db.sqlite.lock"]),
        ] {
            let root = tempfile::tempdir().unwrap();
            let (path, moved) = (root.path().join("db"), root.path().join("moved"));
            make(&path, mode);
            let directory = File::open(&path).unwrap();
            let connection = to_write(directory.as_fd(), "db.sqlite", wal, BUSY).unwrap();
            fs::rename(&path, &moved).unwrap();
            make(&path, mode);
            let before = names(&path);
            connection
                .execute_batch("begin; insert into t values (1)")
                .unwrap();
            let mut expected = vec!["db.sqlite"];
            expected.extend(beside);
            assert_eq!(names(&moved), expected, "{mode}");
            connection.execute_batch("commit").unwrap();
            assert_eq!(names(&path), before, "{mode}");
            connection.close().unwrap();
            assert_eq!(names(&moved), ["db.sqlite"], "{mode}");
            let rows = |path: &Path| {
                let directory = File::open(path).unwrap();
                let connection = to_read(&directory, "db.sqlite", wal, BUSY).unwrap();
                let rows = connection.query_row("select count(*) from t", [], |row| row.get(0));
                rows.unwrap()
            };
            assert_eq!((rows(&moved), rows(&path)), (1, 0), "{mode}");
        }
    }

    /// What takes the place of a file after it was looked at is neither followed nor waited for.
    #[test]
    fn nothing_but_a_file_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        make(&at("db"), "wal");
        make(&at("other"), "wal");
        std::os::unix::fs::symlink("../other/db.sqlite", at("db/link")).unwrap();
        let fifo = rustix::fs::Mode::from_raw_mode(0o666);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("db/pipe"), kind, fifo, 0).unwrap();
        let directory = File::open(at("db")).unwrap();
        for name in ["link", "pipe", ".", "missing", "../other/db.sqlite"] {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            let opened = HeldConnection::open(directory.as_fd(), name, "", flags, c"unix");
            let read = opened.and_then(|connection| {
                connection.query_row("select count(*) from t", [], |row| row.get::<_, i64>(0))
            });
            assert!(read.is_err(), "{name}: {read:?}");
        }
    }

    /// Users' case 14.
    #[test]
    fn a_long_path_is_no_matter() {
        let root = tempfile::tempdir().unwrap();
        let mut path = root.path().to_owned();
        make(&path, "wal");
        let deep = (0..20).fold(path.clone(), |path, _| path.join("d".repeat(50)));
        fs::create_dir_all(&deep).unwrap();
        fs::rename(path.join("db.sqlite"), deep.join("db.sqlite")).unwrap();
        path = deep;
        assert!(Connection::open(path.join("db.sqlite")).is_err());
        let directory = File::open(&path).unwrap();
        let connection = to_write(&directory, "db.sqlite", true, BUSY).unwrap();
        connection
            .execute_batch("insert into t values (1)")
            .unwrap();
    }

    /// Paths that only look like one of ours lead nowhere.
    #[test]
    fn paths_without_a_descriptor_lead_nowhere() {
        for path in [
            c"/overstore-held-directory",
            c"/overstore-held-directory/",
            c"/overstore-held-directory/x",
            c"/overstore-held-directory/99999999999999999999/a",
            c"/overstore-held-directory/3/a/b",
            c"/overstore-held-directory/3/",
        ] {
            // SAFETY: the paths end in zero.
            let place = unsafe { place(path.as_ptr()) };
            assert!(matches!(place, Place::Nowhere), "{path:?}");
        }
    }
}
