//! Nix, which deletes what was chosen: `nix-daemon --stdio`, spoken to in the worker protocol.
//!
//! So all that a collection has to respect stays Nix's business: locks, temporary roots, running
//! builds, changes of the schema. Nothing but a path's row and its object in the merged directory go,
//! and only when Nix finds no root either.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::database::Keep;
use crate::config::Store;
use crate::escape::show;
use crate::linux::programs;
use crate::nix::store_directory::StoreDirectory;
use crate::nix::store_path::StorePath;
use crate::nix::url::UrlRules;
use crate::nix::version::NixVersion;
use crate::nix::worker_protocol::connection::Connection;
use crate::nix::worker_protocol::stream::{Deadline, Stream};
use crate::nix::worker_protocol::{DaemonError, wire};
use crate::remedy::{HasRemedy, Remedy};

/// The program. What it is in messages, too.
const PROGRAM: &str = "nix-daemon";

/// How long Nix may take to open the store.
const OPEN_TIMEOUT: Duration = Duration::from_secs(300);
/// How long it may be silent: it waits for other collections, and for locks.
const IDLE_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long Nix may take altogether, going on all the time: there is no real limit.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The requests, by their numbers in the protocol.
mod operation {
    pub(super) const FIND_ROOTS: u64 = 14;
    pub(super) const COLLECT_GARBAGE: u64 = 20;
}

/// `gcDeleteSpecific` of Nix's `GCOptions`.
const DELETE_SPECIFIC: u64 = 3;

/// Longest path or link in an answer, in bytes.
const LONGEST_STRING: u64 = 64 << 10;
/// Most items in an answer.
const MOST_ITEMS: u64 = 1 << 32;

/// Where Nix's programs are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Programs {
    /// Their directory; those on `PATH` if `None`.
    pub directory: Option<PathBuf>,
}

impl Programs {
    /// One of them, about to run without input.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = match &self.directory {
            Some(directory) => Command::new(directory.join(name)),
            None => Command::new(name),
        };
        command.stdin(programs::no_input());
        command
    }
}

/// Why Nix could not be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NixError {
    /// It could not be started.
    #[error("cannot run {PROGRAM}: {0}")]
    Start(io::Error),
    /// It ended, or refused to open the store.
    #[error("{PROGRAM} cannot open the store: {said}")]
    Open {
        /// What it said.
        said: String,
    },
    /// It failed, or broke the protocol.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

impl HasRemedy for NixError {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Start(_) => {
                Remedy::say("install Nix, or put its `nix-daemon` on PATH: Nix is what deletes")
            }
            Self::Daemon(error) => error.remedy(),
            Self::Open { .. } => {
                Remedy::say("see what is wrong with the store with `overstore check --nix`")
            }
        }
    }
}

/// A running Nix that has the store open.
#[derive(Debug)]
pub(crate) struct Nix {
    /// The one that was started for it; none where it is the store's daemon.
    child: Option<Child>,
    connection: Connection,
    store: StoreDirectory,
}

/// How a deletion ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// All that was given is gone.
    Done,
    /// Nix stopped at a path that is alive, or for another reason; before that it may have deleted
    /// others.
    Stopped(String),
}

impl Nix {
    /// Has Nix open the store, with these settings.
    ///
    /// # Errors
    /// When it cannot be run, or refuses.
    pub(crate) fn start(programs: &Programs, store: &Store, keep: Keep) -> Result<Self, NixError> {
        let (ours, theirs) = UnixStream::pair().map_err(NixError::Start)?;
        let theirs = OwnedFd::from(theirs);
        let stdin = theirs.try_clone().map_err(NixError::Start)?;
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let said =
            rustix::fs::memfd_create("said", flags).map_err(|e| NixError::Start(e.into()))?;
        let mut said = std::fs::File::from(said);
        let mut child = programs
            .command(PROGRAM)
            .args(["--stdio", "--store"])
            .arg(OsStr::from_bytes(url(programs, store).as_bytes()))
            .env("NIX_CONFIG", nix_config(store, keep))
            .stdin(stdin)
            .stdout(theirs)
            .stderr(said.try_clone().map_err(NixError::Start)?)
            .spawn()
            .map_err(NixError::Start)?;
        let stream = Stream::new(ours, Deadline::Total(Instant::now() + OPEN_TIMEOUT));
        match Connection::begin(Path::new(PROGRAM), stream, OPEN_TIMEOUT) {
            Ok(mut connection) => {
                connection.set_limits(IDLE_TIMEOUT, LONGEST, u64::MAX);
                Ok(Self::new(Some(child), connection, store))
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let mut text = Vec::new();
                let read = said.rewind().and_then(|()| said.read_to_end(&mut text));
                match (read, text.trim_ascii()) {
                    (Ok(_), text) if !text.is_empty() => Err(NixError::Open { said: lines(text) }),
                    _ => Err(error.into()),
                }
            }
        }
    }

    /// The daemon behind a socket, which has the store open with settings of its own.
    ///
    /// # Errors
    /// When nobody answers there.
    pub(crate) fn connect(socket: &Path, store: &Store) -> Result<Self, NixError> {
        let mut connection = Connection::open(socket, OPEN_TIMEOUT)?;
        connection.set_limits(IDLE_TIMEOUT, LONGEST, u64::MAX);
        Ok(Self::new(None, connection, store))
    }

    fn new(child: Option<Child>, connection: Connection, store: &Store) -> Self {
        Self {
            child,
            connection,
            store: StoreDirectory::new(store.store.as_os_str().as_bytes()),
        }
    }

