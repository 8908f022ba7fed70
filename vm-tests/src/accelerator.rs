//! Whether KVM can be used here.

use std::fmt;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::image::Boot;
use crate::qemu;

/// What runs the guests' instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's translator: works everywhere, about ten times slower.
    Tcg,
}

impl Accelerator {
    /// Takes KVM only when a real kernel has been seen to run under it: a
    /// `/dev/kvm` can be there, and QEMU can report a running guest, when the
    /// kernel stops at its first instructions. Its first line on the serial
    /// console within a minute is the evidence.
    pub fn find(boot: &Boot) -> Result<Self> {
        if fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            return Ok(Self::Tcg);
        }
        let scratch = tempfile::tempdir()?;
        let console = scratch.path().join("console");
        let mut child = qemu::command()
            .args(["-accel", "kvm", "-cpu", "max", "-m", "512"])
            .arg("-kernel")
            .arg(&boot.kernel)
            .args(["-append", "console=ttyS0 earlyprintk=ttyS0"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let started = Instant::now();
        let mut found = Self::Tcg;
        while started.elapsed() < Duration::from_secs(60) && child.try_wait()?.is_none() {
            if speaks(&console) {
                found = Self::Kvm;
                break;
            }
            sleep(Duration::from_millis(50));
        }
        child.kill()?;
        child.wait()?;
        Ok(found)
    }

    /// The options for QEMU's command line.
    pub fn options(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,svm=off,la57=off"],
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (no usable KVM)",
        })
    }
}

fn speaks(console: &Path) -> bool {
    fs::read(console).is_ok_and(|text| {
        let expected = b"Linux version";
        text.windows(expected.len())
            .any(|window| window == expected)
    })
}
