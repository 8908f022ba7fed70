//! `overstore schema`.

use std::process::ExitCode;

use schemars::{Schema, schema_for};

use super::Failure;
use crate::cli::{self, SchemaName};
use crate::config;
use crate::report::{
    self, BugReport, CodesReport, ErrorReport, GcReport, ImageReport, ListReport, LowerCheckReport,
    OptimiseReport, PublishReport, ReconcileReport, RefreshReport, Report, StatusReport,
    StoresReport, UrlReport, WarmReport, WhyReport,
};

pub(super) fn run(arguments: &cli::Schema) -> Result<ExitCode, Failure> {
    report::print(&schema(arguments.name), true, |_| Ok(()))?;
    Ok(ExitCode::SUCCESS)
}

fn schema(name: SchemaName) -> Schema {
    match name {
        SchemaName::Configuration => config::schema(),
        SchemaName::Publication => config::publication_schema(),
        SchemaName::Report => schema_for!(Report),
        SchemaName::Url => schema_for!(UrlReport),
        SchemaName::Status => schema_for!(StatusReport),
        SchemaName::List => schema_for!(ListReport),
        SchemaName::Stores => schema_for!(StoresReport),
        SchemaName::Codes => schema_for!(CodesReport),
        SchemaName::Warm => schema_for!(WarmReport),
        SchemaName::Gc => schema_for!(GcReport),
        SchemaName::Optimise => schema_for!(OptimiseReport),
        SchemaName::Reconcile => schema_for!(ReconcileReport),
        SchemaName::Why => schema_for!(WhyReport),
        SchemaName::Refresh => schema_for!(RefreshReport),
        SchemaName::Publish => schema_for!(PublishReport),
        SchemaName::PublishCheck => schema_for!(LowerCheckReport),
        SchemaName::BugReport => schema_for!(BugReport),
        SchemaName::PublishImage => schema_for!(ImageReport),
        SchemaName::Error => schema_for!(ErrorReport),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_do_not_change_by_accident() {
        insta::assert_json_snapshot!("configuration", schema(SchemaName::Configuration));
        insta::assert_json_snapshot!("publication", schema(SchemaName::Publication));
        insta::assert_json_snapshot!("publish", schema(SchemaName::Publish));
        insta::assert_json_snapshot!("publish_check", schema(SchemaName::PublishCheck));
        insta::assert_json_snapshot!("publish_image", schema(SchemaName::PublishImage));
        insta::assert_json_snapshot!("url", schema(SchemaName::Url));
        insta::assert_json_snapshot!("status", schema(SchemaName::Status));
        insta::assert_json_snapshot!("list", schema(SchemaName::List));
        insta::assert_json_snapshot!("stores", schema(SchemaName::Stores));
        insta::assert_json_snapshot!("codes", schema(SchemaName::Codes));
        insta::assert_json_snapshot!("warm", schema(SchemaName::Warm));
        insta::assert_json_snapshot!("gc", schema(SchemaName::Gc));
        insta::assert_json_snapshot!("optimise", schema(SchemaName::Optimise));
        insta::assert_json_snapshot!("reconcile", schema(SchemaName::Reconcile));
        insta::assert_json_snapshot!("refresh", schema(SchemaName::Refresh));
        insta::assert_json_snapshot!("why", schema(SchemaName::Why));
        insta::assert_json_snapshot!("bug_report", schema(SchemaName::BugReport));
        insta::assert_json_snapshot!("error", schema(SchemaName::Error));
        insta::assert_json_snapshot!("report", schema(SchemaName::Report));
    }
}
