//! The command line: the one definition that parsing, `--help`, the manual pages and the shell
//! completions come from.

mod given;
pub(crate) mod help;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::{Age, Size};

/// Sets up, checks and maintains Nix's local-overlay stores.
///
/// One TOML file says which store is below, which directory takes what is new, and where the
/// merged store and its state are. overstore sets the store up and verifies it. When something is
/// wrong, it says so in plain words.
#[derive(Debug, Parser)]
#[command(
    name = "overstore",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "STORE is a name (`example`, read from /etc/overstore/example.toml) or a path to a \
                  TOML file (anything with a `/` or ending in `.toml`).\n\n\
                  Exit codes: 0 done, or nothing wrong; 1 the store is not as described; 2 the \
                  command line or the configuration is wrong; 3 the machine could not do it.\n\n\
                  Start with `overstore new > example.toml`.",
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Print the result as JSON (its schema: `overstore schema`).
    #[arg(long, global = true)]
    pub json: bool,

    /// The command and its options as they were given, without the stores.
    #[arg(skip)]
    pub given: Vec<OsString>,
}

impl Cli {
    /// Reads this process's command line.
    ///
    /// # Errors
    /// When it is none, or asks for help or for the version.
    pub fn read() -> Result<Cli, clap::Error> {
        let mut definition = command();
        let matches = definition
            .try_get_matches_from_mut(std::env::args_os())
            .map_err(for_commands_of_exec)?;
        let mut cli =
            Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut definition))?;
        cli.given = given::without_stores(&definition, &matches);
        Ok(cli)
    }
}

/// The same error, with a hint for whoever left out what begins the command of `exec`.
fn for_commands_of_exec(mut error: clap::Error) -> clap::Error {
    let is_word =
        |value: &ContextValue| matches!(value, ContextValue::String(it) if !it.starts_with('-'));
    if error.kind() == ErrorKind::UnknownArgument
        && error.get(ContextKind::InvalidArg).is_some_and(is_word)
        && std::env::args_os().any(|argument| argument == "exec")
    {
        let hint = ContextValue::StyledStrs(vec!["write `--` before the command".into()]);
        error.insert(ContextKind::Suggested, hint);
    }
    error
}

/// The definition of the command line.
pub(crate) fn command() -> clap::Command {
    help::add_to(Cli::command())
}

