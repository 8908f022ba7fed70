//! Each rule with values: one change to a machine on which nothing is wrong, the codes that come of
//! it, and (as a snapshot) every word.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::fixture::{
    self, DESCRIPTION, directory, file, overlay, place, show_options, the_hook, unmounted,
};
use super::{Finding, Severity, StopsUp, check};
use crate::compare::Objects;
use crate::config::parts::{Relation, Role, parts};
use crate::config::{Own, SetUpFor, Store};
use crate::linux::safe_path::Danger;
use crate::lower::publication::PublicationError;
use crate::lower::sqlite::OfOthers;
use crate::nix::mount_check::Verdict;
use crate::nix::worker_protocol::DaemonError;
use crate::observe::*;
use crate::overlayfs::defaults::Defaults;
use crate::remedy::{CommandLine, Fault};
use crate::report::{self, Report};

/// The codes found, and the report as people read it. Each finding is one that its code declares.
pub(super) fn told(findings: Vec<Finding>) -> (Vec<&'static str>, String) {
    for finding in &findings {
        let declared = finding.code.declaration();
        assert!(
            declared.severities.contains(&finding.severity),
            "{finding:?}"
        );
        assert!(declared.parts.contains(&finding.part), "{finding:?}");
        let stops_up = match declared.stops_up {
            StopsUp::Never => !finding.stops_up,
            StopsUp::UnlessMade => true,
            StopsUp::Always => finding.stops_up,
        };
        assert!(stops_up, "{finding:?}");
        assert!(
            !finding.stops_up || finding.severity == Severity::Error,
            "{finding:?}"
        );
        let words = [
            &finding.subject,
            &finding.expected,
            &finding.actual,
            &finding.remedy.to_string(),
        ];
        assert!(words.iter().all(|text| !text.is_empty()), "{finding:?}");
    }
    let codes = findings
        .iter()
        .map(|finding| finding.code.as_str())
        .collect();
    let mut report = Report::new(report::Command::Check, "example");
    report.add_findings(findings);
    (codes, report.text())
}

fn case(
    name: &str,
    description: &str,
    codes: &[&str],
    change: impl FnOnce(&mut Store, &mut Observed),
) {
    let mut store = fixture::store(description);
    let mut observed = fixture::observed(&store);
    change(&mut store, &mut observed);
    let (found, text) = told(check(&store, &observed));
    assert_eq!(found, codes, "{text}");
    assert_carried_out_by_a_user(&store, observed);
    if !codes.is_empty() {
        insta::assert_snapshot!(name, text);
    }
}

/// A user whose store is set up by `exec` alone is told nothing that such a store refuses, or that would
/// be about what is at its place outside.
fn assert_carried_out_by_a_user(store: &Store, mut observed: Observed) {
    observed.machine.uid = 1000;
    let own = Own {
        directory: "/home/alice".into(),
        covered: None,
    };
    for (set_up_for, own) in [
        (SetUpFor::Processes, None),
        (SetUpFor::Processes, Some(own)),
        (SetUpFor::Command, None),
    ] {
        let store = Store {
            set_up_for,
            own,
            ..store.clone()
        };
        let findings = check(&store, &observed).into_iter();
        let all = findings.flat_map(|it| [it.consequences.clone(), vec![it]].concat());
        for finding in all {
            for command in finding.remedy.commands() {
                assert!(may_run(&store, command), "{set_up_for:?}: {finding:#?}");
            }
            let told = serde_json::to_value(&finding.remedy).unwrap().to_string();
            let has_settings = told.contains("\"settings\"");
            assert!(set_up_for != SetUpFor::Command || !has_settings, "{told}");
        }
    }
}

fn may_run(store: &Store, command: &CommandLine) -> bool {
    let words: Vec<_> = command.as_words().iter().map(|it| it.to_str()).collect();
    let is_inside = words[1] == Some("exec");
    let is_for_it = command.as_words().ends_with(&store.arguments);
    let sees_it = command
        .as_words()
        .iter()
        .any(|word| Path::new(word).starts_with(&store.real.value));
    match store.set_up_for {
        SetUpFor::Command => !is_for_it && !sees_it,
        _ if is_inside => words[0].is_some_and(|it| it.ends_with("overstore")),
        _ => {
            let mounts = ["up", "down", "remount"].map(Some).contains(&words[1]);
            !(sees_it || is_for_it && mounts)
        }
    }
}

/// Tests with the worked example, or with another description.
macro_rules! rules {
    ($($name:ident $(($description:expr))? = [$($code:literal),*], |$store:pat_param, $observed:pat_param| $change:expr;)+) => {
        $(#[test]
        fn $name() {
            let descriptions = [$($description,)? DESCRIPTION.to_owned()];
            case(stringify!($name), &descriptions[0], &[$($code),*], |$store, $observed| { $change });
        })+
    };
}

fn with(more: &str) -> String {
    format!("{DESCRIPTION}{more}\n")
}

fn over(lower_store: &str) -> String {
    DESCRIPTION.replace("/mnt/example/store-a?read-only=true", lower_store)
}

