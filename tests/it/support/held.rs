//! Commands that are held where they enter one of their system calls, while somebody else does something:
//! a race that is won each time.

use std::fs;
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Outcome, Run, World, wait_until};

/// The numbers of system calls on x86-64.
const NUMBERS: [(&str, &str); 8] = [
    ("fchown", "93"),
    ("mkdirat", "258"),
    ("mount", "165"),
    ("newfstatat", "262"),
    ("openat", "257"),
    ("readlinkat", "267"),
    ("symlinkat", "266"),
    ("unlinkat", "263"),
];

/// A command that is held where it enters a system call.
pub struct Held<'w> {
    world: &'w World,
    child: Child,
    tracer: String,
}

impl<'w> Run<'w> {
    /// Starts it, and comes back when one of its threads has entered its `nth` (from 1) `call`, which is
    /// not carried out before [`Held::go_on`]; or when it has ended before that, with how it did.
    ///
    /// The calls of each thread are counted by themselves. Nothing else in the World may be held meanwhile.
    pub fn held_at(self, call: &str, nth: usize) -> Result<Held<'w>, Outcome> {
        self.held(call, nth, &["--follow-forks"])
    }

    /// The same of its first thread only.
    pub fn held_in_first_thread_at(self, call: &str, nth: usize) -> Result<Held<'w>, Outcome> {
        self.held(call, nth, &[])
    }

    fn held(self, call: &str, nth: usize, whom: &[&str]) -> Result<Held<'w>, Outcome> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = NUMBERS.iter().find(|(name, _)| *name == call);
        let (_, number) = number.unwrap_or_else(|| panic!("which number has {call}?"));
        let directory = format!("/tmp/held-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let world = self.world();
        world.ok(["mkdir", "--mode=1777", &directory]);
        let output = format!("--output={directory}/thread");
        let inject = format!("--inject={call}:delay_enter=86400s:when={nth}");
        let trace = format!("--trace={call}");
        let strace = [
            "strace",
            // The command stays the child, and strace is beside it.
            "--daemonize",
            "--output-separately",
            &output,
            "--signal=none",
            "--quiet=all",
            &trace,
            &inject,
        ];
        let mut child = self.under([&strace[..], whom].concat()).spawn();
        let mut tracer = None;
        let mut ended = false;
        wait_until(&format!("the command calls {call}"), || {
            ended = child.try_wait().expect("a child of this test").is_some();
            tracer = tracer_of(world, number, &directory, nth);
            ended || tracer.is_some()
        });
        match tracer {
            Some(tracer) => Ok(Held {
                world,
                child,
                tracer,
            }),
            None => Err(Outcome::of(child)),
        }
    }
}

/// The process in the World that traces a thread which is in the system call of this number, after it has
/// ended so many less one of them.
fn tracer_of(world: &World, number: &str, traces: &str, nth: usize) -> Option<String> {
    let traces = world.path(traces);
    let threads = fs::read_dir(&traces).expect("the directory was just made");
    threads.filter_map(Result::ok).find_map(|trace| {
        let ended = fs::read(trace.path()).ok()?;
        let name = trace.file_name();
        let thread = name.to_str()?.strip_prefix("thread.")?;
        // It may have ended.
        let directory = world.path("/proc").join(thread);
        let call = fs::read_to_string(directory.join("syscall")).ok()?;
        let status = fs::read_to_string(directory.join("status")).ok()?;
        let mut fields = status.lines().filter_map(|line| line.split_once(':'));
        let (_, tracer) = fields.find(|(field, _)| *field == "TracerPid")?;
        let lines = ended.iter().filter(|byte| **byte == b'\n').count();
        let held = tracer.trim() != "0" && call.split(' ').next() == Some(number);
        (held && lines + 1 == nth).then(|| tracer.trim().to_owned())
    })
}

impl Held<'_> {
    /// Lets it go on, to its end.
    pub fn go_on(self) -> Outcome {
        // Told to end, strace would first wait until its delay is over.
        self.world.ok(["sh", "-c", "kill -KILL $0", &self.tracer]);
        Outcome::of(self.child)
    }
}
