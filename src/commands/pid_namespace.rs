//! A command in a PID namespace of its own: all that it starts ends with it, however it ends.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsmount, fsopen,
    move_mount,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait, waitpid};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::{flag, low_level};

use super::exec::SET_UP_FAILED;
use super::not_started;
use crate::linux::forbidden::{Asked, Forbidden};
use crate::linux::safe_path::{self, Symlinks};
use crate::linux::{processes, users};
use crate::remedy::{Fault, HasRemedy};

/// Signals that are passed on to the command. A terminal sends it those of its keys itself.
const PASSED_ON: [i32; 4] = [SIGHUP, SIGTERM, SIGUSR1, SIGUSR2];

/// After this long it is looked whether something has arrived of which nothing was told: the handler of a
/// signal can find no memory for that.
const UNTOLD: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// The exit code of process 1 if the process ended that started it.
const ABANDONED: u8 = 125;

/// Runs a command and gives its exit code; where it was ended by a signal, so is this process, which
/// must have one thread. All that the command has started ends with it, and with this process.
///
/// # Errors
/// When there is no such namespace to be had, or its process 1 was killed.
pub(super) fn run(command: &mut Command) -> Result<ExitCode, Fault> {
    let failed = |error: io::Error| {
        let what = "cannot run the command in a PID namespace of its own";
        Fault::new(format!("{what}: {error}")).remedy(error.remedy())
    };
    let (alive, still_here) = io::pipe().map_err(failed)?;
    let (result, tells) = io::pipe().map_err(failed)?;
    let result_too = result.try_clone().map_err(failed)?;
    let mut pipes = Some((alive, still_here, result_too, tells));
    // Before there is a command that a signal could be meant for.
    let signals = listen().map_err(failed)?;
    let init = users::start_process_1(|| match pipes.take() {
        Some((alive, still_here, result, tells)) => {
            drop((still_here, result));
            process_1(command, alive, tells)
        }
        None => SET_UP_FAILED,
    })
    .map_err(|errno| Fault::of(&Forbidden::because(Asked::Processes, errno)))?;
    // Open until this process ends; the other ends are the child's alone.
    let _still_here = pipes.take().map(|(_, still_here, ..)| still_here);
    wait_for(Pid::from_raw(init.cast_signed()), result, signals).map_err(failed)
}

/// Has this process live through the keys of a terminal, which reach the command too, and listen for
/// what it is to pass on.
fn listen() -> io::Result<Signals> {
    let masks = processes::own_signals();
    for signal in [SIGINT, SIGQUIT] {
        // What is ignored the command is to ignore, too.
        if !masks.ignores(signal) {
            flag::register(signal, Arc::default())?;
        }
    }
    Signals::listen()
}

/// Waits for process 1 of the namespace: how the command ended.
fn wait_for(
    init: Option<Pid>,
    mut result: PipeReader,
    mut signals: Signals,
) -> io::Result<ExitCode> {
    loop {
        match waitpid(init, signals.waiting()) {
            Ok(Some(_)) | Err(Errno::CHILD) => break,
            Ok(None) => signals.pass_on(init)?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut told = [0; 5];
    match result.read_exact(&mut told).is_ok().then_some(told) {
        Some([0, code @ ..]) => {
            let code = i32::from_ne_bytes(code);
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
        }
        Some([_, signal @ ..]) => {
            low_level::emulate_default_handler(i32::from_ne_bytes(signal))?;
            Ok(ExitCode::from(SET_UP_FAILED))
        }
        None => Err(io::Error::other("its process 1 was killed")),
    }
}

/// Process 1 of the PID namespace: starts the command, reaps whatever ends, and ends with the command,
/// or with the process that started it, of which `alive` tells. `tells` is told how the command ended.
fn process_1(command: &mut Command, alive: PipeReader, mut tells: PipeWriter) -> u8 {
    match ends_with_parent(alive) {
        Ok(true) => {}
        Ok(false) | Err(_) => return ABANDONED,
    }
    // Where the namespace shows only parts of /proc, as in containers, that stays as it is.
    let _ = show_processes();
    let Ok(mut signals) = Signals::listen() else {
        return SET_UP_FAILED;
    };
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let code = not_started::tell(&error, command);
            tell(&mut tells, 0, code.into());
            return code;
        }
    };
    let child = Pid::from_raw(child.id().cast_signed());
    loop {
        match wait(signals.waiting()) {
            Ok(Some((ended, status))) if Some(ended) == child => {
                match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => tell(&mut tells, 0, code),
                    (_, Some(signal)) => tell(&mut tells, 1, signal),
                    _ => continue,
                }
                return 0;
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => {
                if signals.pass_on(child).is_err() {
                    return SET_UP_FAILED;
                }
            }
            Err(_) => return SET_UP_FAILED,
        }
    }
}

