//! Why a command of `overstore exec` was not started.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::print_error;
use crate::escape::show_path;
use crate::linux::exhaustion;
use crate::remedy::{self, Fault, Remedy, command};

const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Says why a command was not run, and gives the exit code for that: those of a shell.
pub(super) fn tell(error: &io::Error, command: &Command) -> u8 {
    let program = command.get_program();
    let (fault, code) = match error.kind() {
        io::ErrorKind::NotFound => (not_found(program), NOT_FOUND),
        _ => (cannot_run(error, program), CANNOT_RUN),
    };
    print_error(None, &fault);
    code
}

/// The file of a program, if there is one: the one of its path, or the first of its name on `PATH`.
fn file(program: &OsStr) -> Option<PathBuf> {
    let is_there = |file: &PathBuf| file.symlink_metadata().is_ok();
    if program.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(program)).filter(is_there);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(is_there)
}

/// The kernel says the same of a file that is missing and of one that is missing what runs it.
fn not_found(program: &OsStr) -> Fault {
    let shown = show_path(program.as_ref());
    match file(program) {
        Some(file) if file.exists() => Fault::new(format!(
            "cannot run {}: the interpreter or the loader that it names is not there",
            show_path(&file)
        ))
        .remedy("see in its first line which one it is, or, of a binary, with `file`, and make that available"),
        Some(file) => Fault::new(format!(
            "cannot run {}: it is a link to something that is not there",
            show_path(&file)
        ))
        .remedy(Remedy::from(command!["ls", "-l", file])),
        None => {
            let is_script = program.as_bytes().contains(&b' ');
            Fault::new(format!("there is no command {shown}")).remedy(match is_script {
                true => Remedy::say("write its words apart, or have a shell read them")
                    .run(command!["sh", "-c", program]),
                false => Remedy::say("name a program that is on PATH, or give the path of one"),
            })
        }
    }
}

fn cannot_run(error: &io::Error, program: &OsStr) -> Fault {
    let file = file(program).unwrap_or_else(|| PathBuf::from(program));
    let what = format!("cannot run {}: {error}", show_path(program.as_ref()));
    let of_processes = exhaustion::remedy_of_processes(error).some();
    let remedy = of_processes.or_else(|| not_a_program(error, &file));
    Fault::new(what).remedy(remedy.unwrap_or_else(|| remedy::of_io(error, &file)))
}

/// What helps where the file is one that nobody may run.
fn not_a_program(error: &io::Error, file: &Path) -> Option<Remedy> {
    let metadata = file.metadata().ok()?;
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    if metadata.is_dir() {
        return Some(Remedy::say("this is a directory: name a program"));
    }
    let is_program = metadata.mode() & 0o111 != 0;
    (!is_program).then(|| {
        Remedy::say("make it executable, if it is a program").run(command!["chmod", "+x", file])
    })
}
