//! Plans with values: what `up` would do on a machine in this state or that.

use crate::check::fixture::{self, DESCRIPTION, directory, file, overlay, unmounted};
use crate::config::Store;
use crate::observe::*;
use crate::plan::{Allowed, plan};

/// The steps in words, or the codes of what is in the way.
fn planned(
    description: &str,
    fix_permissions: bool,
    change: impl FnOnce(&Store, &mut Observed),
) -> String {
    let store = fixture::store(description);
    let mut observed = fixture::untouched(&store);
    change(&store, &mut observed);
    text(&store, &observed, fix_permissions)
}

fn text(store: &Store, observed: &Observed, fix_permissions: bool) -> String {
    let lines: Vec<String> = match plan(
        store,
        observed,
        Allowed {
            fix_permissions,
            ..Allowed::default()
        },
    ) {
        Ok(plan) => plan.steps.iter().map(|step| step.report().text).collect(),
        Err(findings) => findings
            .iter()
            .map(|finding| format!("refused: {}", finding.code))
            .collect(),
    };
    lines.join("\n")
}

/// The plan for a store that is up, but for one change.
fn steps_for(fix_permissions: bool, change: impl FnOnce(&mut Observed)) -> String {
    planned(DESCRIPTION, fix_permissions, |store, observed| {
        *observed = fixture::observed(store);
        change(observed);
    })
}

fn missing(place: &mut Place) {
    place.found = fixture::nothing_below("/mnt");
}

#[test]
fn from_nothing_everything_is_made() {
    insta::assert_snapshot!("from_nothing", planned(DESCRIPTION, false, |_, _| {}));
}

#[test]
fn options_and_the_journal_mode_are_as_described() {
    let description = format!(
        "{DESCRIPTION}[mount]\noptions = [\"index=on\"]\n[database]\nuse-sqlite-wal = false\n"
    );
    insta::assert_snapshot!("options", planned(&description, false, |_, _| {}));
}

#[test]
fn without_a_build_users_group_the_upper_layer_is_the_users_own() {
    let description = format!("{DESCRIPTION}[permissions]\nbuild-users-group = \"\"\n");
    insta::assert_snapshot!("without_a_group", planned(&description, false, |_, _| {}));
}

#[test]
fn in_a_user_namespace_attributes_are_the_user_s() {
    let plan = planned(DESCRIPTION, false, |_, observed| {
        (observed.machine.uid, observed.machine.user_namespace) = (1000, true);
    });
    insta::assert_snapshot!("in_a_user_namespace", plan);
}

#[test]
fn paths_that_the_kernel_needs_escaped() {
    let description = DESCRIPTION.replace("store-b", "a,b:c\\\\d");
    insta::assert_snapshot!("escaped", planned(&description, false, |_, _| {}));
}

#[test]
fn nothing_is_left_to_do() {
    assert_eq!(steps_for(false, |_| {}), "");
    assert_eq!(steps_for(true, |_| {}), "");
}

#[test]
fn what_is_there_is_kept() {
    assert_eq!(steps_for(false, unmounted).lines().count(), 1);
    assert!(steps_for(false, unmounted).starts_with("mount the overlay at "));
}

#[test]
fn what_an_interrupted_run_left_is_finished() {
    let begun = |observed: &mut Observed| {
        observed.database.schema = Ok(None);
        observed.database.file = file(0o644, 4096);
    };
    insta::assert_snapshot!("database_begun", steps_for(false, begun));
    // What cannot be read tells nothing of an interruption.
    let unreadable = |observed: &mut Observed| {
        observed.database.schema = Err("Permission denied".to_owned());
    };
    let planned = steps_for(false, unreadable);
    assert!(!planned.contains("make"), "{planned}");
    let links = |observed: &mut Observed| {
        unmounted(observed);
        observed.upper_layer.links = Links::Transparent;
    };
    insta::assert_snapshot!("links_begun", steps_for(false, links));
    let state = |observed: &mut Observed| observed.state[4..].iter_mut().for_each(missing);
    insta::assert_snapshot!("state_begun", steps_for(false, state));
}

#[test]
fn the_layer_of_a_mounted_overlay_is_not_changed_below_it() {
    let links = |observed: &mut Observed| observed.upper_layer.links = Links::Missing;
    assert_eq!(steps_for(false, links), "");
}