/// Has `/proc` show the processes of this PID namespace, and no others.
fn show_processes() -> io::Result<()> {
    let at = safe_path::directory(Path::new("/proc"), Symlinks::Refuse)?;
    let proc = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(proc.as_fd())?;
    let mount = fsmount(
        &proc,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&mount, "", &at, "", onto)?)
}

/// Has the kernel kill this process when the one that started it ends. Tells whether that one is there:
/// it has the other end of this pipe.
fn ends_with_parent(mut alive: PipeReader) -> io::Result<bool> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::fs::fcntl_setfl(alive.as_fd(), OFlags::NONBLOCK)?;
    match alive.read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        read => Ok(read? > 0),
    }
}

/// Tells how the command ended: by itself (0, with its exit code) or by a signal (1, with its number).
fn tell(to: &mut PipeWriter, how: u8, number: i32) {
    let mut text = vec![how];
    text.extend(number.to_ne_bytes());
    // Nobody is there to be told of it.
    let _ = to.write_all(&text);
}

/// Signals that have arrived: the ends of children, and those to be passed on.
struct Signals {
    /// A byte for each.
    arrived: PipeReader,
    /// Which of them did.
    flags: Vec<(i32, Arc<AtomicBool>)>,
    /// Whether whoever started this process lets none of a child's end arrive.
    deaf: bool,
}

impl Signals {
    /// Listens from now on. What this process was told to ignore (as by nohup(1)) the command ignores,
    /// too.
    fn listen() -> io::Result<Signals> {
        let masks = processes::own_signals();
        let (arrived, arrives) = io::pipe()?;
        let mut flags = Vec::new();
        for number in PASSED_ON {
            if !masks.ignores(number) {
                let set = Arc::new(AtomicBool::new(false));
                flag::register(number, Arc::clone(&set))?;
                low_level::pipe::register(number, OwnedFd::from(arrives.try_clone()?))?;
                flags.push((number, set));
            }
        }
        low_level::pipe::register(SIGCHLD, OwnedFd::from(arrives))?;
        let deaf = masks.blocks(SIGCHLD);
        Ok(Signals {
            arrived,
            flags,
            deaf,
        })
    }

    /// How to wait for children: without waiting, if their ends arrive here.
    fn waiting(&self) -> WaitOptions {
        match self.deaf {
            true => WaitOptions::empty(),
            false => WaitOptions::NOHANG,
        }
    }

    /// Waits until something has arrived, or may have, and passes on what is to be.
    fn pass_on(&mut self, to: Option<Pid>) -> io::Result<()> {
        let mut waiting = [PollFd::new(&self.arrived, PollFlags::IN)];
        match poll(&mut waiting, Some(&UNTOLD)) {
            Ok(0) | Err(Errno::INTR) => {}
            // How many there were does not matter.
            Ok(_) => match self.arrived.read(&mut [0; 64]) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            },
            Err(errno) => return Err(errno.into()),
        }
        for (number, set) in &self.flags {
            if set.swap(false, Ordering::Relaxed)
                && let (Some(to), Some(signal)) = (to, Signal::from_named_raw(*number))
            {
                // It may have ended.
                let _ = kill_process(to, signal);
            }
        }
        Ok(())
    }
}
