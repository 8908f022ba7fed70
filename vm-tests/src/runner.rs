//! Runs scenarios on guests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use crate::HANG;
use crate::accelerator::Accelerator;
use crate::cache::{Cache, Key};
use crate::image::{Boot, Guest, Image};
use crate::machine::{Disk, MOUNT_PAYLOAD, Machine, Network, Origin, PAYLOAD};
use crate::payload;
use crate::qemu;
use crate::scenario::{Action, Broken, Power, Scenario, Step};
use crate::skip::skip;

/// What systemd prints on the console when something could not be unmounted, and
/// when it had to break a cycle: no run of any scenario may have either.
const NEVER_ON_CONSOLE: [&str; 3] = ["Failed unmounting", "Failed to unmount", "ordering cycle"];

/// What a scenario came to.
struct Run {
    /// How long it took.
    time: Duration,
    /// The processor time of its QEMUs: what it takes on a machine that does nothing else.
    processor_time: Duration,
    /// How often a kernel was started in it.
    boots: u32,
    /// What its scripts have to tell people (`note`).
    notes: Vec<String>,
    /// What became of it; a failure with what the machines can tell.
    result: Result<()>,
}

/// A guest that is ready to be restored.
struct ReadyGuest {
    name: String,
    disk: PathBuf,
    origin: Origin,
}

/// A guest, which is made ready when the first scenario needs it: once, so what went wrong has gone
/// wrong for all of them.
struct Pending {
    guest: Guest,
    made: OnceLock<Result<ReadyGuest, NotReady>>,
}

/// Why there is no such guest in this run.
#[derive(Clone)]
enum NotReady {
    /// Its image cannot be made, and a run can go without it.
    Skipped(String),
    Failed(String),
}

/// Runs scenarios; several at once, from several threads.
pub struct Runner {
    /// Whether scenarios have to fail of what they break on purpose.
    pub broken: bool,
    guests: BTreeMap<String, Pending>,
    cache: Cache,
    recipes: PathBuf,
    scenarios: PathBuf,
    program: Option<PathBuf>,
    scratch: TempDir,
    /// The disk with scenarios and program.
    payload: OnceLock<Result<PathBuf, String>>,
    accelerator: OnceLock<Result<Accelerator, String>>,
    /// Held by each scenario; one of several machines, which take both places, has it alone.
    places: RwLock<()>,
}

impl Runner {
    /// `here` is the directory with `images` and `scenarios`; `program` the tree to be copied over
    /// the guests.
    pub fn new(
        guests: BTreeMap<String, Guest>,
        cache: Cache,
        here: &Path,
        program: Option<PathBuf>,
        broken: bool,
    ) -> Result<Self> {
        let pending = |(name, guest)| {
            let made = OnceLock::new();
            (name, Pending { guest, made })
        };
        Ok(Self {
            broken,
            guests: guests.into_iter().map(pending).collect(),
            cache,
            recipes: here.join("images"),
            scenarios: here.join("scenarios"),
            program,
            scratch: tempfile::Builder::new().prefix("vm-tests-").tempdir()?,
            payload: OnceLock::new(),
            accelerator: OnceLock::new(),
            places: RwLock::new(()),
        })
    }

    /// Runs a scenario on a guest, and tells on standard error what it took and has to tell.
    /// Returns the reason if it was skipped.
    pub fn run(&self, guest: &str, scenario: &Scenario) -> Result<Option<String>> {
        let (_one, _both);
        if scenario.machines.len() > 1 {
            _both = self.places.write().unwrap_or_else(PoisonError::into_inner);
        } else {
            _one = self.places.read().unwrap_or_else(PoisonError::into_inner);
        }
        let test = format!("{guest}/{}", scenario.name);
        let ready = match self.ready(guest) {
            Ok(ready) => ready,
            Err(NotReady::Skipped(reason)) => {
                skip(guest, &test, reason)?;
                return Ok(Some(format!("there is no {guest}")));
            }
            Err(NotReady::Failed(reason)) => bail!("{guest} could not be made ready: {reason}"),
        };
        let run = self.play(&test, scenario, ready);
        let mut told = format!(
            "{test}: {}: {:.1} s, {:.1} s of processor, {} boots\n",
            scenario.summary,
            run.time.as_secs_f64(),
            run.processor_time.as_secs_f64(),
            run.boots
        );
        for note in run.notes {
            told += &format!("{test}: {note}\n");
        }
        eprint!("{told}");
        run.result.map(|()| None)
    }

    /// A guest that is ready to be restored, made ready now if it is not yet.
    fn ready(&self, name: &str) -> Result<&ReadyGuest, &NotReady> {
        let Pending { guest, made } = &self.guests[name];
        made.get_or_init(|| self.make_ready(name, guest)).as_ref()
    }