/// The commands, in the order of `--help`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set the store up: make what is missing, then check the result.
    ///
    /// Makes the directories, the upper database and the OverlayFS mount if they are missing, and
    /// checks the result. Run again, it changes nothing and says so. If it is killed at any point, the
    /// next run finishes the work.
    Up(Up),
    /// Unmount what `up` mounted, and nothing else.
    ///
    /// The objects, the upper database and all directories stay. If processes still use the mount,
    /// `down` lists them and unmounts nothing.
    Down(Down),
    /// Print what `up` would do, step by step, and do nothing.
    Plan(Plan),
    /// List the stores that have a name, a line each, and how they are.
    List(List),
    /// Check everything about the store, and change nothing.
    Check(Check),
    /// Show the store at a glance, and what is wrong with it.
    ///
    /// Its cost is that of the upper layer and the upper database, not of the lower store.
    Status(Status),
    /// Copy the metadata of closures from the lower store, all at once.
    ///
    /// Nix does this by itself, one path at a time, whenever it asks whether a path is valid. `warm`
    /// does it in one transaction, many times faster. Objects are not copied. Nix's collector
    /// removes the metadata of everything without a root again: see --keep.
    Warm(Warm),
    /// Delete from the upper layer what no root needs.
    ///
    /// overstore chooses what is garbage. Nix deletes it, after it has looked at roots, temporary
    /// roots and locks itself. The cost depends on the upper layer, not on the lower store. Unused
    /// leftovers of interrupted work are deleted too. If garbage is in both layers, only the upper
    /// copy is removed, as with `optimise`.
    Gc(Gc),
    /// Remove from the upper layer what the lower store has too.
    ///
    /// An upper copy is removed if both databases have the same hash, size and references for the
    /// object, and both copies are equal, byte by byte. The lower copy shows from then on. If something
    /// differs, both copies stay, and are listed. Programs that use an upper copy keep it; a later run
    /// removes it.
    Optimise(Optimise),
    /// Put an upper store right after its lower store was replaced.
    ///
    /// Compares each row of the upper database and each object of the upper layer with the lower store
    /// as it is now. Rows are copied from it again. Objects that are needed above and that the lower
    /// store no longer has are carried: copied from the old store into the upper layer, if they are what
    /// their rows say. Upper copies of what is below are removed. Nothing is given up without a flag that
    /// says so. The store must be down, and is up afterwards. The exit code is 1 if something needed
    /// cannot be found anywhere, also with --dry-run.
    Reconcile(Reconcile),
    /// Bring the store up to date with what is below, while it is in use.
    ///
    /// Over a publication: compares what the upper store took from below with the current generation,
    /// makes the kernel see what is new, and only then switches new connections of Nix to that
    /// generation. If it lacks something that the upper store needs, nothing is switched, and the exit
    /// code is 1. If the publication cannot be reached, the store stays as it is, and the exit code is 3.
    /// Over a lower store that grows in place, this does what `remount` does.
    Refresh(Refresh),
    /// Make a generation of a lower store, for those above it.
    ///
    /// Makes a complete database that never changes from a live store that Nix is using, over the same
    /// objects. What is published is verified and protected from the live store's collector, and only
    /// then becomes the current generation. This is for the lower store's owner, on the owner's own store.
    Publish(Publish),
    /// Print the store URL.
    Url(Url),
    /// Run a command, or a shell, in a private set-up of the store.
    ///
    /// The store is set up in a private mount namespace (without root, in a user namespace too).
    /// COMMAND, or your shell, runs there, with Nix configured to use the store. While anything runs in
    /// it, further commands of the same user join it. overstore becomes the command: signals and the
    /// exit code are the command's own. Its own failures are 125 (set-up failed), 126 (the command
    /// cannot be run) and 127 (the command was not found).
    Exec(Exec),
    /// Make the kernel look again at a layer that has changed.
    ///
    /// Nix's `remount-hook` needs this. Nix passes the hook nothing but the merged store
    /// directory, so this program does the same when it is called as `overstore-remount DIRECTORY`.
    Remount(Remount),
    /// Collect what a bug report needs into one file.
    ///
    /// The file has versions, the kernel, Nix and its settings, mounts, units, the journal, and for each
    /// store its description, `status` and `check`. It is a new file that only you can read. It has no
    /// contents of stores, and passwords and tokens in URLs and settings are masked. Where something
    /// cannot be found out, the file says so. Read it before you give it to others.
    BugReport(BugReport),
    /// Write the systemd units of stores, when a system is built.
    ///
    /// These are the units that overstore's generator makes when a machine starts. NixOS needs them
    /// beforehand: it compares the new system's units with the old ones, and restarts what changed. If a
    /// description is wrong, or two stores want the same socket for their daemons, nothing is written
    /// and the exit code is 2.
    Units(Units),
    /// Print a commented configuration file to start from.
    New(New),
    /// Print the JSON schema of a description, or of a JSON output.
    Schema(Schema),
    /// Print a completion script for a shell.
    Completions(Completions),
    /// Write the manual pages below a directory.
    Manual(Manual),
}

impl Command {
    /// Whether the result can be had as JSON.
    pub fn has_json(&self) -> bool {
        matches!(
            self,
            Command::Up(_)
                | Command::Down(_)
                | Command::Plan(_)
                | Command::List(_)
                | Command::Check(_)
                | Command::Warm(_)
                | Command::Gc(_)
                | Command::Optimise(_)
                | Command::Reconcile(_)
                | Command::Refresh(_)
                | Command::Publish(_)
                | Command::Url(_)
                | Command::BugReport(_)
        ) || matches!(self, Command::Status(arguments) if !arguments.metrics)
    }
}

/// The store a command is about.
#[derive(Debug, Clone, Args)]
pub struct StoreArgument {
    /// A name, or a path to a TOML file. A name stands for NAME.toml in ~/.config/overstore (for
    /// ordinary users), /etc/overstore, /run/overstore or /usr/lib/overstore.
    #[arg(value_name = "STORE")]
    pub store: OsString,
}

/// The stores a command is about.
#[derive(Debug, Default, Clone, Args)]
pub struct Stores {
    /// Names, or paths to TOML files. A name stands for NAME.toml in ~/.config/overstore (for
    /// ordinary users), /etc/overstore, /run/overstore or /usr/lib/overstore. For several stores,
    /// the exit code is the highest one.
    #[arg(value_name = "STORE", required_unless_present = "all")]
    pub stores: Vec<OsString>,
    /// All stores that have a name.
    #[arg(long, conflicts_with = "stores")]
    pub all: bool,
}

