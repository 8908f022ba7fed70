//! An upper store over another lower store than before: its rows and objects put right.
//!
//! [`survey`] reads both stores, [`plan`] decides by a table what becomes of each row and each object,
//! and [`run`] does it while nothing else uses the store: each step is atomic or safe to repeat, so
//! that a run that was killed is finished by the next. What is needed and gone is carried: copied from
//! the old store ([`carry`]).

mod carry;
mod error;
mod fetch;
mod old;
mod plan;
mod run;
mod survey;

pub(crate) use error::ReconcileError;
pub(crate) use fetch::Fetcher;
pub(crate) use old::OldStores;
pub(crate) use plan::GiveUp;
pub(crate) use run::{Missing, Reconciled, Reconciler, Step, WithoutRow, obstacles};
