//! The one way to skip a test. The unit tests in `src/` use this file too.

use std::fs::OpenOptions;
use std::io::Write;

/// Reports that the running test does not test what it should, because `part` (`sid`, `root`, a
/// file system's name) is not to be had: on standard error, and as the line `PART<tab>TEST<tab>REASON`
/// at the end of the file named by `OVERSTORE_SKIPPED`, with which `.ci/run` decides.
pub fn skip(part: &str, reason: &str) {
    // libtest names the thread after the test.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Not eprintln, which libtest does not show for a test that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {part}: {reason}");
    if let Some(list) = std::env::var_os("OVERSTORE_SKIPPED") {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&list)
            .and_then(|mut file| file.write_all(format!("{part}\t{test}\t{reason}\n").as_bytes()))
            .unwrap_or_else(|error| panic!("cannot record a skip in {list:?}: {error}"));
    }
}
