//! What is to be done, as values: the steps from the machine as observed to the store as described.

mod afterwards;
mod overlay;

use std::path::{Path, PathBuf};

pub use overlay::Overlay;

use schemars::JsonSchema;
use serde::Serialize;

use crate::check::{self, Code, Finding};
use crate::config::Store;
use crate::escape::{show, show_path};
use crate::lower::publication::path_of;
use crate::nix::layout;
use crate::observe::{FileFacts, Found, LinkFacts, Links, Observed, Place, Stat};
use crate::records::layer_mark::Mark;

/// What `up` may do that it does not do unasked: each is a flag of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Existing directories get the owner and mode that Nix would give them.
    pub fix_permissions: bool,
    /// A new upper database is made although the upper layer holds objects.
    pub lost_database: bool,
    /// This upper layer is taken although the upper database belongs to another one.
    pub other_layer: bool,
    /// The store comes up without any of the objects that the upper database names.
    pub lost_objects: bool,
    /// Lost marks of the upper layer are set again.
    pub restore_marks: bool,
}

impl Allowed {
    /// Whether what would stop `up` is said to be accepted.
    fn lets_through(self, code: Code) -> bool {
        match code {
            Code::DatabaseLost => self.lost_database,
            Code::UpperReplaced => self.other_layer,
            Code::ObjectsLost => self.lost_objects,
            Code::MarksLost => self.restore_marks,
            _ => false,
        }
    }

    /// Whether it is said that objects are given up.
    pub(crate) fn loss(self) -> bool {
        self.other_layer || self.lost_objects
    }
}

/// What `up` does, and what it ends with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The steps that it takes, in order. Empty when there is nothing to do.
    pub steps: Vec<Step>,
    /// What is not as it should be after them, as far as it can be told before.
    pub findings: Vec<Finding>,
}

/// One step. Each is atomic or safe to repeat: a process killed between or within steps leaves a
/// state from which a new plan leads to the same end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make a directory, and its missing parents as root's own with mode 0755.
    MakeDirectory {
        /// Where.
        path: PathBuf,
        /// Permission bits, sticky bit included; the umask is not applied.
        mode: u32,
        /// The group, or `None` for the process's own.
        gid: Option<u32>,
    },
    /// Give an existing directory the owner and mode that Nix would give it (only with
    /// `--fix-permissions`).
    FixPermissions {
        /// Which.
        path: PathBuf,
        /// Permission bits, sticky bit included.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Make `.links` in the upper layer, opaque, so that the lower store's entries do not show.
    MakeLinksOpaque {
        /// The upper layer.
        upper_layer: PathBuf,
        /// Whether `user.overlay.*` is used instead of `trusted.overlay.*`.
        userxattr: bool,
    },
    /// Mark the directories of the upper layer opaque again that hide one of the lower store's.
    RestoreMarks {
        /// The upper layer.
        upper_layer: PathBuf,
        /// As in [`Step::MakeLinksOpaque`].
        userxattr: bool,
    },
    /// Mark the upper layer, so that it is known again.
    MarkUpperLayer {
        /// The upper layer.
        upper_layer: PathBuf,
        /// The mark that it had, or `None` for a new one.
        mark: Option<String>,
    },
    /// Make what Nix makes in the state directory and is not there: directories, the link
    /// `gcroots/profiles`.
    MakeState {
        /// The state directory.
        state: PathBuf,
        /// Whether there is no upper database yet: Nix makes the link for a new store only.
        new: bool,
    },
    /// Make the upper database, or finish one whose making was interrupted.
    MakeDatabase {
        /// The state directory.
        state: PathBuf,
        /// Whether it uses a write-ahead log.
        wal: bool,
    },
    /// Link the remount hook in the state directory to the running program.
    LinkHook {
        /// The hook.
        hook: PathBuf,
        /// The running program.
        program: PathBuf,
    },
    /// Have the store's own link lead to a generation of the lower store's publication.
    LinkGeneration {
        /// The link.
        link: PathBuf,
        /// The directory of the generation.
        generation: PathBuf,
    },
    /// Mount the overlay, compare what it shows, and record it.
    Mount(Overlay),
}