/// Working on a system that is not running.
#[derive(Debug, Default, Clone, Args)]
pub struct RootArgument {
    /// Work on the system that will be booted from DIR: every path is below DIR, and the text that
    /// the kernel records for the mount does not name DIR, so that Nix's check passes after the
    /// switch of root.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// With --root: read the description from the running initrd, not from below DIR.
    #[arg(long, requires = "root")]
    pub description_here: bool,
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    pub store: StoreArgument,
    #[command(flatten)]
    pub root: RootArgument,
    #[command(flatten)]
    pub allowed: Allowed,
    /// Use the exit code that the store's unit needs: also 0 if objects are missing and the
    /// description lets the store start anyway (`when-incomplete`).
    #[arg(long)]
    pub unit: bool,
}

/// What `up` does only when it is told to.
#[derive(Debug, Clone, Copy, Args)]
pub struct Allowed {
    /// Give existing directories the owner and mode that Nix would give them.
    #[arg(long)]
    pub fix_permissions: bool,
    /// Make a new upper database although the upper layer has objects. Gives up what the lost
    /// database knew: Nix will not consider any of these objects valid.
    #[arg(long)]
    pub accept_lost_database: bool,
    /// Use this upper layer although the upper database belongs to another one. Gives up what is in
    /// the other one.
    #[arg(long)]
    pub accept_other_layer: bool,
    /// Set the store up although all objects of the upper layer are missing. Gives them up.
    #[arg(long)]
    pub accept_lost_objects: bool,
    /// Restore marks of the upper layer that were lost in a copy without extended attributes, or
    /// that were made in a user namespace.
    #[arg(long)]
    pub restore_marks: bool,
}

/// Arguments of `down`.
#[derive(Debug, Args)]
pub struct Down {
    #[command(flatten)]
    pub store: StoreArgument,
    #[command(flatten)]
    pub root: RootArgument,
    /// Detach the mount even if it is in use. It goes away with its last user.
    #[arg(long)]
    pub lazy: bool,
    /// Unmount the overlay even where no record in /run/overstore says that `overstore up` mounted
    /// it, if it is an overlay of exactly the directories described.
    #[arg(long)]
    pub unrecorded: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    pub store: StoreArgument,
    #[command(flatten)]
    pub root: RootArgument,
    #[command(flatten)]
    pub allowed: Allowed,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(override_usage = "overstore check [OPTIONS] <STORE>...\n       \
                      overstore check [OPTIONS] --all\n       \
                      overstore check --list")]
pub struct Check {
    /// Names, or paths to TOML files. A name stands for NAME.toml in ~/.config/overstore (for
    /// ordinary users), /etc/overstore, /run/overstore or /usr/lib/overstore. For several stores,
    /// the exit code is the highest one.
    #[arg(value_name = "STORE", required_unless_present_any = ["list", "all"])]
    pub stores: Vec<OsString>,
    /// All stores that have a name.
    #[arg(long, conflicts_with = "stores")]
    pub all: bool,
    /// Print all findings that there are, with their severity, their part of the store, and whether
    /// they stop `up`. Looks at no store.
    #[arg(long, conflicts_with_all = ["stores", "all", "root", "lower", "contents", "nix"])]
    pub list: bool,
    #[command(flatten)]
    pub root: RootArgument,
    /// Also look at every name in the lower store directory, and at every row of its database. The cost
    /// grows with the lower store.
    #[arg(long)]
    pub lower: bool,
    /// Also hash every object in the upper layer and compare it with the upper database. With
    /// --lower, also the objects below whose metadata was copied.
    #[arg(long)]
    pub contents: bool,
    /// Also have the `nix` on PATH open the store. Nix may then write to the state directory, and to
    /// a lower store that is not read-only.
    #[arg(long)]
    pub nix: bool,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct List {
    /// Print the names alone, a line each, and look at no store.
    #[arg(long, conflicts_with = "json")]
    pub names: bool,
    /// With --names: the names of publications.
    #[arg(long, requires = "names")]
    pub publications: bool,
    /// With --names: the store paths of the objects in the lower store directory of STORE.
    #[arg(
        long,
        value_name = "STORE",
        requires = "names",
        conflicts_with = "publications"
    )]
    pub below: Option<OsString>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(override_usage = "overstore status [OPTIONS] <STORE>...\n       \
                      overstore status [OPTIONS] --all")]
