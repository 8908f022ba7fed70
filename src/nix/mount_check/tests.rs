use super::*;
use insta::assert_snapshot;
use proptest::prelude::*;

const REAL: &str = "/m/nix/store";

/// A mount table with `line` at its end.
fn table(line: &str) -> Vec<u8> {
    format!(
        "proc /proc proc rw 0 0\noverlay / overlay rw,lowerdir=/x,upperdir=/y,workdir=/z 0 0\n{line}\n"
    )
    .into_bytes()
}

fn verdict(line: &str, lower: &str, upper: &str) -> Verdict {
    predict(
        &table(line),
        REAL.as_bytes(),
        lower.as_bytes(),
        upper.as_bytes(),
    )
}

fn line(options: &str) -> String {
    format!("overlay {REAL} overlay rw,relatime,{options},uuid=on 0 0")
}

/// The table of what Nix 2.26.3 and 2.34.8 were seen to say, row by row.
#[test]
fn what_nix_was_seen_to_say() {
    let good = "lowerdir=/l,upperdir=/u,workdir=/w";
    assert_eq!(verdict(&line(good), "/l", "/u"), Verdict::Accepted);
    assert_eq!(
        verdict(&line("workdir=/w,upperdir=/u,lowerdir=/l"), "/l", "/u"),
        Verdict::Accepted
    );
    // Another source.
    let other = format!("myov {REAL} overlay rw,{good} 0 0");
    assert_eq!(verdict(&other, "/l", "/u"), Verdict::NoMount);
    for lower in [
        "lowerdir=/l/",        // a trailing slash
        "lowerdir=/l:/c",      // two lower layers
        "lowerdir+=/l",        // the appending form
        "lowerdir=l",          // a relative path
        "lowerdir=/sysroot/l", // mounted before the root was switched
    ] {
        let line = line(&format!("{lower},upperdir=/u,workdir=/w"));
        let differs = Verdict::LowerDiffers {
            line: line.clone().into_bytes(),
        };
        assert_eq!(verdict(&line, "/l", "/u"), differs, "{lower}");
    }
    let relative = line("lowerdir=/l,upperdir=u,workdir=w");
    let differs = Verdict::UpperDiffers {
        line: relative.clone().into_bytes(),
    };
    assert_eq!(verdict(&relative, "/l", "/u"), differs);
    // A space, a dot, a plus.
    let spaced = line(r"lowerdir=/l\040x,upperdir=/u,workdir=/w");
    assert!(matches!(
        verdict(&spaced, "/l x", "/u"),
        Verdict::LowerDiffers { .. }
    ));
    assert_eq!(
        verdict(&line("lowerdir=/l.x,upperdir=/u.x"), "/l.x", "/u.x"),
        Verdict::Accepted
    );
    assert!(matches!(
        verdict(&line("lowerdir=/l+x,upperdir=/u"), "/l+x", "/u"),
        Verdict::LowerDiffers { .. }
    ));
}

#[test]
fn the_last_line_counts() {
    let good = line("lowerdir=/l,upperdir=/u");
    let bad = line("lowerdir=/l,upperdir=/v");
    assert!(matches!(
        verdict(&format!("{good}\n{bad}"), "/l", "/u"),
        Verdict::UpperDiffers { .. }
    ));
    assert_eq!(
        verdict(&format!("{bad}\n{good}"), "/l", "/u"),
        Verdict::Accepted
    );
    // A bind mount of the overlay is shown with the same options.
    let bind = good.replace("rw,relatime", "ro,nosuid");
    assert_eq!(
        verdict(&format!("{good}\n{bind}"), "/l", "/u"),
        Verdict::Accepted
    );
    // Something else on top goes unnoticed.
    let tmpfs = format!("tmpfs {REAL} tmpfs rw 0 0");
    assert_eq!(
        verdict(&format!("{good}\n{tmpfs}"), "/l", "/u"),
        Verdict::Accepted
    );
}

#[test]
fn names_are_compared_whole() {
    let mounted = line("lowerdir=/l,upperdir=/u");
    assert!(matches!(
        verdict(&mounted, "/l", "/"),
        Verdict::UpperDiffers { .. }
    ));
    assert!(matches!(
        verdict(&mounted, "/l/l", "/u"),
        Verdict::LowerDiffers { .. }
    ));
    let real = |real: &str| predict(&table(&mounted), real.as_bytes(), b"/l", b"/u");
    assert_eq!(real("/m/nix"), Verdict::NoMount);
    assert_eq!(real("/nix/store"), Verdict::NoMount);
    assert_eq!(
        predict(b"", REAL.as_bytes(), b"/l", b"/u"),
        Verdict::NoMount
    );
}

