//! A lower store as one file: exactly the valid objects of the chosen closures, a database of them, and
//! the directories that Nix wants to find.
//!
//! The same objects give the same bytes, from the same version of the tool: the database is written in
//! an order of its own (`canonical`), and the tool is given an archive in which nothing is left to what
//! the machine has beside the contents (`tool`). It is made in a directory beside the file, synced, and
//! renamed; what a killed run left is removed by the next.

mod canonical;
mod draft;
mod registration;
mod tool;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, statat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::database::Copied;
use super::error::PublishError;
use super::roots::HeldOff;
use super::run::{Tell, Told, wanted};
use super::tree::{LISTING, sync_tree};
use super::verify::{Problem, Problems};
use super::{database, place};
use crate::compare::{Damaged, Layer};
use crate::config::Chosen;
use crate::counts::Counts;
use crate::linux::root::System;
use crate::linux::safe_path::{self, Symlinks};
use crate::linux::sync;
use crate::nix::nar::{CopyError, Packer};
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::nix::tar_writer::TarWriter;
use crate::nix::{hash, layout, schema};
use crate::sqlite::open;
use draft::Draft;
use tool::Tool;

/// What the tool makes, in the draft.
const IMAGE: &str = "image";
/// The metadata alone, in the draft.
const TREE: &str = "tree";
/// The directories above those of the state, in an image.
const ABOVE: [&str; 5] = ["nix", "nix/store", "nix/store/.links", "nix/var", STATE];
/// Where the state is in an image.
const STATE: &str = "nix/var/nix";
/// What is done while the objects are packed.
pub(crate) const PACKING: &str = "packing every object";
/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// How long somebody may keep a database locked that was just made.
const BUSY: Duration = Duration::from_secs(5);

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Squashfs,
    Erofs,
    /// No image: the metadata alone, as a directory, for objects that are shared in another way.
    State,
}

impl Format {
    /// All of them, as they are named.
    pub(crate) const ALL: [(&str, Format); 3] = [
        ("squashfs", Format::Squashfs),
        ("erofs", Format::Erofs),
        ("state", Format::State),
    ];

    /// The name of this one.
    pub(crate) fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, format)| *format == self);
        found.map_or("", |(name, _)| name)
    }

    fn program(self) -> &'static str {
        match self {
            Format::Squashfs => "mksquashfs",
            Format::Erofs => "mkfs.erofs",
            Format::State => "",
        }
    }

    /// What distributions call the package that has the program.
    fn package(self) -> &'static str {
        match self {
            Format::Squashfs => "squashfs-tools",
            Format::Erofs => "erofs-utils, 1.7 or later",
            Format::State => "",
        }
    }

    /// Whether a file begins as an image of either kind does. Known from the kernel's `squashfs_fs.h`
    /// and `erofs_fs.h`.
    fn is_image(file: &File) -> bool {
        let begins = |at: u64, magic: u32| {
            let mut found = [0; 4];
            file.read_exact_at(&mut found, at).is_ok() && u32::from_le_bytes(found) == magic
        };
        begins(0, 0x7371_7368) || begins(1024, 0xe0f5_e1e2)
    }
}

/// What is packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The store directory, where its objects are.
    pub real: PathBuf,
    /// The store directory, as store paths name it.
    pub store: PathBuf,
    pub metadata: Metadata,
    pub chosen: Chosen,
}

/// Where it is known from what is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Metadata {
    /// The database of a store in use, whose collector is held off meanwhile.
    Live {
        state: PathBuf,
        use_sqlite_wal: bool,
    },
    /// The database of a generation, which keeps its objects.
    Sealed { state: PathBuf },
    /// A file in the form of `nix-store --dump-db`.
    Registration(PathBuf),
}

impl Origin {
    /// All of the current generation of the publication in a directory; none where that is none.
    ///
    /// # Errors
    /// When what the publication is cannot be read.
    pub(crate) fn generation(directory: &Path, store: &Path) -> Result<Option<Self>, PublishError> {
        let real = place::real_of(directory)?;
        Ok(real.map(|real| Self {
            real,
            store: store.to_owned(),
            metadata: Metadata::Sealed {
                state: directory.join(crate::lower::publication::CURRENT),
            },
            chosen: Chosen::AllValid,
        }))
    }

    fn state(&self) -> Option<&Path> {
        match &self.metadata {
            Metadata::Live { state, .. } | Metadata::Sealed { state } => Some(state),
            Metadata::Registration(_) => None,
        }
    }
}