/// A step as it is shown: by `plan`, by `up`, and as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct StepReport {
    /// What kind of step.
    pub step: StepKind,
    /// The path it is about, escaped where it cannot be printed.
    pub subject: String,
    /// The step in words, as one would say it to a person.
    pub text: String,
}

/// The kinds of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StepKind {
    /// Make a directory.
    MakeDirectory,
    /// Give a directory its owner and mode.
    FixPermissions,
    /// Make `.links` in the upper layer.
    MakeLinksOpaque,
    /// Mark directories of the upper layer opaque again.
    RestoreMarks,
    /// Mark the upper layer.
    MarkUpperLayer,
    /// Make what Nix needs in the state directory.
    MakeState,
    /// Make the upper database.
    MakeDatabase,
    /// Link the remount hook to the running program.
    LinkHook,
    /// Have the store's own link lead to a generation of the lower store's publication.
    LinkGeneration,
    /// Mount the overlay.
    Mount,
    /// Copy metadata from the lower store.
    Warm,
    /// Put the upper store right over a lower store that was replaced.
    Reconcile,
    /// Unmount the overlay.
    Unmount,
}

impl StepReport {
    /// Whether the step mounts the overlay.
    pub(crate) fn is_mount(&self) -> bool {
        self.step == StepKind::Mount
    }

    /// The step before the first one where the lower store was replaced and the description has that
    /// put right.
    pub(crate) fn reconcile(store: &Store, what: &str) -> StepReport {
        StepReport {
            step: StepKind::Reconcile,
            subject: show_path(&store.database()).into_owned(),
            text: format!("reconcile with the lower store: {what}"),
        }
    }

    /// The step after the last one where the description has a `warm`: metadata is copied.
    pub(crate) fn warm(store: &Store) -> StepReport {
        StepReport {
            step: StepKind::Warm,
            subject: show_path(&store.database()).into_owned(),
            text: "copy metadata from the lower store".to_owned(),
        }
    }
}

/// Computes the steps from the machine as observed to the store as described.
///
/// # Errors
/// The findings that no step fixes and that make it wrong to begin: of the machine as it is, or, where
/// those are none, of the machine as the steps would leave it.
pub(crate) fn plan(
    store: &Store,
    observed: &Observed,
    allowed: Allowed,
) -> Result<Plan, Vec<Finding>> {
    let now = without_obstacles(check::check(store, observed), allowed)?;
    let planning = Planning {
        observed,
        allowed,
        steps: Vec::new(),
    };
    let steps = planning.run(store);
    let findings = match steps.is_empty() {
        true => now,
        false => {
            let after = afterwards::afterwards(store, observed, &steps, allowed);
            without_obstacles(check::check(store, &after), allowed)?
        }
    };
    Ok(Plan { steps, findings })
}

/// The findings, if none stops `up`; else those that do.
fn without_obstacles(
    findings: Vec<Finding>,
    allowed: Allowed,
) -> Result<Vec<Finding>, Vec<Finding>> {
    let (obstacles, others): (Vec<Finding>, Vec<Finding>) = findings
        .into_iter()
        .partition(|finding| finding.stops_up && !allowed.lets_through(finding.code));
    match obstacles.is_empty() {
        true => Ok(others),
        false => Err(obstacles),
    }
}

/// A plan in the making.
struct Planning<'a> {
    observed: &'a Observed,
    allowed: Allowed,
    steps: Vec<Step>,
}

