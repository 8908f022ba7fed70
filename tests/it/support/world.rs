//! A private machine for one test: a tree as the root directory, a mount and a PID namespace.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Tree, skip, wait_until};

/// The experimental features that a test's Nix has on.
pub const FEATURES: &str =
    "experimental-features = nix-command local-overlay-store read-only-local-store";

/// One test's private machine.
///
/// Commands run in it as root, with the [`Tree`] as their root directory, in mount and PID
/// namespaces of its own. Dropping it, or the end of the test by whatever signal, ends every process
/// in it and unmounts everything. Nothing done in it reaches the tree or the machine.
///
/// What is where:
/// - every path can be written to: a tmpfs overlay lies over the tree. It is an overlay, so nothing
///   on it can be an upper layer, and a store on it stacks one level less;
/// - `/mnt` (for the test's stores), `/nix`, `/tmp` and `/run` are each a tmpfs, `/mnt` and `/nix`
///   empty;
/// - `/usr/bin/overstore` is the program under test, `/usr/bin/overstore-remount` the link to it;
/// - `/etc/nix/nix.conf` turns off substituters and nothing else; `/etc/overstore` is empty;
/// - users: `root`; `alice` (1000) with `/home/alice`; `nixbld1` to `nixbld4` (30001 to 30004) in
///   the group `nixbld` (30000), which Nix as root builds with by default.
pub struct World {
    /// The tree that it shows.
    pub tree: Tree,
    /// Process 1 of the World, as this side numbers it.
    pub pid: u32,
    holder: Child,
    /// The World ends when this closes.
    _life: ChildStdin,
}

impl World {
    /// A World with Debian 13's Nix 2.26; `None` (reported) where there is none.
    pub fn trixie() -> Option<Self> {
        Tree::trixie().map(Self::new)
    }

    /// A World for each Nix there is, one after the other; the missing ones are reported.
    pub fn each() -> impl Iterator<Item = Self> {
        Tree::all().into_iter().map(Self::new)
    }

    /// A new World that shows `tree`.
    pub fn new(tree: Tree) -> Self {
        Self::showing(tree, &[])
    }

    /// A new World that shows `tree`, and directories of this machine, read-only: each pair is one of
    /// them, and the directory of the World (which is made, and is not below `/mnt`) where it is.
    pub fn showing(tree: Tree, directories: &[(&Path, &str)]) -> Self {
        let support = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support");
        let base = tree.path.with_file_name("world");
        fs::create_dir_all(&base).expect("the cache of trees can be written to");
        let mut holder = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .arg("bash")
            .arg(support.join("world.sh"))
            .args([tree.path, &program(), &base])
            .args(
                directories
                    .iter()
                    .flat_map(|(from, to)| [from.as_os_str(), OsStr::new(to)]),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (util-linux) can be run");
        let life = holder.stdin.take().expect("piped");
        let mut ready = String::new();
        BufReader::new(holder.stdout.take().expect("piped"))
            .read_line(&mut ready)
            .expect("the World says when it is ready");
        let Ok(pid) = ready.trim().parse() else {
            panic!(
                "the World was not made: {}",
                holder.wait().expect("it has ended")
            );
        };
        Self {
            tree,
            pid,
            holder,
            _life: life,
        }
    }

    /// The path by which the test itself reaches the World's `path`. Symbolic links with absolute
    /// targets lead out of the World on the way.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let below = path
            .strip_prefix("/")
            .expect("paths of a World are absolute");
        Path::new("/proc")
            .join(self.pid.to_string())
            .join("root")
            .join(below)
    }

    /// Writes a file, and the directories above it when they are missing.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, content))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Copies a file or directory of this machine to `to`, and makes the directories above it.
    pub fn copy(&self, from: &Path, to: impl AsRef<Path>) {
        let to = self.path(to);
        to.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .expect("every path of a World can be written to");
        let copied = Command::new("cp")
            .args(["--recursive", "--no-target-directory"])
            .args([from, &to])
            .status()
            .expect("cp can be run");
        assert!(copied.success(), "copying {from:?} to {to:?}");
    }

