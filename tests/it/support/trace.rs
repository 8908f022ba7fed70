//! System-call traces of commands in a World, and commands that are killed at any of their system
//! calls, or have one fail. None of it needs hooks in the program.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Outcome, Run};

/// Calls that change what their path arguments name, with the position of the first of these; all
/// strings from there on are paths, except where [`Syscall::changes`] says otherwise.
const CHANGE_PATHS: &[(&str, usize)] = &[
    ("chmod", 0),
    ("chown", 0),
    ("creat", 0),
    ("fchmodat", 0),
    ("fchmodat2", 0),
    ("fchownat", 0),
    ("futimesat", 0),
    ("lchown", 0),
    ("link", 0),
    ("linkat", 0),
    ("mkdir", 0),
    ("mkdirat", 0),
    ("mknod", 0),
    ("mknodat", 0),
    ("rename", 0),
    ("renameat", 0),
    ("renameat2", 0),
    ("rmdir", 0),
    ("symlink", 1),
    ("symlinkat", 1),
    ("truncate", 0),
    ("unlink", 0),
    ("unlinkat", 0),
    ("utime", 0),
    ("utimensat", 0),
    ("utimes", 0),
];

/// Calls that change only what their first string names; the strings after it are no paths.
const CHANGE_FIRST_PATH: &[&str] = &[
    "lremovexattr",
    "lsetxattr",
    "removexattr",
    "removexattrat",
    "setxattr",
    "setxattrat",
];

/// Calls that change or lock what a descriptor stands for, with that argument's position.
const CHANGE_DESCRIPTOR: &[(&str, usize)] = &[
    ("copy_file_range", 2),
    ("fallocate", 0),
    ("fchmod", 0),
    ("fchown", 0),
    ("flock", 0),
    ("fremovexattr", 0),
    ("fsetxattr", 0),
    ("ftruncate", 0),
    ("pwrite64", 0),
    ("pwritev", 0),
    ("pwritev2", 0),
    ("sendfile", 0),
    ("splice", 2),
    ("write", 0),
    ("writev", 0),
];

/// Calls that change what is mounted, with the positions of the paths that they mount on or take away.
const CHANGE_MOUNTS: &[(&str, &[usize])] = &[
    ("mount", &[1]),
    ("mount_setattr", &[1]),
    ("move_mount", &[1, 3]),
    ("pivot_root", &[0, 1]),
    ("umount2", &[0]),
];

/// Calls that change what the machine shows, but no file.
const CHANGE_MACHINE: &[&str] = &[
    "fdatasync",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fsync",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "sendmsg",
    "sendto",
    "setns",
    "sync_file_range",
    "syncfs",
    "umount2",
    "unshare",
];

/// The system calls that a command made.
pub struct Trace {
    /// Thread by thread, in each thread in order.
    pub calls: Vec<Syscall>,
}

/// What names mean to a thread.
#[derive(Clone, Debug)]
struct Names {
    place: Rc<Place>,
    /// By number, as far as they were seen in a call.
    descriptors: BTreeMap<i64, PathBuf>,
}

/// Where a thread is.
#[derive(Clone, Debug, Default)]
struct Place {
    cwd: PathBuf,
    /// Whether the working directory was entered by a descriptor.
    cwd_is_held: bool,
    /// Whether the mounts are those of a namespace of its own.
    has_own_mounts: bool,
    /// Whether the root directory is one that was put together in such a namespace, for one thread.
    has_own_root: bool,
    /// The program that it executed last.
    program: PathBuf,
}

/// One system call.
#[derive(Clone, Debug)]
pub struct Syscall {
    /// The thread that made it.
    pub thread: u32,
    /// Its name.
    pub name: String,
    /// The whole line, as strace wrote it.
    pub text: String,
    arguments: Vec<Argument>,
    /// What it returned, when that is a decimal number.
    pub result: Option<i64>,
    /// What the returned descriptor stands for.
    returned: Option<PathBuf>,
    /// Where the thread was.
    place: Rc<Place>,
}

