//! What `overstore url` tells.

use schemars::JsonSchema;
use serde::Serialize;

use crate::check::Finding;

/// The result of `url`, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct UrlReport {
    /// The version of this format: 1.
    pub version: u32,
    /// The store's name.
    pub store: String,
    /// The URL: for the version of Nix that was asked for, else for all versions, else (where no
    /// text serves all) for Nix 2.34 and later.
    pub url: String,
    /// The URL for each group of versions, where no text serves all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_version: Option<UrlByVersion>,
    /// The experimental features that Nix needs to open the URL.
    pub experimental_features: Vec<&'static str>,
    /// What is to be known about the description.
    pub findings: Vec<Finding>,
}

/// A URL that has to be written differently for different versions of Nix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct UrlByVersion {
    /// For Nix 2.33 and before.
    #[serde(rename = "before-2.34")]
    pub before_2_34: String,
    /// For Nix 2.34 and later.
    #[serde(rename = "since-2.34")]
    pub since_2_34: String,
}
