//! What the library knows of Nix, asked of real Nix: how it reads store URLs, what its mount check
//! says, what it makes in a new store.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::{LowerStore, Outcome, World};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use overstore::testing::escape::show;
use overstore::testing::nix::NixVersion;
use overstore::testing::nix::layout;
use overstore::testing::nix::mount_check::{CheckedPath, Verdict, predict, unmatchable};
use overstore::testing::nix::schema;
use overstore::testing::nix::schema::SchemaObject;
use overstore::testing::nix::url::{StoreKind, StoreReference, UrlRules};
use overstore::testing::overlayfs::MountOptions;
use rusqlite::Connection;
use rustix::mount as api;

/// Parts of names: every kind of byte that means something to somebody on the way.
const NAMES: &[&[u8]] = &[
    b"plain",
    b"a.b",
    b"a b",
    b"a+b",
    b"a\\b",
    b"a,b",
    b"a:b",
    b"a$b",
    b"a^b",
    b"a*b",
    b"a?b",
    b"a|b",
    b"a(b)",
    b"a(b",
    b"a[b]",
    b"a]b",
    b"a{2}",
    b"a{b",
    b"a}b",
    b"a#b",
    b"a%b",
    b"a%20b",
    b"a&b",
    b"a=b;c'd!e@f~g",
    b"a\"b`c<d>e",
    b"\xc3\xa4",
    b"\xff",
    b"a\tb",
    b"a\rb",
    b"a\x01b\x7fc",
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Role {
    Root,
    Lower,
    Upper,
    State,
    LowerState,
}

/// The paths of one local-overlay store; one of them has a name to be tested.
struct Paths {
    root: PathBuf,
    lower: PathBuf,
    upper: PathBuf,
    state: PathBuf,
    lower_state: PathBuf,
    work: PathBuf,
}

impl Paths {
    fn new(role: Role, name: &[u8]) -> Self {
        let path = |this: Role, plain: &str| {
            let name = if role == this { name } else { b"plain" };
            PathBuf::from(OsStr::from_bytes(&[plain.as_bytes(), name].concat()))
        };
        let root = path(Role::Root, "/mnt/root-");
        let lower = path(Role::Lower, "/mnt/lower-");
        let beside = |default: &Path, this, plain| match role == this {
            true => path(this, plain),
            false => default.join("nix/var/nix"),
        };
        Self {
            upper: path(Role::Upper, "/mnt/upper-"),
            state: beside(&root, Role::State, "/mnt/state-"),
            lower_state: beside(&lower, Role::LowerState, "/mnt/lower-state-"),
            work: "/mnt/work".into(),
            root,
            lower,
        }
    }

    fn plain() -> Self {
        Self::new(Role::Root, b"plain")
    }

    fn real(&self) -> PathBuf {
        self.root.join("nix/store")
    }

    fn lower_real(&self) -> PathBuf {
        self.lower.join("nix/store")
    }

    fn options(&self) -> Vec<u8> {
        let options = MountOptions {
            lowerdir: self.lower_real(),
            upperdir: self.upper.clone(),
            workdir: self.work.clone(),
            further: Vec::new(),
        };
        options.text().unwrap()
    }

    fn reference(&self) -> StoreReference {
        let mut lower = StoreReference::new(StoreKind::Local).with("root", bytes(&self.lower));
        if self.lower_state != self.lower.join("nix/var/nix") {
            lower.set("state", bytes(&self.lower_state));
        }
        let mut store = StoreReference::new(StoreKind::LocalOverlay)
            .with("root", bytes(&self.root))
            .with("lower-store", lower)
            .with("upper-layer", bytes(&self.upper));
        if self.state != self.root.join("nix/var/nix") {
            store.set("state", bytes(&self.state));
        }
        store
    }

    /// Moves the lower store to its place, or back.
    fn place_lower_store(&self, world: &World, lower: &LowerStore, there: bool) {
        let mut moves = vec![
            (PathBuf::from(&lower.root), self.lower.clone()),
            (self.lower.join("nix/var/nix"), self.lower_state.clone()),
        ];
        moves.retain(|(from, to)| from != to);
        if !there {
            moves.reverse();
        }
        for (from, to) in moves {
            let (from, to) = if there { (from, to) } else { (to, from) };
            fs::rename(world.path(from), world.path(to)).unwrap();
        }
    }

    /// Makes the directories that a mount needs.
    fn make(&self, world: &World) {
        for directory in [&self.real(), &self.upper, &self.work] {
            world.mkdir(directory);
        }
    }

    /// Takes away what the mount and Nix made.
    fn remove(&self, world: &World) {
        world.ok([OsStr::new("umount"), self.real().as_os_str()]);
        for directory in [&self.root, &self.upper, &self.work, &self.state] {
            let _ = fs::remove_dir_all(world.path(directory));
        }
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Does something in the mount namespace of the World, on a thread of its own.
fn inside<T: Send>(world: &World, action: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(world.path("/").with_file_name("ns").join("mnt")).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // The root and working directories change with the namespace, so they must be our own.
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNS).unwrap();
            action()
        });
        thread.join().unwrap()
    })
}