impl Planning<'_> {
    fn run(mut self, store: &Store) -> Vec<Step> {
        let observed = self.observed;
        let machine = &observed.machine;
        let group = machine.build_users_gid.filter(|_| !machine.user_namespace);
        let userxattr = machine.user_namespace || store.userxattr();
        let mounted = observed.mount.overlay.is_some();

        self.directories(store, group, mounted);
        if !mounted {
            self.marks(store, userxattr);
        }
        self.state(store);
        self.hook(store);
        if !mounted {
            self.steps.push(Step::Mount(Overlay::of(store, userxattr)));
        }
        self.steps
    }

    /// The work directory, the upper layer and the mount point.
    fn directories(&mut self, store: &Store, group: Option<u32>, mounted: bool) {
        let observed = self.observed;
        // First the work directory: set-ups of one store wait for each other at its lock.
        self.directory(&observed.workdir.place, layout::DIRECTORY_MODE, None);
        let upper_mode = layout::store_directory_mode(group.is_some());
        match &observed.upper_layer.place.found {
            // A layer must not be changed below its overlay, whose root directory it is.
            Found::Directory(stat) if mounted => self.fix(stat, &store.real, upper_mode, group),
            _ => self.directory(&observed.upper_layer.place, upper_mode, group),
        }
        // The mount point's own owner and mode disappear under the mount.
        if !mounted && matches!(observed.mount.place.found, Found::Missing { .. }) {
            self.directory(&observed.mount.place, layout::DIRECTORY_MODE, None);
        }
    }

    /// The extended attributes of an upper layer that is not mounted.
    fn marks(&mut self, store: &Store, userxattr: bool) {
        let observed = self.observed;
        let upper_layer = || store.upper_layer.clone();
        // Its own mark comes last: it says that the others are there.
        if self.allowed.restore_marks {
            self.steps.push(Step::RestoreMarks {
                upper_layer: upper_layer(),
                userxattr,
            });
        }
        if matches!(
            observed.upper_layer.links,
            Links::Missing | Links::Transparent | Links::Foreign
        ) {
            self.steps.push(Step::MakeLinksOpaque {
                upper_layer: upper_layer(),
                userxattr,
            });
        }
        if observed.pairing.mark == Mark::None {
            let known = observed.pairing.remembered_mark.clone();
            self.steps.push(Step::MarkUpperLayer {
                upper_layer: upper_layer(),
                mark: known.filter(|_| self.allowed.restore_marks),
            });
        }
    }

    /// The state directory and the upper database.
    fn state(&mut self, store: &Store) {
        let observed = self.observed;
        let unfinished = observed.database.schema == Ok(None)
            || matches!(
                observed.database.file,
                FileFacts::Missing | FileFacts::File { size: 0, .. }
            );
        let missing = |place: &Place| matches!(place.found, Found::Missing { .. });
        if unfinished || observed.state.iter().any(missing) {
            self.steps.push(Step::MakeState {
                state: store.state.value.clone(),
                new: unfinished,
            });
        }
        for place in observed.state.iter().filter(|place| !missing(place)) {
            self.directory(place, layout::DIRECTORY_MODE, None);
        }
        // What is remembered of the lower store is read through it.
        self.generation(store);
        if unfinished {
            self.steps.push(Step::MakeDatabase {
                state: store.state.value.clone(),
                wal: store.use_sqlite_wal,
            });
        }
    }

    /// The link through which Nix calls this program after it has added a path.
    fn hook(&mut self, store: &Store) {
        if store.hook_is_made()
            && let (Some(hook), Some(facts)) = (&store.remount_hook, &self.observed.hook)
            && let Some(program) = &facts.program
            && facts.target.as_ref() != Some(program)
            && (facts.target.is_some() || !facts.runs)
        {
            self.steps.push(Step::LinkHook {
                hook: hook.clone(),
                program: program.clone(),
            });
        }
    }

    /// Links the current generation, where none is linked yet. Another one takes more than that:
    /// `refresh` sees whether it has what the upper store needs.
    fn generation(&mut self, store: &Store) {
        let facts = self.observed.lower.publication.as_ref();
        if let Some((publication, link)) = store.lower.published()
            && let Some(facts) = facts.filter(|facts| facts.link == LinkFacts::Missing)
            && let Ok(current) = facts.current
        {
            self.steps.push(Step::LinkGeneration {
                link: link.to_owned(),
                generation: path_of(publication, current),
            });
        }
    }

    /// Makes a directory that is missing; fixes one that exists, if that was asked for.
    fn directory(&mut self, place: &Place, mode: u32, gid: Option<u32>) {
        match &place.found {
            Found::Missing { .. } => self.steps.push(Step::MakeDirectory {
                path: place.path.clone(),
                mode,
                gid,
            }),
            Found::Directory(stat) => self.fix(stat, &place.path, mode, gid),
            _ => {}
        }
    }

    /// Gives a directory, whose facts are `stat`, its owner and mode by the path `path`.
    fn fix(&mut self, stat: &Stat, path: &Path, mode: u32, gid: Option<u32>) {
        let uid = self.observed.machine.uid;
        // A user's own namespace knows no other groups than the user's.
        let own = self.observed.machine.user_namespace;
        let gid = gid.unwrap_or(if own { stat.gid } else { 0 });
        if self.allowed.fix_permissions && (stat.mode, stat.uid, stat.gid) != (mode, uid, gid) {
            self.steps.push(Step::FixPermissions {
                path: path.to_owned(),
                mode,
                uid,
                gid,
            });
        }
    }
}