pub struct Status {
    #[command(flatten)]
    pub stores: Stores,
    #[command(flatten)]
    pub root: RootArgument,
    /// Exit with 1 if an error is found.
    #[arg(long)]
    pub exit_code: bool,
    /// Also add up what the objects take up, and what removing those in both layers would free.
    /// Goes through every file in the upper layer.
    #[arg(long)]
    pub sizes: bool,
    /// Print numbers in Prometheus's text format, for node_exporter's textfile collector. The exit
    /// code is 0 whatever is found.
    #[arg(long, conflicts_with = "exit_code")]
    pub metrics: bool,
}

/// Arguments of `warm`.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).multiple(true),
    override_usage = "overstore warm [OPTIONS] <STORE> <PATH>...\n       \
                      overstore warm [OPTIONS] --all <STORE>\n       \
                      overstore warm [OPTIONS] --roots <DIR> <STORE>\n       \
                      overstore warm --forget <STORE>"
)]
pub struct Warm {
    #[command(flatten)]
    pub store: StoreArgument,
    /// Paths of the lower store (or links to them): their closures are copied.
    #[arg(value_name = "PATH", group = "what")]
    pub paths: Vec<PathBuf>,
    /// Copy everything that is valid in the lower store.
    #[arg(long, group = "what", conflicts_with_all = ["paths", "roots"])]
    pub all: bool,
    /// Copy the closures of the garbage-collector roots or profiles below DIR, except those that
    /// are not valid in the lower store.
    #[arg(long, value_name = "DIR", group = "what")]
    pub roots: Vec<PathBuf>,
    /// Make roots for the closures, in `gcroots/overstore` of the state directory, so that Nix's
    /// collector keeps what was copied.
    #[arg(long)]
    pub keep: bool,
    /// Remove the roots that --keep has made, and do nothing else.
    #[arg(long, group = "what", conflicts_with_all = ["paths", "roots", "all", "keep"])]
    pub forget: bool,
}

/// Arguments of `gc`.
#[derive(Debug, Args)]
#[command(override_usage = "overstore gc [OPTIONS] <STORE>...\n       \
                      overstore gc [OPTIONS] --all")]
pub struct Gc {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub stores: Stores,
    /// List what would be deleted, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Show what keeps PATH alive, and through which references, and change nothing.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["dry_run", "older_than", "min_free", "max_free", "metadata", "leftovers", "delete_generations"])]
    pub why: Option<PathBuf>,
    /// Delete only what came into the upper layer longer ago than AGE (`14d`, `36h`, `30m`), with
    /// everything that refers to it.
    #[arg(long, value_name = "AGE")]
    pub older_than: Option<Age>,
    /// First delete old generations of Nix's profiles in this store: all but the current ones
    /// (`old`), or those older than an age (`14d`).
    #[arg(long, value_name = "old|AGE", conflicts_with = "dry_run")]
    pub delete_generations: Option<Generations>,
    /// Do nothing unless less than SIZE (`10G`) is free on the upper layer's file system. The exit
    /// code is 1 if that is still so afterwards.
    #[arg(long, value_name = "SIZE")]
    pub min_free: Option<Size>,
    /// Stop as soon as SIZE (`50G`) is free there. The oldest objects are deleted first.
    #[arg(long, value_name = "SIZE")]
    pub max_free: Option<Size>,
    /// Also remove copied metadata of lower objects that nothing above needs.
    #[arg(long)]
    pub metadata: bool,
    /// Also delete objects that neither database knows; `gc.leftovers` in the description always does
    /// so. They may be all that is left of what a lost database described.
    #[arg(long)]
    pub leftovers: bool,
    /// Continue although the upper database knows fewer objects than before while others exist. Gives
    /// up what only an older state of the database knows.
    #[arg(long)]
    pub accept_lost_rows: bool,
    /// Where Nix's programs are, if not on PATH.
    #[arg(long, value_name = "DIR")]
    pub nix: Option<PathBuf>,
    /// Continue although some roots are links to something that may only be hidden, such as a home
    /// directory that is not mounted. What those roots keep is then collected.
    #[arg(long)]
    pub ignore_absent_roots: bool,
}

/// Arguments of `optimise`.
#[derive(Debug, Args)]
pub struct Optimise {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreArgument,
    /// List what would be removed, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Trust the databases, and do not compare the copies. A damaged lower copy can then replace a
    /// good upper one.
    #[arg(long)]
    pub trust_databases: bool,
}