/// A store over a publication.
const PUBLISHED: &str = "root = \"/mnt/example/merged-store\"\n\
                         upper-layer = \"/mnt/example/store-b\"\nworkdir = \"/mnt/example/workdir\"\n\
                         [lower]\npublication = \"/mnt/example/publication\"\n\
                         real = \"/mnt/example/store-a/nix/store\"\n";

/// Why it cannot be read.
fn out_of_reach() -> Fault {
    Fault::of(&PublicationError::Unreachable {
        path: "/mnt/example/publication".into(),
        error: ErrorKind::NotFound.into(),
    })
}

/// The facts of its publication, to be changed.
fn published(observed: &mut Observed) -> &mut PublicationFacts {
    observed.lower.publication.as_mut().unwrap()
}

const NESTED: &str = "local-overlay://?root=/mnt/middle&lower-store=/mnt/low?read-only=true\
                      &upper-layer=/mnt/middle/upper";

/// A daemon that connect(2) says this of.
fn silent(socket: &str, why: ErrorKind) -> SourceFacts {
    let (socket, source) = (socket.into(), why.into());
    let error = DaemonError::Connect { socket, source };
    SourceFacts::Daemon {
        answer: Some(Err(Fault::of(&error))),
    }
}

fn missing(place: &mut Place) {
    place.found = fixture::nothing_below("/mnt");
}

/// The lower store's facts, where it is a local one.
fn source(
    observed: &mut Observed,
) -> (
    &mut FileFacts,
    &mut Option<LogFacts>,
    &mut Option<String>,
    &mut Place,
    &mut Vec<PathBuf>,
) {
    let mut source = &mut observed.lower.source;
    if let SourceFacts::Overlay { upper, .. } = source {
        source = upper;
    }
    match source {
        SourceFacts::Database {
            database,
            log,
            schema,
            state,
            missing,
        } => (database, log, schema, state, missing),
        other => panic!("{other:?}"),
    }
}

fn content(observed: &mut Observed) -> &mut DatabaseContent {
    observed
        .database
        .content
        .as_mut()
        .unwrap()
        .as_mut()
        .unwrap()
}

