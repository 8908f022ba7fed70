//! `overstore down`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Failure, load, private, tell};
use crate::apply::{Holder, TakeDown, TakenDown};
use crate::cli;
use crate::config::Store;
use crate::escape::show_path;
use crate::remedy::{Fault, Remedy};
use crate::report::{self, Outcome, Report};
use crate::systemd::notify::ServiceManager;

pub(super) fn run(arguments: &cli::Down, json: bool) -> Result<ExitCode, Failure> {
    let manager = ServiceManager::from_environment();
    let loaded = load(&arguments.store, &arguments.root)?;
    private::refuse_own(&loaded.store)?;
    let take_down = TakeDown {
        store: &loaded.store,
        system: &loaded.system,
        lazy: arguments.lazy,
        unrecorded: arguments.unrecorded,
    };
    let mut report = Report::new(report::Command::Down, &loaded.store.name);
    match take_down.run(&mut |progress| tell(&progress, &manager)) {
        Ok(TakenDown::NotMounted) => {}
        Ok(TakenDown::Unmounted(step)) => {
            report.steps.push(step);
            report.outcome = Outcome::Done;
        }
        Ok(TakenDown::Busy { below, holders }) => {
            let detach = loaded.store.command(["down", "--lazy"]);
            let remedy = Remedy::say("end these processes").or(Remedy::say(
                "detach the mount; it disappears when its last user ends",
            )
            .run(detach));
            report.fail(Fault::new(busy(&loaded.store, &below, &holders)).remedy(remedy));
            report.holders = holders;
        }
        Ok(TakenDown::NotOurs(fault)) => report.fail(fault),
        Err(error) => report.fail(Fault::of(&error)),
    }
    super::warn_if_deaf(&manager);
    super::finish(&report, json)
}

/// Who keeps a mount busy, in words.
fn busy(store: &Store, below: &[PathBuf], holders: &[Holder]) -> String {
    let real = show_path(&store.real);
    let mut text = format!("the overlay at {real} is in use, so nothing was unmounted");
    for path in below {
        text.push_str(&format!("\n  something is mounted at {}", show_path(path)));
    }
    for holder in holders {
        let (name, pid, how) = (&holder.name, holder.pid, holder.how.join("; "));
        text.push_str(&format!("\n  {name} (process {pid}): {how}"));
    }
    if below.is_empty() && holders.is_empty() {
        text.push_str(
            "\n  no process that uses it can be seen from here; it may be in another PID namespace",
        );
    }
    text
}
