//! A store on which nothing is wrong, as values: what the tests of rules and plans begin with.

use std::path::{Path, PathBuf};

use crate::compare::Objects;
use crate::config::{self, Environment, MetadataSource, Store};
use crate::linux::file_identity::FileIdentity;
use crate::nix::layout;
use crate::nix::mount_check::Verdict;
use crate::nix::schema;
use crate::observe::*;
use crate::overlayfs::defaults::Defaults;
use crate::overlayfs::mountinfo::MountInfo;
use crate::records::layer_mark::Mark;

/// The worked example of Nix's manual, with a lower store that Nix does not write to.
pub(crate) const DESCRIPTION: &str = "root = \"/mnt/example/merged-store\"\n\
                               lower-store = \"/mnt/example/store-a?read-only=true\"\n\
                               upper-layer = \"/mnt/example/store-b\"\n\
                               workdir = \"/mnt/example/workdir\"\n";

/// The build users' group.
pub(crate) const GROUP: u32 = 30000;

/// The upper layer's mark.
const MARK: &str = "0123456789abcdef0123456789abcdef";

/// The number of the mount that all directories are on.
const MOUNT: u64 = 20;

/// The store that a description describes.
pub(crate) fn store(description: &str) -> Store {
    let environment = Environment {
        remount_hook: Some("/usr/bin/overstore-remount".into()),
        ..Environment::default()
    };
    config::parse("example", "example.toml", description, &environment).unwrap()
}

/// The machine on which it is up, root asking.
pub(crate) fn observed(store: &Store) -> Observed {
    Observed {
        machine: Machine {
            uid: 0,
            user_namespace: false,
            can_mount: true,
            kernel: "6.12.0".to_owned(),
            overlay_loaded: true,
            overlay_defaults: Some(Defaults {
                redirect_always_follow: true,
                ..Defaults::default()
            }),
            min_free: None,
            build_users_gid: store.build_users_group.as_ref().map(|_| GROUP),
        },
        lower: lower(&store.lower),
        upper_layer: LayerFacts {
            links: Links::Opaque,
            place: Place {
                path: store.upper_layer.clone(),
                found: Found::Directory(Stat {
                    mode: 0o1775,
                    gid: GROUP,
                    ..stat()
                }),
            },
            ..layer(&store.upper_layer)
        },
        workdir: layer(&store.workdir),
        mount: mount(
            &store.real,
            &store.lower.real,
            &store.upper_layer,
            &store.workdir,
        ),
        state: [
            "",
            "db",
            "gcroots",
            "gcroots/per-user",
            "profiles",
            "profiles/per-user",
            "temproots",
        ]
        .map(|name| {
            place(match name {
                "" => store.state.value.clone(),
                _ => store.state.join(name),
            })
        })
        .into(),
        pairing: Pairing {
            mark: Mark::Is(MARK.to_owned()),
            remembered: true,
            remembered_mark: Some(MARK.to_owned()),
            remembered_rows: 0,
            accepted_loss: false,
            objects: 0,
            rows: Rows::Known(Objects::default()),
        },
        database: DatabaseFacts {
            file: file(0o644, 65536),
            schema: Ok(Some("10".to_owned())),
            big_lock: file(0o600, 0),
            reserved: file(0o600, layout::RESERVED_SIZE),
            content: Some(Ok(DatabaseContent {
                schema: schema::Verdict::default(),
                wal: store.use_sqlite_wal,
                quick_check: Vec::new(),
                foreign_keys: Vec::new(),
            })),
        },
        left: LeftByMounts::default(),
        not_shown: Vec::new(),
        refused: None,
        overlays_below: 0,
        hook: store.remount_hook.as_ref().map(|_| HookFacts {
            runs: true,
            target: Some("overstore".into()),
            unsafe_because: None,
            program: Some("/usr/bin/overstore".into()),
        }),
        parts: PartFacts::default(),
    }
}

/// The same machine before the first `up`: only the lower store is there.
pub(crate) fn untouched(store: &Store) -> Observed {
    let mut observed = observed(store);
    let missing = |place: &mut Place| {
        place.found = nothing_below("/mnt/example");
    };
    for layer in [&mut observed.upper_layer, &mut observed.workdir] {
        missing(&mut layer.place);
        (layer.xattrs, layer.d_type, layer.strangers) = (None, None, None);
        (layer.links, layer.usage) = (Links::Missing, Usage::Unknown);
    }
    missing(&mut observed.mount.place);
    unmounted(&mut observed);
    observed.state.iter_mut().for_each(missing);
    observed.database = DatabaseFacts {
        file: FileFacts::Missing,
        schema: Ok(None),
        big_lock: FileFacts::Missing,
        reserved: FileFacts::Missing,
        content: None,
    };
    observed
}

/// Takes the overlay away.
pub(crate) fn unmounted(observed: &mut Observed) {
    observed.mount.stack.clear();
    observed.mount.overlay = None;
    observed.mount.nix_check = Verdict::NoMount;
}