rules! {
    nothing_wrong = [], |_, _| {};

    // The lower store.
    lower_missing = ["lower-missing"], |_, observed| missing(&mut observed.lower.directory);
    lower_named_by_its_store_directory(over("/mnt/example/store-a/nix/store?read-only=true")) = ["lower-missing"], |_, observed| {
        observed.lower.directory.found = fixture::nothing_below("/mnt/example/store-a/nix/store");
    };
    lower_named_by_the_system_s_store_directory(over("/nix/store?read-only=true")) = ["lower-missing"], |_, observed| {
        observed.lower.directory.found = fixture::nothing_below("/nix/store");
    };
    lower_is_a_file = ["lower-missing"], |_, observed| observed.lower.directory.found = Found::Other("a file");
    lower_unmounted_from_below = ["path-unreachable"], |store, observed| {
        observed.lower.directory.found = Found::Unreachable { component: store.lower.real.clone(), errno: 116 };
    };
    lower_database_missing = ["lower-database-missing"], |_, observed| *source(observed).0 = FileFacts::Missing;
    lower_database_is_a_directory = ["lower-database-missing"], |_, observed| *source(observed).0 = FileFacts::Other("a directory".into());
    lower_database_not_for_this_user = ["not-checked"], |_, observed| {
        observed.machine.uid = 1000;
        *source(observed).0 = FileFacts::Unreachable(13);
    };
    lower_schema_newer = ["lower-schema-unknown"], |_, observed| *source(observed).2 = Some("11".to_owned());
    lower_schema_older = ["lower-schema-unknown"], |_, observed| *source(observed).2 = Some("9".to_owned());
    lower_schema_no_number = ["lower-schema-unknown"], |_, observed| *source(observed).2 = Some("ten\n".to_owned());
    lower_schema_missing = ["lower-schema-unknown"], |_, observed| *source(observed).2 = None;
    lower_wal_pending = ["lower-wal-pending"], |_, observed| *source(observed).1 = Some(LogFacts::Pending(3));
    lower_wal_is_a_pipe = ["lower-wal-pending"], |_, observed| *source(observed).1 = Some(LogFacts::Other("a named pipe".into()));
    lower_wal_unreadable = ["not-checked"], |_, observed| *source(observed).1 = Some(LogFacts::Unreadable(13));
    lower_directories_missing = ["lower-directory-missing", "lower-directory-missing"], |store, observed| {
        *source(observed).4 = vec![store.lower.real.join(".links"), store.lower.state().unwrap().join("temproots")];
    };
    lower_directories_missing_on_a_read_only_mount = ["lower-directory-missing"], |store, observed| {
        directory(&mut observed.lower.directory).fs.read_only = true;
        *source(observed).4 = vec![store.lower.real.join(".links")];
    };
    lower_directories_gone_with_what_is_above_them = ["lower-missing"], |store, observed| {
        missing(&mut observed.lower.directory);
        *source(observed).4 = vec![store.lower.real.join(".links")];
    };
    lower_not_described_read_only(over("/mnt/example/store-a")) = ["lower-not-described-read-only"], |_, observed| {
        directory(&mut observed.lower.directory).fs.read_only = true;
    };
    lower_state_on_a_read_only_mount(over("/mnt/example/store-a")) = ["lower-not-described-read-only"], |_, observed| {
        directory(source(observed).3).fs.read_only = true;
    };
    lower_written_by_nix(over("/mnt/example/store-a")) = ["lower-written-by-nix"], |_, _| {};
    lower_daemon_answers(over("unix:///run/lower.socket?root=/mnt/example/store-a")) = [], |_, _| {};
    lower_daemon_silent(over("unix:///run/lower.socket?root=/mnt/example/store-a")) = ["lower-daemon-silent"], |_, observed| {
        observed.lower.source = silent("/run/lower.socket", ErrorKind::ConnectionRefused);
    };
    system_daemon_silent(over("daemon")) = ["lower-daemon-silent"], |_, observed| {
        observed.lower.source = silent("/nix/var/nix/daemon-socket/socket", ErrorKind::NotFound);
    };
    lower_daemon_not_asked(over("daemon")) = [], |_, observed| observed.lower.source = SourceFacts::Daemon { answer: None };
    lower_strangers = ["lower-stranger", "lower-stranger"], |_, observed| {
        observed.lower.strangers = Some(vec!["lost+found".into(), "a\nb".into()]);
    };
    lower_nested(over(NESTED)) = ["lower-written-by-nix"], |_, _| {};
    lower_nested_not_mounted(over(NESTED)) = ["lower-written-by-nix", "lower-mount-wrong"], |_, observed| {
        if let SourceFacts::Overlay { mount, .. } = &mut observed.lower.source {
            mount.overlay = None;
            mount.stack.clear();
        }
    };
    lower_nested_over_something_else(over(NESTED)) = ["lower-written-by-nix", "lower-mount-wrong"], |_, observed| {
        if let SourceFacts::Overlay { mount, .. } = &mut observed.lower.source {
            mount.overlay.as_mut().unwrap().lower = Identity::Different("x has another size there".to_owned());
        }
    };
    lower_nested_lowest_gone(over(NESTED)) = ["lower-written-by-nix", "lower-missing"], |_, observed| {
        if let SourceFacts::Overlay { lower, .. } = &mut observed.lower.source {
            missing(&mut lower.directory);
        }
    };
    lower_on_another_machine(over("mounted-ssh-ng://host?real=/mnt/host")) = [], |_, _| {};

    // The upper layer and the work directory.
    upper_missing = ["upper-missing"], |_, observed| missing(&mut observed.upper_layer.place);
    upper_is_a_file = ["upper-missing"], |_, observed| observed.upper_layer.place.found = Found::Other("a file");
    upper_on_a_read_only_mount = ["upper-file-system-unfit"], |_, observed| {
        directory(&mut observed.upper_layer.place).fs.read_only = true;
    };
    upper_on_nfs = ["upper-file-system-unfit"], |_, observed| {
        directory(&mut observed.upper_layer.place).fs.name = "nfs4".to_owned();
        observed.upper_layer.xattrs = Some(false);
    };
    upper_without_types = ["upper-file-system-unfit"], |_, observed| {
        directory(&mut observed.upper_layer.place).fs.name = "xfs".to_owned();
        observed.upper_layer.d_type = Some(false);
    };
    upper_on_an_unknown_file_system = [], |_, observed| {
        (observed.upper_layer.xattrs, observed.upper_layer.d_type) = (None, None);
    };
    upper_in_use = ["upper-in-use"], |_, observed| {
        observed.upper_layer.usage = Usage::Mounted("an overlay at /elsewhere".to_owned());
    };
    upper_locked = ["upper-in-use"], |_, observed| observed.upper_layer.usage = Usage::Locked(vec![17, 18]);
    upper_locked_by_somebody = ["upper-in-use"], |_, observed| observed.upper_layer.usage = Usage::Locked(vec![]);
    upper_mode = ["upper-permissions"], |_, observed| directory(&mut observed.upper_layer.place).mode = 0o755;
    upper_owner = ["upper-permissions"], |_, observed| directory(&mut observed.upper_layer.place).uid = 1000;
    upper_without_a_group(with("[permissions]\nbuild-users-group = \"\"")) = [], |_, observed| {
        (directory(&mut observed.upper_layer.place).mode, directory(&mut observed.upper_layer.place).gid) = (0o755, 0);
    };
    upper_without_a_group_open_to_all(with("[permissions]\nbuild-users-group = \"\"")) = ["upper-permissions"], |_, observed| {
        directory(&mut observed.upper_layer.place).mode = 0o1777;
    };
    upper_in_a_user_namespace = [], |_, observed| {
        (observed.machine.uid, observed.machine.user_namespace) = (1000, true);
        let stat = directory(&mut observed.upper_layer.place);
        (stat.uid, stat.gid, stat.mode) = (1000, 1000, 0o755);
    };
    upper_strangers = ["upper-stranger", "upper-stranger"], |_, observed| {
        observed.upper_layer.strangers = Some(vec!["lost+found".into(), "left over".into()]);
    };
    upper_strangers_of_a_store_that_is_down = ["upper-stranger", "mount-missing"], |_, observed| {
        observed.upper_layer.strangers = Some(vec!["left over".into()]);
        unmounted(observed);
    };
    links_missing = ["links-not-opaque"], |_, observed| observed.upper_layer.links = Links::Missing;
    links_transparent_while_down = ["links-not-opaque", "mount-missing"], |_, observed| {
        observed.upper_layer.links = Links::Transparent;
        unmounted(observed);
    };
    links_is_a_file = ["links-not-opaque"], |_, observed| observed.upper_layer.links = Links::Other;
    links_unknown_without_root = [], |_, observed| observed.upper_layer.links = Links::Unknown;
    workdir_missing = ["workdir-missing"], |_, observed| missing(&mut observed.workdir.place);
    workdir_elsewhere = ["workdir-elsewhere"], |_, observed| directory(&mut observed.workdir.place).fs.mount_id += 1;
    stacked_too_deep = ["stacking-too-deep"], |_, observed| observed.overlays_below = 2;
    stacked_once = [], |_, observed| observed.overlays_below = 1;

    workdir_in_use = ["workdir-in-use"], |_, observed| {
        observed.workdir.usage = Usage::Mounted("the overlay at /mnt/other".to_owned());
    };
    workdir_of_a_volatile_mount = ["workdir-incompatible"], |_, observed| {
        unmounted(observed);
        observed.left.incompatible = vec!["volatile".into()];
    };
    layers_that_cannot_be_changed = ["layer-unchangeable", "layer-unchangeable"], |_, observed| {
        (observed.upper_layer.unchangeable, observed.workdir.unchangeable) = (true, true);
    };
    mounts_inside_layers = ["mount-not-shown", "mount-not-shown"], |store, observed| {
        observed.not_shown = vec![store.lower.real.join("a"), store.upper_layer.join("b")];
    };
    upper_on_an_overlay = ["upper-file-system-unfit"], |_, observed| {
        directory(&mut observed.upper_layer.place).fs.name = "overlay".to_owned();
    };
    upper_with_short_names = ["upper-file-system-unfit"], |_, observed| {
        directory(&mut observed.upper_layer.place).fs.longest_name = 143;
    };
    upper_with_user_attributes_only = ["upper-file-system-unfit"], |_, observed| {
        directory(&mut observed.upper_layer.place).fs.name = "fuse.bindfs".to_owned();
        (observed.upper_layer.xattrs, observed.upper_layer.other_xattrs) = (Some(false), Some(true));
    };
    upper_on_an_unbindable_mount = ["upper-file-system-unfit"], |_, observed| {
        unmounted(observed);
        directory(&mut observed.upper_layer.place).fs.unbindable = true;
    };
    state_on_a_read_only_mount = ["state-file-system-unfit"], |_, observed| {
        for place in &mut observed.state {
            directory(place).fs.read_only = true;
        }
    };
    state_on_a_network = ["state-file-system-unfit"], |_, observed| {
        directory(&mut observed.state[1]).fs.name = "fuse.sshfs".to_owned();
    };
    state_on_a_network_without_a_log(with("[database]\nuse-sqlite-wal = false")) = [], |_, observed| {
        directory(&mut observed.state[1]).fs.name = "nfs4".to_owned();
    };
    lower_through_a_link = ["lower-path-symlink"], |_, observed| observed.lower.resolved = Some("/srv/store-a/nix/store".into());
    lower_daemon_through_a_link(over("unix:///run/socket?root=/mnt/low")) = [], |_, observed| observed.lower.resolved = Some("/srv/low/nix/store".into());
    a_lock_that_is_no_file = ["database-permissions"], |_, observed| observed.database.big_lock = FileFacts::Other("a directory".into());
    an_upper_schema_of_old = ["schema-unknown"], |_, observed| observed.database.schema = Ok(Some("9".to_owned()));

    // Paths.
    parts_in_the_lower_store = ["parts-overlap", "parts-overlap"], |store, observed| {
        let overlap = |one: Role, relation, other: Role| {
            let part = |role| parts(store).into_iter().find(|part| part.role == role).unwrap();
            Overlap { part: part(one), relation, other: part(other) }
        };
        observed.parts.overlaps = vec![
            overlap(Role::UpperLayer, Relation::Inside, Role::LowerDirectory),
            overlap(Role::State, Relation::Same, Role::LowerState),
            // What follows from that, and what may be.
            overlap(Role::StateContent, Relation::Inside, Role::LowerState),
            overlap(Role::Merged, Relation::Same, Role::LowerDirectory),
            overlap(Role::UpperLayer, Relation::Inside, Role::State),
        ];
    };
    parts_of_another_store = ["part-of-another-store", "part-of-another-store", "description-unreadable"], |store, observed| {
        let claim = |role: Role, relation, whose: &str| {
            let part = parts(store).into_iter().find(|part| part.role == role).unwrap();
            Claim { part, relation, whose: whose.to_owned() }
        };
        let overlay = "the work directory of the overlay at /mnt/other, /mnt/other-work";
        observed.parts.claims = vec![
            claim(Role::WorkDirectory, Some(Relation::Same), overlay),
            claim(Role::UpperLayer, None, overlay),
        ];
        observed.parts.unread = vec![Unread {
            file: "/etc/overstore/other.toml".into(),
            why: "expected a regular file, found a pipe".to_owned(),
        }];
    };
    path_through_a_link = ["path-unsafe"], |_, observed| {
        observed.workdir.place.found = Found::Symlink { component: "/mnt/example".into(), resolved: Some("/srv/workdir".into()) };
    };
    path_through_a_link_to_nowhere = ["path-unsafe"], |_, observed| {
        observed.workdir.place.found = Found::Symlink { component: "/mnt/a link".into(), resolved: None };
    };
    path_that_others_can_replace = ["path-unsafe", "path-unsafe", "path-unsafe", "path-unsafe", "path-unsafe"], |_, observed| {
        let dangers = [
            (&mut observed.upper_layer.place, Danger::OpenDirectory),
            (&mut observed.workdir.place, Danger::TheirDirectory { entry: 0, directory: 1000 }),
            (&mut observed.mount.place, Danger::NothingThere { directory: 1000 }),
            (&mut observed.state[0], Danger::TheirEntry { entry: 1000 }),
            (&mut observed.lower.directory, Danger::GroupDirectory { group: 30000 }),
        ];
        for (place, why) in dangers {
            place.found = Found::Unsafe { component: place.path.clone(), why };
        }
    };
    path_through_a_file = ["path-unreachable"], |_, observed| {
        observed.workdir.place.found = Found::Unreachable { component: "/mnt/file".into(), errno: 20 };
    };
    path_not_for_this_user = ["not-checked"], |_, observed| {
        observed.machine.uid = 1000;
        observed.workdir.place.found = Found::Unreachable { component: "/mnt/secret".into(), errno: 13 };
    };

    // The mount.
    mount_missing = ["mount-missing"], |_, observed| unmounted(observed);
    mount_point_missing = ["mount-missing"], |_, observed| {
        unmounted(observed);
        missing(&mut observed.mount.place);
    };
    mount_foreign = ["mount-foreign"], |_, observed| {
        unmounted(observed);
        observed.mount.stack = vec![fixture::line("tmpfs")];
    };
    mount_hidden = ["mount-hidden"], |_, observed| {
        let overlay = observed.mount.stack[0].clone();
        unmounted(observed);
        observed.mount.stack = vec![fixture::line("tmpfs"), overlay];
    };
    mount_buried = ["mount-hidden"], |_, observed| {
        let overlay = observed.mount.stack[0].clone();
        unmounted(observed);
        observed.mount.buried = vec![overlay];
    };
    mount_under_a_bind_of_itself = [], |_, observed| overlay(observed).under_bind = true;
    mount_read_only = ["mount-read-only"], |_, observed| {
        let options = &mut overlay(observed).info.super_options;
        options.splice(0..2, *b"ro");
    };
    lowerdir_differs = ["lowerdir-differs"], |_, observed| {
        overlay(observed).info.super_options = b"rw,lowerdir=/mnt/example/store-c/nix/store".to_vec();
        overlay(observed).lower = Identity::Different("its options say /mnt/example/store-c/nix/store, which is another directory".to_owned());
    };
    lower_replaced = ["lower-replaced"], |_, observed| {
        overlay(observed).recorded = Some(Recorded::Different("it was inode 12, and is inode 13".to_owned()));
    };
    lower_replaced_by_what_it_shows = ["lower-replaced"], |_, observed| {
        overlay(observed).recorded = None;
        overlay(observed).lower = Identity::Different("x has another inode number there".to_owned());
    };
    upperdir_differs = ["upperdir-differs"], |_, observed| overlay(observed).upper = Identity::Different("it has no upper layer".to_owned());
    workdir_differs = ["workdir-differs"], |_, observed| overlay(observed).workdir = Identity::Different("it has no work directory".to_owned());
    nothing_to_compare_is_no_difference = [], |_, observed| {
        let overlay = overlay(observed);
        (overlay.lower, overlay.upper, overlay.workdir) = (Identity::Unknown, Identity::Unknown, Identity::Unknown);
        overlay.recorded = None;
    };
    mounted_volatile = ["mount-option-risky"], |_, observed| show_options(observed, "volatile");
    mounted_volatile_as_newer_kernels_show_it = ["mount-option-risky"], |_, observed| show_options(observed, "fsync=volatile");
    described_volatile(with("[mount]\noptions = [\"volatile\"]")) = ["mount-option-risky"], |_, observed| {
        show_options(observed, "fsync=volatile");
    };
    option_differs(with("[mount]\noptions = [\"index=off\"]")) = ["mount-options-differ"], |_, observed| show_options(observed, "index=on");
    option_not_there(with("[mount]\noptions = [\"default_permissions\"]")) = ["mount-options-differ"], |_, _| {};
    option_that_the_default_is_not(with("[mount]\noptions = [\"index=on\", \"metacopy=off\"]")) = ["mount-options-differ"], |_, _| {};
    option_where_defaults_are_unknown(with("[mount]\noptions = [\"index=on\"]")) = [], |_, observed| {
        observed.machine.overlay_defaults = None;
    };
    option_that_became_another(with("[mount]\noptions = [\"uuid=auto\", \"redirect_dir=off\"]")) = [], |_, observed| {
        show_options(observed, "uuid=on");
    };
    xino_on_one_file_system(with("[mount]\noptions = [\"xino=on\"]")) = [], |_, _| {};
    xino_across_file_systems(with("[mount]\noptions = [\"xino=on\"]")) = ["mount-options-differ"], |_, observed| {
        directory(&mut observed.lower.directory).identity.dev += 1;
    };
    a_context_in_force(with("[mount]\noptions = ['context=\"u:r:t:s0:c1,c2\"']")) = [], |_, observed| {
        show_options(observed, "context=\"u:r:t:s0:c1,c2\"");
    };
    options_that_nobody_described = ["mount-options-differ", "mount-option-risky", "mount-option-risky"], |_, observed| {
        show_options(observed, "redirect_dir=on,index=on,metacopy=on,uuid=on");
    };
    options_that_others_turn_on(with("[mount]\noptions = [\"metacopy=on\"]")) = ["mount-option-risky"], |_, observed| {
        show_options(observed, "redirect_dir=on,metacopy=on");
    };
    options_of_somebody_else_s_mount = ["mount-options-differ"], |_, observed| {
        show_options(observed, "userxattr,redirect_dir=nofollow");
        overlay(observed).recorded = None;
    };
    mounted_noexec = ["mount-options-differ"], |_, observed| observed.mount.stack[0].options = b"rw,noexec".to_vec();
    a_risky_default = ["mount-option-risky", "mount-option-risky"], |_, observed| {
        observed.machine.overlay_defaults = Some(Defaults { metacopy: true, redirect_dir: true, ..Defaults::default() });
    };
    a_risky_default_turned_off(with("[mount]\noptions = [\"metacopy=off\", \"redirect_dir=nofollow\"]")) = [], |_, observed| {
        observed.machine.overlay_defaults = Some(Defaults { metacopy: true, redirect_dir: true, ..Defaults::default() });
        show_options(observed, "redirect_dir=nofollow,metacopy=off");
    };
    refused_by_the_kernel = ["mount-refused"], |_, observed| {
        unmounted(observed);
        observed.refused = Some("overlay: Unknown parameter 'foo'".to_owned());
    };
    refused_for_an_option(with("[mount]\noptions = [\"xino=on\"]")) = ["mount-refused"], |_, observed| {
        unmounted(observed);
        observed.refused = Some("overlay: Unknown parameter 'xino'".to_owned());
    };
    an_index_of_other_directories = ["index-mismatch"], |_, observed| {
        unmounted(observed);
        observed.left.index_over_another = true;
    };
    an_index_of_another_upper_layer = ["index-mismatch"], |_, observed| {
        unmounted(observed);
        observed.left.index_of_another = true;
    };
    option_in_force(with("[mount]\noptions = [\"index=on\", \"default_permissions\"]")) = [], |_, observed| {
        show_options(observed, "default_permissions,index=on");
    };
    overlay_unsupported = ["mount-missing", "overlay-unsupported"], |_, observed| {
        unmounted(observed);
        observed.machine.overlay_loaded = false;
    };

    // The state directory and the upper database.
    state_missing = ["state-missing"], |_, observed| missing(&mut observed.state[2]);
    state_all_missing = ["state-missing"], |_, observed| observed.state.iter_mut().for_each(missing);
    state_is_a_file = ["state-missing"], |_, observed| observed.state[6].found = Found::Other("a file");
    state_open_to_all = ["state-permissions"], |_, observed| directory(&mut observed.state[1]).mode = 0o777;
    state_with_a_sticky_bit = [], |_, observed| directory(&mut observed.state[3]).mode = 0o1777;
    state_of_somebody_else = ["state-permissions"], |_, observed| directory(&mut observed.state[0]).uid = 1000;
    database_missing = ["database-missing"], |_, observed| observed.database.file = FileFacts::Missing;
    database_empty = ["database-missing"], |_, observed| observed.database.file = file(0o644, 0);
    database_is_a_link = ["database-unreadable"], |_, observed| observed.database.file = FileFacts::Other("a symbolic link".into());
    database_unreadable = ["database-unreadable"], |_, observed| observed.database.content = Some(Err("file is not a database".to_owned()));
    database_not_for_this_user = ["not-checked"], |_, observed| {
        observed.machine.uid = 1000;
        observed.database.file = FileFacts::Unreachable(13);
    };
    database_open_to_all = ["database-permissions", "database-permissions"], |_, observed| {
        observed.database.file = file(0o666, 65536);
        observed.database.big_lock = FileFacts::File { mode: 0o600, uid: 1000, gid: 0, size: 0 };
    };
    database_not_looked_into = [], |_, observed| observed.database.content = None;
    schema_newer = ["schema-unknown"], |_, observed| observed.database.schema = Ok(Some("11".to_owned()));
    schema_no_number = ["schema-unknown"], |_, observed| observed.database.schema = Ok(Some("\u{1b}[31m".to_owned()));
    schema_missing = ["schema-incomplete"], |_, observed| observed.database.schema = Ok(None);
    schema_unreadable = ["schema-unknown"], |_, observed| observed.database.schema = Err("expected a regular file, found a named pipe".to_owned());
    schema_incomplete = ["schema-incomplete"], |_, observed| {
        content(observed).schema.missing = vec!["trigger DeleteSelfRefs".to_owned()];
        content(observed).schema.altered = vec!["table Refs".to_owned()];
    };
    schema_foreign = ["schema-foreign"], |_, observed| content(observed).schema.foreign = vec!["table Mine".to_owned()];
    schema_of_a_newer_nix = ["schema-foreign"], |_, observed| {
        content(observed).schema.unknown_migrations = vec!["20990101-all-is-new".to_owned()];
    };
    database_damaged = ["database-damaged"], |_, observed| {
        content(observed).quick_check = vec!["Tree 3 page 4: btreeInitPage() returns error code 11".to_owned(), "more".to_owned()];
    };
    foreign_key_violated = ["foreign-key-violated"], |_, observed| {
        content(observed).foreign_keys = vec!["row 1 of Refs refers to a row that ValidPaths does not have".to_owned()];
    };
    journal_mode_wal = ["journal-mode-differs"], |store, _| store.use_sqlite_wal = false;
    journal_mode_other = ["journal-mode-differs"], |_, observed| content(observed).wal = false;

    // Nix.
    remount_hook_missing = ["remount-hook-missing"], |_, observed| the_hook(observed).runs = false;
    automatic_collection = ["automatic-collection"], |_, observed| {
        observed.machine.min_free = Some("1073741824".to_owned());
    };
    temporary_name = ["temporary-name"], |_, observed| {
        observed.upper_layer.left = Some(vec!["tmp-1-2".into()]);
    };
    remount_hook_dangling = ["remount-hook-missing"], |_, observed| {
        the_hook(observed).runs = false;
        the_hook(observed).target = Some("/gone".into());
    };
    remount_hook_unsafe = ["remount-hook-unsafe"], |_, observed| {
        let why = ("/usr/bin/overstore".into(), "belongs to user 1000".to_owned());
        the_hook(observed).unsafe_because = Some(why);
    };
    a_publication_is_as_described(PUBLISHED.to_owned()) = [], |_, _| {};
    a_publication_out_of_reach(PUBLISHED.to_owned()) = ["publication-unreadable"], |_, observed| {
        published(observed).current = Err(out_of_reach());
    };
    a_publication_out_of_reach_with_its_generation(PUBLISHED.to_owned()) = ["publication-unreadable"], |_, observed| {
        let facts = published(observed);
        (facts.current, facts.used) = (Err(out_of_reach()), Err(out_of_reach()));
        *source(observed).0 = FileFacts::Missing;
    };
    a_publication_never_reached(PUBLISHED.to_owned()) = ["publication-unreadable"], |_, observed| {
        unmounted(observed);
        let facts = published(observed);
        facts.link = LinkFacts::Missing;
        facts.current = Err(out_of_reach());
    };
    a_generation_that_is_not_linked(PUBLISHED.to_owned()) = ["generation-unset"], |_, observed| {
        published(observed).link = LinkFacts::Missing;
    };
    a_link_to_no_generation(PUBLISHED.to_owned()) = ["generation-unset"], |_, observed| {
        published(observed).link = LinkFacts::Elsewhere("/mnt/other/generations/3".into());
    };
    a_generation_that_is_gone(PUBLISHED.to_owned()) = ["generation-gone"], |_, observed| {
        let facts = published(observed);
        (facts.current, facts.used) = (Ok(5), Ok(None));
        *source(observed).0 = FileFacts::Missing;
    };
    a_retired_generation(PUBLISHED.to_owned()) = ["generation-retired"], |_, observed| {
        let facts = published(observed);
        facts.current = Ok(5);
        facts.used = Ok(Some(UsedGeneration { time: 1, retired_until: Some(1_700_000_000) }));
    };
    a_newer_generation(PUBLISHED.to_owned()) = ["generation-behind"], |_, observed| {
        published(observed).current = Ok(5);
    };
    something_in_the_place_of_the_link(PUBLISHED.to_owned()) = ["generation-unset"], |_, observed| {
        published(observed).link = LinkFacts::Other("a directory".into());
    };
    remount_hook_turned_off(format!("remount-hook = false\n{DESCRIPTION}")) = [], |_, _| {};
    build_users_group_missing = ["build-users-group-missing"], |_, observed| {
        observed.machine.build_users_gid = None;
        directory(&mut observed.upper_layer.place).mode = 0o755;
    };
    mount_check_impossible(DESCRIPTION.replace("store-b", "store+b")) = ["mount-check-impossible"], |_, observed| {
        observed.mount.nix_check = Verdict::UpperDiffers { line: Vec::new() };
    };
    mount_check_turned_off(format!("check-mount = false\n{}", DESCRIPTION.replace("store-b", "store+b"))) = [], |_, observed| {
        observed.mount.nix_check = Verdict::UpperDiffers { line: Vec::new() };
    };
    mount_check_fails_for_the_source = ["mount-check-fails"], |_, observed| observed.mount.nix_check = Verdict::NoMount;
    mount_check_fails_for_the_lower_layer = ["mount-check-fails"], |_, observed| {
        observed.mount.nix_check = Verdict::LowerDiffers { line: b"overlay /mnt/example/merged-store/nix/store overlay rw,lowerdir=a 0 0".to_vec() };
    };
    url_depends_on_version(over("/mnt/100%")) = ["url-depends-on-version", "lower-written-by-nix"], |_, _| {};
}

