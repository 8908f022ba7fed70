//! What a file system calls a directory by, whatever its path: its file handle. There is no wrapper of
//! name_to_handle_at(2) in the libraries that are used here; the kernel tells the handle of what is
//! watched as well (proc_pid_fdinfo(5)).

use std::os::fd::AsRawFd;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::root::System;
use super::safe_path::Reached;

/// A file handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileHandle {
    /// How the file system's bytes are to be read.
    pub kind: u8,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl FileHandle {
    /// The handle of a directory; `None` where its file system has none, or it may not be read.
    pub(crate) fn of(system: &System, directory: &Reached) -> Option<FileHandle> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        let flags = WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR;
        inotify::add_watch(&watch, directory.path(), flags).ok()?;
        let info = system.read_proc(&format!("self/fdinfo/{}", watch.as_raw_fd()));
        FileHandle::parse(&String::from_utf8(info.ok()?).ok()?)
    }

    /// Reads `inotify wd:1 ... fhandle-bytes:8 fhandle-type:1 f_handle:0200...`.
    fn parse(info: &str) -> Option<FileHandle> {
        let line = info.lines().find(|line| line.starts_with("inotify "))?;
        let field = |name: &str| {
            let mut fields = line.split(' ');
            fields.find_map(|field| field.strip_prefix(name)?.strip_prefix(':'))
        };
        let length = usize::from_str_radix(field("fhandle-bytes")?, 16).ok()?;
        let text = field("f_handle")?;
        let byte = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
        Some(FileHandle {
            kind: u8::from_str_radix(field("fhandle-type")?, 16).ok()?,
            bytes: (0..length).map(byte).collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_read_from_what_the_kernel_prints() {
        let line = "pos:\t0\nflags:\t02\ninotify wd:1 ino:9e7e sdev:800013 mask:800afce \
                    ignored_mask:0 fhandle-bytes:8 fhandle-type:81 f_handle:7e9e0000640d1b6d\n";
        let handle = FileHandle::parse(line).unwrap();
        assert_eq!(handle.kind, 0x81);
        assert_eq!(handle.bytes, [0x7e, 0x9e, 0, 0, 0x64, 0x0d, 0x1b, 0x6d]);
        assert_eq!(
            FileHandle::parse("inotify wd:1 ino:9e7e sdev:800013\n"),
            None
        );
        assert_eq!(FileHandle::parse(""), None);
    }
}