fn mount_overlay(world: &World, source: &str, options: &[u8], at: &Path) {
    let options = CString::new(options).unwrap();
    inside(world, || {
        mount(
            Some(source),
            at,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_c_str()),
        )
        .unwrap_or_else(|errno| panic!("{options:?}: {errno}"));
    });
}

fn rules(world: &World) -> UrlRules {
    version(world).into()
}

fn version(world: &World) -> NixVersion {
    NixVersion::from_version_output(&world.nix(["nix", "--version"]).ok()).unwrap()
}

fn path_info(world: &World, url: &str, path: &str) -> Outcome {
    world.nix(["nix", "path-info", "--store", url, path]).run()
}

/// The mount table as Nix sees it.
fn mounts(world: &World) -> Vec<u8> {
    world.run(["cat", "/proc/self/mounts"]).out
}

#[test]
fn every_name_is_read_and_judged_as_nix_does() {
    for world in World::each() {
        let rules = rules(&world);
        let lower = world.lower_store("/mnt/lower");
        let path = lower.paths().remove(0);
        for role in [
            Role::Root,
            Role::Lower,
            Role::Upper,
            Role::State,
            Role::LowerState,
        ] {
            for name in NAMES {
                let paths = Paths::new(role, name);
                paths.place_lower_store(&world, &lower, true);
                paths.make(&world);
                mount_overlay(&world, "overlay", &paths.options(), &paths.real());

                let case = format!("Nix of {}, {role:?} with {}", world.tree.name, show(name));
                let url = paths.reference().render(rules);
                let reasons = [
                    unmatchable(CheckedPath::Real, bytes(&paths.real())),
                    unmatchable(CheckedPath::Lower, bytes(&paths.lower_real())),
                    unmatchable(CheckedPath::Upper, bytes(&paths.upper)),
                ];
                let reason = reasons.into_iter().flatten().next();
                let checked = path_info(&world, &url, &path);
                assert_eq!(
                    checked.status.success(),
                    reason.is_none(),
                    "{case}: {checked}"
                );
                // Whatever the check says, the URL says where everything is.
                let unchecked = paths.reference().with("check-mount", false).render(rules);
                let found = path_info(&world, &unchecked, &path);
                assert!(found.status.success(), "{case}: {found}");
                assert!(
                    world.path(&paths.state).join("db/db.sqlite").exists(),
                    "{case}: {url}"
                );

                paths.remove(&world);
                paths.place_lower_store(&world, &lower, false);
            }
        }
    }
}

/// A way to mount that Nix's check may or may not like.
struct Way {
    name: &'static str,
    accepted: bool,
    mount: fn(&World, &Paths),
}

