//! A QEMU process: its command line, its start and its end.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::HANG;
use crate::accelerator::Accelerator;
use crate::image::Boot;
use crate::protocol::{Agent, Monitor};

/// Memory of a guest, in MiB.
const MEMORY: u32 = 1024;

/// The name of the virtio port on which a guest reports to the driver.
const REPORT_PORT: &str = "overstore.report";

const KERNEL_COMMAND_LINE: &str = "root=LABEL=root rw console=ttyS0 quiet panic=-1 mitigations=off audit=0 \
     systemd.default_timeout_start_sec=15min systemd.default_device_timeout_sec=15min";

/// Where the payload's disk is on the guest's PCI bus: there when it is plugged in, and there in the
/// machines that are restored from what was saved after that.
const PAYLOAD_SLOT: &str = "0x1e";

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

/// Connects to a socket that a QEMU makes when it starts.
fn connect(qemu: &mut Child, socket: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + HANG;
    loop {
        let error = match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        if let Some(status) = qemu.try_wait()? {
            bail!("QEMU ended when it was to start: {status}");
        }
        if Instant::now() > deadline {
            return Err(error).with_context(|| format!("connecting to {}", socket.display()));
        }
        sleep(Duration::from_millis(10));
    }
}

/// A running QEMU.
pub struct Qemu {
    child: Child,
    processor_time: Duration,
    monitor: Monitor,
    /// The agent in the guest.
    pub agent: Agent,
}

/// What a QEMU is started with.
pub struct Start<'a> {
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// The kernel and initrd of real boots; a restored guest may reboot, too.
    pub boot: &'a Boot,
    /// The state to go on from, of a machine of the same make ([`Qemu::save`]).
    pub saved: Option<&'a Path>,
    /// The root disk.
    pub root: &'a Path,
    /// The disk with scenarios and program, if it is to be in the machine from the start.
    pub payload: Option<&'a Path>,
    /// Takes the sockets, the console's log and what the guest reports; both logs are continued if
    /// they are there.
    pub directory: &'a Path,
}

impl Qemu {
    /// The machine of `start`, its root disk, and what it is talked to through.
    fn machine(start: &Start) -> Command {
        let directory = start.directory;
        let mut command = command();
        command
            .args(start.accelerator.options())
            .args(["-machine", "pc,memory-backend=memory", "-smp", "1"])
            .args(["-m", &MEMORY.to_string()])
            // Shared memory is what virtiofs needs.
            .arg("-object")
            .arg(format!(
                "memory-backend-memfd,id=memory,size={MEMORY}M,share=on"
            ))
            .arg("-qmp")
            .arg(format!(
                "unix:{},server=on,wait=off",
                monitor_socket(directory).display()
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
                agent_socket(directory).display()
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
                start.root.display()
            ))
            .args(["-device", "virtio-blk-pci,drive=root,serial=root"]);
        command
    }