#[test]
fn remedies_name_the_store_as_it_was_given() {
    let mut store = fixture::store(DESCRIPTION);
    store.arguments = ["--root", "/sysroot", "./my stores/a.toml"]
        .map(Into::into)
        .into();
    let mut observed = fixture::observed(&store);
    unmounted(&mut observed);
    directory(&mut observed.state[1]).mode = 0o777;
    observed.upper_layer.links = Links::Other;
    let findings = check(&store, &observed);
    let remedies: Vec<_> = findings.iter().map(|it| it.remedy.to_string()).collect();
    insta::assert_snapshot!("remedies_name_the_store", remedies.join("\n"));
}

/// The rules that compare layers and databases.
mod across {
    use super::super::compare;
    use super::*;
    use crate::compare::{Across, Contents, Damaged, Missing, Several};
    use crate::nix::store_path::StorePath;

    fn path(name: &str) -> StorePath {
        StorePath::parse(format!("{}-{name}", "0".repeat(32)).as_bytes()).unwrap()
    }

    fn several<T>(first: Vec<T>, count: u64) -> Several<T> {
        Several { first, count }
    }

    fn case(name: &str, codes: &[&str], change: impl FnOnce(&mut Across)) {
        let store = fixture::store(DESCRIPTION);
        let mut facts = Across::default();
        change(&mut facts);
        let (found, text) = told(compare::findings(&store, &facts));
        assert_eq!(found, codes, "{text}");
        if !codes.is_empty() {
            insta::assert_snapshot!(name, text);
        }
    }