#[derive(Clone, Debug, Default)]
struct Argument {
    text: String,
    /// A quoted string, unescaped; what leads through a descriptor starts at what that stands for.
    string: Option<PathBuf>,
    /// The same, as it was given.
    given: Option<PathBuf>,
    /// What a descriptor stands for.
    descriptor: Option<PathBuf>,
}

impl Run<'_> {
    /// Runs it under `strace`, with the processes and threads that it starts.
    pub fn traced(self) -> (Outcome, Trace) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let directory = format!("/tmp/trace-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let (world, start) = (self.world(), self.directory().to_owned());
        world.ok(["mkdir", "--mode=1777", &directory]);
        let outcome = self
            .under([
                "strace",
                // One file a thread, so that no call is cut into an unfinished and a resumed part.
                "--output-separately",
                "--follow-forks",
                &format!("--output={directory}/thread"),
                "--decode-fds=path",
                // Of commands that begin a PID namespace, too.
                "--pidns-translation",
                "--string-limit=4096",
                "--signal=none",
                "--quiet=all",
            ])
            .run();
        let mut threads: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for name in world.list(&directory) {
            let id = Path::new(&name)
                .extension()
                .and_then(|id| id.to_str()?.parse().ok());
            let id = id.expect("strace ends the name with the thread's number");
            threads.insert(id, world.read(Path::new(&directory).join(&name)));
        }
        // From the first thread on, in the order in which they were started.
        let mut calls: Vec<Syscall> = Vec::new();
        let first = threads.keys().next().copied();
        let start = Names {
            place: Rc::new(Place {
                cwd: start,
                ..Place::default()
            }),
            descriptors: BTreeMap::new(),
        };
        let mut pending: VecDeque<_> = first.map(|first| (first, start)).into_iter().collect();
        while let Some((thread, mut names)) = pending.pop_front() {
            let lines = threads.remove(&thread).unwrap_or_default();
            for line in lines.split(|byte| *byte == b'\n') {
                let Some(call) = Syscall::parse(thread, line, &names) else {
                    continue;
                };
                names.learn(&call);
                pending.extend(call.starts_thread().map(|child| (child, names.clone())));
                calls.push(call);
            }
        }
        assert!(
            threads.is_empty(),
            "nobody started the threads {:?}",
            threads.keys()
        );
        assert!(!calls.is_empty(), "strace saw nothing: {outcome}");
        (outcome, Trace { calls })
    }

    /// Runs it and kills it when it enters its `nth` (from 1) `call`, which is not carried out any
    /// more. Its [`Outcome::signal`] is 9 if it got that far; otherwise it ran to its end.
    ///
    /// The calls of each thread are counted by themselves.
    pub fn killed_at(self, call: &str, nth: usize) -> Outcome {
        self.injected(call, &format!("signal=SIGKILL:when={nth}"))
    }

    /// Runs it, and has the `nth` (from 1) `call` of each thread fail with an error, such as `EIO`: it
    /// is not carried out.
    pub fn failing_at(self, call: &str, nth: usize, error: &str) -> Outcome {
        self.injected(call, &format!("error={error}:when={nth}"))
    }

    fn injected(self, call: &str, what: &str) -> Outcome {
        self.under([
            "strace",
            "--follow-forks",
            "--output=/dev/null",
            "--quiet=all",
            &format!("--trace={call}"),
            &format!("--inject={call}:{what}"),
        ])
        .run()
    }
}

impl Trace {
    /// The calls that would change, lock or open for writing something at or below `directory`,
    /// whether they succeeded or not.
    pub fn changes_below(&self, directory: impl AsRef<Path>) -> Vec<&Syscall> {
        let directory = directory.as_ref();
        let below = |call: &&Syscall| {
            call.changes()
                .iter()
                .any(|path| path.starts_with(directory))
        };
        self.calls.iter().filter(below).collect()
    }

