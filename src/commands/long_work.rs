//! Long work, as people see it: at a terminal the step under way and a bar on standard error, and, when
//! it is interrupted, what is done and what remains.
//!
//! Whatever overstore does can be killed at any moment and be run again, so an interrupt ends the
//! process; it only tells how far it was first. Hashing, which changes nothing, ends early instead, and
//! its result is printed. Where standard error is no terminal, nothing of this is there.

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{env, io};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level;

use super::Failure;
use crate::apply;
use crate::config::names::PROGRAM;
use crate::counts::Counts;
use crate::remedy::{CommandLine, Fault};
use crate::systemd::notify::ServiceManager;

/// How often a bar is drawn, and how long work takes at least before it has one.
const TICK: Duration = Duration::from_millis(100);

/// What an interrupt does.
#[derive(Debug, Clone)]
pub(super) enum OnInterrupt {
    /// It ends the process. What it says then of the store: what is true of it wherever the work was.
    End(&'static str),
    /// It asks the work to end early ([`Counts::stop`]); a second one ends the process.
    Stop,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Store objects.
    Objects,
    /// Store paths, of which the metadata is copied.
    Paths,
    /// Bytes.
    Bytes,
}

impl Unit {
    fn template(self) -> &'static str {
        match self {
            Unit::Objects => "{wide_msg}\n{wide_bar} {pos}/{len} objects, {eta} left",
            Unit::Paths => "{wide_msg}\n{wide_bar} {pos}/{len} paths, {eta} left",
            Unit::Bytes => "{wide_msg}\n{wide_bar} {binary_bytes}/{binary_total_bytes}, {eta} left",
        }
    }

    fn text(self, (done, of): (u64, u64)) -> String {
        let bytes = indicatif::BinaryBytes;
        match self {
            Unit::Objects => format!("{done} of {of} objects"),
            Unit::Paths => format!("{done} of {of} paths"),
            Unit::Bytes => format!("{} of {}", bytes(done), bytes(of)),
        }
    }
}

/// Work that may take long. What it shows ends with it.
#[derive(Debug)]
pub(super) struct LongWork {
    shared: Arc<Shared>,
    /// The thread that draws and waits for interrupts, if there is one.
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Watch {
    thread: JoinHandle<()>,
    signals: Vec<SigId>,
    /// Wakes it up.
    waker: UnixStream,
}

/// What the work and the thread that watches it have in common.
#[derive(Debug)]
struct Shared {
    counts: Counts,
    told: Mutex<Told>,
    bar: ProgressBar,
    on_interrupt: OnInterrupt,
    /// Whether there was an interrupt.
    interrupted: Arc<AtomicBool>,
    /// Whether the work is over.
    over: AtomicBool,
}

/// What the work has told.
#[derive(Debug, Default)]
struct Told {
    /// The steps that are done.
    done: Vec<String>,
    /// The one under way.
    step: Option<(String, Option<Unit>)>,
}

impl LongWork {
    /// Work begins. With `json` no bar is shown.
    ///
    /// # Errors
    /// Where an interrupt is to stop it, and none can be waited for.
    pub(super) fn begin(on_interrupt: OnInterrupt, json: bool) -> Result<LongWork, Failure> {
        let at_terminal = io::stderr().is_terminal();
        let has_to = matches!(on_interrupt, OnInterrupt::Stop);
        let mut work = Self::unwatched(on_interrupt);
        if !at_terminal && !has_to {
            return Ok(work);
        }
        match Watch::start(&work.shared, at_terminal && !json) {
            Ok(watch) => work.watch = Some(watch),
            Err(failure) if has_to => return Err(failure),
            // The work is done all the same.
            Err(_) => {}
        }
        Ok(work)
    }

    /// Work that nobody watches.
    pub(super) fn unseen() -> LongWork {
        Self::unwatched(OnInterrupt::End(""))
    }

    fn unwatched(on_interrupt: OnInterrupt) -> LongWork {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let shared = Shared {
            counts: Counts::default(),
            told: Mutex::default(),
            bar,
            on_interrupt,
            interrupted: Arc::default(),
            over: AtomicBool::new(false),
        };
        LongWork {
            shared: Arc::new(shared),
            watch: None,
        }
    }

    /// What counts it.
    pub(super) fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// The next step begins.
    pub(super) fn step(&self, text: impl Into<String>) {
        self.begin_step(text.into(), None, 0);
    }

    /// The next step begins, which is counted: so much is to be done, if that is known.
    pub(super) fn counted(&self, text: impl Into<String>, unit: Unit, of: u64) {
        self.begin_step(text.into(), Some(unit), of);
    }

    fn begin_step(&self, text: String, unit: Option<Unit>, of: u64) {
        let mut told = self.shared.told();
        self.shared.counts.begin(of);
        if let Some((done, _)) = told.step.replace((text, unit)) {
            told.done.push(done);
        }
    }

    /// Prints something beside the bar.
    pub(super) fn suspended(&self, print: impl FnOnce()) {
        self.shared.bar.suspend(print);
    }

