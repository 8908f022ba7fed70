//! Progress bars: hidden where standard error is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts objects.
pub(super) fn objects(count: u64) -> ProgressBar {
    bar(count, "{wide_bar} {pos}/{len} objects, {eta} left")
}

/// A bar that counts bytes; how many there are is not known yet.
pub(super) fn bytes() -> ProgressBar {
    let template = "{wide_bar} {binary_bytes}/{binary_total_bytes}, {eta} left";
    bar(0, template)
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