#[test]
fn patterns_that_are_none_are_errors() {
    let mounts = table(&line("lowerdir=/l,upperdir=/u"));
    let bad = |real: &str, lower: &str, upper: &str| {
        predict(&mounts, real.as_bytes(), lower.as_bytes(), upper.as_bytes())
    };
    for path in [
        "/a(b",
        "/a)b",
        "/a[b",
        "/a{b",
        "/a(?<b>c)",
        "/a(?b)",
        r"/a\1",
    ] {
        assert_eq!(
            bad(path, "/l", "/u"),
            Verdict::BadPattern(CheckedPath::Real),
            "{path}"
        );
        assert_eq!(
            bad(REAL, path, "/u"),
            Verdict::BadPattern(CheckedPath::Lower),
            "{path}"
        );
        assert_eq!(
            bad(REAL, "/l", path),
            Verdict::BadPattern(CheckedPath::Upper),
            "{path}"
        );
    }
    // Nix would search for ever.
    assert_eq!(
        bad("/a||b", "/l", "/u"),
        Verdict::BadPattern(CheckedPath::Real)
    );
}

/// Every printable byte that is no letter or digit, and a few others.
#[test]
fn bytes_that_cannot_pass() {
    let punctuation =
        (0x20..0x7f).filter(|byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'/');
    let mut report = String::new();
    for byte in [b'\t', b'\n', b'\r', 1, 0x7f, 0x85, 0xff]
        .into_iter()
        .chain(punctuation)
    {
        let path = [b"/a", [byte].as_slice(), b"b"].concat();
        let parts = [
            CheckedPath::Real,
            CheckedPath::Lower,
            CheckedPath::Upper,
            CheckedPath::Work,
        ];
        let reasons: Vec<String> = parts
            .into_iter()
            .filter_map(|part| Some(format!("  {part:?}: {}", unmatchable(part, &path)?)))
            .collect();
        report += &format!("{:?}\n", show(&path));
        if !reasons.is_empty() {
            report += &format!("{}\n", reasons.join("\n"));
        }
    }
    assert_snapshot!(report);
}

#[test]
fn ordinary_paths_pass() {
    for path in [
        "/nix/store",
        "/mnt/größe",
        "/a.b/c-d_e",
        "/a=b;c'd\"e~f!g#h@i%j&k<l>m",
        "/x]y}z",
    ] {
        for part in [
            CheckedPath::Real,
            CheckedPath::Lower,
            CheckedPath::Upper,
            CheckedPath::Work,
        ] {
            assert_eq!(unmatchable(part, path.as_bytes()), None, "{part:?} {path}");
        }
    }
}

proptest! {
    #[test]
    fn paths_without_special_bytes_pass(path in "(/[A-Za-z0-9._=~@%\u{e4}-]{1,8}){1,4}") {
        for part in [CheckedPath::Real, CheckedPath::Lower, CheckedPath::Upper, CheckedPath::Work] {
            prop_assert_eq!(unmatchable(part, path.as_bytes()), None);
        }
    }

    /// The way without a pattern says what the pattern says.
    #[test]
    fn plain_paths_match_as_patterns(path in "(/[ab.-]{1,3}){1,2}", other in "(/[ab.-]{1,3}){1,2}") {
        let line = characters(&line_of(b"/m", path.as_bytes(), other.as_bytes(), b"/w"));
        for value in [&path, &other] {
            if has_plain_option(&line, "lowerdir", value.as_bytes()) {
                let option = pattern(&[br"\blowerdir=", value.as_bytes(), b"( |,)"]).unwrap();
                prop_assert!(option.find(&line).is_some());
            }
        }
        prop_assert!(has_plain_option(&line, "lowerdir", path.as_bytes()));
        let mounts = line_of(path.as_bytes(), b"/l", b"/u", b"/w");
        let verdict = predict(&mounts, path.as_bytes(), b"/l", b"/u");
        prop_assert_eq!(verdict, Verdict::Accepted);
    }

    #[test]
    fn any_bytes_get_a_verdict(mounts: Vec<u8>, real: Vec<u8>, lower: Vec<u8>, upper: Vec<u8>) {
        let _ = predict(&mounts, &real, &lower, &upper);
    }
}