    /// A file's content.
    pub fn read(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let path = self.path(path);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Makes a directory and those above it.
    pub fn mkdir(&self, path: impl AsRef<Path>) {
        let path = self.path(path);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// The names in a directory, sorted.
    pub fn list(&self, path: impl AsRef<Path>) -> Vec<OsString> {
        let path = self.path(path);
        let mut names: Vec<_> = fs::read_dir(&path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        names.sort();
        names
    }

    /// The records of mounts.
    pub fn records(&self) -> Vec<OsString> {
        let mut records = self.list("/run/overstore");
        records.retain(|name| name != "locks");
        records
    }

    /// What root locks in place of a directory, made as overstore makes it: the path.
    pub fn lock_file(&self, directory: &str) -> String {
        let script = "mkdir -p -m 755 /run/overstore; mkdir -p -m 700 /run/overstore/locks; umask 077; \
                      file=/run/overstore/locks/$(stat -c %d-%i \"$0\"); touch \"$file\"; echo \"$file\"";
        self.ok(["sh", "-ec", script, directory]).trim().to_owned()
    }

    /// Mounts a new, empty file system of this `kind` (`ext4`, `xfs`, `btrfs`) on the directory `at`,
    /// which is made. `false` (reported with [`skip`]) where the kernel or the machine lacks it.
    pub fn disk(&self, kind: &str, at: &str) -> bool {
        let image = format!("{at}.{kind}");
        self.write(&image, "");
        let path = self.path(&image);
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(512 << 20))
            .expect("a sparse file on tmpfs");
        let program = format!("mkfs.{kind}");
        match Command::new(&program).arg("-q").arg(&path).output() {
            Err(error) => {
                skip(
                    kind,
                    &format!("{program}: {error}; tests/setup installs it"),
                );
                false
            }
            Ok(made) => {
                let said = String::from_utf8_lossy(&made.stderr);
                assert!(made.status.success(), "{program}: {said}");
                self.mount_image(kind, &image, at)
            }
        }
    }

    /// Mounts a read-only file system of this `kind` (`squashfs`, `erofs`) with what the directory
    /// `from` holds on the directory `at`, which is made. `false` (reported with [`skip`]) where the
    /// kernel does not have it.
    pub fn image(&self, kind: &str, from: &str, at: &str) -> bool {
        let image = format!("{at}.{kind}");
        match kind {
            "squashfs" => self.ok(["mksquashfs", from, &image, "-quiet", "-no-progress"]),
            "erofs" => self.ok(["mkfs.erofs", "--quiet", &image, from]),
            _ => panic!("{kind} is not a file system of images"),
        };
        self.mount_image(kind, &image, at)
    }

    /// Mounts an image of this `kind` on the directory `at`, which is made. `false` (reported with
    /// [`skip`]) where the kernel does not have it.
    pub fn mount_image(&self, kind: &str, image: &str, at: &str) -> bool {
        self.mkdir(at);
        let mounted = self.run(["mount", "-o", "loop", "-t", kind, image, at]);
        let unknown = mounted.stderr().contains("unknown filesystem type");
        assert!(mounted.status.success() || unknown, "{mounted}");
        if unknown {
            skip(kind, "the kernel does not have it");
        }
        !unknown
    }

    /// A command (its first word is looked up in the World's `PATH`), to be changed and run.
    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Run<'_> {
        Run {
            world: self,
            words: words
                .into_iter()
                .map(|word| word.as_ref().to_owned())
                .collect(),
            env: vec![
                (
                    "PATH".into(),
                    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin".into(),
                ),
                ("LANG".into(), "C.UTF-8".into()),
                ("HOME".into(), "/root".into()),
                ("USER".into(), "root".into()),
            ],
            stdin: Vec::new(),
            directory: "/".into(),
            user: None,
        }
    }

    /// Runs a command to its end, whatever that is.
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Outcome {
        self.command(words).run()
    }

    /// Runs a command that has to succeed, and gives its standard output.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> String {
        self.command(words).ok()
    }

    /// Runs a command that has to fail.
    #[track_caller]
    pub fn fails<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Outcome {
        self.command(words).fails()
    }

    /// The program under test, with these arguments.
    pub fn overstore<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Run<'_> {
        self.command(["overstore"]).args(arguments)
    }

    /// Real Nix: `nix`, `nix-store`, `nix-build`, ... and its arguments, with the experimental
    /// features on that local-overlay stores need.
    pub fn nix<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Run<'_> {
        self.command(words).env("NIX_CONFIG", FEATURES)
    }

    /// A Nix daemon that serves `store` (`local` is the system's own) on the socket `socket`, and
    /// answers there when this returns. What it says goes to the file `SOCKET.log`.
    ///
    /// Never `auto` or `daemon` for a store: it could connect to itself without end.
    pub fn nix_daemon(&self, store: &str, socket: &str) -> Daemon {
        let log = format!("{socket}.log");
        self.write(&log, "");
        let log = File::create(self.path(log)).expect("it was just made");
        let run = self
            .nix(["nix-daemon", "--store", store])
            .env("NIX_DAEMON_SOCKET_PATH", socket);
        let mut daemon = Daemon(run.start(Stdio::null(), log.into()));
        wait_until(&format!("nix-daemon answers on {socket}"), || {
            if let Some(status) = daemon.0.try_wait().expect("a child of this test") {
                panic!("nix-daemon ended: {status}; {socket}.log says why");
            }
            UnixStream::connect(self.path(socket)).is_ok()
        });
        daemon
    }
}

/// The program under test: what was built with the tests, or another build, to see which tests fail with
/// that.
fn program() -> PathBuf {
    let other = std::env::var_os("OVERSTORE_TEST_PROGRAM");
    other.map_or_else(|| env!("CARGO_BIN_EXE_overstore").into(), PathBuf::from)
}