    fn make_ready(&self, name: &str, guest: &Guest) -> Result<ReadyGuest, NotReady> {
        let failed = |error: anyhow::Error| NotReady::Failed(format!("{error:#}"));
        let base = match &guest.saved {
            Some(base) => Some(self.ready(base).map_err(NotReady::clone)?),
            None => None,
        };
        let started = Instant::now();
        let image = match Image::get_or_make(&self.cache, &self.recipes, &guest.image) {
            Ok(image) => image,
            Err(error) if guest.optional => return Err(NotReady::Skipped(format!("{error:#}"))),
            Err(error) => return Err(failed(error)),
        };
        let made = started.elapsed().as_secs_f64();
        let ready = self.prepare(name, guest, &image, base).map_err(failed)?;
        let found = image.versions().map_err(failed)?;
        let version = |key: &str| found.get(key).map_or("?", String::as_str);
        eprintln!(
            "{name}: {}: Linux {}, Nix {}, systemd {}, {}; image {made:.1} s, ready after {:.1} s",
            guest.description,
            version(&format!("kernel-{}", guest.boot)),
            version("nix"),
            version("systemd"),
            ready.origin.accelerator,
            started.elapsed().as_secs_f64()
        );
        Ok(ready)
    }

    /// What runs the guests' instructions: found out once.
    fn accelerator(&self, boot: &Boot) -> Result<Accelerator> {
        let found = || Accelerator::find(boot).map_err(|error| format!("{error:#}"));
        let found = self.accelerator.get_or_init(found);
        found.clone().map_err(Error::msg)
    }

    /// The disk with scenarios and program: made once.
    fn payload(&self) -> Result<&Path> {
        let made = self.payload.get_or_init(|| {
            let program = self.program.as_deref();
            payload::make(&self.scenarios, program, self.scratch.path())
                .map_err(|error| format!("{error:#}"))
        });
        made.as_deref().map_err(|error| anyhow!("{error}"))
    }

    /// Boots a guest and saves it, unless that has been done with this very image and QEMU; then
    /// installs the program, and saves that for this run. A guest that goes on from what `base` has
    /// saved is ready at once.
    fn prepare(
        &self,
        name: &str,
        guest: &Guest,
        image: &Image,
        base: Option<&ReadyGuest>,
    ) -> Result<ReadyGuest> {
        let boot = image.boot(&guest.boot);
        let origin = match base {
            Some(base) => Origin {
                boot,
                ..base.origin.clone()
            },
            None => {
                let mut origin = Origin {
                    accelerator: self.accelerator(&boot)?,
                    boot,
                    saved: None,
                    payload: None,
                };
                origin.saved = Some(self.booted(name, guest, image, &origin)?);
                self.with_program(name, origin)?
            }
        };
        Ok(ReadyGuest {
            name: name.to_owned(),
            disk: image.disk(),
            origin,
        })
    }

    /// The saved guest after its first boot, from the cache or made now.
    fn booted(&self, name: &str, guest: &Guest, image: &Image, origin: &Origin) -> Result<PathBuf> {
        let key = Key::default()
            .add(image.name.as_bytes())
            .add(guest.boot.as_bytes())
            .add(qemu::version()?.as_bytes())
            .add(format!("{:?}", origin.accelerator).as_bytes())
            // What the machine consists of.
            .add(include_bytes!("qemu.rs"))
            .finish();
        self.cache
            .get_or_make(&format!("vm-booted-{name}-{key}"), |place| {
                let directory = self.scratch.path().join(format!("boot-{name}"));
                fs::create_dir(&directory)?;
                let mut machine = Machine::new(name, origin, directory, Vec::new(), None);
                machine
                    .first_boot(&image.disk())
                    .with_context(|| format!("{name}: console:\n{}", tail(&machine.console())))?;
                machine.save(place)
            })
    }

    /// The saved guest with the payload plugged in and the program installed.
    fn with_program(&self, name: &str, origin: Origin) -> Result<Origin> {
        let payload = self.payload()?;
        let directory = self.scratch.path().join(format!("install-{name}"));
        let saved = self.scratch.path().join(format!("installed-{name}"));
        fs::create_dir(&directory)?;
        fs::create_dir(&saved)?;
        let mut machine = Machine::new(name, &origin, directory, Vec::new(), None);
        machine.restore()?;
        machine.install(payload)?;
        machine.save(&saved)?;
        Ok(Origin {
            saved: Some(saved),
            payload: Some(payload.to_owned()),
            ..origin
        })
    }

