//! A QEMU process: its command line, its start and its end.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::accelerator::Accelerator;
use crate::image::Boot;
use crate::protocol::{Agent, Monitor};

/// Memory of a guest, in MiB.
const MEMORY: u32 = 1024;

/// The name of the virtio port on which a guest reports to the driver.
const REPORT_PORT: &str = "overstore.report";

const KERNEL_COMMAND_LINE: &str =
    "root=LABEL=root rw console=ttyS0 quiet panic=-1 mitigations=off audit=0";

/// A QEMU command that ends with this program, however this program ends.
pub fn command() -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// The version that QEMU gives itself: a saved guest can be restored only by the
/// QEMU that saved it.
pub fn version() -> Result<String> {
    let output = Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .context("running qemu-system-x86_64 (Debian: qemu-system-x86)")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes a qcow2 image that starts as a copy of `backing` and keeps its own
/// changes.
pub fn overlay_image(backing: &Path, format: &str, image: &Path) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command
        .args(["create", "-q", "-f", "qcow2", "-F", format, "-b"])
        .arg(backing)
        .arg(image);
    qemu_img(command)
}

/// Makes an empty qcow2 image; `size` as QEMU writes sizes ("512M").
pub fn empty_image(size: &str, image: &Path) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command
        .args(["create", "-q", "-f", "qcow2"])
        .arg(image)
        .arg(size);
    qemu_img(command)
}