impl Drop for World {
    fn drop(&mut self) {
        // --kill-child: process 1 goes with it, and with that everything else.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A running Nix daemon, ended when this is dropped.
pub struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// Ends what [`Run::spawn`] started, and waits until it is gone, with all that it had open.
///
/// The child is nsenter. Killed, it would take the command with it, but nobody could wait for that: so
/// the command itself is killed, which nsenter waits for.
pub fn end(child: &mut Child) {
    let commands = format!("/proc/{0}/task/{0}/children", child.id());
    wait_until("a command is gone", || {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        let commands = fs::read_to_string(&commands).unwrap_or_default();
        for pid in commands.split_whitespace().map(str::parse) {
            if let Some(pid) = pid.ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        false
    });
}

/// A command in a [`World`], about to run. Its environment has nothing of the test's own.
#[derive(Clone)]
#[must_use]
pub struct Run<'w> {
    world: &'w World,
    words: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    directory: PathBuf,
    user: Option<u32>,
}

impl<'w> Run<'w> {
    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.words
            .extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Puts words before the command: a program that runs it (`strace`, `unshare`, ...).
    pub fn under<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.words
            .splice(0..0, words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What it reads from its standard input; nothing unless set.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The working directory; `/` unless set.
    pub fn current_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = path.into();
        self
    }

    /// Runs it as the ordinary user `alice`.
    pub fn by_alice(mut self) -> Self {
        self.user = Some(1000);
        self.env("HOME", "/home/alice").env("USER", "alice")
    }

    /// The World it will run in.
    pub fn world(&self) -> &'w World {
        self.world
    }

    /// Where it will run.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts it and goes on; [`Outcome::of`] waits for it. Killing the child ends the command, a moment
    /// later; [`end`] waits for that.
    pub fn spawn(self) -> Child {
        self.start(Stdio::piped(), Stdio::piped())
    }

    fn start(self, stdout: Stdio, stderr: Stdio) -> Child {
        // Also where whoever runs the tests ignores interrupts, as in the background; nsenter hands on the
        // signal by which the command has ended.
        let mut command = Command::new("env");
        command
            .args(["--default-signal=HUP,INT,QUIT", "nsenter"])
            .arg(format!("--target={}", self.world.pid))
            .args(["--mount", "--pid", "setpriv"]);
        if let Some(user) = self.user {
            command.args([
                &format!("--reuid={user}"),
                &format!("--regid={user}"),
                "--init-groups",
            ]);
        }
        // The child is nsenter, which waits outside of the PID namespace: the command has to end
        // with it.
        let mut child = command
            .args(["--pdeathsig=KILL", "--", "env", "--chdir"])
            .arg(&self.directory)
            .args(&self.words)
            .env_clear()
            .envs(self.env)
            .stdin(if self.stdin.is_empty() {
                Stdio::null()
            } else {
                Stdio::piped()
            })
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .expect("nsenter (util-linux) can be run");
        if let Some(mut pipe) = child.stdin.take() {
            // It may end without having read everything.
            std::thread::spawn(move || pipe.write_all(&self.stdin));
        }
        child
    }

    /// Runs it to its end, whatever that is.
    pub fn run(self) -> Outcome {
        let command = format!("{:?}", self.words);
        Outcome {
            command,
            ..Outcome::of(self.spawn())
        }
    }

    /// Runs it; it has to succeed. Gives its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        let outcome = self.run();
        assert!(outcome.status.success(), "should have succeeded: {outcome}");
        outcome.stdout()
    }

    /// Runs it; it has to fail, by itself and not by a signal.
    #[track_caller]
    pub fn fails(self) -> Outcome {
        let outcome = self.run();
        assert!(
            outcome.code().is_some_and(|code| code != 0),
            "should have failed: {outcome}"
        );
        outcome
    }
}

/// How a command ended. Printed, it shows all there is to know.
pub struct Outcome {
    /// The command and its arguments, as they were given; empty when made by [`Outcome::of`].
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub out: Vec<u8>,
    /// What it wrote to its standard error.
    pub err: Vec<u8>,
}

impl Outcome {
    /// Waits for the end of what [`Run::spawn`] started, and kills it after fifteen minutes, which a busy machine
    /// does not take either.
    pub fn of(child: Child) -> Self {
        let pid = Pid::from_child(&child);
        let (ended, end) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if end.recv_timeout(Duration::from_secs(900)) == Err(RecvTimeoutError::Timeout) {
                let _ = writeln!(
                    std::io::stderr(),
                    "a command in a World did not end: killing it"
                );
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let output = child.wait_with_output().expect("a child of this test");
        drop(ended);
        Self {
            command: String::new(),
            status: output.status,
            out: output.stdout,
            err: output.stderr,
        }
    }

    /// The exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Its standard output as text.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Its standard error as text.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}\n--- standard output\n{}\n--- standard error\n{}",
            self.command,
            self.status,
            self.stdout(),
            self.stderr()
        )
    }
}