    fn play(&self, test: &str, scenario: &Scenario, guest: &ReadyGuest) -> Run {
        let started = Instant::now();
        let directory = self.scratch.path().join(test.replace('/', "-"));
        let mut machines = BTreeMap::new();
        let mut told = Vec::new();
        let result = self.machines(scenario, guest, &directory).and_then(|made| {
            machines = made;
            let broken = scenario.broken.as_ref().filter(|_| self.broken);
            let result = play(test, scenario, guest, broken, &mut machines);
            match broken {
                Some(broken) => has_failed_as_expected(broken, result).map(|note| told = note),
                None => result,
            }
        });
        let result = result.map_err(|error| anyhow!("{error:#}\n{}", diagnose(&mut machines)));
        let boots = machines.values().map(|machine| machine.boots).sum();
        let processor_time = machines.values_mut().map(Machine::processor_time).sum();
        let notes = machines.values().flat_map(notes).chain(told).collect();
        drop(machines);
        // Gigabytes in the end, and nobody looks at them.
        let _ = fs::remove_dir_all(&directory);
        Run {
            time: started.elapsed(),
            processor_time,
            boots,
            notes,
            result,
        }
    }

    fn machines<'g>(
        &self,
        scenario: &Scenario,
        guest: &'g ReadyGuest,
        directory: &Path,
    ) -> Result<BTreeMap<String, Machine<'g>>> {
        let mut machines = BTreeMap::new();
        for (index, (name, disks)) in scenario.machines.iter().enumerate() {
            let own = directory.join(name);
            fs::create_dir_all(&own)?;
            let mut plugged = Vec::new();
            for disk in disks {
                let image = own.join(format!("{disk}.qcow2"));
                qemu::empty_image(&scenario.disks[disk], &image)?;
                plugged.push(Disk {
                    name: disk.clone(),
                    image,
                });
            }
            let network = network(directory, index, scenario.machines.len());
            let mut machine = Machine::new(name, &guest.origin, own.clone(), plugged, network);
            if !scenario.initrd.is_empty() {
                let program = self.program.as_ref();
                let additions: Vec<_> = scenario
                    .initrd
                    .iter()
                    .map(|tree| self.scenarios.join(tree))
                    .collect();
                machine.set_initrd(payload::extend_initrd(
                    &guest.origin.boot.initrd,
                    &additions,
                    program.context("an initrd needs the program (--program)")?,
                    &own,
                )?);
            }
            machines.insert(name.clone(), machine);
        }
        Ok(machines)
    }
}

/// What joins one of so many machines to the others: the first has a cable to each.
fn network(directory: &Path, index: usize, machines: usize) -> Option<Network> {
    let cable = |other: usize| directory.join(format!("cable-{other}"));
    let cables = match index {
        0 => (1..machines).map(cable).collect(),
        other => vec![cable(other)],
    };
    (machines > 1).then(|| Network {
        cables,
        listens: index == 0,
        address: format!("52:54:00:00:00:{index:02x}"),
    })
}

fn play(
    test: &str,
    scenario: &Scenario,
    guest: &ReadyGuest,
    broken: Option<&Broken>,
    machines: &mut BTreeMap<String, Machine>,
) -> Result<()> {
    for machine in machines.values_mut() {
        machine.restore()?;
        if let Some(broken) = broken {
            machine.succeed(&broken.run).context("breaking it")?;
        }
    }
    for step in scenario.steps(&guest.name) {
        let machine = machines
            .get_mut(&step.machine)
            .context("the scenario has been checked to have this machine")?;
        take(test, step, scenario.patience(), guest, machine)?;
    }
    for machine in machines.values() {
        check_console(machine)?;
    }
    Ok(())
}

/// What is told of a scenario that was broken on purpose and failed of that; anything else is an
/// error.
fn has_failed_as_expected(broken: &Broken, result: Result<()>) -> Result<Vec<String>> {
    let Err(error) = result else {
        bail!("it succeeded although this is broken: {}", broken.what);
    };
    let text = format!("{error:#}");
    match text.lines().find(|line| line.contains(&broken.fails_with)) {
        Some(line) => Ok(vec![format!("broken: {}; failed: {line}", broken.what)]),
        None => Err(error.context(format!(
            "broken: {}; it failed, but not with '{}'",
            broken.what, broken.fails_with
        ))),
    }
}

