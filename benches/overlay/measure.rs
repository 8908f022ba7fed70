//! Times and memory of commands.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

use crate::generator::Result;

/// What was measured of one command, again and again: seconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn push(&mut self, seconds: f64) {
        self.0.push(seconds);
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Half of all were between these two.
    pub fn middle(&self) -> (f64, f64) {
        (self.quantile(0.25), self.quantile(0.75))
    }

    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let position = part * (sorted.len() - 1) as f64;
        let (below, above) = (position.floor() as usize, position.ceil() as usize);
        sorted[below] + (sorted[above] - sorted[below]) * position.fract()
    }
}

/// Runs a command that has to succeed, from start to end: seconds.
pub fn time(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    let output = command.output()?;
    let seconds = start.elapsed().as_secs_f64();
    succeeded(command, &output)?;
    Ok(seconds)
}

/// Runs a command that has to succeed: seconds of processor time, also of what it has started and
/// waited for.
pub fn processor_time(command: &mut Command) -> Result<f64> {
    let spent = || -> Result<f64> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
        Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
    };
    let before = spent()?;
    time(command)?;
    Ok(spent()? - before)
}

/// Runs a command that has to succeed: the most memory, in KiB, that it or a process that it started
/// and waited for had resident, shared pages included. A process begins as a copy of the one that
/// starts it, which counts: the result is never less than what `true` gives.
pub fn peak(command: &Command) -> Result<u64> {
    let mut launcher = Command::new("/proc/self/exe");
    launcher
        .arg("--peak")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        launcher.env(name, value.unwrap_or_default());
    }
    let output = launcher.output()?;
    succeeded(command, &output)?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// The launcher of [`peak`]: a process of its own, because what is known of children is the most of
/// all of them.
pub fn launch(words: &[&str]) -> Result<()> {
    let (program, arguments) = words.split_first().ok_or("no command")?;
    let mut command = Command::new(program);
    let output = command.args(arguments).output()?;
    succeeded(&command, &output)?;
    println!("{}", getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss());
    Ok(())
}

fn succeeded(command: &Command, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    // What overstore finds is on its standard output.
    let [said, errors] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    Err(format!("{command:?}: {}: {errors}{said}", output.status).into())
}

/// Mounts a new file system at a directory: `image` becomes a copy of `empty`. ext4 searches long for an
/// inode where many were deleted in the last minutes, and here that would be by the round before.
pub fn new_file_system(empty: &Path, image: &Path, directory: &Path) -> Result<()> {
    // It need not be mounted.
    let _ = Command::new("umount").arg(directory).output();
    std::fs::create_dir_all(directory)?;
    let make = "cp --sparse=always \"$0\" \"$1\" && mount -o loop \"$1\" \"$2\"";
    time(
        Command::new("sh")
            .args(["-c", make])
            .args([empty, image, directory]),
    )?;
    Ok(())
}