    #[test]
    fn nothing() {
        case("nothing", &[], |_| {});
    }

    #[test]
    fn everything() {
        case(
            "everything",
            &[
                "object-without-row",
                "lower-object-hidden",
                "object-in-both-layers",
                "metadata-differs",
            ],
            |across| {
                across.unknown = several(vec![path("unknown")], 1);
                across.hiding = several(vec![path("hidden")], 1);
                across.both = several(vec![path("twice")], 102);
                across.differing = several(vec![(path("other"), "size")], 1);
            },
        );
    }

    #[test]
    fn missing() {
        let store = fixture::store(DESCRIPTION);
        let mut observed = fixture::observed(&store);
        let missing = Missing {
            path: path("gone"),
            referrers: vec![path("one"), path("two")],
            odd: None,
        };
        observed.pairing.objects = 1;
        observed.pairing.rows = Rows::Known(Objects {
            rows: 103,
            above: 1,
            missing: several(vec![missing], 102),
            hidden: several(vec![path("hidden")], 1),
            of_others: OfOthers {
                first: Some("/other/store/a".to_owned()),
                count: 2,
            },
        });
        let (found, text) = told(check(&store, &observed));
        assert_eq!(
            found,
            [
                "row-of-another-store",
                "row-without-object",
                "lower-object-hidden"
            ],
            "{text}"
        );
        insta::assert_snapshot!("missing", text);
    }