/// A directory of root's.
pub(crate) fn stat() -> Stat {
    Stat {
        identity: FileIdentity {
            dev: 0xfe01,
            ino: 12,
        },
        mode: 0o755,
        uid: 0,
        gid: 0,
        fs: FileSystem {
            name: "ext4".to_owned(),
            fsid: 7,
            mount_id: MOUNT,
            read_only: false,
            longest_name: 255,
            unbindable: false,
        },
    }
}

/// Nothing, below a directory of root's.
pub(crate) fn nothing_below(nearest: &str) -> Found {
    Found::Missing {
        nearest: nearest.into(),
        above: stat(),
    }
}

/// A directory of root's, at a path.
pub(crate) fn place(path: PathBuf) -> Place {
    let mut stat = stat();
    // Each path is one of its own.
    let bytes = path.as_os_str().as_encoded_bytes();
    stat.identity.ino = bytes
        .iter()
        .fold(100, |sum, byte| sum * 31 % 65521 + u64::from(*byte));
    Place {
        path,
        found: Found::Directory(stat),
    }
}

/// A file of root's.
pub(crate) fn file(mode: u32, size: u64) -> FileFacts {
    FileFacts::File {
        mode,
        uid: 0,
        gid: 0,
        size,
    }
}

/// The remount hook, to be changed.
pub(crate) fn the_hook(observed: &mut Observed) -> &mut HookFacts {
    observed.hook.as_mut().expect("the description has one")
}

/// The facts of a directory, to be changed.
pub(crate) fn directory(place: &mut Place) -> &mut Stat {
    match &mut place.found {
        Found::Directory(stat) => stat,
        other => panic!("{other:?}"),
    }
}

/// The overlay in effect, to be changed.
pub(crate) fn overlay(observed: &mut Observed) -> &mut OverlayFacts {
    observed.mount.overlay.as_mut().unwrap()
}

/// Shows further options in the overlay's line of `mountinfo`.
pub(crate) fn show_options(observed: &mut Observed, options: &str) {
    let shown = &mut overlay(observed).info.super_options;
    shown.extend_from_slice(b",");
    shown.extend_from_slice(options.as_bytes());
}

/// A line of `mountinfo` for a mount at the merged store directory of the example.
pub(crate) fn line(fs_type: &str) -> MountInfo {
    let text = format!("90 20 0:44 / /mnt/example/merged-store/nix/store rw - {fs_type} none rw");
    MountInfo::parse(text.as_bytes()).unwrap()
}

fn layer(path: &Path) -> LayerFacts {
    LayerFacts {
        place: place(path.to_owned()),
        xattrs: Some(true),
        other_xattrs: None,
        unchangeable: false,
        d_type: Some(true),
        links: Links::Missing,
        strangers: Some(Vec::new()),
        left: Some(Vec::new()),
        usage: Usage::Free,
    }
}

fn lower(lower: &config::Lower) -> LowerFacts {
    LowerFacts {
        directory: place(lower.real.clone()),
        resolved: None,
        strangers: None,
        publication: lower.publication.as_ref().map(|_| PublicationFacts {
            link: LinkFacts::Generation(3),
            current: Ok(3),
            used: Ok(Some(UsedGeneration {
                time: 1_700_000_000,
                retired_until: None,
            })),
        }),
        source: match &lower.source {
            MetadataSource::Database { state, .. } => database(state),
            MetadataSource::Daemon { .. } => SourceFacts::Daemon {
                answer: Some(Ok("2.34.8".to_owned())),
            },
            MetadataSource::Overlay {
                state,
                upper_layer,
                lower: below,
                ..
            } => SourceFacts::Overlay {
                upper: Box::new(database(state)),
                mount: Box::new(mount(
                    &lower.real,
                    &below.real,
                    upper_layer,
                    "/mnt/middle/work".as_ref(),
                )),
                lower: Box::new(self::lower(below)),
            },
            MetadataSource::Ssh { .. } => SourceFacts::Ssh,
        },
    }
}

fn database(state: &Path) -> SourceFacts {
    SourceFacts::Database {
        database: file(0o644, 65536),
        log: Some(LogFacts::Empty),
        schema: Some("10".to_owned()),
        state: place(state.to_owned()),
        missing: Vec::new(),
    }
}

fn mount(real: &Path, lower: &Path, upper: &Path, work: &Path) -> MountFacts {
    let text = format!(
        "80 20 0:43 / {} rw,relatime - overlay overlay rw,lowerdir={},upperdir={},workdir={}",
        real.display(),
        lower.display(),
        upper.display(),
        work.display()
    );
    let info = MountInfo::parse(text.as_bytes()).unwrap();
    MountFacts {
        place: place(real.to_owned()),
        stack: vec![info.clone()],
        above: None,
        buried: Vec::new(),
        overlay: Some(OverlayFacts {
            info,
            under_bind: false,
            lower: Identity::Same,
            upper: Identity::Same,
            workdir: Identity::Same,
            recorded: Some(Recorded::Same),
        }),
        nix_check: Verdict::Accepted,
    }
}