impl Step {
    /// The step as it is shown.
    pub(crate) fn report(&self) -> StepReport {
        let (step, subject, text) = match self {
            Step::MakeDirectory { path, mode, gid } => {
                let shown = show_path(path);
                let group = gid.map(|gid| format!(", group {gid}")).unwrap_or_default();
                let text = format!("make the directory {shown} (mode {mode:04o}{group})");
                (StepKind::MakeDirectory, path, text)
            }
            Step::FixPermissions {
                path,
                mode,
                uid,
                gid,
            } => {
                let shown = show_path(path);
                let text = format!("give {shown} the owner {uid}:{gid} and the mode {mode:04o}");
                (StepKind::FixPermissions, path, text)
            }
            Step::MakeLinksOpaque { upper_layer, .. } => {
                let links = show_path(upper_layer);
                let text = format!("make {links}/.links, opaque, to hide the lower store's");
                (StepKind::MakeLinksOpaque, upper_layer, text)
            }
            Step::RestoreMarks { upper_layer, .. } => {
                let shown = show_path(upper_layer);
                let text = format!(
                    "mark the directories in {shown} opaque again that hide the lower store's"
                );
                (StepKind::RestoreMarks, upper_layer, text)
            }
            Step::MarkUpperLayer { upper_layer, .. } => {
                let shown = show_path(upper_layer);
                let text = format!("mark {shown} as this store's upper layer");
                (StepKind::MarkUpperLayer, upper_layer, text)
            }
            Step::MakeState { state, .. } => {
                let shown = show_path(state);
                let text = format!("make what Nix needs in the state directory {shown}");
                (StepKind::MakeState, state, text)
            }
            Step::MakeDatabase { state, wal } => {
                let journal = if *wal {
                    ""
                } else {
                    " (without a write-ahead log)"
                };
                let shown = layout::database(state);
                let shown = show_path(&shown);
                let text = format!("make the upper database {shown}{journal}");
                (StepKind::MakeDatabase, state, text)
            }
            Step::LinkHook { hook, program } => {
                let (shown, program) = (show_path(hook), show_path(program));
                let text = format!("link the remount hook {shown} to {program}");
                (StepKind::LinkHook, hook, text)
            }
            Step::LinkGeneration { link, generation } => {
                let (shown, generation) = (show_path(link), show_path(generation));
                let text = format!("link {shown} to the generation {generation}");
                (StepKind::LinkGeneration, link, text)
            }
            Step::Mount(overlay) => {
                let options = overlay.options.text().unwrap_or_default();
                let (real, text) = (show_path(&overlay.real), show(&options));
                let text = format!("mount the overlay at {real} with {text}");
                (StepKind::Mount, &overlay.real, text)
            }
        };
        StepReport {
            step,
            subject: show_path(subject).into_owned(),
            text,
        }
    }
}

#[cfg(test)]
mod tests;