/// Arguments of `reconcile`.
#[derive(Debug, Args)]
pub struct Reconcile {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreArgument,
    /// Show what would be done, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// The previous lower store: its URL, its root, or the directory with its objects. Can be
    /// repeated. Without it, overstore looks for the one that it remembers. Only objects with the hash
    /// that the upper database has are taken from it.
    #[arg(long, value_name = "STORE")]
    pub old: Vec<OsString>,
    /// Drop the rows of what is needed and cannot be found anywhere, and of everything that depends on
    /// it. Gives these up; objects of the upper layer stay, without rows.
    #[arg(long)]
    pub drop_missing: bool,
    /// If an object of the upper layer differs from the lower store's object with the same path, use
    /// the lower one instead. Gives the upper one up.
    #[arg(long)]
    pub prefer_lower: bool,
    /// Remove objects of the upper layer that have no row. Gives them up.
    #[arg(long)]
    pub remove_without_rows: bool,
    /// Continue although some roots are links to something that may only be hidden, such as a home
    /// directory that is not mounted. What those roots keep and the lower store has lost is then dropped.
    #[arg(long)]
    pub ignore_absent_roots: bool,
    /// Where Nix's programs are, if not on PATH: Nix fetches what no old store has.
    #[arg(long, value_name = "DIR")]
    pub nix: Option<PathBuf>,
}

/// Arguments of `refresh`.
#[derive(Debug, Args)]
#[command(override_usage = "overstore refresh [OPTIONS] <STORE>...\n       \
                      overstore refresh [OPTIONS] --all")]
pub struct Refresh {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub stores: Stores,
    /// Show whether there is a newer generation and what it lacks, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

impl Gc {
    /// An option that was given and that only root can have.
    pub fn needs_root(&self) -> Option<&'static str> {
        [
            ("--delete-generations", self.delete_generations.is_some()),
            ("--metadata", self.metadata),
            ("--leftovers", self.leftovers),
        ]
        .into_iter()
        .find_map(|(option, given)| given.then_some(option))
    }
}

/// Which generations of profiles are deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generations(pub String);

impl std::str::FromStr for Generations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_days = text
            .strip_suffix('d')
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()));
        if text == "old" || is_days {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected `old`, or a number of days such as `14d`".to_owned())
        }
    }
}

