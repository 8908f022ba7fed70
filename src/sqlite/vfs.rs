//! Lets SQLite read a [`Snapshot`] as if it were a database file that never changes.
//!
//! Beside `held`, this is the package's only module with `unsafe` code: SQLite's interface to file systems is a
//! table of C functions, and rusqlite has no safe form of it. The crates that have one need
//! libclang to build (sqlite-plugin) or are no longer kept (sqlite-vfs).
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rusqlite::ffi;

use crate::sqlite::snapshot::Snapshot;

/// The name the file system is registered under.
const NAME: &CStr = c"overstore-snapshot";

/// The snapshots that can be opened now, by number.
static SNAPSHOTS: LazyLock<Mutex<Snapshots>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Snapshots {
    next: u64,
    open: HashMap<u64, Arc<Snapshot>>,
}

/// A snapshot's place in SQLite's file system, as long as this lives.
#[derive(Debug)]
pub(crate) struct Exported(u64);

impl Exported {
    /// Makes `snapshot` known to SQLite.
    ///
    /// # Errors
    /// When SQLite cannot take a further file system.
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> rusqlite::Result<Self> {
        static REGISTERED: LazyLock<c_int> = LazyLock::new(register);
        if *REGISTERED != ffi::SQLITE_OK {
            return Err(rusqlite::Error::SqliteFailure(
                ffi::Error::new(*REGISTERED),
                Some("cannot register the file system of snapshots".to_owned()),
            ));
        }
        let mut snapshots = SNAPSHOTS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = snapshots.next;
        snapshots.next += 1;
        snapshots.open.insert(number, snapshot);
        Ok(Self(number))
    }

    /// The URI to open or attach, on a connection that was opened with `SQLITE_OPEN_URI`.
    pub(crate) fn uri(&self) -> String {
        format!(
            "file:/{}?vfs={}&mode=ro",
            self.0,
            NAME.to_str().unwrap_or_default()
        )
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        let mut snapshots = SNAPSHOTS.lock().unwrap_or_else(PoisonError::into_inner);
        snapshots.open.remove(&self.0);
    }
}

/// An open file, as SQLite keeps it: its own part first.
#[repr(C)]
struct OpenFile {
    base: ffi::sqlite3_file,
    /// From `Arc::into_raw`; taken back by `close`.
    snapshot: *const Snapshot,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // Version 1 has neither shared memory (so no write-ahead log) nor memory mapping.
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(flags_ok),
    xFileSize: Some(file_size),
    xLock: Some(flags_ok),
    xUnlock: Some(flags_ok),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Registers the file system: SQLite's own for clock and chance, ours for files.
fn register() -> c_int {
    // SAFETY: SQLite gives null or a file system that lives as long as the process. The copy is
    // leaked, so it does too, and none of the functions kept from the original looks at the
    // fields that differ.
    unsafe {
        let default = ffi::sqlite3_vfs_find(ptr::null());
        if default.is_null() {
            return ffi::SQLITE_ERROR;
        }
        let mut vfs = *default;
        vfs.szOsFile = size_of::<OpenFile>() as c_int;
        vfs.pNext = ptr::null_mut();
        vfs.zName = NAME.as_ptr();
        vfs.pAppData = ptr::null_mut();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        vfs.xAccess = Some(access);
        vfs.xFullPathname = Some(full_pathname);
        ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0)
    }
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    let file = file.cast::<OpenFile>();
    // SAFETY: SQLite passes `szOsFile` bytes of its own for the file, a name that ends in zero
    // or null, and a place for flags or null. Null methods mean that nothing has to be closed.
    unsafe {
        (*file).base.pMethods = ptr::null();
        if name.is_null() || flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
            return ffi::SQLITE_CANTOPEN;
        }
        let name = CStr::from_ptr(name).to_bytes();
        let Some(number) = std::str::from_utf8(name)
            .ok()
            .and_then(|name| name.strip_prefix('/')?.parse().ok())
        else {
            return ffi::SQLITE_CANTOPEN;
        };
        let snapshots = SNAPSHOTS.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(snapshot) = snapshots.open.get(&number) else {
            return ffi::SQLITE_CANTOPEN;
        };
        (*file).snapshot = Arc::into_raw(Arc::clone(snapshot));
        (*file).base.pMethods = &METHODS;
        if !flags_out.is_null() {
            *flags_out = ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_READONLY;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let file = file.cast::<OpenFile>();
    // SAFETY: only files that `open` has filled in get here, and each only once.
    unsafe {
        drop(Arc::from_raw((*file).snapshot));
        (*file).base.pMethods = ptr::null();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let (Ok(amount), Ok(offset)) = (usize::try_from(amount), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_READ;
    };
    // SAFETY: `open` has filled the file in, and SQLite passes a buffer of `amount` bytes, which
    // are set to zero before they are looked at as bytes.
    let (snapshot, buffer) = unsafe {
        ptr::write_bytes(buffer.cast::<u8>(), 0, amount);
        (
            &*(*file.cast::<OpenFile>()).snapshot,
            std::slice::from_raw_parts_mut(buffer.cast::<u8>(), amount),
        )
    };
    match snapshot.read_at(buffer, offset) {
        Ok(count) if count == amount => ffi::SQLITE_OK,
        Ok(_) => ffi::SQLITE_IOERR_SHORT_READ,
        Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn file_size(
    file: *mut ffi::sqlite3_file,
    size: *mut ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: `open` has filled the file in, and SQLite passes a place for the size.
    unsafe {
        let bytes = (*(*file.cast::<OpenFile>()).snapshot).size();
        *size = ffi::sqlite3_int64::try_from(bytes).unwrap_or(ffi::sqlite3_int64::MAX);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn write(
    _file: *mut ffi::sqlite3_file,
    _buffer: *const c_void,
    _amount: c_int,
    _offset: ffi::sqlite3_int64,
) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn truncate(_file: *mut ffi::sqlite3_file, _size: ffi::sqlite3_int64) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn flags_ok(_file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(
    _file: *mut ffi::sqlite3_file,
    result: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes a place for the result.
    unsafe { *result = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(
    _file: *mut ffi::sqlite3_file,
    _operation: c_int,
    _argument: *mut c_void,
) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    4096
}

unsafe extern "C" fn device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    // What keeps SQLite from locking and from looking for journals.
    ffi::SQLITE_IOCAP_IMMUTABLE
}

unsafe extern "C" fn delete(
    _vfs: *mut ffi::sqlite3_vfs,
    _name: *const c_char,
    _sync: c_int,
) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn access(
    _vfs: *mut ffi::sqlite3_vfs,
    _name: *const c_char,
    _flags: c_int,
    result: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes a place for the result. Nothing lies beside a snapshot.
    unsafe { *result = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    size: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite passes a name that ends in zero and a buffer of `size` bytes.
    unsafe {
        let name = CStr::from_ptr(name).to_bytes_with_nul();
        if usize::try_from(size).is_ok_and(|size| name.len() <= size) {
            ptr::copy_nonoverlapping(name.as_ptr().cast(), out, name.len());
            ffi::SQLITE_OK
        } else {
            ffi::SQLITE_CANTOPEN
        }
    }
}