    /// Panics if the command changed, locked or opened for writing anything at or below
    /// `directory`, or tried to; and also if it never looked there, since that would prove nothing.
    #[track_caller]
    pub fn assert_only_read(&self, directory: impl AsRef<Path>) {
        let directory = directory.as_ref();
        let seen = |call: &Syscall| call.paths().any(|path| path.starts_with(directory));
        assert!(
            self.calls.iter().any(seen),
            "no call names anything in {directory:?}"
        );
        let changes = self.changes_below(directory);
        let texts: Vec<_> = changes.iter().map(|call| call.text.as_str()).collect();
        assert!(
            texts.is_empty(),
            "{directory:?} was not only read:\n{}",
            texts.join("\n")
        );
        let ring = self.calls.iter().find(|call| call.name == "io_uring_setup");
        assert!(ring.is_none(), "what io_uring does is not in a trace");
    }

    /// The calls that are meant, each with its number, as [`Run::failing_at`] takes it.
    pub fn nth_calls(&self, is_meant: impl Fn(&Syscall) -> bool) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<(u32, &str), usize> = BTreeMap::new();
        let mut found = Vec::new();
        for call in &self.calls {
            let count = counts.entry((call.thread, &call.name)).or_default();
            *count += 1;
            let point = (call.name.clone(), *count);
            if is_meant(call) && !found.contains(&point) {
                found.push(point);
            }
        }
        found
    }

    /// Where [`Run::killed_at`] makes a difference: each call that changes anything (files, mounts,
    /// namespaces, messages to others), with its number. Only for commands that do the same each
    /// time they run.
    pub fn kill_points(&self) -> Vec<(String, usize)> {
        self.nth_calls(|call| {
            CHANGE_MACHINE.contains(&call.name.as_str()) || !call.changes().is_empty()
        })
    }

    /// The same for [`Run::failing_at`]: without what no kernel refuses. Where SQLite cannot give a lock
    /// back, Nix waits for itself for ever, so none of SQLite's calls fail where Nix makes some.
    pub fn failing_points(&self) -> Vec<(String, usize)> {
        let is_nix = |call: &Syscall| call.program().to_string_lossy().contains("nix");
        let runs_nix = self.calls.iter().any(is_nix);
        let given_back = self.nth_calls(|call| {
            let words = ["F_UNLCK", "LOCK_UN"];
            words.iter().any(|word| call.text.contains(word))
        });
        let mut points = self.kill_points();
        points.retain(|point| !(given_back.contains(point) || runs_nix && point.0 == "fcntl"));
        points
    }
}

impl Names {
    fn learn(&mut self, call: &Syscall) {
        let place = |change: &dyn Fn(&mut Place)| {
            let mut place = Place::clone(&self.place);
            change(&mut place);
            Rc::new(place)
        };
        let moved = match call.name.as_str() {
            _ if call.result != Some(0) => None,
            "chdir" | "fchdir" => call.changes_directory().map(|to| {
                place(&|place| {
                    place.cwd.clone_from(&to);
                    place.cwd_is_held = call.name == "fchdir";
                })
            }),
            "execve" => Some(place(&|place| {
                place.program = call.path(0).unwrap_or_default();
            })),
            "unshare" if call.text.contains("CLONE_NEWNS") => {
                Some(place(&|place| place.has_own_mounts = true))
            }
            "setns" => Some(place(&|place| place.has_own_mounts = true)),
            "chroot" => Some(place(&|place| {
                place.has_own_root |= place.has_own_mounts;
            })),
            _ => None,
        };
        self.place = moved.unwrap_or_else(|| Rc::clone(&self.place));
        let arguments = call.arguments.iter();
        let given = arguments.map(|it| (it.text.trim().parse().ok(), it.descriptor.as_ref()));
        for (number, path) in given.chain([(call.result, call.returned.as_ref())]) {
            if let (Some(number), Some(path)) = (number, path) {
                self.descriptors.insert(number, path.clone());
            }
        }
    }

