//! The tables, and the page that they are on.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::cache::Work;
use crate::collecting::Collecting;
use crate::generator::Result;
use crate::measure::Times;
use crate::metadata::{Contest, Metadata};
use crate::own::Own;
use crate::publishing::Publishing;
use crate::reconciling::Reconciling;
use crate::refreshing::Refreshing;
use crate::setup::{PHASES, Setup};

/// The tables about setting stores up.
pub fn setup(setups: &[Setup], least_peak: u64, rounds: &str) -> String {
    let mut text = format!(
        "## Setting a store up\n\nMedians of {rounds} rounds; in brackets, between which two half of \
         all rounds were. Milliseconds.\n\n\
         | file system | lower store | command | overstore | shell | ratio |\n\
         | --- | ---: | --- | ---: | ---: | ---: |\n"
    );
    let mut line = |cells: &[String]| {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    for setup in setups {
        for (phase, name) in PHASES.iter().enumerate() {
            let (ours, theirs) = (&setup.overstore[phase].times, &setup.shell[phase].times);
            line(&[
                setup.file_system.clone(),
                setup.paths.to_string(),
                (*name).to_owned(),
                milliseconds(ours),
                milliseconds(theirs),
                format!("{:.2}", ours.median() / theirs.median()),
            ]);
        }
    }
    let _ = write!(
        text,
        "\n### Peak memory\n\nMiB resident at most, shared pages included, in any one process. \
         Measured in this way, `true` needs {:.1}.\n\n\
         | file system | lower store | command | overstore | shell |\n\
         | --- | ---: | --- | ---: | ---: |\n",
        mebibytes(least_peak)
    );
    for setup in setups {
        for (phase, name) in PHASES.iter().enumerate() {
            let _ = writeln!(
                text,
                "| {} | {} | {name} | {:.1} | {:.1} |",
                setup.file_system,
                setup.paths,
                mebibytes(setup.overstore[phase].peak),
                mebibytes(setup.shell[phase].peak),
            );
        }
    }
    text
}

fn milliseconds(times: &Times) -> String {
    let (low, high) = times.middle();
    format!(
        "{:.1} ({:.1} to {:.1})",
        times.median() * 1e3,
        low * 1e3,
        high * 1e3
    )
}

fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
}

fn contests(contests: &[Contest]) -> String {
    let mut text =
        "Medians; in brackets, between which two half of all runs were. Seconds. The ratio \
                    is overstore's time over the other's.\n\n\
                    | work | against | overstore | other | ratio | aim |\n\
                    | --- | --- | ---: | ---: | ---: | --- |\n"
            .to_owned();
    for contest in contests {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.2} | {} |",
            contest.work,
            contest.against,
            seconds(&contest.ours),
            seconds(&contest.theirs),
            contest.ours.median() / contest.theirs.median(),
            contest.aim
        );
    }
    text
}

/// The tables about collecting garbage.
pub fn collecting(collecting: &Collecting) -> String {
    let mut text = contests(&collecting.contests);
    text += "\n### Its cost is not the lower store's\n\nSeconds of processor time of `gc`, Nix's \
             included, 500 of 1,000 objects garbage, nothing below rooted: medians of five. Aim: the \
             same within 20 %.\n\n| paths below | processor time |\n| ---: | ---: |\n";
    for (paths, times) in &collecting.flat {
        let _ = writeln!(text, "| {paths} | {} |", seconds(times));
    }
    let _ = writeln!(
        text,
        "\nChoosing among 1,000,000 rows takes {:.1} MiB at most. Aim: 128.",
        mebibytes(collecting.peak)
    );
    text
}

/// The tables about refreshing.
pub fn refreshing(refreshing: &Refreshing) -> String {
    let mut text = contests(&refreshing.contests);
    text += "\n### Its cost is not the lower store's\n\nSeconds of processor time of a `refresh` to a \
             generation with 100 new paths. Aim: the same within 20 %.\n\n\
             | paths below | processor time |\n| ---: | ---: |\n";
    for (paths, times) in &refreshing.flat {
        let _ = writeln!(text, "| {paths} | {} |", seconds(times));
    }
    text
}