    /// Tells what happens meanwhile: the service manager everything, people only what takes long.
    pub(super) fn tell(&self, progress: &apply::Progress<'_>, manager: &ServiceManager) {
        if let apply::Progress::Step(step) = progress {
            self.step(&step.text);
        }
        self.suspended(|| super::tell(progress, manager));
    }
}

impl Drop for LongWork {
    fn drop(&mut self) {
        let ends = matches!(self.shared.on_interrupt, OnInterrupt::End(_));
        if ends && self.watch.is_some() && self.shared.interrupted.load(Ordering::SeqCst) {
            // Whatever failed may have failed of that: a program that was run had the same interrupt.
            loop {
                thread::park();
            }
        }
        self.shared.over.store(true, Ordering::SeqCst);
        let Some(mut watch) = self.watch.take() else {
            return;
        };
        ends_now().store(true, Ordering::SeqCst);
        for signal in watch.signals {
            low_level::unregister(signal);
        }
        // Without it, it is awake at the next tick.
        let _ = watch.waker.write_all(b"o");
        // It panics only where printing does.
        let _ = watch.thread.join();
        self.shared.bar.finish_and_clear();
    }
}

/// Whether an interrupt ends the process at once, as it does without all this.
fn ends_now() -> &'static Arc<AtomicBool> {
    static ENDS_NOW: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    ENDS_NOW.get_or_init(|| {
        let ends = Arc::new(AtomicBool::new(true));
        // Where it cannot be registered, nothing else can, and interrupts end the process anyhow.
        let _ = signal_hook::flag::register_conditional_default(SIGINT, Arc::clone(&ends));
        ends
    })
}

impl Watch {
    fn start(shared: &Arc<Shared>, is_shown: bool) -> Result<Watch, Failure> {
        ends_now().store(false, Ordering::SeqCst);
        let started = Self::register(shared, is_shown);
        if started.is_err() {
            ends_now().store(true, Ordering::SeqCst);
        }
        started
    }

    fn register(shared: &Arc<Shared>, is_shown: bool) -> Result<Watch, Failure> {
        let deaf = |error| Failure::doing("cannot wait for interrupts", error);
        let (waker, wakeups) = UnixStream::pair().map_err(deaf)?;
        wakeups.set_read_timeout(Some(TICK)).map_err(deaf)?;
        let watched = Arc::clone(shared);
        let thread = thread::Builder::new()
            .spawn(move || watched.watch(wakeups, is_shown))
            .map_err(|error| Failure::doing("cannot start a thread", error))?;
        let mut signals = Vec::new();
        for signal in match shared.on_interrupt {
            OnInterrupt::End(_) => &[SIGINT][..],
            OnInterrupt::Stop => &[SIGINT, SIGTERM],
        } {
            let interrupted = Arc::clone(&shared.interrupted);
            let flag = signal_hook::flag::register(*signal, interrupted).map_err(deaf)?;
            let wakes = waker.try_clone().map_err(deaf)?;
            let wakes = low_level::pipe::register(*signal, wakes).map_err(deaf)?;
            signals.extend([flag, wakes]);
        }
        Ok(Watch {
            thread,
            signals,
            waker,
        })
    }
}

impl Shared {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws, until the work is over or interrupted.
    fn watch(&self, mut wakeups: UnixStream, is_shown: bool) {
        let mut byte = [0; 1];
        loop {
            match wakeups.read(&mut byte) {
                _ if self.over.load(Ordering::SeqCst) => return,
                Ok(1) if self.interrupted.load(Ordering::SeqCst) => self.interrupt(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) => return,
                _ if is_shown => self.draw(),
                _ => {}
            }
        }
    }

    fn draw(&self) {
        let told = self.told();
        let Some((text, unit)) = &told.step else {
            return;
        };
        let (done, of) = self.counts.now();
        let template = match unit {
            Some(unit) if of > 0 => unit.template(),
            _ => "{spinner} {wide_msg}",
        };
        self.bar.set_length(of);
        self.bar.set_position(done);
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_message(text.clone());
        if self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.tick();
    }

    fn interrupt(&self) {
        let OnInterrupt::End(left) = self.on_interrupt else {
            self.counts.stop.store(true, Ordering::Relaxed);
            ends_now().store(true, Ordering::SeqCst);
            return;
        };
        let told = self.told();
        self.bar.finish_and_clear();
        for done in &told.done {
            super::print_note(&format!("done: {done}"));
        }
        let mut text = "interrupted".to_owned();
        if let Some((step, unit)) = &told.step {
            text += &format!(" at: {step}");
            let counts = self.counts.now();
            if let Some(unit) = unit.filter(|_| counts.1 > 0) {
                text += &format!(" ({})", unit.text(counts));
            }
        }
        text += &format!("; {left}");
        super::print_error(None, &Fault::new(text).remedy(again()));
        end_by_interrupt();
    }
}

/// The command that this process runs, to be run again.
fn again() -> CommandLine {
    let arguments = env::args_os().skip(1);
    CommandLine::new([PROGRAM.into()]).with(arguments)
}

/// Ends this process as the interrupt would have ended it, so that a shell that waits for it knows.
pub(super) fn end_by_interrupt() -> ! {
    // Only a signal that has no default action fails.
    let _ = low_level::emulate_default_handler(SIGINT);
    low_level::exit(128 + SIGINT)
}
