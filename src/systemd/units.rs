//! From stores to unit files. Pure: what is made depends on the descriptions alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::text::{argument, environment_value, path, prose, unit_name};
use crate::config::names::{STORE_VARIABLE, URL_VARIABLE};
use crate::config::{Environment, Gc, MetadataSource, Store, WhenReplaced};
use crate::escape::{show_path, unit_value};
use crate::nix::url::UrlRules;

/// Stops a service from doing what it never has to do, but for what its capabilities allow. None of
/// these gives the service a mount namespace of its own: from there its mounts would not reach the system
/// (`PrivateMounts=no`: newer versions of systemd take `PrivateNetwork=` as a wish for one). What stays
/// open, and why, is in `docs/systemd.md`.
macro_rules! sandbox {
    ($capabilities:literal) => {
        concat!(
            "CapabilityBoundingSet=",
            $capabilities,
            "
NoNewPrivileges=yes
PrivateNetwork=yes
PrivateMounts=no
RestrictAddressFamilies=AF_UNIX
IPAddressDeny=any
RestrictNamespaces=mnt
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount
SystemCallFilter=~@resources
SystemCallErrorNumber=EPERM
DevicePolicy=closed
KeyringMode=private
LockPersonality=yes
ProtectHostname=yes
RestrictRealtime=yes
UMask=0022
"
        )
    };
}

/// - `CAP_SYS_ADMIN` to mount; `CAP_SYS_CHROOT` and `CAP_SYS_PTRACE` to see who uses a mount, and in
///   which mount namespace; `CAP_SYSLOG` for the kernel's reason for a refusal; the others for
///   directories that are somebody else's.
const SANDBOX: &str = concat!(
    sandbox!(
        "CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYSLOG CAP_CHOWN CAP_DAC_OVERRIDE \
         CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID"
    ),
    "MemoryDenyWriteExecute=yes\nRestrictSUIDSGID=yes\n"
);

/// The same for what collects garbage. It reads what roots lead to, in everybody's home and in `/tmp`,
/// and what everybody's processes use: a sandbox that hides any of it (`ProtectHome=`,
/// `PrivateTmp=`, `PrivatePIDs=`, without `CAP_SYS_PTRACE` or `CAP_DAC_READ_SEARCH`) would have it
/// collect what is needed. Nix runs in it: it builds nothing, so it needs nobody else's identity; but it
/// changes the modes of what it deletes, set-user-ID bits and all (`RestrictSUIDSGID=`), and what it is
/// linked with is its own business (`MemoryDenyWriteExecute=`).
const GC_SANDBOX: &str = sandbox!(
    "CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH \
     CAP_FOWNER CAP_FSETID"
);

/// What each file begins with.
pub(crate) const HEAD: &str = "# Made by overstore from ";

/// A store and the file that describes it.
#[derive(Debug)]
pub(crate) struct Described {
    /// The store.
    pub store: Store,
    /// The file.
    pub file: PathBuf,
}

/// A file or a symbolic link.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A file with this text.
    Text(String),
    /// A symbolic link to this path.
    Link(PathBuf),
}

/// What is made, by its path below the directory that the units are written to.
pub(crate) type Files = BTreeMap<PathBuf, Content>;

/// Where things are in the system that the units are for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places<'a> {
    /// overstore itself.
    pub program: &'a Path,
    /// Nix's daemon: a path, or a name that systemd looks up.
    pub nix_daemon: &'a Path,
    /// The directory of the files with the store URLs, which are made beside the units.
    pub variables: &'a Path,
    /// The remount hook that is installed with overstore, if one is.
    pub remount_hook: Option<&'a Path>,
}

impl Places<'_> {
    /// What the descriptions are read in: but for the hook, Nix's defaults.
    pub(crate) fn environment(&self) -> Environment {
        Environment {
            remount_hook: self.remount_hook.map(Path::to_owned),
            ..Environment::default()
        }
    }
}

