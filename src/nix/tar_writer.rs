//! Store objects in a tar archive, as Nix would leave them: modes of reading alone, the time 1, root's.
//!
//! The format is POSIX's ustar, with GNU's entries for names that are too long for it (types `L` and
//! `K`, which take any bytes) and its binary sizes. Known from POSIX, "pax", and from GNU tar's manual,
//! "Basic Tar Format".

use std::io::{self, Write};

const BLOCK: usize = 512;
/// Bytes of a name, and of a link's target, in a header.
const SHORT: usize = 100;
/// The name of an entry that has the name of the next one, or the target.
const LONG: &[u8] = b"././@LongLink";

/// An archive that is being written, entry by entry.
pub(crate) struct TarWriter<'w> {
    out: &'w mut dyn Write,
    /// The directory that entries are in; it ends with a slash unless it is empty.
    path: Vec<u8>,
}

impl<'w> TarWriter<'w> {
    pub(crate) fn new(out: &'w mut dyn Write) -> Self {
        let path = Vec::new();
        Self { out, path }
    }

    /// A directory of any mode, at its place in the archive.
    pub(crate) fn directory(&mut self, path: &[u8], mode: u32) -> io::Result<()> {
        self.header(&[path, b"/"].concat(), b"", b'5', mode, 0)
    }

    /// A file of any mode, at its place in the archive, of which so many bytes follow.
    pub(crate) fn file_at(&mut self, path: &[u8], mode: u32, size: u64) -> io::Result<()> {
        self.header(path, b"", b'0', mode, size)
    }

    /// Where the objects go that follow.
    pub(crate) fn objects_in(&mut self, directory: &[u8]) {
        self.path = [directory, b"/"].concat();
    }

    /// Begins a directory of an object; what follows is in it.
    pub(super) fn enter(&mut self, name: &[u8]) -> io::Result<()> {
        self.path.extend_from_slice(name);
        self.path.push(b'/');
        let path = std::mem::take(&mut self.path);
        let written = self.header(&path, b"", b'5', 0o555, 0);
        self.path = path;
        written
    }

    /// Ends a directory.
    pub(super) fn leave(&mut self) {
        self.path.pop();
        let above = self.path.iter().rposition(|byte| *byte == b'/');
        self.path.truncate(above.map_or(0, |slash| slash + 1));
    }

    /// A symbolic link of an object.
    pub(super) fn symlink(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        self.header(&[&*self.path, name].concat(), target, b'2', 0o777, 0)
    }

    /// A file of an object, of which so many bytes follow.
    pub(super) fn file(&mut self, name: &[u8], executable: bool, size: u64) -> io::Result<()> {
        let mode = if executable { 0o555 } else { 0o444 };
        self.header(&[&*self.path, name].concat(), b"", b'0', mode, size)
    }

    /// A piece of the file that was begun last.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Ends a file of so many bytes.
    pub(crate) fn end_of_file(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        match over {
            0 => Ok(()),
            over => self.out.write_all(&[0; BLOCK][over..]),
        }
    }

    /// Ends the archive.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }

    fn header(
        &mut self,
        name: &[u8],
        target: &[u8],
        kind: u8,
        mode: u32,
        size: u64,
    ) -> io::Result<()> {
        for (text, kind) in [(target, b'K'), (name, b'L')] {
            if text.len() > SHORT {
                let length = text.len() as u64 + 1;
                self.out.write_all(&block(LONG, b"", kind, 0o644, length))?;
                self.out.write_all(text)?;
                self.out.write_all(b"\0")?;
                self.end_of_file(length)?;
            }
        }
        self.out.write_all(&block(name, target, kind, mode, size))
    }
}

/// One header; what is too long for it is cut off.
fn block(name: &[u8], target: &[u8], kind: u8, mode: u32, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name[..name.len().min(SHORT)]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    match size < 1 << 33 {
        true => put(124, format!("{size:011o}").as_bytes()),
        // Eleven octal digits hold no more: its first bit says that it is binary.
        false => {
            put(124, &[0x80, 0, 0, 0]);
            put(128, &size.to_be_bytes());
        }
    }
    put(136, b"00000000001");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &target[..target.len().min(SHORT)]);
    put(257, b"ustar\x0000");
    put(265, b"root");
    put(297, b"root");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::process::{Command, Stdio};

    /// GNU tar reads it: long names and targets, bytes that are no text, sizes, modes, times.
    #[test]
    fn tar_reads_what_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let long = [b'n'; 200];
        let strange = b"a\xff\nb";
        let mut out = Vec::new();
        let mut writer = TarWriter::new(&mut out);
        writer.directory(b"store", 0o755).unwrap();
        writer.objects_in(b"store");
        writer.enter(&long).unwrap();
        writer.enter(&long).unwrap();
        writer.file(strange, true, 3).unwrap();
        writer.bytes(b"abc").unwrap();
        writer.end_of_file(3).unwrap();
        writer.leave();
        writer.symlink(b"link", &long).unwrap();
        writer.leave();
        writer.file(b"empty", false, 0).unwrap();
        writer.end_of_file(0).unwrap();
        writer.file(b"block", false, 512).unwrap();
        writer.bytes(&[7; 512]).unwrap();
        writer.end_of_file(512).unwrap();
        writer.finish().unwrap();
        let mut tar = Command::new("tar")
            .args([
                "--extract",
                "--preserve-permissions",
                "--no-same-owner",
                "--directory",
            ])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&out).unwrap();
        assert!(tar.wait().unwrap().success());
        let store = directory.path().join("store");
        let name = |bytes: &[u8]| std::ffi::OsString::from_vec(bytes.to_vec());
        use std::os::unix::ffi::OsStringExt;
        let deep = store
            .join(name(&long))
            .join(name(&long))
            .join(name(strange));
        assert_eq!(std::fs::read(&deep).unwrap(), b"abc");
        assert_eq!(
            deep.metadata().unwrap().permissions().mode() & 0o7777,
            0o555
        );
        assert_eq!(deep.metadata().unwrap().mtime(), 1);
        let link = std::fs::read_link(store.join(name(&long)).join("link")).unwrap();
        assert_eq!(link.into_os_string(), name(&long));
        assert_eq!(std::fs::read(store.join("empty")).unwrap(), b"");
        assert_eq!(std::fs::read(store.join("block")).unwrap(), [7; 512]);
        // What was made cannot be removed by others than root as it is.
        for directory in [
            store.join(name(&long)).join(name(&long)),
            store.join(name(&long)),
        ] {
            std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn a_size_has_as_many_bits_as_it_needs() {
        let size = |size| block(b"x", b"", b'0', 0o444, size)[124..136].to_vec();
        assert_eq!(size((1 << 33) - 1), b"77777777777\0");
        assert_eq!(size(1 << 33), [0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
    }
}
