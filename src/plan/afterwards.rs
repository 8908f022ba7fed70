//! The machine as the steps of a plan would leave it: what is wrong with it is what `up` ends with.

use std::path::Path;

use super::{Allowed, Overlay, Step};
use crate::compare::Objects;
use crate::config::Store;
use crate::linux::file_identity::FileIdentity;
use crate::nix::layout;
use crate::nix::mount_check::Verdict;
use crate::nix::schema;
use crate::observe::{
    FileFacts, Found, Identity, LayerFacts, LeftByMounts, LinkFacts, Links, MountFacts, Observed,
    OverlayFacts, Place, Recorded, Rows, Stat, UsedGeneration,
};
use crate::overlayfs::mountinfo::MountInfo;
use crate::records::layer_mark::Mark;

/// Which directory one is that is still to be made: none that there is.
const NOT_MADE: FileIdentity = FileIdentity { dev: 0, ino: 0 };

/// The machine after the steps.
pub(super) fn afterwards(
    store: &Store,
    observed: &Observed,
    steps: &[Step],
    allowed: Allowed,
) -> Observed {
    let mut after = observed.clone();
    for step in steps {
        after.take(store, step, allowed);
    }
    after
}

impl Observed {
    /// Changes what a step changes.
    fn take(&mut self, store: &Store, step: &Step, allowed: Allowed) {
        match step {
            Step::MakeDirectory { path, mode, gid } => {
                let uid = self.machine.uid;
                for place in self.places(path) {
                    place.is_made(*mode, uid, *gid);
                }
            }
            Step::FixPermissions {
                path,
                mode,
                uid,
                gid,
            } => {
                // The merged store directory shows the upper layer.
                let path = match *path == *store.real {
                    true => &store.upper_layer,
                    false => path,
                };
                for place in self.places(path) {
                    if let Found::Directory(stat) = &mut place.found {
                        (stat.mode, stat.uid, stat.gid) = (*mode, *uid, *gid);
                    }
                }
            }
            Step::MakeLinksOpaque { .. } | Step::RestoreMarks { .. } => {
                self.upper_layer.links = Links::Opaque;
            }
            Step::MarkUpperLayer { mark, .. } => {
                self.pairing.mark = Mark::Is(mark.clone().unwrap_or_default());
            }
            Step::MakeState { .. } => {
                let uid = self.machine.uid;
                for place in &mut self.state {
                    place.is_made(layout::DIRECTORY_MODE, uid, None);
                }
            }
            Step::MakeDatabase { .. } => {
                let file = |mode, size| FileFacts::File {
                    mode,
                    uid: self.machine.uid,
                    gid: 0,
                    size,
                };
                self.database.file = file(0o644, 1);
                self.database.big_lock = file(0o600, 0);
                self.database.reserved = file(0o600, layout::RESERVED_SIZE);
                self.database.schema = Ok(Some(schema::VERSION.to_string()));
                self.pairing.rows = Rows::Known(Objects::default());
            }
            Step::LinkHook { program, .. } => {
                if let Some(hook) = &mut self.hook {
                    hook.runs = true;
                    hook.target = Some(program.clone());
                }
            }
            Step::LinkGeneration { .. } => {
                if let Some(facts) = &mut self.lower.publication
                    && let Ok(current) = facts.current
                {
                    facts.link = LinkFacts::Generation(current);
                    facts.used = Ok(Some(UsedGeneration {
                        time: 0,
                        retired_until: None,
                    }));
                }
            }
            Step::Mount(overlay) => {
                self.machine.overlay_loaded = true;
                self.left = LeftByMounts::default();
                self.mount.is_mounted(overlay, &self.upper_layer);
                let pairing = &mut self.pairing;
                pairing.remembered = true;
                if let Mark::Is(mark) = &pairing.mark {
                    pairing.remembered_mark = Some(mark.clone());
                }
                pairing.accepted_loss |= allowed.loss();
            }
        }
    }

    /// What is known of a path.
    fn places(&mut self, path: &Path) -> impl Iterator<Item = &mut Place> {
        let layers = [
            &mut self.upper_layer.place,
            &mut self.workdir.place,
            &mut self.mount.place,
        ];
        let path = path.to_owned();
        layers
            .into_iter()
            .chain(&mut self.state)
            .filter(move |place| place.path == path)
    }
}

impl Place {
    /// It is a new directory, where it was missing.
    fn is_made(&mut self, mode: u32, uid: u32, gid: Option<u32>) {
        if let Found::Missing { above, .. } = &self.found {
            self.found = Found::Directory(Stat {
                identity: NOT_MADE,
                mode,
                uid,
                gid: gid.unwrap_or(0),
                ..above.clone()
            });
        }
    }
}

impl MountFacts {
    /// The overlay is mounted there.
    fn is_mounted(&mut self, overlay: &Overlay, upper_layer: &LayerFacts) {
        let info = MountInfo {
            id: 0,
            parent: 0,
            major: 0,
            minor: 0,
            root: "/".into(),
            mount_point: overlay.real.clone(),
            options: b"rw,relatime".to_vec(),
            optional: Vec::new(),
            fs_type: "overlay".into(),
            source: "overlay".into(),
            super_options: overlay.options.as_shown(),
        };
        self.place.found = upper_layer.place.found.clone();
        self.stack.insert(0, info.clone());
        self.overlay = Some(OverlayFacts {
            info,
            under_bind: false,
            lower: Identity::Same,
            upper: Identity::Same,
            workdir: Identity::Same,
            recorded: Some(Recorded::Same),
        });
        // Where it can: a path with which it never passes is the description's matter.
        self.nix_check = Verdict::Accepted;
    }
}
