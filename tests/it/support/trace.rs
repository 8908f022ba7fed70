//! System-call traces of commands in a World, and commands that are killed at any of their system
//! calls, or held there for a while. None of it needs hooks in the program.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Outcome, Run, World, wait_until};

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
#[derive(Clone)]
struct Names {
    cwd: PathBuf,
    /// By number, as far as they were seen in a call.
    descriptors: BTreeMap<i64, PathBuf>,
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
    /// The working directory that relative paths start at.
    cwd: PathBuf,
}

#[derive(Clone, Debug, Default)]
struct Argument {
    text: String,
    /// A quoted string, unescaped.
    string: Option<PathBuf>,
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
            cwd: start,
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

/// The number of `mount` on x86-64.
const MOUNT: &str = "165";

/// A command that is held where it enters its first `mount`.
pub struct Held<'w> {
    world: &'w World,
    child: Child,
    tracer: String,
}

impl<'w> Run<'w> {
    /// Starts it, and comes back when one of its threads has entered its second `mount` (the first
    /// makes a mount private), which is not carried out before [`Held::go_on`]. Nothing else in the World may be traced meanwhile.
    pub fn held_at_mount(self) -> Held<'w> {
        let world = self.world();
        let mut child = self
            .under([
                "strace",
                // The command stays the child, and strace is beside it.
                "--daemonize",
                "--follow-forks",
                "--output=/dev/null",
                "--quiet=all",
                "--trace=mount",
                "--inject=mount:delay_enter=86400s:when=2",
            ])
            .spawn();
        let mut tracer = None;
        wait_until("the command mounts", || {
            if let Some(status) = child.try_wait().expect("a child of this test") {
                panic!("it ended before it mounted anything: {status}");
            }
            tracer = tracer_at_mount(world);
            tracer.is_some()
        });
        Held {
            world,
            child,
            tracer: tracer.expect("there is one now"),
        }
    }
}

/// The process in the World that traces a thread which has entered `mount` of a new file system.
fn tracer_at_mount(world: &World) -> Option<String> {
    let processes = world.list("/proc").into_iter();
    processes
        .filter_map(|name| fs::read_dir(world.path("/proc").join(name).join("task")).ok())
        .flatten()
        .filter_map(|thread| {
            // It may have ended.
            let directory = thread.ok()?.path();
            let status = fs::read_to_string(directory.join("status")).ok()?;
            let mut fields = status.lines().filter_map(|line| line.split_once(':'));
            let (_, tracer) = fields.find(|(field, _)| *field == "TracerPid")?;
            let call = fs::read_to_string(directory.join("syscall")).ok()?;
            let call: Vec<&str> = call.split(' ').collect();
            // Without flags: other calls change mounts that are there.
            let held = tracer.trim() != "0" && call[0] == MOUNT && call.get(4) == Some(&"0x0");
            held.then(|| tracer.trim().to_owned())
        })
        .next()
}

impl Held<'_> {
    /// Lets it go on, to its end.
    pub fn go_on(self) -> Outcome {
        // Told to end, strace would first wait until its delay is over.
        self.world.ok(["sh", "-c", "kill -KILL $0", &self.tracer]);
        Outcome::of(self.child)
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

    /// Where [`Run::killed_at`] makes a difference: each call that changes anything (files, mounts,
    /// namespaces, messages to others), with its number. Only for commands that do the same each
    /// time they run.
    pub fn kill_points(&self) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<(u32, &str), usize> = BTreeMap::new();
        let mut points = Vec::new();
        for call in &self.calls {
            let count = counts.entry((call.thread, &call.name)).or_default();
            *count += 1;
            let point = (call.name.clone(), *count);
            let changes =
                CHANGE_MACHINE.contains(&call.name.as_str()) || !call.changes().is_empty();
            if changes && !points.contains(&point) {
                points.push(point);
            }
        }
        points
    }
}

impl Names {
    fn learn(&mut self, call: &Syscall) {
        if let Some(to) = call.changes_directory() {
            self.cwd = to;
        }
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
        let strings = |from: usize| (from..self.arguments.len()).filter_map(|at| self.path(at));
        let has = |words: &[&str]| words.iter().any(|word| self.text.contains(word));
        if let Some((_, from)) = CHANGE_PATHS.iter().find(|(call, _)| *call == name) {
            let mut paths: Vec<_> = strings(*from).collect();
            if paths.is_empty() {
                // utimensat(fd, NULL, ...)
                paths.extend(descriptor(0));
            }
            paths
        } else if CHANGE_FIRST_PATH.contains(&name) {
            strings(0).take(1).collect()
        } else if let Some((_, at)) = CHANGE_DESCRIPTOR.iter().find(|(call, _)| *call == name) {
            descriptor(*at).into_iter().collect()
        } else if matches!(name, "open" | "openat" | "openat2") {
            let writes = [
                "O_WRONLY",
                "O_RDWR",
                "O_CREAT",
                "O_TRUNC",
                "O_APPEND",
                "O_TMPFILE",
            ];
            let flags = self.arguments.iter().filter(|it| it.string.is_none());
            if flags
                .into_iter()
                .any(|it| writes.iter().any(|flag| it.text.contains(flag)))
            {
                strings(0).chain(self.returned.clone()).collect()
            } else {
                Vec::new()
            }
        } else if (name == "fcntl" && has(&["F_SETLK", "F_OFD_SETLK", "F_SETLEASE"]))
            || (name == "ioctl" && has(&["FS_IOC_SETFLAGS", "FS_IOC_FSSETXATTR", "FICLONE"]))
        {
            descriptor(0).into_iter().collect()
        } else {
            Vec::new()
        }
    }

    /// The string at this position as an absolute path: it starts at the descriptor before it, if
    /// that is one, otherwise at the working directory.
    fn path(&self, at: usize) -> Option<PathBuf> {
        let string = self.arguments.get(at)?.string.as_ref()?;
        let before = at
            .checked_sub(1)
            .and_then(|before| self.arguments[before].descriptor.as_ref());
        let mut path = PathBuf::new();
        for part in before.unwrap_or(&self.cwd).join(string).components() {
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
        let starts = matches!(self.name.as_str(), "clone" | "clone3" | "fork" | "vfork");
        self.result
            .filter(|result| starts && *result > 0)?
            .try_into()
            .ok()
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
                    argument.string = argument
                        .string
                        .or((depth == 0).then(|| names.through_descriptor(string)));
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
            cwd: names.cwd.clone(),
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
