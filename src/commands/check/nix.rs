//! The store, opened by Nix.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::check::{self, Finding};
use crate::commands::Failure;
use crate::config::Store;
use crate::escape::show_lines;
use crate::linux::programs;
use crate::observe::Observed;

/// Has the `nix` on `PATH` open the store.
pub(super) fn open(store: &Store, observed: &Observed) -> Result<Option<Finding>, Failure> {
    let url = store
        .reference()
        .render_for_all()
        .unwrap_or_else(|texts| texts.since_2_34);
    let features = store.experimental_features().join(" ");
    let mut command = Command::new("nix");
    command
        .args(["store", "info", "--store"])
        .arg(OsStr::from_bytes(url.as_bytes()))
        .arg("--extra-experimental-features")
        .arg(format!("nix-command {features}"))
        .stdin(programs::no_input());
    let output = command.output().map_err(|error| {
        Failure::doing("cannot run nix", error).remedy("put Nix on PATH, or leave --nix out")
    })?;
    if output.status.success() {
        return Ok(None);
    }
    let message = show_lines(output.stderr.trim_ascii());
    Ok(Some(check::nix::refuses(
        store,
        observed,
        "nix store info --store URL",
        &message,
    )))
}