fn qemu_img(mut command: Command) -> Result<()> {
    let status = command
        .status()
        .context("running qemu-img (Debian: qemu-utils)")?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// A running QEMU.
pub struct Qemu {
    child: Child,
    monitor: Monitor,
    /// The agent in the guest.
    pub agent: Agent,
}

impl Qemu {
    /// Starts QEMU, paused: before the kernel's first instruction, or in a state
    /// that [`Self::save`] wrote, of a machine of the same `boot`. `directory` takes its sockets, the console's log and
    /// what the guest reports; both logs are continued if they are there.
    ///
    /// Disks are not synced (`cache=unsafe`): with qcow2, what the guest has not
    /// flushed is still lost when the process is killed, since QEMU holds the
    /// tables back until a flush; only a failure of this machine would lose more.
    pub fn start(
        accelerator: Accelerator,
        boot: &Boot,
        saved: Option<&Path>,
        root: &Path,
        directory: &Path,
    ) -> Result<Self> {
        let socket = |name: &str| directory.join(name);
        for name in ["monitor", "agent"] {
            let _ = std::fs::remove_file(socket(name));
        }
        let mut command = command();
        command
            .args(accelerator.options())
            .args(["-machine", "pc,memory-backend=memory", "-smp", "2"])
            .args(["-m", &MEMORY.to_string()])
            // Shared memory is what virtiofs needs.
            .arg("-object")
            .arg(format!(
                "memory-backend-memfd,id=memory,size={MEMORY}M,share=on"
            ))
            .arg("-qmp")
            .arg(format!(
                "unix:{},server=on,wait=off",
                socket("monitor").display()
            ))
            .arg("-chardev")
            .arg(format!(
                "file,id=console,path={},append=on",
                console_file(directory).display()
            ))
            .args(["-serial", "chardev:console", "-device", "virtio-serial-pci"])
            .arg("-chardev")
            .arg(format!(
                "socket,id=agent,path={},server=on,wait=off",
                socket("agent").display()
            ))
            .args([
                "-device",
                "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
            ])
            .arg("-chardev")
            .arg(format!(
                "file,id=report,path={},append=on",
                report_file(directory).display()
            ))
            .arg("-device")
            .arg(format!("virtserialport,chardev=report,name={REPORT_PORT}"))
            .args(["-device", "virtio-rng-pci", "-S"])
            .arg("-drive")
            .arg(format!(
                "if=none,id=root,format=qcow2,cache=unsafe,file={}",
                root.display()
            ))
            .args(["-device", "virtio-blk-pci,drive=root,serial=root"]);
        // Also for a restored guest, which may reboot.
        command
            .arg("-kernel")
            .arg(&boot.kernel)
            .arg("-initrd")
            .arg(&boot.initrd)
            .args(["-append", KERNEL_COMMAND_LINE]);
        if let Some(state) = saved {
            command.arg("-incoming");
            command.arg(format!("exec:cat <{}", quoted(state)));
        }
        let child = command
            .spawn()
            .context("starting QEMU through setpriv (Debian: util-linux, qemu-system-x86)")?;
        let mut qemu = Self {
            monitor: Monitor::connect(&socket("monitor"))?,
            agent: Agent::connect(&socket("agent"))?,
            child,
        };
        if saved.is_some() {
            qemu.wait_for_status("inmigrate", false)?;
        }
        Ok(qemu)
    }

    /// Lets the guest run.
    pub fn resume(&mut self) -> Result<()> {
        self.monitor.execute("cont", json!({})).map(drop)
    }

    /// Plugs in a disk, which the guest sees as `/dev/disk/by-id/virtio-NAME`.
    pub fn plug_disk(&mut self, name: &str, image: &Path, read_only: bool) -> Result<()> {
        let format = if read_only { "raw" } else { "qcow2" };
        self.monitor.execute(
            "blockdev-add",
            json!({
                "driver": format,
                "node-name": name,
                "read-only": read_only,
                "cache": { "no-flush": true },
                "file": {
                    "driver": "file",
                    "filename": image,
                    "cache": { "no-flush": true },
                    // Machines of one scenario may share the read-only disk.
                    "locking": if read_only { "off" } else { "auto" },
                },
            }),
        )?;
        self.monitor
            .execute(
                "device_add",
                json!({ "driver": "virtio-blk-pci", "drive": name, "serial": name,
                        "id": format!("disk-{name}") }),
            )
            .map(drop)
    }

    /// Joins a cable to another machine. One end, the first to come, listens.
    pub fn plug_cable(&mut self, socket: &Path, listens: bool, address: &str) -> Result<()> {
        self.monitor.execute(
            "netdev_add",
            json!({ "type": "stream", "id": "cable", "server": listens,
                    "addr": { "type": "unix", "path": socket } }),
        )?;
        self.monitor
            .execute(
                "device_add",
                json!({ "driver": "virtio-net-pci", "netdev": "cable", "mac": address,
                        "id": "cable-end" }),
            )
            .map(drop)
    }

    /// Writes the guest's memory and devices to a file and ends QEMU; together
    /// with the disk as it is then, that can be restored any number of times.
    pub fn save(mut self, state: &Path) -> Result<()> {
        self.monitor.execute("stop", json!({}))?;
        self.monitor.execute(
            "migrate-set-parameters",
            json!({ "max-bandwidth": 8_000_000_000_u64 }),
        )?;
        self.monitor.execute(
            "migrate",
            json!({ "uri": format!("exec:cat >{}", quoted(state)) }),
        )?;
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let status = self.monitor.execute("query-migrate", json!({}))?["status"].take();
            match status.as_str() {
                Some("completed") => break,
                Some("failed" | "cancelled") => bail!("QEMU could not save the guest"),
                _ if Instant::now() > deadline => bail!("saving the guest took too long"),
                _ => sleep(Duration::from_millis(20)),
            }
        }
        self.monitor.execute("quit", json!({}))?;
        self.child.wait()?;
        Ok(())
    }

    fn wait_for_status(&mut self, status: &str, wanted: bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let found = self.monitor.execute("query-status", json!({}))?;
            if (found["status"] == status) == wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("QEMU stays in the state {}", found["status"]);
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Drops the events that have come so far: the monitor does when it answers a command.
    pub fn forget_events(&mut self) -> Result<()> {
        self.monitor.execute("query-status", json!({})).map(drop)
    }

    /// Waits until the guest has restarted the machine.
    pub fn wait_for_reset(&mut self, limit: Duration) -> Result<()> {
        self.monitor.wait_for_event("RESET", limit)
    }

    /// Waits until the guest has switched itself off.
    pub fn wait(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("the guest did not power off within {limit:?}");
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Cuts the power: QEMU is killed as it is.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // The process may have ended by itself; there is nothing else to do.
        let _ = self.kill();
    }
}

/// Where the console of a QEMU with this directory is logged.
pub fn console_file(directory: &Path) -> PathBuf {
    directory.join("console")
}

/// Where the lines go that the guest writes to its report port.
pub fn report_file(directory: &Path) -> PathBuf {
    directory.join("report")
}

/// The path for the shell that QEMU starts for `exec:`.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