    /// All roots that Nix finds, each with its link, or with what else it is in braces. As Nix does
    /// it, this removes links that lead nowhere.
    ///
    /// # Errors
    /// When Nix fails.
    pub(crate) fn find_roots(&mut self) -> Result<Vec<(String, StorePath)>, NixError> {
        let mut request = Vec::new();
        wire::write_u64(&mut request, operation::FIND_ROOTS);
        self.connection.send(&request)?;
        self.connection.wait_for_answer()?;
        let mut roots = Vec::new();
        for _ in 0..self.read_count()? {
            let link = self.read_string()?;
            let path = self.read_string()?;
            let path = self.store.parse(&path);
            let path = path.map_err(|what| self.connection.malformed(what))?;
            roots.push((show(&link).into_owned(), path));
        }
        Ok(roots)
    }

    /// Has Nix delete these paths, and tells `each` of those that it begins to delete.
    ///
    /// # Errors
    /// When Nix ends or breaks the protocol. That it stops is none.
    pub(crate) fn delete<'p>(
        &mut self,
        paths: impl ExactSizeIterator<Item = &'p StorePath>,
        each: &mut dyn FnMut(),
    ) -> Result<Deletion, NixError> {
        let mut request = Vec::new();
        wire::write_u64(&mut request, operation::COLLECT_GARBAGE);
        wire::write_u64(&mut request, DELETE_SPECIFIC);
        wire::write_u64(&mut request, paths.len() as u64);
        for path in paths {
            wire::write_bytes(&mut request, &self.store.print(path));
            if request.len() > 64 << 10 {
                self.connection.send(&request)?;
                request.clear();
            }
        }
        // Whether to ignore roots; the most bytes to free; three obsolete fields.
        for number in [0, u64::MAX, 0, 0, 0] {
            wire::write_u64(&mut request, number);
        }
        self.connection.send(&request)?;
        let told = self.connection.wait_for_answer_telling(&mut |line| {
            if line.trim_ascii_start().starts_with(b"deleting '") {
                each();
            }
        });
        match told {
            Ok(()) => {}
            Err(DaemonError::Remote { message, .. }) => return Ok(Deletion::Stopped(message)),
            Err(error) => return Err(error.into()),
        }
        for _ in 0..self.read_count()? {
            self.read_string()?;
        }
        // Bytes freed, which Nix does not know of an overlay store, and an obsolete field.
        for _ in 0..2 {
            self.connection.read(wire::read_u64)?;
        }
        Ok(Deletion::Done)
    }

    fn read_count(&mut self) -> Result<u64, DaemonError> {
        self.connection
            .read(|from| wire::read_count(from, MOST_ITEMS))
    }

    fn read_string(&mut self) -> Result<Vec<u8>, DaemonError> {
        self.connection
            .read(|from| wire::read_bytes(from, LONGEST_STRING))
    }
}

impl Drop for Nix {
    fn drop(&mut self) {
        // It ends when nobody is there any more; what it is in the middle of, it finishes.
        self.connection.hang_up();
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

/// What Nix printed, as one message.
pub(super) fn lines(text: &[u8]) -> String {
    show(text).replace("\\n", "\n  ")
}

/// The settings of Nix on this machine, as it prints them; none where it does not.
pub(crate) struct Settings(Vec<u8>);

impl Settings {
    /// Asks Nix.
    pub(crate) fn of(programs: &Programs) -> Settings {
        let output = programs
            .command("nix")
            .args(["--extra-experimental-features", "nix-command"])
            .args(["config", "show"])
            .stderr(Stdio::null())
            .output();
        Settings(output.map(|output| output.stdout).unwrap_or_default())
    }

    /// The value of a setting.
    pub(crate) fn value(&self, name: &str) -> Option<&[u8]> {
        let mut lines = self.0.split(|&byte| byte == b'\n');
        lines.find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b" = "))
    }
}

/// `keep-derivations`, `keep-outputs` and `ca-derivations` as Nix on this machine has them; where that
/// cannot be told, all: then nothing goes that Nix would keep.
pub(crate) fn keep(programs: &Programs) -> Keep {
    let settings = Settings::of(programs);
    let is_off = |name| settings.value(name) == Some(b"false");
    let has_realisations = settings
        .value("experimental-features")
        .is_none_or(|features| {
            let mut features = features.split(|&byte| byte == b' ');
            features.any(|feature| feature == b"ca-derivations")
        });
    Keep {
        derivations: !is_off("keep-derivations"),
        outputs: !is_off("keep-outputs"),
        realisations: has_realisations,
    }
}

/// The store URL for a collection. With the cache of path infos on, Nix's collector can take a path
/// for valid that it has just deleted.
pub(crate) fn url(programs: &Programs, store: &Store) -> String {
    let mut reference = store.reference();
    reference.set("path-info-cache-size", "0");
    reference.render_for_all().unwrap_or_else(|texts| {
        let version = programs.command(PROGRAM).arg("--version").output().ok();
        let version = version.and_then(|output| {
            NixVersion::from_version_output(&String::from_utf8_lossy(&output.stdout)).ok()
        });
        match version.map(UrlRules::from) {
            Some(UrlRules::Before2_34) => texts.before_2_34,
            _ => texts.since_2_34,
        }
    })
}

/// `NIX_CONFIG` for Nix: what it is already, then what this needs. It beats `nix.conf`.
pub(crate) fn nix_config(store: &Store, keep: Keep) -> OsString {
    let mut config = std::env::var_os("NIX_CONFIG").unwrap_or_default();
    config.push(format!(
        "\nextra-experimental-features = {}\nkeep-derivations = {}\nkeep-outputs = {}\n",
        store.experimental_features().join(" "),
        keep.derivations,
        keep.outputs
    ));
    if !store.use_sqlite_wal {
        config.push("use-sqlite-wal = false\n");
    }
    config
}