/// Arguments of `publish`.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("retiring"),
    override_usage = "overstore publish [OPTIONS] <PUBLICATION>\n       \
                      overstore publish --image <KIND> <FILE> [OPTIONS] [PUBLICATION]\n       \
                      overstore publish --check <DIR> [OPTIONS]"
)]
pub struct Publish {
    /// A name (read from /etc/overstore/publications/NAME.toml) or a path to a TOML file.
    #[arg(
        value_name = "PUBLICATION",
        required_unless_present_any = ["check", "from", "registration"]
    )]
    pub publication: Option<OsString>,
    /// Pack a lower store into FILE instead of making a generation: the publication's live store, or
    /// what --from or --registration names. KIND is squashfs, erofs, or state (only the metadata, as a
    /// directory). The same objects give the same bytes. An existing image is replaced.
    #[arg(
        long, num_args = 2, value_names = ["KIND", "FILE"],
        conflicts_with_all = ["check", "list", "retiring"]
    )]
    pub image: Option<Vec<OsString>>,
    /// With --image: pack this store. STORE is a local store's URL or root, or the directory of a
    /// publication, whose current generation is packed.
    #[arg(
        long, value_name = "STORE", requires = "image",
        conflicts_with_all = ["publication", "registration"]
    )]
    pub from: Option<OsString>,
    /// With --image: pack what FILE lists as valid, in the format of `nix-store --dump-db` and
    /// nixpkgs' closureInfo. The objects are in the store directory.
    #[arg(
        long,
        value_name = "FILE",
        requires = "image",
        conflicts_with = "publication"
    )]
    pub registration: Option<PathBuf>,
    /// With --registration: the directory that has the objects, if it is not the store directory.
    #[arg(long, value_name = "DIR", requires = "registration")]
    pub real: Option<PathBuf>,
    /// With --image: pack the closure of PATH, a store path or a link to one, instead of what the
    /// description includes. Can be repeated, and combined with --roots.
    #[arg(
        long = "path",
        value_name = "PATH",
        requires = "image",
        conflicts_with = "all_valid"
    )]
    pub paths: Vec<PathBuf>,
    /// With --image: pack the closures of the roots or profiles in DIR. Invalid paths are skipped.
    #[arg(
        long,
        value_name = "DIR",
        requires = "image",
        conflicts_with = "all_valid"
    )]
    pub roots: Vec<PathBuf>,
    /// With --image: how many processors the program that makes the image uses. 0 is all of them.
    #[arg(long, value_name = "COUNT", requires = "image", default_value_t = 0)]
    pub processors: u32,
    /// Publish everything that is valid in the live store, whatever the description includes. Every
    /// object is then kept as long as this generation, whether anything needs it or not.
    #[arg(long)]
    pub all_valid: bool,
    /// Hash every object that is published, or verified, and compare it with its row.
    #[arg(long)]
    pub contents: bool,
    /// Verify an existing lower store, and publish nothing. DIR is its root, or the directory of a
    /// publication, whose current generation is verified. Also reports what would trouble consumers.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["publication", "all_valid", "list", "retiring"])]
    pub check: Option<PathBuf>,
    /// With --check: make the directories and files that the Nix of consumers expects.
    #[arg(long, requires = "check")]
    pub prepare: bool,
    /// With --check, --from or --registration: the store directory, as store paths name it.
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with = "publication",
        default_value = "/nix/store"
    )]
    pub store: PathBuf,
    /// List the generations, and make none.
    #[arg(long, conflicts_with_all = ["all_valid", "contents", "retiring"])]
    pub list: bool,
    /// Retire generation N, and make none: consumers are warned, and nothing is lost yet. Its
    /// database and its roots are removed when the grace period (`keep.grace`) is over.
    #[arg(long, value_name = "N", group = "retiring", conflicts_with_all = ["all_valid", "contents"])]
    pub retire: Option<u64>,
    /// The same for all generations older than AGE (`30d`, `36h`).
    #[arg(long, value_name = "AGE", group = "retiring", conflicts_with_all = ["all_valid", "contents"])]
    pub retire_older_than: Option<Age>,
    /// The same for all but the newest COUNT.
    #[arg(
        long, value_name = "COUNT", group = "retiring",
        conflicts_with_all = ["all_valid", "contents"], value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub retire_all_but: Option<u64>,
    /// With a flag that retires: remove the databases and the roots at once. Consumers that still use
    /// such a generation fail, and the owner's next collection removes what only it kept.
    #[arg(long, requires = "retiring")]
    pub now: bool,
}

/// Arguments of `new`.
#[derive(Debug, Args)]
pub struct New {
    /// Print the description of a publication instead, for `/etc/overstore/publications`.
    #[arg(long)]
    pub publication: bool,
}

/// Arguments of `url`.
#[derive(Debug, Args)]
pub struct Url {
    #[command(flatten)]
    pub store: StoreArgument,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = UrlFormat::Url)]
    pub format: UrlFormat,
    /// Print the URL that users of the store's daemon need, instead of the daemon's own.
    #[arg(long)]
    pub client: bool,
    /// With --client: the daemon's socket, if it is not the system's own.
    #[arg(long, value_name = "SOCKET", requires = "client")]
    pub socket: Option<PathBuf>,
    /// Encode for this version of Nix (such as 2.26.3) instead of for all supported ones.
    #[arg(long, value_name = "VERSION")]
    pub nix_version: Option<String>,
}

/// How `url` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UrlFormat {
    /// The URL alone.
    Url,
    /// A variable for systemd's `EnvironmentFile=`.
    Env,
    /// Lines for nix.conf. Only for single-user stores: every Nix on the machine would use it.
    #[value(name = "nix.conf")]
    NixConf,
    /// JSON.
    Json,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
#[command(override_usage = "overstore exec <STORE> [-- <COMMAND>...]\n       \
                      overstore exec --ephemeral [OPTIONS] [-- <COMMAND>...]")]