fn take(
    test: &str,
    step: &Step,
    patience: Duration,
    guest: &ReadyGuest,
    machine: &mut Machine,
) -> Result<()> {
    if step.virtiofs && !machine.plug_lower_store(&guest.disk)? {
        return skip("virtiofs", test, "this machine has no virtiofsd");
    }
    match &step.action {
        Action::Run { script, arguments } => {
            let command = script_command(script, arguments, machine, guest)?;
            let outcome = machine.execute(&command, patience)?;
            ensure!(
                outcome.code == 0,
                "{} on {}: exit code {}\n{}",
                script.display(),
                machine.name,
                outcome.code,
                outcome.output
            );
        }
        Action::RunUntilPowerCut { script, arguments } => {
            run_until_power_cut(script, arguments, guest, machine)?;
        }
        Action::Power(Power::Restore) => machine.restore()?,
        Action::Power(Power::Reboot) => {
            machine.reboot()?;
            check_boot(machine)?;
        }
        Action::Power(Power::On) => {
            machine.start()?;
            check_boot(machine)?;
        }
        Action::Power(Power::Off) => {
            machine.power_off()?;
            check_console(machine)?;
        }
    }
    Ok(())
}

/// The shell command that runs a script of a scenario. What the guest has
/// reported so far is in the file `OVERSTORE_TEST_REPORTED`.
fn script_command(
    script: &Path,
    arguments: &[String],
    machine: &mut Machine,
    guest: &ReadyGuest,
) -> Result<String> {
    let text = machine.reported();
    let mut reported = "/dev/null";
    if !text.is_empty() {
        reported = "/run/overstore-test/reported";
        machine.copy_to(text.as_bytes(), reported)?;
    }
    let arguments: String = arguments
        .iter()
        .map(|argument| format!(" '{}'", argument.replace('\'', r"'\''")))
        .collect();
    Ok(format!(
        "export OVERSTORE_TEST={PAYLOAD}/scenarios OVERSTORE_TEST_MACHINE={} \
         OVERSTORE_TEST_GUEST={} OVERSTORE_TEST_REPORTED={reported}; \
         exec sh -eu {PAYLOAD}/scenarios/{}{arguments}",
        machine.name,
        guest.name,
        script.display(),
    ))
}

fn run_until_power_cut(
    script: &Path,
    arguments: &[String],
    guest: &ReadyGuest,
    machine: &mut Machine,
) -> Result<()> {
    const REQUEST: &str = "power-cut";
    let requests = |text: &str| text.lines().filter(|line| *line == REQUEST).count();
    let before = requests(&machine.reported());
    let command = script_command(script, arguments, machine, guest)?;
    let output = "/run/overstore-test/output";
    let pid = machine.spawn(&command, output)?;
    let deadline = Instant::now() + HANG;
    let mut last_asked = Instant::now();
    while requests(&machine.reported()) == before {
        let mut problem = None;
        if last_asked.elapsed() > Duration::from_secs(1) {
            last_asked = Instant::now();
            problem = machine
                .exit_code(pid)?
                .map(|code| format!("it ended with exit code {code}"));
        }
        if Instant::now() > deadline {
            problem = Some(format!("it takes longer than {HANG:?}"));
        }
        if let Some(problem) = problem {
            bail!(
                "{}: {problem}, and did not ask for the power cut\n{}",
                script.display(),
                machine.read_file(output)?
            );
        }
        sleep(Duration::from_millis(2));
    }
    machine.crash()
}

/// What has to be true after every boot.
fn check_boot(machine: &mut Machine) -> Result<()> {
    machine
        .succeed(&format!(
            "{MOUNT_PAYLOAD} && OVERSTORE_TEST={PAYLOAD}/scenarios sh -eu {PAYLOAD}/scenarios/after-boot"
        ))
        .map(drop)?;
    check_console(machine)
}

fn check_console(machine: &Machine) -> Result<()> {
    let console = machine.console();
    if let Some(line) = console
        .lines()
        .find(|line| NEVER_ON_CONSOLE.iter().any(|text| line.contains(text)))
    {
        bail!("{}: the console says: {line}", machine.name);
    }
    Ok(())
}

/// Everything that helps to understand a failure, from every machine.
fn diagnose(machines: &mut BTreeMap<String, Machine>) -> String {
    let mut text = String::new();
    for (name, machine) in machines {
        text += &format!(
            "--- {name}: console, last lines\n{}\n",
            tail(&machine.console())
        );
        if machine.is_running() {
            let told = machine
                .execute(
                    &format!("sh {PAYLOAD}/scenarios/diagnose"),
                    Duration::from_secs(120),
                )
                .map_or_else(|error| format!("{error:#}"), |outcome| outcome.output);
            text += &format!("--- {name}: diagnosis\n{told}\n");
        }
    }
    text
}

fn notes(machine: &Machine) -> Vec<String> {
    let reported = machine.reported();
    let notes = reported
        .lines()
        .filter_map(|line| line.strip_prefix("note "));
    notes.map(str::to_owned).collect()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
