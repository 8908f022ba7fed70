//! A virtual machine as scenarios see it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::HANG;
use crate::accelerator::Accelerator;
use crate::image::Boot;
use crate::qemu::{self, Qemu, Start};
use crate::virtiofs;

/// Where the payload is mounted in a guest; `OVERSTORE_TEST` for its scripts.
pub const PAYLOAD: &str = "/run/overstore-test/payload";

/// The shell command that mounts it.
pub const MOUNT_PAYLOAD: &str = "mkdir -p /run/overstore-test/payload && \
    udevadm wait --timeout=900 /dev/disk/by-id/virtio-payload && \
    mount -o ro,noload /dev/disk/by-id/virtio-payload /run/overstore-test/payload";

/// What all machines of a guest start from.
#[derive(Clone)]
pub struct Origin {
    /// What runs the instructions.
    pub accelerator: Accelerator,
    /// The kernel and initrd for real boots.
    pub boot: Boot,
    /// The directory of the booted guest, if it has been saved ([`Machine::save`]).
    pub saved: Option<PathBuf>,
    /// The disk with scenarios and program, once it is plugged into the saved guest.
    pub payload: Option<PathBuf>,
}

/// The root disk and the state in the directory of a saved guest.
const SAVED_ROOT: &str = "root.qcow2";
const SAVED_STATE: &str = "state";

/// A disk besides the root one.
pub struct Disk {
    /// Its name: `/dev/disk/by-id/virtio-NAME` in the guest.
    pub name: String,
    /// The image file.
    pub image: PathBuf,
}

/// What joins a machine to the others.
pub struct Network {
    /// The sockets of its cables, each of which two machines know: one machine has a cable to every
    /// other, and they have no more than that.
    pub cables: Vec<PathBuf>,
    /// Whether it listens there; the others have to come later.
    pub listens: bool,
    /// The hardware address of its only card.
    pub address: String,
}

/// What a program in the guest did.
pub struct Outcome {
    /// Its exit code.
    pub code: i64,
    /// Its standard output and standard error.
    pub output: String,
}

/// A virtual machine: its disks, which outlive its QEMU, and the QEMU if it is
/// running.
pub struct Machine<'a> {
    /// The name it has in its scenario.
    pub name: String,
    /// How often its kernel has been started.
    pub boots: u32,
    processor_time: Duration,
    origin: &'a Origin,
    boot: Boot,
    directory: PathBuf,
    disks: Vec<Disk>,
    network: Option<Network>,
    qemu: Option<Qemu>,
    virtiofs: Option<virtiofs::Server>,
}

