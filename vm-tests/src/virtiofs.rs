//! A directory of this machine in a guest: virtiofs, where there is a virtiofsd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::HANG;

/// Where Debian has the program: its own package's place, and that of QEMU up to 7.2.
const PROGRAMS: [&str; 2] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];

/// The server of one shared directory; it ends with this value.
pub struct Server {
    child: Child,
    /// The socket that QEMU connects to.
    pub socket: PathBuf,
}

impl Server {
    /// Serves the lower store of a guest's image, from a copy in `directory`. Nothing if this machine
    /// has no virtiofsd.
    pub fn of_lower_store(image: &Path, directory: &Path) -> Result<Option<Self>> {
        let Some(program) = PROGRAMS.iter().find(|program| Path::new(program).exists()) else {
            return Ok(None);
        };
        let shared = directory.join("lower");
        fs::create_dir(&shared)?;
        let copied = Command::new("debugfs")
            .arg("-R")
            .arg(format!("rdump /srv/lower/nix {}", shared.display()))
            .arg(image)
            .stderr(Stdio::null())
            .status()
            .context("running debugfs (Debian: e2fsprogs)")?;
        ensure!(
            copied.success() && shared.join("nix/store").is_dir(),
            "debugfs did not copy the lower store out of {}",
            image.display()
        );
        let socket = directory.join("virtiofs");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]);
        command.arg(format!("--socket-path={}", socket.display()));
        // The program that came with QEMU has options of its own.
        if *program == PROGRAMS[1] {
            command
                .arg("-o")
                .arg(format!("source={}", shared.display()));
        } else {
            command.arg("--shared-dir").arg(&shared);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("virtiofsd.log"))?)
            .spawn()
            .context("starting virtiofsd through setpriv")?;
        let mut server = Self { child, socket };
        let deadline = Instant::now() + HANG;
        while !server.socket.exists() {
            ensure!(
                server.child.try_wait()?.is_none() && Instant::now() < deadline,
                "virtiofsd did not make its socket: {}",
                fs::read_to_string(directory.join("virtiofsd.log")).unwrap_or_default()
            );
            sleep(Duration::from_millis(20));
        }
        Ok(Some(server))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended with its QEMU.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