pub struct Exec {
    /// A name, or a path to a TOML file. A name stands for NAME.toml in ~/.config/overstore (for
    /// ordinary users), /etc/overstore, /run/overstore or /usr/lib/overstore.
    #[arg(
        value_name = "STORE",
        required_unless_present = "ephemeral",
        conflicts_with = "ephemeral"
    )]
    pub store: Option<OsString>,
    /// Run in a new store over the machine's own, which is gone once the command and everything that
    /// it started have ended. Layers and state are in memory, or, where memory cannot serve, below
    /// $XDG_CACHE_HOME/overstore: see --dir.
    #[arg(long)]
    pub ephemeral: bool,
    /// With --ephemeral: keep layers and state below DIR, not in memory. The next run removes what a
    /// killed one has left there.
    #[arg(
        long,
        value_name = "DIR",
        requires = "ephemeral",
        conflicts_with = "store"
    )]
    pub dir: Option<PathBuf>,
    /// With --ephemeral: another lower store, written as in the key lower-store of a description.
    #[arg(
        long,
        value_name = "STORE-URL",
        requires = "ephemeral",
        conflicts_with = "store"
    )]
    pub lower: Option<String>,
    /// With --ephemeral: first copy the metadata of PATH's closure from the lower store.
    #[arg(
        long,
        value_name = "PATH",
        requires = "ephemeral",
        conflicts_with = "store"
    )]
    pub warm: Vec<PathBuf>,
    #[command(flatten)]
    pub allowed: Allowed,
    /// The command and its arguments. The default is your shell.
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,
}

/// Arguments of `remount`.
#[derive(Debug, Args)]
pub struct Remount {
    /// A store (a name, or a path to a TOML file), or the merged store directory itself.
    #[arg(value_name = "STORE-or-DIRECTORY")]
    pub target: OsString,
}

/// Arguments of `bug-report`.
#[derive(Debug, Args)]
pub struct BugReport {
    /// Names of the stores to report on, or paths to their TOML files. The default is all stores that
    /// have a name.
    #[arg(value_name = "STORE")]
    pub stores: Vec<OsString>,
    /// Write to FILE, which must not exist yet, or to standard output (`-`). The default is
    /// overstore-bug-report.txt in this directory; with --json, overstore-bug-report.json.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Arguments of `units`.
#[derive(Debug, Args)]
pub struct Units {
    /// The descriptions, all of one system: TOML files, each named after its store.
    #[arg(value_name = "FILE", required_unless_present = "publication")]
    pub files: Vec<PathBuf>,
    /// The description of a publication of that system.
    #[arg(long, value_name = "FILE")]
    pub publication: Vec<PathBuf>,
    /// Write to DIR. It is made if it is missing; otherwise it must be empty.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Write to a DIR that is not empty. Replaces only overstore's own files there.
    #[arg(long)]
    pub force: bool,
    /// Where that system has the files with the store URLs (`overstore-NAME.env`). They are written
    /// beside the units.
    #[arg(long, value_name = "DIR", default_value = "/etc/overstore")]
    pub variables: PathBuf,
    /// overstore in that system, if it is not the running program.
    #[arg(long, value_name = "PATH")]
    pub program: Option<PathBuf>,
    /// Nix's daemon in that system: a path, or a name that systemd looks up.
    #[arg(long, value_name = "PATH", default_value = "nix-daemon")]
    pub nix_daemon: PathBuf,
}

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub struct Schema {
    /// Which schema.
    #[arg(value_enum, default_value_t = SchemaName::Configuration)]
    pub name: SchemaName,
}

/// The JSON schemas there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaName {
    /// The configuration file.
    Configuration,
    /// The description of a publication.
    Publication,
    /// The output of `up`, `down`, `plan` and `check`.
    Report,
    /// The output of `url`.
    Url,
    /// The output of `status`.
    Status,
    /// The output of `list`.
    List,
    /// The output of `check`, `status`, `gc` and `refresh` for several stores, or with `--all`.
    Stores,
    /// The output of `check --list`.
    Codes,
    /// The output of `warm`.
    Warm,
    /// The output of `gc`.
    Gc,
    /// The output of `optimise`.
    Optimise,
    /// The output of `reconcile`.
    Reconcile,
    /// The output of `gc --why`.
    Why,
    /// The output of `refresh`.
    Refresh,
    /// The output of `publish`.
    Publish,
    /// The output of `publish --check`.
    PublishCheck,
    /// The content of the file that `bug-report --json` writes.
    BugReport,
    /// The output of `publish --image`.
    PublishImage,
    /// The output of any command that fails before it has a result (exit code 2, or 3 without a report).
    Error,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// Arguments of `manual`.
#[derive(Debug, Args)]
pub struct Manual {
    /// Write to the directories `man1`, `man5` and `man8` in DIR, which are made if they are missing.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}
