//! The paths that the file gives, and those that follow from them and from the environment.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Setting;
use super::lower::{bad_path, read_path};
use super::path::{BadPath, absolute};
use super::problem::Problem;
use super::raw::RawStore;
use super::read::At;
use super::validate::Reading;
use crate::escape::show_path;

/// The paths that the file gives.
pub(super) struct GivenPaths {
    pub(super) root: Option<PathBuf>,
    pub(super) real: Option<PathBuf>,
    pub(super) state: Option<PathBuf>,
    pub(super) log: Option<PathBuf>,
    pub(super) store: Option<PathBuf>,
    pub(super) upper_layer: Option<PathBuf>,
    pub(super) workdir: Option<PathBuf>,
}

impl Reading<'_> {
    /// Reads them.
    pub(super) fn given_paths(&mut self, raw: &RawStore) -> GivenPaths {
        let mut path =
            |key, given: &Option<At<String>>| read_path(key, given.as_ref()?, self.problems);
        GivenPaths {
            real: path("real", &raw.real),
            state: path("state", &raw.state),
            log: path("log", &raw.log),
            store: path("store", &raw.store),
            upper_layer: path("upper-layer", &raw.upper_layer),
            workdir: path("workdir", &raw.workdir),
            root: raw.root.as_ref().and_then(|root| self.root(root)),
        }
    }

    fn root(&mut self, root: &At<String>) -> Option<PathBuf> {
        match absolute(root.value.as_bytes()) {
            Ok(path) if path.ends_with("nix/store") => {
                let shown = show_path(&path).into_owned();
                // Two components are there.
                let above = path.ancestors().nth(2).unwrap_or(Path::new("/"));
                let problem = Problem::new("`root` ends in `nix/store`").at(
                    &root.span,
                    format!("the store would be in `{shown}/nix/store`"),
                );
                self.problems.push(match above == Path::new("/") {
                    true => problem
                        .help("leave `root` out: the store is then the system's own, in `/nix/store`"),
                    false => problem.help(format!(
                        "write `root = \"{}\"`, below which Nix looks for `nix/store` and \
                         `nix/var/nix`; or, for the merged store directory alone, `real = \"{shown}\"`",
                        show_path(above)
                    )),
                });
                None
            }
            Ok(path) => Some(path),
            Err(BadPath::Root) => {
                self.problems.push(
                Problem::new("`root` is `/`")
                    .at(
                        &root.span,
                        "the store would be in `//nix/store`, which Nix takes for a chroot store: it \
                         redirects every build output",
                    )
                    .help("leave `root` out: the store is then the system's own, in `/nix/store`"),
            );
                None
            }
            Err(bad) => {
                self.problems
                    .push(bad_path("root", &root.span, root.value.as_bytes(), bad));
                None
            }
        }
    }

    /// A directory as Nix finds it: given, else below the root, else from the environment, else where
    /// Nix is built to have it.
    pub(super) fn directory(
        &mut self,
        given: Option<PathBuf>,
        root: Option<&Path>,
        below_root: &str,
        variable: &Option<PathBuf>,
        built_in: &str,
    ) -> Setting<PathBuf> {
        let built_in = || PathBuf::from(built_in);
        if given.is_some() {
            return Setting::or_default(given, built_in);
        }
        if let Some(root) = root {
            return Setting::or_default(None, || root.join(below_root));
        }
        // The one who opens the store need not have the variable: Nix is told.
        let variable = variable.as_ref().and_then(|path| {
            absolute(path.as_os_str().as_bytes())
                .map_err(|bad| {
                    self.problems.push(Problem::new(format!(
                        "`{}`, from the environment, {}",
                        show_path(path),
                        bad.what()
                    )));
                })
                .ok()
        });
        Setting::or_default(variable, built_in)
    }
}