#[test]
fn owners_and_modes_are_mended_only_when_asked_for() {
    let wrong = |observed: &mut Observed| {
        directory(&mut observed.upper_layer.place).mode = 0o700;
        directory(&mut observed.workdir.place).uid = 1000;
        directory(&mut observed.state[1]).mode = 0o777;
    };
    assert_eq!(steps_for(false, wrong), "");
    insta::assert_snapshot!("permissions_mounted", steps_for(true, wrong));
    let unmounted = |observed: &mut Observed| {
        wrong(observed);
        unmounted(observed);
    };
    insta::assert_snapshot!("permissions_unmounted", steps_for(true, unmounted));
}

/// What no step fixes, and where beginning would do harm.
#[test]
fn obstacles_are_told_before_anything_is_done() {
    type Change = fn(&mut Observed);
    let cases: &[(&str, Change)] = &[
        ("lower-missing", |observed| {
            missing(&mut observed.lower.directory)
        }),
        ("stacking-too-deep", |observed| observed.overlays_below = 2),
        ("upper-file-system-unfit", |observed| {
            observed.upper_layer.xattrs = Some(false)
        }),
        ("upper-in-use", |observed| {
            observed.upper_layer.usage = Usage::Mounted("an overlay".to_owned())
        }),
        ("upper-missing", |observed| {
            observed.upper_layer.place.found = Found::Other("a file")
        }),
        ("workdir-missing", |observed| {
            observed.workdir.place.found = Found::Other("a file")
        }),
        ("upper-missing", |observed| {
            missing(&mut observed.upper_layer.place)
        }),
        ("workdir-missing", |observed| {
            missing(&mut observed.workdir.place)
        }),
        ("workdir-elsewhere", |observed| {
            directory(&mut observed.workdir.place).fs.mount_id += 1
        }),
        ("path-unsafe", |observed| {
            observed.workdir.place.found = Found::Symlink {
                component: "/mnt".into(),
                resolved: None,
            };
        }),
        ("path-unreachable", |observed| {
            observed.workdir.place.found = Found::Unreachable {
                component: "/mnt".into(),
                errno: 5,
            };
        }),
        ("mount-missing", |observed| {
            unmounted(observed);
            observed.mount.place.found = Found::Other("a file");
        }),
        ("mount-foreign", |observed| {
            unmounted(observed);
            observed.mount.stack = vec![fixture::line("tmpfs")];
        }),
        ("mount-hidden", |observed| {
            let below = observed.mount.stack[0].clone();
            unmounted(observed);
            observed.mount.stack = vec![fixture::line("tmpfs"), below];
        }),
        ("lowerdir-differs", |observed| {
            overlay(observed).info.super_options = b"rw,lowerdir=/other".to_vec();
            overlay(observed).lower = Identity::Different("it does".to_owned());
        }),
        ("upperdir-differs", |observed| {
            overlay(observed).upper = Identity::Different("it does".to_owned())
        }),
        ("workdir-differs", |observed| {
            overlay(observed).workdir = Identity::Different("it does".to_owned())
        }),
        ("lower-replaced", |observed| {
            overlay(observed).recorded = Some(Recorded::Different("it was".to_owned()))
        }),
        ("state-missing", |observed| {
            observed.state[0].found = Found::Other("a file")
        }),
        ("schema-unknown", |observed| {
            observed.database.schema = Ok(Some("11".to_owned()))
        }),
        ("database-unreadable", |observed| {
            observed.database.file = FileFacts::Other("a directory".into())
        }),
    ];
    for (code, change) in cases {
        assert_eq!(steps_for(false, change), format!("refused: {code}"));
    }
}

/// Findings that make no harm worse do not keep the store from being set up.
#[test]
fn what_does_not_hinder_does_not_hinder() {
    let plan = steps_for(false, |observed| {
        unmounted(observed);
        observed.hook.as_mut().unwrap().runs = false;
        directory(&mut observed.state[1]).mode = 0o777;
        observed.lower.strangers = Some(vec!["lost+found".into()]);
        observed.upper_layer.strangers = Some(vec!["lost+found".into()]);
    });
    assert!(plan.starts_with("mount the overlay at "), "{plan}");
}
