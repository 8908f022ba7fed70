//! `[parameters]`: further parameters of the store URL.

use super::problem::Problem;
use super::read::{At, Scalars};
use super::validate::Reading;
use crate::nix::url::is_parameter_name;

/// Parameters of the store URL that have keys of their own, with those keys.
const OWN_KEYS: &[(&str, &str)] = &[
    ("root", "root"),
    ("real", "real"),
    ("state", "state"),
    ("log", "log"),
    ("store", "store"),
    ("lower-store", "lower-store"),
    ("upper-layer", "upper-layer"),
    ("check-mount", "check-mount"),
    ("remount-hook", "remount-hook"),
];

impl Reading<'_> {
    pub(super) fn parameters(&mut self, raw: Option<&At<Scalars>>) -> Vec<(String, String)> {
        let Some(raw) = raw else { return Vec::new() };
        let mut parameters = Vec::new();
        for (name, value) in &raw.value.0 {
            let problem = if let Some((_, key)) = OWN_KEYS.iter().find(|(own, _)| own == name) {
                Problem::new(format!("`parameters.{name}` is set by overstore itself"))
                    .at(&value.key, "it follows from the description")
                    .help(format!("write `{key}` at the top of the file"))
            } else if name == "use-sqlite-wal" {
                Problem::new("`use-sqlite-wal` is no parameter of a store URL")
                    .at(&value.key, "Nix takes it from nix.conf alone")
                    .help("write it below the line `[database]`")
            } else if name == "workdir" {
                Problem::new("`workdir` is no parameter of a store URL")
                    .at(&value.key, "only OverlayFS knows of it")
                    .help("write `workdir` at the top of the file")
            } else if !is_parameter_name(name) {
                Problem::new(format!(
                    "`{}` cannot be the name of a parameter",
                    name.escape_debug()
                ))
                .at(&value.key, "expected letters, digits, `-` and `_`")
            } else if value.text.contains('\0') {
                Problem::new(format!("`parameters.{name}` has a byte 0"))
                    .at(&value.span, "no setting of Nix can have one")
            } else {
                parameters.push((name.clone(), value.text.clone()));
                continue;
            };
            self.problems.push(problem);
        }
        parameters
    }
}