    /// Starts QEMU, paused: before the kernel's first instruction, or in the saved state.
    ///
    /// Disks are not synced (`cache=unsafe`): with qcow2, what the guest has not
    /// flushed is still lost when the process is killed, since QEMU holds the
    /// tables back until a flush; only a failure of this machine would lose more.
    pub fn start(start: &Start) -> Result<Self> {
        let Start {
            boot,
            saved,
            payload,
            directory,
            ..
        } = *start;
        let (monitor, agent) = (monitor_socket(directory), agent_socket(directory));
        for socket in [&monitor, &agent] {
            let _ = std::fs::remove_file(socket);
        }
        let mut command = Self::machine(start);
        if let Some(payload) = payload {
            let file = payload.display();
            command.arg("-drive").arg(format!(
                "if=none,id=payload,format=raw,readonly=on,file={file},file.locking=off"
            ));
            command.arg("-device").arg(format!(
                "virtio-blk-pci,drive=payload,serial=payload,id=disk-payload,addr={PAYLOAD_SLOT}"
            ));
        }
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
        let mut child = command
            .spawn()
            .context("starting QEMU through setpriv (Debian: util-linux, qemu-system-x86)")?;
        let mut qemu = Self {
            monitor: Monitor::new(connect(&mut child, &monitor)?)?,
            agent: Agent::new(connect(&mut child, &agent)?),
            child,
            processor_time: Duration::ZERO,
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
    pub fn plug_disk(&mut self, name: &str, image: &Path) -> Result<()> {
        self.plug(name, image, "qcow2", &json!({}))
    }

    /// Plugs in the read-only disk with scenarios and program, where [`Start::payload`] has it.
    pub fn plug_payload(&mut self, image: &Path) -> Result<()> {
        self.plug("payload", image, "raw", &json!({ "addr": PAYLOAD_SLOT }))
    }

    fn plug(&mut self, name: &str, image: &Path, format: &str, place: &Value) -> Result<()> {
        let read_only = format == "raw";
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
        let mut device = json!({ "driver": "virtio-blk-pci", "drive": name, "serial": name,
                                 "id": format!("disk-{name}") });
        if let (Some(device), Some(place)) = (device.as_object_mut(), place.as_object()) {
            device.extend(place.clone());
        }
        self.monitor.execute("device_add", device).map(drop)
    }

    /// Plugs in the directory that a virtiofsd serves, as the file system `tag`.
    pub fn plug_directory(&mut self, socket: &Path, tag: &str) -> Result<()> {
        self.monitor.execute(
            "chardev-add",
            json!({ "id": "virtiofs", "backend": { "type": "socket", "data": {
                    "addr": { "type": "unix", "data": { "path": socket } }, "server": false } } }),
        )?;
        self.monitor
            .execute(
                "device_add",
                json!({ "driver": "vhost-user-fs-pci", "chardev": "virtiofs", "tag": tag,
                        "id": "virtiofs" }),
            )
            .map(drop)
    }

    /// Plugs in a network card, and cables to other machines: where there are several, this QEMU is
    /// the hub. The end of a cable that comes first has to listen.
    pub fn plug_cables(&mut self, cables: &[PathBuf], listens: bool, address: &str) -> Result<()> {
        let name = |number: usize| format!("cable-{number}");
        let mut card = name(0);
        for (number, socket) in cables.iter().enumerate() {
            self.monitor.execute(
                "netdev_add",
                json!({ "type": "stream", "id": name(number), "server": listens,
                        "addr": { "type": "unix", "path": socket } }),
            )?;
        }
        if cables.len() > 1 {
            for number in 0..cables.len() {
                self.monitor.execute(
                    "netdev_add",
                    json!({ "type": "hubport", "id": format!("port-{number}"), "hubid": 0,
                            "netdev": name(number) }),
                )?;
            }
            card = "port".to_owned();
            self.monitor.execute(
                "netdev_add",
                json!({ "type": "hubport", "id": card, "hubid": 0 }),
            )?;
        }
        self.monitor
            .execute(
                "device_add",
                json!({ "driver": "virtio-net-pci", "netdev": card, "mac": address,
                        "id": "card" }),
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
        let deadline = Instant::now() + HANG;
        loop {
            let status = self.monitor.execute("query-migrate", json!({}))?["status"].take();
            match status.as_str() {
                Some("completed") => break,
                Some("failed" | "cancelled") => bail!("QEMU could not save the guest"),
                _ if Instant::now() > deadline => bail!("saving the guest took too long"),
                _ => sleep(Duration::from_millis(20)),
            }
        }
        self.note_processor_time();
        self.monitor.execute("quit", json!({}))?;
        self.child.wait()?;
        Ok(())
    }

    fn wait_for_status(&mut self, status: &str, wanted: bool) -> Result<()> {
        let deadline = Instant::now() + HANG;
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
    pub fn wait_for_reset(&mut self) -> Result<()> {
        self.monitor.wait_for_event("RESET")
    }

    /// Waits until the guest has switched itself off.
    pub fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + HANG;
        while self.child.try_wait()?.is_none() {
            self.note_processor_time();
            if Instant::now() > deadline {
                bail!("the guest did not power off within {HANG:?}");
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The processor time that QEMU has used.
    pub fn processor_time(&mut self) -> Duration {
        self.note_processor_time();
        self.processor_time
    }

    /// From proc_pid_stat(5), where the two times come after the name in parentheses; in hundredths
    /// of a second on every Linux that runs this.
    fn note_processor_time(&mut self) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let after_name = stat.unwrap_or_default();
        let after_name = after_name.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        self.processor_time = self.processor_time.max(Duration::from_millis(ticks * 10));
    }

    /// Cuts the power: QEMU is killed as it is.
    pub fn kill(&mut self) -> Result<()> {
        self.note_processor_time();
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

fn monitor_socket(directory: &Path) -> PathBuf {
    directory.join("monitor")
}

fn agent_socket(directory: &Path) -> PathBuf {
    directory.join("agent")
}

/// Where the lines go that the guest writes to its report port.
pub fn report_file(directory: &Path) -> PathBuf {
    directory.join("report")
}

/// The path for the shell that QEMU starts for `exec:`.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
