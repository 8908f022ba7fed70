//! Rules: a described store and the machine as observed, to findings. Pure: no file system, no
//! clock, no environment. One file an area.

mod code;
pub mod compare;
mod database;
pub mod description;
mod finding;
#[cfg(test)]
pub(crate) mod fixture;
mod layers;
mod lower;
mod mount;
pub(crate) mod nix;
mod path;
mod state;
#[cfg(test)]
mod tests;

pub use code::Code;
pub(crate) use code::{Declaration, StopsUp};
pub use finding::Severity;
pub(crate) use finding::{Finding, Part};

use crate::config::Store;
use crate::observe::Observed;
use crate::remedy::{CommandLine, Remedy};

/// Everything that is not as it should be, as far as it was looked at.
pub fn check(store: &Store, observed: &Observed) -> Vec<Finding> {
    let mut findings = description::findings(store);
    findings.extend(lower::findings(store, observed));
    findings.extend(layers::findings(store, observed));
    findings.extend(mount::findings(store, observed));
    findings.extend(state::findings(store, observed));
    findings.extend(database::findings(store, observed));
    findings.extend(nix::findings(store, observed));
    findings
}

/// The command that sets the store up.
fn up(store: &Store) -> CommandLine {
    store.command(["up"])
}

/// The commands that mount the store again.
fn down_up(store: &Store) -> Remedy {
    Remedy::default()
        .run(store.command(["down"]))
        .run(up(store))
}

/// The command that fixes owners and modes.
fn fix_permissions(store: &Store) -> CommandLine {
    store.command(["up", "--fix-permissions"])
}