    #[test]
    fn damaged() {
        let store = fixture::store(DESCRIPTION);
        let damaged = |upper, actual| Damaged {
            path: path("damaged"),
            upper,
            expected: [7; 32],
            actual,
        };
        let contents = Contents {
            damaged: vec![
                damaged(true, Ok([8; 32])),
                damaged(false, Err("Input/output error".to_owned())),
            ],
            ..Contents::default()
        };
        let (codes, text) = told(compare::damaged(&store, &contents));
        assert_eq!(codes, ["object-damaged", "object-damaged"]);
        insta::assert_snapshot!("damaged", text);
    }
}

#[test]
fn nix_refuses() {
    let store = fixture::store(DESCRIPTION);
    let finding = super::nix::refuses(
        &store,
        &fixture::observed(&store),
        "nix store info --store URL",
        "error: told so",
    );
    let (codes, text) = told(vec![finding]);
    assert_eq!(codes, ["nix-refuses"]);
    insta::assert_snapshot!("nix_refuses", text);
}

/// A fixture place elsewhere is not mistaken for the one described.
#[test]
fn the_builder_is_as_described() {
    let store = fixture::store(DESCRIPTION);
    let observed = fixture::observed(&store);
    assert_eq!(observed.lower.directory, place(store.lower.real.clone()));
    assert_eq!(observed.mount.place.path, *store.real);
}