/// An image that is to be made.
pub(crate) struct Image<'a> {
    pub origin: &'a Origin,
    /// This machine, where a live store's collector is to be held off.
    pub system: Option<&'a System>,
    pub format: Format,
    /// Where, as an absolute path.
    pub file: &'a Path,
    /// How many processors the tool may use, if not all.
    pub processors: Option<u32>,
    /// Whether every object is hashed and compared with its row while it is packed.
    pub contents: bool,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Made {
    /// Valid paths in it.
    pub paths: u64,
    /// Bytes of the file; of the database, where that is all.
    pub bytes: u64,
    /// Whether there was an image before.
    pub replaced: bool,
}

impl Image<'_> {
    /// Makes it. Bytes of files are counted in the step [`PACKING`].
    ///
    /// # Errors
    /// When something is not valid or not whole, the tool fails, or this machine would not do it.
    pub(crate) fn make(&self, counts: &Counts, told: Tell<'_>) -> Result<Made, PublishError> {
        let store = StoreDirectory::new(self.origin.store.as_os_str().as_bytes());
        let draft = Draft::begin(self.file, &mut || {
            told(Told::Waiting("another run that makes the same file"));
        })?;
        let replaced = draft.may_replace(self.format)?;
        let objects = Layer {
            directory: safe_path::open_directory(&self.origin.real, Symlinks::Follow)
                .map_err(|error| PublishError::io("open", &self.origin.real, error))?,
            path: self.origin.real.clone(),
        };
        let (_lock, held_off) = self.hold_off(told)?;
        let (copied, size) = self.database(&draft, &store, &objects, told)?;
        let bytes = match self.format {
            Format::State => self.tree(&draft)?,
            Format::Squashfs | Format::Erofs => {
                self.expect_room(&draft, size)?;
                told(Told::Step(PACKING));
                counts.expect(size);
                // Where others may delete meanwhile, only the hash tells what was whole.
                let hashed = self.contents || !held_off;
                self.pack(&draft, &store, &objects, hashed, counts)?
            }
        };
        told(Told::Step("giving it its name"));
        let made = match self.format {
            Format::State => TREE,
            Format::Squashfs | Format::Erofs => IMAGE,
        };
        draft.finish(made, replaced)?;
        Ok(Made {
            paths: copied.paths,
            bytes,
            replaced,
        })
    }

    /// Holds the collector off as long as what this gives first is there; then, whether nobody deletes
    /// meanwhile.
    fn hold_off(&self, told: Tell<'_>) -> Result<(Option<HeldOff>, bool), PublishError> {
        let (Metadata::Live { state, .. }, Some(system)) = (&self.origin.metadata, self.system)
        else {
            // The roots of a generation keep it, and a builder's own are not collected.
            return Ok((None, true));
        };
        let held = HeldOff::new(state, system, &mut |holder| told(Told::Waiting(holder)));
        match held {
            Ok(lock) => Ok((Some(lock), true)),
            // Whoever may not write there can still read what is there.
            Err(PublishError::Io { source, .. })
                if [Errno::ROFS, Errno::ACCESS, Errno::PERM]
                    .iter()
                    .any(|errno| source.raw_os_error() == Some(errno.raw_os_error())) =>
            {
                Ok((None, false))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the database, and verifies it: how much is in it, and how many bytes the objects have.
    fn database(
        &self,
        draft: &Draft,
        store: &StoreDirectory,
        objects: &Layer,
        told: Tell<'_>,
    ) -> Result<(Copied, u64), PublishError> {
        let (directory, path) = (&draft.directory, draft.path());
        let mut database = match &self.origin.metadata {
            Metadata::Live {
                state,
                use_sqlite_wal,
            } => {
                database::Draft::begin(directory, &path, state, Symlinks::Follow, *use_sqlite_wal)?
            }
            Metadata::Sealed { state } => {
                database::Draft::begin(directory, &path, state, Symlinks::Follow, true)?
            }
            Metadata::Registration(file) => {
                database::Draft::from_registration(directory, &path, file, |connection, name| {
                    registration::read(file, connection, name)
                })?
            }
        };
        let wanted = wanted(&self.origin.chosen, self.origin.state(), store)?;
        told(Told::Step("copying the database"));
        let counts = canonical::copy(&database, &wanted, store)?;
        if counts.paths == 0 {
            return Err(PublishError::Empty);
        }
        told(Told::Step("verifying every row and its object"));
        let problems = database.verify(store, objects, None)?;
        if problems.count > 0 {
            return Err(PublishError::NotWhole(problems));
        }
        let size: i64 = database
            .connection()
            .query_row(
                "select coalesce(sum(narSize), 0) from main.ValidPaths",
                [],
                |row| row.get(0),
            )
            .map_err(|error| database.error(error))?;
        database.finish()?;
        Ok((counts, size.unsigned_abs()))
    }

    /// Sees that there is room for what has to be there at once.
    fn expect_room(&self, draft: &Draft, size: u64) -> Result<(), PublishError> {
        let database = self.metadata(draft)?;
        let length = |file: &File| file.metadata().map(|data| data.len());
        let path = draft.path();
        let length = length(&database).map_err(|error| PublishError::io("read", &path, error))?;
        let needed = match self.format {
            // It keeps what it was given until all of it is there.
            Format::Erofs => length.saturating_add(size),
            Format::Squashfs | Format::State => length,
        };
        let found = rustix::fs::fstatvfs(&draft.directory)
            .map_err(|errno| PublishError::io("look at", &path, errno))?;
        let available = found.f_bavail.saturating_mul(found.f_frsize);
        match available < needed {
            true => Err(PublishError::NoRoom {
                path: self.file.to_owned(),
                needed,
                available,
            }),
            false => Ok(()),
        }
    }

    /// The database in the draft.
    fn metadata(&self, draft: &Draft) -> Result<File, PublishError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(
            &draft.directory,
            layout::DATABASE_FILE,
            flags,
            Mode::empty(),
        )
        .map(File::from)
        .map_err(|errno| PublishError::io("open", &draft.path(), errno))
    }

    /// Has the tool make the image: how many bytes it has.
    fn pack(
        &self,
        draft: &Draft,
        store: &StoreDirectory,
        objects: &Layer,
        hashed: bool,
        counts: &Counts,
    ) -> Result<u64, PublishError> {
        let mut hash = Sha256::new();
        pieces(&self.metadata(draft)?, |piece| {
            hash.update(piece);
            Ok(())
        })
        .map_err(|error| PublishError::io("read", &draft.path(), error))?;
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        let mut tool = Tool::start(self.format, &draft.directory, self.processors, id)?;
        match self.write(draft, store, objects, hashed, counts, &mut tool) {
            Ok(()) => tool.finish()?,
            Err(PublishError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::BrokenPipe =>
            {
                return Err(tool.ended());
            }
            Err(error) => return Err(error),
        }
        let finish = || -> std::io::Result<u64> {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let image = File::from(openat(&draft.directory, IMAGE, flags, Mode::empty())?);
            if !Format::is_image(&image) {
                return Err(std::io::Error::other("it is no image"));
            }
            rustix::fs::fchmod(&image, Mode::from_raw_mode(0o644))?;
            sync::sync(&image)?;
            Ok(image.metadata()?.len())
        };
        finish().map_err(|error| PublishError::io("finish", self.file, error))
    }

    /// Writes the archive that the tool makes the image of.
    fn write(
        &self,
        draft: &Draft,
        store: &StoreDirectory,
        objects: &Layer,
        hashed: bool,
        counts: &Counts,
        tool: &mut Tool,
    ) -> Result<(), PublishError> {
        let failed = |error| PublishError::io("write to", Path::new(self.format.program()), error);
        let mut archive = TarWriter::new(tool.input().map_err(failed)?);
        if self.format == Format::Erofs {
            // The root directory, which everybody may write to otherwise; mksquashfs has an option.
            let root = archive.directory(b".", layout::DIRECTORY_MODE);
            root.map_err(failed)?;
        }
        for directory in directories() {
            let written = archive.directory(directory.as_bytes(), layout::DIRECTORY_MODE);
            written.map_err(failed)?;
        }
        let version = schema::VERSION.to_string();
        let place = format!("{STATE}/db/schema");
        archive
            .file_at(place.as_bytes(), 0o644, version.len() as u64)
            .and_then(|()| archive.bytes(version.as_bytes()))
            .and_then(|()| archive.end_of_file(version.len() as u64))
            .map_err(failed)?;
        write_database(&self.metadata(draft)?, &mut archive).map_err(failed)?;
        archive.objects_in(ABOVE[1].as_bytes());
        let go_on = |bytes| {
            counts.add(bytes);
            !counts.is_stopped()
        };
        let mut packer = Packer::into(archive, hashed, &go_on);
        self.each(draft, store, |path, expected| {
            let packed = packer.pack(objects.directory.as_fd(), path.as_str());
            let actual = packed.map_err(|error| match error {
                CopyError::Read(error) => {
                    PublishError::io("pack", &objects.path.join(path.as_str()), error)
                }
                CopyError::Write(error) => failed(error),
            })?;
            match actual {
                Some(actual) if actual != expected => {
                    let mut problems = Problems::default();
                    problems.add(Problem::Contents(Damaged {
                        path,
                        upper: false,
                        expected,
                        actual: Ok(actual),
                    }));
                    Err(PublishError::NotWhole(problems))
                }
                _ => Ok(()),
            }
        })?;
        packer.finish().map_err(failed)
    }

    /// Calls `visit` with each path of the database in the draft, in their order, and with its hash.
    fn each(
        &self,
        draft: &Draft,
        store: &StoreDirectory,
        mut visit: impl FnMut(StorePath, [u8; 32]) -> Result<(), PublishError>,
    ) -> Result<(), PublishError> {
        let path = draft.path().join(layout::DATABASE_FILE);
        let connection = open::to_read(&draft.directory, layout::DATABASE_FILE, true, BUSY)
            .map_err(|source| PublishError::Open {
                path: path.clone(),
                source,
            })?;
        let error = |source| PublishError::Sqlite {
            action: "read",
            path: path.clone(),
            source,
        };
        let mut statement = connection
            .prepare("select path, hash from ValidPaths order by id")
            .map_err(error)?;
        let mut rows = statement.query([]).map_err(error)?;
        while let Some(row) = rows.next().map_err(error)? {
            let (object, expected): (String, String) =
                (row.get(0).map_err(error)?, row.get(1).map_err(error)?);
            let expected = hash::parse_sha256(expected.as_bytes()).unwrap_or_default();
            match store.parse(object.as_bytes()) {
                Ok(object) => visit(object, expected)?,
                // It was verified before.
                Err(what) => {
                    let path = path.clone();
                    return Err(PublishError::Record { path, what });
                }
            }
        }
        Ok(())
    }

    /// Makes the metadata as a directory: how many bytes the database has.
    fn tree(&self, draft: &Draft) -> Result<u64, PublishError> {
        let make = || -> std::io::Result<u64> {
            let mode = Mode::from_raw_mode(layout::DIRECTORY_MODE);
            rustix::fs::mkdirat(&draft.directory, TREE, mode)?;
            let tree: OwnedFd = openat(&draft.directory, TREE, LISTING, Mode::empty())?;
            for directory in directories() {
                let (above, name) = last(&tree, &directory)?;
                rustix::fs::mkdirat(above, name, mode)?;
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let schema = format!("{STATE}/db/schema");
            let (above, name) = last(&tree, &schema)?;
            let mut schema = File::from(openat(&above, name, flags, Mode::from_raw_mode(0o644))?);
            schema.write_all(schema::VERSION.to_string().as_bytes())?;
            renameat(
                &draft.directory,
                layout::DATABASE_FILE,
                &above,
                layout::DATABASE_FILE,
            )?;
            sync_tree(&tree)?;
            let database = statat(&above, layout::DATABASE_FILE, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(database.st_size.unsigned_abs())
        };
        make().map_err(|error| PublishError::io("make", self.file, error))
    }
}

/// The directory that the last name of a path below this one is in, and that name.
fn last<'p>(tree: &OwnedFd, path: &'p str) -> std::io::Result<(OwnedFd, &'p str)> {
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut directory = tree.try_clone()?;
    for name in above.split('/').filter(|name| !name.is_empty()) {
        directory = openat(&directory, name, LISTING, Mode::empty())?;
    }
    Ok((directory, name))
}

/// The directories of an image, each after the one it is in.
fn directories() -> Vec<String> {
    let state = layout::STATE_DIRECTORIES.iter();
    let state = state.map(|name| format!("{STATE}/{name}"));
    ABOVE.iter().map(ToString::to_string).chain(state).collect()
}

fn write_database(database: &File, archive: &mut TarWriter<'_>) -> std::io::Result<()> {
    let size = database.metadata()?.len();
    let place = format!("{STATE}/db/{}", layout::DATABASE_FILE);
    archive.file_at(place.as_bytes(), 0o644, size)?;
    pieces(database, |piece| archive.bytes(piece))?;
    archive.end_of_file(size)
}

/// Calls `each` with one piece of a file after the other: nobody else writes to it.
fn pieces(
    mut file: &File,
    mut each: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            count => each(&buffer[..count])?,
        }
    }
}