/// The units of all stores. `environment` is what the descriptions were read in.
pub(crate) fn units(stores: &[Described], places: Places<'_>, environment: &Environment) -> Files {
    let mut files = Files::new();
    for described in stores {
        let unit = Unit {
            described,
            stores,
            places,
            environment,
            name: unit_name(&described.store.name),
        };
        unit.add_store(&mut files);
        if let Some(gc) = &described.store.gc
            && let Some(schedule) = &gc.schedule
        {
            unit.add_gc(gc, schedule, &mut files);
        }
        if let Some(refresh) = &described.store.refresh
            && let Some(schedule) = &refresh.schedule
        {
            unit.add_refresh(refresh.optimise, schedule, &mut files);
        }
        if let Some(daemon) = &described.store.daemon {
            unit.add_url(&mut files);
            if daemon.system {
                unit.add_to_system_daemon(&mut files);
            } else {
                unit.add_own_daemon(&daemon.socket, &mut files);
            }
        }
    }
    files
}

struct Unit<'a> {
    described: &'a Described,
    stores: &'a [Described],
    places: Places<'a>,
    environment: &'a Environment,
    /// The store's name as part of a unit's.
    name: String,
}

impl Unit<'_> {
    fn store(&self) -> &Store {
        &self.described.store
    }

    fn service(&self) -> String {
        format!("overstore-{}.service", self.name)
    }

    /// Who made a file, and how to change it: not by editing it.
    fn head(&self) -> String {
        format!("{HEAD}{}.\n", show_path(&self.described.file))
    }

    fn add_store(&self, files: &mut Files) {
        let store = self.store();
        let file = argument(&self.described.file);
        let program = argument(self.places.program);
        let mut text = self.head();
        let line = |text: &mut String, key: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{key}={value}");
        };
        text += "\n[Unit]\n";
        let description = format!("Local-overlay store {}", store.name);
        line(&mut text, "Description", &prose(&description));
        line(&mut text, "Documentation", "man:overstore(1)");
        // A path that no setting can have is left out: nothing but `systemctl status` shows it.
        if let Some(file) = unit_value(&self.described.file) {
            line(&mut text, "SourcePath", &file);
        }
        for needed in self.paths() {
            line(&mut text, "RequiresMountsFor", &path(needed));
        }
        for needed in self.lower_units() {
            line(&mut text, "Requires", &needed);
            line(&mut text, "After", &needed);
        }
        if store.when_replaced == WhenReplaced::Reconcile {
            // Where the lower store of before is only the store's memory knows, which the state
            // directory has: perhaps on another machine. It is waited for, and not needed.
            line(&mut text, "After", "remote-fs.target");
        }
        // People come after the store, so when the machine stops they go before it.
        let mut before = vec!["systemd-user-sessions.service".to_owned()];
        if let Some(daemon) = &store.daemon {
            before.push(if daemon.system {
                "nix-daemon.service".to_owned()
            } else {
                format!("nix-daemon@{}.service", self.name)
            });
        }
        line(&mut text, "Before", &before.join(" "));
        text += "\n[Service]\nType=oneshot\nRemainAfterExit=yes\nNotifyAccess=exec\n";
        line(
            &mut text,
            "ExecStart",
            &format!("{program} up --unit {file}"),
        );
        line(
            &mut text,
            "ExecStop",
            &format!("{program} down --unrecorded {file}"),
        );
        // No `ExecReload=`: the kernel changes no option of a mounted overlay.
        text += "TimeoutStartSec=5min\n";
        let field = format!("{STORE_VARIABLE}={}", store.name);
        let field = super::text::word(field.as_bytes());
        line(&mut text, "LogExtraFields", &field);
        text += SANDBOX;
        let service = self.service();
        let wanted = Path::new("multi-user.target.wants").join(&service);
        files.insert(wanted, Content::Link(Path::new("..").join(&service)));
        files.insert(service.into(), Content::Text(text));
    }

    /// A timer that lives as long as the store is up, and the collection that it starts.
    fn add_gc(&self, gc: &Gc, schedule: &str, files: &mut Files) {
        let (head, store) = (self.head(), self.service());
        let name = prose(&self.store().name);
        let unit = self.add_timer("Garbage collection", "gc", schedule, files);
        let file = argument(&self.described.file);
        let program = argument(self.places.program);
        let optimise = match gc.optimise {
            true => format!("ExecStart={program} optimise {file}\n"),
            false => String::new(),
        };
        let mut command = format!("{program} gc {file}");
        for (option, value) in &gc.limits {
            command += &format!(" {option} {value}");
        }
        if let Some(directory) = self.places.nix_daemon.parent()
            && directory.is_absolute()
        {
            command += &format!(" --nix {}", argument(directory));
        }
        let text = format!(
            "{head}\n[Unit]\nDescription=Garbage collection of the local-overlay store {name}\n\
             Documentation=man:overstore-gc(1)\n\
             # Only while the store is up, and ended before it is unmounted.\n\
             Requisite={store}\nPartOf={store}\n\
             # What roots lead to has to be there.\n\
             After={store} local-fs.target remote-fs.target\n\n\
             [Service]\nType=oneshot\nNotifyAccess=exec\n{optimise}ExecStart={command}\n\
             TimeoutStartSec=infinity\nNice=10\nIOSchedulingClass=idle\n\
             LogExtraFields={}\n{GC_SANDBOX}",
            super::text::word(format!("{STORE_VARIABLE}={}", self.store().name).as_bytes())
        );
        files.insert(format!("{unit}.service").into(), Content::Text(text));
    }

    /// A timer as that of the collection, and the refresh that it starts. What is optimised then is
    /// in use by others.
    fn add_refresh(&self, optimise: bool, schedule: &str, files: &mut Files) {
        let (head, store) = (self.head(), self.service());
        let name = prose(&self.store().name);
        let unit = self.add_timer("Refresh", "refresh", schedule, files);
        let file = argument(&self.described.file);
        let program = argument(self.places.program);
        let sandbox = match optimise {
            true => GC_SANDBOX,
            false => SANDBOX,
        };
        let text = format!(
            "{head}\n[Unit]\nDescription=Refresh of the local-overlay store {name}\n\
             Documentation=man:overstore-refresh(1)\n\
             # Only while the store is up, and ended before it is unmounted.\n\
             Requisite={store}\nPartOf={store}\nAfter={store}\n\n\
             [Service]\nType=oneshot\nNotifyAccess=exec\nExecStart={program} refresh {file}\n\
             TimeoutStartSec=infinity\nNice=10\nIOSchedulingClass=idle\n\
             LogExtraFields={}\n{sandbox}",
            super::text::word(format!("{STORE_VARIABLE}={}", self.store().name).as_bytes())
        );
        files.insert(format!("{unit}.service").into(), Content::Text(text));
    }

    /// A timer that lives as long as the store is up. Gives the name of its unit and of the one that it
    /// starts, without what they end with.
    fn add_timer(&self, what: &str, command: &str, schedule: &str, files: &mut Files) -> String {
        let (head, store) = (self.head(), self.service());
        let name = prose(&self.store().name);
        let unit = format!("overstore-{command}@{}", self.name);
        let text = format!(
            "{head}\n[Unit]\nDescription={what} of the local-overlay store {name}, by itself\n\
             Documentation=man:overstore-{command}(1)\nBindsTo={store}\nAfter={store}\n\n\
             [Timer]\nOnCalendar={schedule}\nRandomizedDelaySec=5min\nPersistent=yes\n"
        );
        let wanted = format!("{store}.wants/{unit}.timer");
        files.insert(
            wanted.into(),
            Content::Link(format!("../{unit}.timer").into()),
        );
        files.insert(format!("{unit}.timer").into(), Content::Text(text));
        unit
    }

    /// What has to be mounted for the store, each once.
    fn paths(&self) -> BTreeSet<&Path> {
        let store = self.store();
        let mut paths = BTreeSet::from([
            store.real.as_path(),
            store.state.as_path(),
            store.upper_layer.as_path(),
            store.workdir.as_path(),
        ]);
        let mut lower = Some(&store.lower);
        while let Some(this) = lower {
            paths.insert(this.real.as_path());
            paths.extend(this.state());
            paths.extend(this.publication.as_deref());
            lower = match &this.source {
                MetadataSource::Overlay {
                    lower, upper_layer, ..
                } => {
                    paths.insert(upper_layer);
                    Some(lower)
                }
                MetadataSource::Daemon { socket } => {
                    paths.extend(socket.parent());
                    None
                }
                MetadataSource::Database { .. } | MetadataSource::Ssh { .. } => None,
            };
        }
        paths
    }

    /// The units that the lower store is made by: another store's, and the socket's of a daemon.
    fn lower_units(&self) -> BTreeSet<String> {
        let mut units = BTreeSet::new();
        let lower = &self.store().lower;
        for other in self.stores {
            let other = &other.store;
            let name = unit_name(&other.name);
            if name == self.name {
                continue;
            }
            if *other.real == lower.real {
                units.insert(format!("overstore-{name}.service"));
            }
            if let (MetadataSource::Daemon { socket }, Some(daemon)) =
                (&lower.source, &other.daemon)
                && !daemon.system
                && daemon.socket == *socket
            {
                units.insert(format!("nix-daemon@{name}.socket"));
            }
        }
        if let MetadataSource::Daemon { socket } = &lower.source
            && *socket == self.environment.socket()
        {
            units.insert("nix-daemon.socket".to_owned());
        }
        units
    }

    fn url_file(&self) -> String {
        format!("overstore-{}.env", self.name)
    }

    fn add_url(&self, files: &mut Files) {
        let reference = self.store().reference();
        // Where no text serves every version of Nix, the newer ones' is taken; `check` says so.
        let url = reference
            .render_for_all()
            .unwrap_or_else(|_| reference.render(UrlRules::Since2_34));
        let quoted = environment_value(&url);
        let text = format!("{}{URL_VARIABLE}={quoted}\n", self.head());
        files.insert(self.url_file().into(), Content::Text(text));
    }

    /// The `[Unit]` part of what makes a daemon stand and fall with the store. The mount's own unit
    /// is made by systemd when it sees the mount; `RequiresMountsFor=` has the daemon stopped before
    /// that is unmounted at shutdown.
    fn daemon_needs_store(&self) -> String {
        let service = self.service();
        let real = path(&self.store().real);
        format!("BindsTo={service}\nAfter={service}\nRequiresMountsFor={real}\n")
    }

    /// The `[Service]` part of a daemon that serves the store.
    fn daemon_serves_store(&self) -> String {
        let features = self.store().experimental_features().join(" ");
        let mut configuration = format!("extra-experimental-features = {features}");
        if !self.store().use_sqlite_wal {
            // systemd turns this into a newline, which separates settings.
            configuration += "\\nuse-sqlite-wal = false";
        }
        let file = self.places.variables.join(self.url_file());
        format!(
            "EnvironmentFile={}\n\
             Environment=\"NIX_CONFIG={configuration}\"\n\
             # `--store` wins over `store = daemon` in nix.conf, which would make the daemon its own\n\
             # client without end.\n\
             ExecStart={} --daemon --store ${{{URL_VARIABLE}}}\n\
             # No connection may outlive the daemon: it would keep the mount busy.\n\
             KillMode=mixed\n",
            unit_value(&file).unwrap_or_default(),
            argument(self.places.nix_daemon)
        )
    }

    fn add_to_system_daemon(&self, files: &mut Files) {
        let text = format!(
            "{}\n[Unit]\n{}\n[Service]\nExecStart=\n{}",
            self.head(),
            self.daemon_needs_store(),
            self.daemon_serves_store()
        );
        let file = format!("nix-daemon.service.d/50-overstore-{}.conf", self.name);
        files.insert(file.into(), Content::Text(text));
    }

    fn add_own_daemon(&self, socket: &Path, files: &mut Files) {
        let (head, name) = (self.head(), prose(&self.store().name));
        let unit = format!("nix-daemon@{}", self.name);
        let mut text =
            format!("{head}\n[Unit]\nDescription=Nix daemon socket of the store {name}\n");
        if let Some(directory) = socket.parent() {
            text += &format!("RequiresMountsFor={}\n", path(directory));
        }
        // One that cannot be written is a mistake in the description.
        let socket = unit_value(socket).unwrap_or_default();
        text += &format!("\n[Socket]\nListenStream={socket}\n");
        let wanted = format!("sockets.target.wants/{unit}.socket");
        files.insert(
            wanted.into(),
            Content::Link(format!("../{unit}.socket").into()),
        );
        files.insert(format!("{unit}.socket").into(), Content::Text(text));

        let text = format!(
            "{head}\n[Unit]\nDescription=Nix daemon of the store {name}\n\
             Documentation=man:nix-daemon(8)\n\
             Requires={unit}.socket\nAfter={unit}.socket\n{}\n\
             [Service]\n{}LimitNOFILE=1048576\nTasksMax=1048576\nDelegate=yes\n",
            self.daemon_needs_store(),
            self.daemon_serves_store()
        );
        files.insert(format!("{unit}.service").into(), Content::Text(text));
    }
}
