//! `[daemon]`: who serves the store.

use super::lower::read_path;
use super::problem::{Problem, Span};
use super::raw::{RawDaemon, RawStore};
use super::read::At;
use super::validate::Reading;
use super::{Daemon, MetadataSource, Store};
use crate::escape::{show_path, unit_value};

impl Reading<'_> {
    pub(super) fn daemon(&mut self, raw: Option<&At<RawDaemon>>) -> Option<Daemon> {
        let raw = &raw?.value;
        let serve = raw.serve.as_ref().filter(|serve| serve.value);
        match (serve, &raw.socket) {
            (Some(serve), Some(socket)) => {
                self.problems.push(
                    Problem::new("`daemon.serve` and `daemon.socket` exclude each other")
                        .at(
                            &serve.span,
                            "this store is served by the system's own daemon",
                        )
                        .at(&socket.span, "this store is served by a daemon of its own")
                        .help("keep one of the two"),
                );
                None
            }
            (Some(_), None) => Some(Daemon {
                socket: self.environment.socket(),
                system: true,
            }),
            (None, Some(socket)) => {
                let path = read_path("daemon.socket", socket, self.problems)?;
                if unit_value(&path).is_none() {
                    self.problems.push(
                        Problem::new("`daemon.socket` cannot be written in a unit")
                            .at(
                                &socket.span,
                                "expected no control characters, and no space or backslash at the end",
                            )
                            .help("a unit file cannot contain these: name another path"),
                    );
                    return None;
                }
                Some(Daemon {
                    socket: path,
                    system: false,
                })
            }
            (None, None) => None,
        }
    }

    /// A daemon whose store has that daemon's own socket below connects to itself without end.
    pub(super) fn own_daemon(&mut self, store: &Store, raw: &RawStore, lower_store: &Span) {
        let Some(daemon) = &store.daemon else { return };
        let mut lower = &store.lower;
        loop {
            match &lower.source {
                MetadataSource::Daemon { socket } if *socket == daemon.socket => {
                    let mut problem =
                        Problem::new("the lower store is the daemon that serves this store").at(
                            lower_store,
                            format!("this daemon listens on `{}`", show_path(socket)),
                        );
                    if let Some(table) = &raw.daemon {
                        let place = table.value.socket.as_ref().map(|socket| &socket.span);
                        let place = place.or(table.value.serve.as_ref().map(|serve| &serve.span));
                        if let Some(place) = place {
                            problem =
                                problem.at(place, "and so does the one that serves this store");
                        }
                    }
                    self.problems.push(problem.help(
                    "it would connect to itself endlessly: write `lower-store = \"local\"` to read \
                     the lower store's database, or give this store a daemon with another `socket`",
                ));
                    return;
                }
                MetadataSource::Overlay { lower: below, .. } => lower = below,
                _ => return,
            }
        }
    }
}