/// Other sources, other option texts, other mounts on top.
const WAYS: &[Way] = &[
    Way {
        name: "as overstore does",
        accepted: true,
        mount: |world, paths| mount_overlay(world, "overlay", &paths.options(), &paths.real()),
    },
    Way {
        name: "options in another order",
        accepted: true,
        mount: |world, paths| {
            let text = b"workdir=/mnt/work,upperdir=/mnt/upper-plain,index=on,\
                lowerdir=/mnt/lower-plain/nix/store";
            mount_overlay(world, "overlay", text, &paths.real());
        },
    },
    Way {
        name: "another source",
        accepted: false,
        mount: |world, paths| mount_overlay(world, "myov", &paths.options(), &paths.real()),
    },
    Way {
        name: "a trailing slash",
        accepted: false,
        mount: |world, paths| {
            let text = b"lowerdir=/mnt/lower-plain/nix/store/,upperdir=/mnt/upper-plain,\
                workdir=/mnt/work";
            mount_overlay(world, "overlay", text, &paths.real());
        },
    },
    Way {
        name: "two lower layers",
        accepted: false,
        mount: |world, paths| {
            let text = b"lowerdir=/mnt/lower-plain/nix/store:/tmp,upperdir=/mnt/upper-plain,\
                workdir=/mnt/work";
            mount_overlay(world, "overlay", text, &paths.real());
        },
    },
    Way {
        name: "lowerdir+",
        accepted: false,
        mount: |world, paths| {
            inside(world, || {
                let context = api::fsopen("overlay", api::FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
                for (name, value) in [
                    ("source", Path::new("overlay")),
                    ("lowerdir+", &paths.lower_real()),
                    ("upperdir", &paths.upper),
                    ("workdir", &paths.work),
                ] {
                    api::fsconfig_set_string(&context, name, value).unwrap();
                }
                api::fsconfig_create(&context).unwrap();
                let flags = api::FsMountFlags::FSMOUNT_CLOEXEC;
                let made = api::fsmount(&context, flags, api::MountAttrFlags::empty()).unwrap();
                let flags = api::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                api::move_mount(made, "", rustix::fs::CWD, paths.real(), flags).unwrap();
            });
        },
    },
    Way {
        name: "relative paths",
        accepted: false,
        mount: |world, paths| {
            inside(world, || {
                nix::unistd::chdir("/mnt").unwrap();
                let text = "lowerdir=lower-plain/nix/store,upperdir=upper-plain,workdir=work";
                mount(
                    Some("overlay"),
                    &paths.real(),
                    Some("overlay"),
                    MsFlags::empty(),
                    Some(text),
                )
                .unwrap();
            });
        },
    },
    Way {
        name: "from below another root",
        accepted: false,
        mount: |world, paths| {
            world.mkdir("/sysroot");
            world.ok(["mount", "--bind", "/mnt", "/sysroot"]);
            let text = b"lowerdir=/sysroot/lower-plain/nix/store,upperdir=/sysroot/upper-plain,\
                workdir=/sysroot/work";
            mount_overlay(world, "overlay", text, &paths.real());
        },
    },
    Way {
        name: "in a chroot",
        accepted: true,
        mount: |world, paths| {
            world.mkdir("/sysroot");
            world.ok(["mount", "--bind", "/", "/sysroot"]);
            world.ok(["mount", "--bind", "/mnt", "/sysroot/mnt"]);
            let options = CString::new(paths.options()).unwrap();
            inside(world, || {
                nix::unistd::chroot("/sysroot").unwrap();
                let text = Some(options.as_c_str());
                let none = MsFlags::empty();
                mount(Some("overlay"), &paths.real(), Some("overlay"), none, text).unwrap();
            });
            // What a switch of root does.
            let real = paths.real();
            let real = real.to_str().unwrap();
            world.ok(["mount", "--move", &format!("/sysroot{real}"), real]);
        },
    },
    Way {
        name: "a read-only bind mount on top",
        accepted: true,
        mount: |world, paths| {
            mount_overlay(world, "overlay", &paths.options(), &paths.real());
            let real = paths.real();
            let real = real.to_str().unwrap();
            world.ok(["mount", "--bind", real, real]);
            world.ok(["mount", "-o", "remount,bind,ro", real]);
        },
    },
    Way {
        name: "something else on top",
        accepted: true,
        mount: |world, paths| {
            mount_overlay(world, "overlay", &paths.options(), &paths.real());
            world.ok([
                "mount",
                "-t",
                "tmpfs",
                "tmpfs",
                paths.real().to_str().unwrap(),
            ]);
        },
    },
    Way {
        name: "nothing mounted",
        accepted: false,
        mount: |_, _| {},
    },
];

#[test]
fn every_way_to_mount_is_judged_as_nix_does() {
    for tree in World::each().map(|world| world.tree) {
        for way in WAYS {
            let world = World::new(tree);
            let paths = Paths::plain();
            let lower = world.lower_store("/mnt/lower");
            paths.place_lower_store(&world, &lower, true);
            paths.make(&world);
            (way.mount)(&world, &paths);

            let case = format!("Nix of {}, {}", tree.name, way.name);
            let (real, lower_real) = (paths.real(), paths.lower_real());
            let table = mounts(&world);
            let verdict = predict(
                &table,
                bytes(&real),
                bytes(&lower_real),
                bytes(&paths.upper),
            );
            assert_eq!(
                verdict == Verdict::Accepted,
                way.accepted,
                "{case}: {verdict:?}"
            );
            let url = paths.reference().render(rules(&world));
            let opened = world.nix(["nix", "store", "info", "--store", &url]).run();
            match way.accepted {
                true => assert!(opened.status.success(), "{case}: {opened}"),
                false => assert!(
                    opened.stderr().contains("mounted incorrectly"),
                    "{case}: {opened}"
                ),
            }
        }
    }
}

#[test]
fn the_schema_is_nix_s() {
    for features in ["", " ca-derivations"] {
        for world in World::each() {
            let nix = world.command(["nix", "store", "info", "--store", "/mnt/new"]);
            nix.env(
                "NIX_CONFIG",
                format!("experimental-features = nix-command{features}"),
            )
            .ok();
            let database = "/mnt/new/nix/var/nix/db/db.sqlite";
            // A copy: SQLite cannot find its way through /proc/PID/root.
            let copy = tempfile::NamedTempFile::new().unwrap();
            fs::write(copy.path(), world.read(database)).unwrap();
            let nix_s = Connection::open(copy.path()).unwrap();
            let mut migrations = nix_s
                .prepare("select migration from SchemaMigrations")
                .unwrap();
            let migrations = migrations.query_map([], |row| row.get(0)).unwrap();
            let migrations: Vec<String> = migrations.map(Result::unwrap).collect();
            let verdict = schema::judge(&objects(&nix_s), &migrations);
            assert_eq!(verdict, schema::Verdict::default(), "{}", world.tree.name);

            // From 2.35 on, a new database has what the migrations make of an old one.
            if version(&world) < NixVersion::new(2, 35) && features.is_empty() {
                let ours = Connection::open_in_memory().unwrap();
                ours.execute_batch(schema::SQL).unwrap();
                assert_eq!(objects(&ours), objects(&nix_s));
                let printed = world.ok(["sqlite3", database, ".schema"]);
                let expected: String = objects(&ours)
                    .into_iter()
                    .filter_map(|object| Some(object.sql? + ";\n"))
                    .collect();
                assert_eq!(printed, expected);
            }
        }
    }
}

fn objects(database: &Connection) -> Vec<SchemaObject> {
    let mut rows = database
        .prepare("select type, name, sql from sqlite_master")
        .unwrap();
    let object = |row: &rusqlite::Row| {
        Ok(SchemaObject {
            kind: row.get(0)?,
            name: row.get(1)?,
            sql: row.get(2)?,
        })
    };
    rows.query_map([], object)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

#[test]
fn the_layout_is_nix_s() {
    for world in World::each() {
        world
            .nix(["nix", "store", "info", "--store", "/mnt/new"])
            .ok();
        let state = Path::new("/mnt/new/nix/var/nix");
        let mode = |path: PathBuf| {
            let metadata = fs::symlink_metadata(world.path(path)).unwrap();
            assert!(metadata.is_dir());
            metadata.permissions().mode() & 0o7777
        };
        for name in layout::STATE_DIRECTORIES {
            assert_eq!(mode(state.join(name)), layout::DIRECTORY_MODE, "{name}");
        }
        let store = Path::new("/mnt/new/nix/store");
        assert_eq!(mode(store.into()), layout::store_directory_mode(true));
        assert_eq!(world.list(store), [layout::LINKS]);
        let reserved = fs::metadata(world.path(state.join(layout::RESERVED))).unwrap();
        assert_eq!(reserved.len(), layout::RESERVED_SIZE);
        assert_eq!(reserved.permissions().mode() & 0o7777, 0o600);
        // Nothing that we do not know of.
        let tops = ["db", "gcroots", "profiles", "temproots"];
        assert_eq!(world.list(state), tops);
        let mut roots = world.list(state.join("gcroots"));
        roots.retain(|name| Path::new("gcroots").join(name) != Path::new(layout::PROFILES_LINK));
        assert_eq!(roots, ["per-user"]);
    }
}