impl<'a> Machine<'a> {
    /// A machine that is switched off. `directory` is its own, and exists.
    pub fn new(
        name: &str,
        origin: &'a Origin,
        directory: PathBuf,
        disks: Vec<Disk>,
        network: Option<Network>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            boots: 0,
            processor_time: Duration::ZERO,
            origin,
            boot: origin.boot.clone(),
            directory,
            disks,
            network,
            qemu: None,
            virtiofs: None,
        }
    }

    /// Has real boots use another initrd.
    pub fn set_initrd(&mut self, initrd: PathBuf) {
        self.boot.initrd = initrd;
    }

    fn root(&self) -> PathBuf {
        self.directory.join("root.qcow2")
    }

    /// The console's log, of all its runs.
    pub fn console(&self) -> String {
        let text = fs::read(qemu::console_file(&self.directory)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// What the guest has reported, of all its runs.
    pub fn reported(&self) -> String {
        let text = fs::read(qemu::report_file(&self.directory)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Starts the machine from the saved guest, with a new copy of its root disk;
    /// its other disks are as they were left.
    pub fn restore(&mut self) -> Result<()> {
        let saved = self.origin.saved.as_ref();
        let saved = saved.context("this guest has not been saved")?;
        self.switch_off();
        qemu::overlay_image(&saved.join(SAVED_ROOT), "qcow2", &self.root())?;
        self.power_on(Some(&saved.join(SAVED_STATE)))?;
        // The restored clock stands where the guest was saved.
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        self.succeed(&format!("date --set=@{now}")).map(drop)
    }

    /// Starts the machine from its root disk: a real boot.
    pub fn start(&mut self) -> Result<()> {
        self.power_on(None)?;
        self.boots += 1;
        self.wait_until_booted()
    }

    fn power_on(&mut self, saved: Option<&Path>) -> Result<()> {
        self.switch_off();
        let mut qemu = Qemu::start(&Start {
            accelerator: self.origin.accelerator,
            boot: &self.boot,
            saved,
            root: &self.root(),
            payload: self.origin.payload.as_deref(),
            directory: &self.directory,
        })?;
        for disk in &self.disks {
            qemu.plug_disk(&disk.name, &disk.image)?;
        }
        if let Some(network) = &self.network {
            qemu.plug_cables(&network.cables, network.listens, &network.address)?;
        }
        qemu.resume()?;
        qemu.agent.synchronise()?;
        self.qemu = Some(qemu);
        Ok(())
    }

    fn switch_off(&mut self) {
        self.processor_time = self.processor_time();
        self.qemu = None;
    }

    /// The processor time that its QEMUs have used.
    pub fn processor_time(&mut self) -> Duration {
        let now = self.qemu.as_mut().map(Qemu::processor_time);
        self.processor_time + now.unwrap_or_default()
    }

    /// Installs the program in the guest, from the payload, which stays mounted at [`PAYLOAD`].
    pub fn install(&mut self, payload: &Path) -> Result<()> {
        self.qemu()?.plug_payload(payload)?;
        self.succeed(&format!(
            "{MOUNT_PAYLOAD} && if test -d {PAYLOAD}/program; \
             then cp -a {PAYLOAD}/program/. / && systemctl daemon-reload; fi"
        ))
        .map(drop)
    }

    /// Makes the root disk from an image and boots it, for the first time.
    pub fn first_boot(&mut self, image: &Path) -> Result<()> {
        qemu::overlay_image(image, "raw", &self.root())?;
        self.start()
    }

    /// Saves the running machine as something to restore machines from: its root
    /// disk and its state are moved into `place`.
    pub fn save(mut self, place: &Path) -> Result<()> {
        let qemu = self.qemu.take().context("a machine to save has to run")?;
        qemu.save(&place.join(SAVED_STATE))?;
        fs::copy(self.root(), place.join(SAVED_ROOT))?;
        Ok(())
    }

    /// Waits until systemd has finished booting, whether or not a unit failed. The agent may be
    /// started again on the way, and then knows nothing of what it was asked: it is asked again.
    fn wait_until_booted(&mut self) -> Result<()> {
        let deadline = Instant::now() + HANG;
        loop {
            match self.execute("systemctl is-system-running --wait", HANG) {
                Ok(outcome) => match outcome.output.trim() {
                    "running" | "degraded" => return Ok(()),
                    other => bail!("{}: booting ended in the state '{other}'", self.name),
                },
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => self.qemu()?.agent.synchronise()?,
            }
        }
    }

    fn qemu(&mut self) -> Result<&mut Qemu> {
        let name = &self.name;
        self.qemu
            .as_mut()
            .with_context(|| format!("the machine '{name}' is switched off"))
    }

    /// Whether the machine is switched on.
    pub fn is_running(&self) -> bool {
        self.qemu.is_some()
    }

    /// Starts a program without waiting for it; its output goes to `output`, a
    /// file in the guest. Returns its process id.
    pub fn spawn(&mut self, shell_command: &str, output: &str) -> Result<u64> {
        let answer = self.qemu()?.agent.execute(
            "guest-exec",
            json!({
                "path": "/bin/sh",
                "arg": ["-c", format!("exec >{output} 2>&1 </dev/null; {shell_command}")],
                "env": [
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME=/root",
                    // systemctl itself gives up after 25 seconds.
                    "SYSTEMD_BUS_TIMEOUT=15min",
                ],
            }),
        )?;
        answer["pid"]
            .as_u64()
            .context("guest-exec gave no process id")
    }

    /// The exit code of a program that was spawned, once it has ended.
    pub fn exit_code(&mut self, pid: u64) -> Result<Option<i64>> {
        let status = self
            .qemu()?
            .agent
            .execute("guest-exec-status", json!({ "pid": pid }))?;
        if status["exited"] != true {
            return Ok(None);
        }
        // A program that a signal ended has no exit code; shells say 128 + signal.
        let code = status["exitcode"].as_i64();
        Ok(Some(code.unwrap_or_else(|| {
            128 + status["signal"].as_i64().unwrap_or_default()
        })))
    }

    /// A file of the guest.
    pub fn read_file(&mut self, path: &str) -> Result<String> {
        let agent = &mut self.qemu()?.agent;
        let handle = agent.execute("guest-file-open", json!({ "path": path, "mode": "r" }))?;
        let mut content = Vec::new();
        loop {
            let piece = agent.execute(
                "guest-file-read",
                json!({ "handle": handle, "count": 1 << 20 }),
            )?;
            content.extend(BASE64.decode(piece["buf-b64"].as_str().unwrap_or_default())?);
            if piece["eof"] == true {
                break;
            }
        }
        agent.execute("guest-file-close", json!({ "handle": handle }))?;
        Ok(String::from_utf8_lossy(&content).into_owned())
    }

    /// Plugs in the lower store of the guest's image as the virtiofs file system `lower`. Tells
    /// whether this machine can.
    pub fn plug_lower_store(&mut self, image: &Path) -> Result<bool> {
        let Some(server) = virtiofs::Server::of_lower_store(image, &self.directory)? else {
            return Ok(false);
        };
        self.qemu()?.plug_directory(&server.socket, "lower")?;
        self.virtiofs = Some(server);
        Ok(true)
    }

    /// Writes a file in the guest.
    pub fn copy_to(&mut self, content: &[u8], path: &str) -> Result<()> {
        let agent = &mut self.qemu()?.agent;
        let handle = agent.execute("guest-file-open", json!({ "path": path, "mode": "w" }))?;
        for piece in content.chunks(1 << 20) {
            agent.execute(
                "guest-file-write",
                json!({ "handle": handle, "buf-b64": BASE64.encode(piece) }),
            )?;
        }
        agent.execute("guest-file-close", json!({ "handle": handle }))?;
        Ok(())
    }

    /// Runs a shell command and waits for it.
    pub fn execute(&mut self, shell_command: &str, limit: Duration) -> Result<Outcome> {
        let output = "/run/overstore-test.output";
        let pid = self.spawn(shell_command, output)?;
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(10);
        let code = loop {
            if let Some(code) = self.exit_code(pid)? {
                break code;
            }
            if Instant::now() > deadline {
                let so_far = self.read_file(output).unwrap_or_default();
                bail!(
                    "{}: not done after {limit:?}: {shell_command}\n{so_far}",
                    self.name
                );
            }
            sleep(pause);
            // Asking costs the guest time, too.
            pause = (pause * 2).min(Duration::from_millis(200));
        };
        Ok(Outcome {
            code,
            output: self.read_file(output)?,
        })
    }

    /// Runs a shell command that has to succeed; returns its output.
    pub fn succeed(&mut self, shell_command: &str) -> Result<String> {
        let outcome = self.execute(shell_command, HANG)?;
        if outcome.code != 0 {
            bail!(
                "{}: exit code {}: {shell_command}\n{}",
                self.name,
                outcome.code,
                outcome.output
            );
        }
        Ok(outcome.output)
    }

    /// Boots again as a user would.
    pub fn reboot(&mut self) -> Result<()> {
        // One reboot can reset the machine more than once: what is left of an earlier one is no
        // sign of this one.
        self.qemu()?.forget_events()?;
        self.spawn("systemctl reboot", "/dev/null")?;
        let qemu = self.qemu()?;
        qemu.wait_for_reset()?;
        qemu.agent.synchronise()?;
        self.boots += 1;
        self.wait_until_booted()
    }

    /// Switches off as a user would.
    pub fn power_off(&mut self) -> Result<()> {
        self.spawn("systemctl poweroff", "/dev/null")?;
        self.qemu()?.wait()?;
        self.switch_off();
        Ok(())
    }

    /// Cuts the power.
    pub fn crash(&mut self) -> Result<()> {
        self.qemu()?.kill()?;
        self.switch_off();
        Ok(())
    }
}