    /// `/proc/self/fd/7/name` is `name` in what descriptor 7 stands for.
    fn through_descriptor(&self, path: PathBuf) -> PathBuf {
        let prefixes = ["/proc/self/fd", "/proc/thread-self/fd", "/dev/fd"];
        let below = prefixes
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix).ok());
        let mut parts = below.unwrap_or(Path::new("")).components();
        let number = parts
            .next()
            .and_then(|part| part.as_os_str().to_str()?.parse().ok());
        match number.and_then(|number: i64| self.descriptors.get(&number)) {
            Some(directory) => directory.join(parts.as_path()),
            None => path,
        }
    }
}

impl Syscall {
    /// All paths that the call names, by string or by descriptor, absolute.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let given = (0..self.arguments.len()).filter_map(|index| self.path(index));
        let descriptors = self
            .arguments
            .iter()
            .filter_map(|argument| argument.descriptor.clone());
        given.chain(descriptors).chain(self.returned.clone())
    }

    /// The paths that the call would change, lock or open for writing.
    pub fn changes(&self) -> Vec<PathBuf> {
        let name = self.name.as_str();
        let descriptor = |at: usize| self.arguments.get(at).and_then(|it| it.descriptor.clone());
        let has = |words: &[&str]| words.iter().any(|word| self.text.contains(word));
        let strings = self.changed_strings();
        let mut paths: Vec<_> = strings.filter_map(|at| self.path(at)).collect();
        if CHANGE_PATHS.iter().any(|(call, _)| *call == name) {
            if paths.is_empty() {
                // utimensat(fd, NULL, ...)
                paths.extend(descriptor(0));
            }
        } else if let Some((_, at)) = CHANGE_DESCRIPTOR.iter().find(|(call, _)| *call == name) {
            paths.extend(descriptor(*at));
        } else if self.opens_for_writing() {
            paths.extend(self.returned.clone());
        } else if (name == "fcntl" && has(&["F_SETLK", "F_OFD_SETLK", "F_SETLEASE"]))
            || (name == "ioctl" && has(&["FS_IOC_SETFLAGS", "FS_IOC_FSSETXATTR", "FICLONE"]))
        {
            paths.extend(descriptor(0));
        }
        paths
    }

    /// The positions of the paths that the call would change or open for writing.
    fn changed_strings(&self) -> impl Iterator<Item = usize> {
        let name = self.name.as_str();
        let from = CHANGE_PATHS.iter().find(|(call, _)| *call == name);
        let (from, count) = match from {
            Some((_, from)) => (*from, usize::MAX),
            None if CHANGE_FIRST_PATH.contains(&name) => (0, 1),
            None if self.opens_for_writing() => (0, usize::MAX),
            None => (0, 0),
        };
        let strings =
            (from..self.arguments.len()).filter(|at| self.arguments[*at].string.is_some());
        strings.take(count)
    }

    fn opens_for_writing(&self) -> bool {
        let writes = [
            "O_WRONLY",
            "O_RDWR",
            "O_CREAT",
            "O_TRUNC",
            "O_APPEND",
            "O_TMPFILE",
        ];
        let mut flags = self.arguments.iter().filter(|it| it.string.is_none());
        matches!(self.name.as_str(), "open" | "openat" | "openat2")
            && flags.any(|it| writes.iter().any(|flag| it.text.contains(flag)))
    }

    /// The paths by which the call reaches what it would change, or mount on, where somebody could
    /// exchange something on the way: those that do not start at a descriptor, that lead through more
    /// than one name from there, and those whose last name may be a link.
    pub fn by_path(&self) -> Vec<PathBuf> {
        let name = self.name.as_str();
        let mounts = CHANGE_MOUNTS.iter().find(|(call, _)| *call == name);
        let mounts = mounts.map_or(&[][..], |(_, at)| at).iter().copied();
        let strings = self.changed_strings().chain(mounts);
        strings
            .filter(|at| !self.is_held(*at))
            .filter_map(|at| self.path(at))
            .collect()
    }

    /// Whether the path at this position is a name in a directory that is held, or stands for a
    /// descriptor itself.
    fn is_held(&self, at: usize) -> bool {
        let argument = &self.arguments[at];
        let (Some(given), Some(found)) = (&argument.given, &argument.string) else {
            return true;
        };
        let before = at.checked_sub(1).map(|before| &self.arguments[before]);
        let has_descriptor = before.is_some_and(|it| {
            it.descriptor.is_some() && !it.text.trim_start().starts_with("AT_FDCWD")
        });
        let names = match given != found {
            // Through /proc/self/fd: that, the number, and what follows it.
            true => given
                .components()
                .skip_while(|it| it.as_os_str() != "fd")
                .skip(2)
                .count(),
            false if given.is_absolute() => return false,
            false if has_descriptor || self.place.cwd_is_held => {
                if given.components().any(|it| it == Component::ParentDir) {
                    return false;
                }
                given
                    .components()
                    .filter(|it| *it != Component::CurDir)
                    .count()
            }
            false => return false,
        };
        names == 0 || names == 1 && !self.follows(at)
    }

    /// Whether the last name of its path at this position may be a link that it follows.
    fn follows(&self, at: usize) -> bool {
        let has = |words: &[&str]| words.iter().any(|word| self.text.contains(word));
        match self.name.as_str() {
            // What has to be new is no link.
            "open" | "openat" => !has(&["O_NOFOLLOW", "O_EXCL"]),
            "openat2" => !has(&["O_NOFOLLOW", "O_EXCL", "RESOLVE_NO_SYMLINKS"]),
            "chmod" | "fchmodat" | "chown" | "creat" | "truncate" | "utime" | "utimes"
            | "futimesat" | "setxattr" | "removexattr" => true,
            "fchmodat2" | "fchownat" | "utimensat" => !has(&["AT_SYMLINK_NOFOLLOW"]),
            // Only what the new name is for.
            "linkat" => at == 1 && has(&["AT_SYMLINK_FOLLOW"]),
            "mount" | "chroot" => true,
            "umount2" => !has(&["UMOUNT_NOFOLLOW"]),
            "move_mount" => has(&["_SYMLINKS"]),
            _ => false,
        }
    }

    /// Whether the thread has mounts of its own, and a root directory made of such.
    pub fn has_own_root(&self) -> bool {
        self.place.has_own_root
    }

    /// Whether the thread has mounts of its own.
    pub fn has_own_mounts(&self) -> bool {
        self.place.has_own_mounts
    }

    /// The program that made it.
    pub fn program(&self) -> &Path {
        &self.place.program
    }

    /// The string at this position as an absolute path: it starts at the descriptor before it, if
    /// that is one, otherwise at the working directory.
    fn path(&self, at: usize) -> Option<PathBuf> {
        let string = self.arguments.get(at)?.string.as_ref()?;
        let before = at
            .checked_sub(1)
            .and_then(|before| self.arguments[before].descriptor.as_ref());
        let mut path = PathBuf::new();
        for part in before.unwrap_or(&self.place.cwd).join(string).components() {
            match part {
                Component::ParentDir => drop(path.pop()),
                Component::CurDir => {}
                _ => path.push(part),
            }
        }
        Some(path)
    }

    /// The working directory that the call sets.
    fn changes_directory(&self) -> Option<PathBuf> {
        match self.name.as_str() {
            _ if self.result != Some(0) => None,
            "chdir" => self.path(0),
            "fchdir" => self.arguments[0].descriptor.clone(),
            _ => None,
        }
    }

    /// The thread that the call started.
    fn starts_thread(&self) -> Option<u32> {
        if !matches!(self.name.as_str(), "clone" | "clone3" | "fork" | "vfork") {
            return None;
        }
        // `= 2 /* 42 in strace's PID NS */`
        let here = self.text.strip_suffix(" in strace's PID NS */");
        let here = here.and_then(|text| text.rsplit(' ').next()?.parse().ok());
        let result = here.or(self.result).filter(|result| *result > 0)?;
        result.try_into().ok()
    }

    /// Reads a line `name(argument, ...) = result`; `None` for one that is not a call.
    fn parse(thread: u32, line: &[u8], names: &Names) -> Option<Self> {
        let open = line.iter().position(|byte| *byte == b'(')?;
        let name = str::from_utf8(&line[..open]).ok()?;
        if name.is_empty()
            || !name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return None;
        }
        let mut arguments = Vec::new();
        let mut argument = Argument::default();
        let mut depth = 0_u32;
        let mut at = open + 1;
        while let Some(&byte) = line.get(at) {
            at += 1;
            match byte {
                b'"' => {
                    let (string, end) = unescape(line, at, b'"');
                    // Inside of a structure or array it is no path.
                    if depth == 0 && argument.string.is_none() {
                        argument.string = Some(names.through_descriptor(string.clone()));
                        argument.given = Some(string);
                    }
                    at = end;
                    continue;
                }
                b'<' if is_descriptor(&argument.text) => {
                    let (path, end) = unescape(line, at, b'>');
                    argument.descriptor = argument.descriptor.or(Some(path));
                    at = end;
                    continue;
                }
                b'(' | b'[' | b'{' => depth += 1,
                b')' if depth == 0 => break,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                b',' if depth == 0 => {
                    arguments.push(std::mem::take(&mut argument));
                    continue;
                }
                _ => {}
            }
            argument.text.push(char::from(byte));
        }
        arguments.push(argument);

        let result = line.get(at..).unwrap_or_default();
        let number = result.iter().skip_while(|byte| b" =".contains(byte));
        let number = number.take_while(|byte| b"-0123456789".contains(byte));
        let number: Vec<u8> = number.copied().collect();
        let returned = result
            .iter()
            .position(|byte| *byte == b'<')
            .map(|open| open + 1);
        Some(Self {
            thread,
            name: name.to_owned(),
            text: String::from_utf8_lossy(line).into_owned(),
            arguments,
            result: str::from_utf8(&number)
                .ok()
                .and_then(|number| number.parse().ok()),
            returned: returned.map(|start| unescape(result, start, b'>').0),
            place: Rc::clone(&names.place),
        })
    }
}

/// Whether `<` after this text begins the path of a descriptor, and is not an operator (`1<<2`).
fn is_descriptor(text: &str) -> bool {
    let word = text.rsplit([' ', '[', '{', '=']).next().unwrap_or(text);
    word == "AT_FDCWD" || (!word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Reads text in strace's C escapes from `start` to the byte `end`; also gives what follows it.
fn unescape(line: &[u8], start: usize, end: u8) -> (PathBuf, usize) {
    let mut bytes = Vec::new();
    let mut at = start;
    while let Some(&byte) = line.get(at) {
        at += 1;
        if byte == end {
            break;
        }
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let digits = line[at..]
            .iter()
            .take(3)
            .take_while(|byte| (b'0'..=b'7').contains(byte))
            .count();
        if digits > 0 {
            let octal = str::from_utf8(&line[at..at + digits]).expect("ASCII digits");
            bytes.push(u16::from_str_radix(octal, 8).expect("octal digits") as u8);
            at += digits;
        } else {
            let escaped = line.get(at).copied().unwrap_or(b'\\');
            bytes.push(match escaped {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'v' => 0x0b,
                b'f' => 0x0c,
                other => other,
            });
            at += 1;
        }
    }
    (OsString::from_vec(bytes).into(), at)
}