/// The table about stores of one's own.
pub fn own(own: &Own) -> String {
    let mut text = contests(&own.contests);
    let _ = writeln!(
        text,
        "\n100 ephemeral stores at once, each of which adds a file with Nix, took {:.1} s from the start \
         of the first to the end of the last, without a failure. Beside its objects, the largest took {} \
         KiB of memory. Aim: 2048.",
        own.crowd, own.largest
    );
    text
}

/// The tables about reconciling.
pub fn reconciling(reconciling: &Reconciling) -> String {
    let mut text = contests(&reconciling.contests);
    text += "\n### How its cost grows\n\nSeconds of processor time, and MiB resident at most, of \
             `reconcile` of so many rows, 1 % of them changed. Aim: at most 64 MiB for 50,000.\n\n\
             | rows | processor time | memory |\n| ---: | ---: | ---: |\n";
    for (rows, (times, peak)) in &reconciling.growth {
        let _ = writeln!(
            text,
            "| {rows} | {} | {:.1} |",
            seconds(times),
            mebibytes(*peak)
        );
    }
    text
}

/// The tables about publishing.
pub fn publishing(publishing: &Publishing) -> String {
    let mut text = contests(&publishing.contests);
    text += "\n### Roots\n\nSeconds of publishing with a root for each path that nothing else refers \
             to, and with one root that keeps the same paths; and MiB resident at most. Aim: 64.\n\n\
             | paths | roots | seconds | with one root | memory |\n\
             | ---: | ---: | ---: | ---: | ---: |\n";
    for size in &publishing.sizes {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.1} |",
            size.paths,
            size.roots,
            seconds(&size.with_roots),
            seconds(&size.with_one),
            mebibytes(size.peak)
        );
    }
    let _ = writeln!(
        text,
        "\nThe images are of {} objects with {:.0} MiB.",
        publishing.objects,
        publishing.bytes as f64 / f64::from(1 << 20)
    );
    text
}

/// The tables about metadata and contents.
pub fn metadata(metadata: &Metadata) -> String {
    let mut text = contests(&metadata.contests);
    text += "\n### How cost grows\n\nSeconds, and in brackets MiB resident at most, of `warm --all` \
             with so many paths below, and of `check` and `status` with the metadata of all of them \
             above.\n\n![How cost grows](benchmarks.svg)\n\n\
             | paths | warm | check | status |\n| ---: | ---: | ---: | ---: |\n";
    for growth in &metadata.growth {
        let _ = write!(text, "| {} |", growth.paths);
        for (seconds, peak) in growth.seconds.iter().zip(growth.peaks) {
            let _ = write!(text, " {seconds:.3} ({:.1}) |", mebibytes(peak));
        }
        text.push('\n');
    }
    text += "\n### Nix's collector\n\nSeconds of `nix-store --gc` with nothing to collect.\n\n\
             | store | seconds |\n| --- | ---: |\n";
    for (store, seconds) in &metadata.collections {
        let _ = writeln!(text, "| {store} | {seconds:.1} |");
    }
    text
}

/// The table about a daemon without its memory of path infos.
pub fn cache(versions: &[(String, Vec<Work>)]) -> String {
    let mut text =
        "Seconds of processor time of the client, the daemon and the builders. Medians; in \
                    brackets, between which two half of all runs were.\n\n\
                    | Nix | a client's work | with | without | ratio |\n\
                    | --- | --- | ---: | ---: | ---: |\n"
            .to_owned();
    for (version, work) in versions {
        for work in work {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {:.2} |",
                version.trim().rsplit(' ').next().unwrap_or_default(),
                work.work,
                seconds(&work.with),
                seconds(&work.without),
                work.without.median() / work.with.median()
            );
        }
    }
    text
}

fn seconds(times: &Times) -> String {
    let (low, high) = times.middle();
    format!("{:.3} ({low:.3} to {high:.3})", times.median())
}

/// Replaces a written part of `docs/benchmarks.md`.
pub fn write(part: &str, text: &str) -> Result<()> {
    print!("{text}");
    let (begin, end) = (
        format!("<!-- begin: {part}, written by make bench -->\n"),
        format!("<!-- end: {part}, written by make bench -->\n"),
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    let page = fs::read_to_string(&path)?;
    let marks = page
        .split_once(&begin)
        .and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) = marks.ok_or("docs/benchmarks.md has lost its begin and end marks")?;
    Ok(fs::write(
        &path,
        format!("{before}{begin}\n{text}\n{end}{after}"),
    )?)
}
