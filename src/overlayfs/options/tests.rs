use super::*;
use insta::assert_snapshot;
use proptest::prelude::*;

fn option(text: &str) -> MountOption {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    MountOption {
        name: name.to_owned(),
        value,
    }
}

fn options(lower: &str, upper: &str, work: &str, further: &[&str]) -> MountOptions {
    MountOptions {
        lowerdir: lower.into(),
        upperdir: upper.into(),
        workdir: work.into(),
        further: further.iter().map(|text| option(text)).collect(),
    }
}

fn text(options: &MountOptions) -> String {
    String::from_utf8(options.text().unwrap()).unwrap()
}

#[test]
fn the_order_is_lower_upper_work_further() {
    let options = options("/nix/store", "/u", "/w", &["index=on", "volatile"]);
    assert_eq!(
        text(&options),
        "lowerdir=/nix/store,upperdir=/u,workdir=/w,index=on,volatile"
    );
}

#[test]
fn what_separates_is_escaped_where_it_separates() {
    let options = options(r"/l:,\", r"/u:,\", "/w x", &[]);
    assert_eq!(
        text(&options),
        r"lowerdir=/l\:\,\\,upperdir=/u:\,\\,workdir=/w x"
    );
}

#[test]
fn an_option_cannot_smuggle_in_another() {
    let options = options("/l", "/u", "/w", &["index=on,lowerdir=/x"]);
    assert_eq!(
        text(&options),
        r"lowerdir=/l,upperdir=/u,workdir=/w,index=on\,lowerdir=/x"
    );
}

#[test]
fn a_security_context_is_quoted_and_read_back() {
    let context = "context=system_u:object_r:container_file_t:s0:c1,c2";
    let options = options("/l", "/u", "/w", &[context, "index=on"]);
    assert_eq!(
        text(&options),
        "lowerdir=/l,upperdir=/u,workdir=/w,\
         context=\"system_u:object_r:container_file_t:s0:c1,c2\",index=on"
    );
    let shown = SuperOptions::parse(&options.as_shown());
    assert_eq!(
        shown.value("context"),
        Some(&b"system_u:object_r:container_file_t:s0:c1,c2"[..])
    );
    assert_eq!(shown.value("index"), Some(&b"on"[..]));
    // As SELinux shows it, before what the file system shows.
    let shown = SuperOptions::parse(b"rw,context=\"u:r:t:s0:c1,c2\",lowerdir=/l,upperdir=/u");
    assert_eq!(shown.value("context"), Some(&b"u:r:t:s0:c1,c2"[..]));
    assert_eq!(shown.upper, Some("/u".into()));
    // A mark of quotation that does not end is one of another kind.
    let shown = SuperOptions::parse(b"context=\"u,lowerdir=/l");
    assert_eq!(shown.lower, [PathBuf::from("/l")]);
}

#[test]
fn what_mount_would_cut_off_is_refused() {
    let fixed = "lowerdir=,upperdir=/u,workdir=/w".len();
    let lower = |length| format!("/{}", "x".repeat(length - 1));
    let fits = options(&lower(MAX_LENGTH - fixed), "/u", "/w", &[]);
    assert_eq!(fits.text().unwrap().len(), 4095);
    let too_long = options(&lower(MAX_LENGTH - fixed + 1), "/u", "/w", &[])
        .text()
        .unwrap_err();
    assert_eq!(too_long, OptionsTooLong { length: 4096 });
    assert_snapshot!(too_long);
}

#[test]
fn what_options_take_is_known() {
    let wrong = [
        ("index", "`index=on` or `index=off`"),
        ("index=yes", "`index=on` or `index=off`"),
        ("xino=maybe", "`xino=on` or `xino=off` or `xino=auto`"),
        (
            "default_permissions=on",
            "`default_permissions` without a value",
        ),
        ("context", "`context=` and a text"),
    ];
    let expected = |text: &str| {
        let option = option(text);
        kind(&option.name)?.expected_instead_of(option.value.as_deref())
    };
    for (text, instead) in wrong {
        assert_eq!(expected(text).as_deref(), Some(instead), "{text}");
    }
    for text in [
        "index=on",
        "xino=auto",
        "redirect_dir=nofollow",
        "metacopy=off",
        "uuid=null",
        "verity=require",
        "nfs_export=off",
        "default_permissions",
        "fsync=strict",
        "nooverride_creds",
        "context=system_u:object_r:container_file_t:s0",
    ] {
        assert_eq!(expected(text), None, "{text}");
    }
    assert!(kind("indx").is_none());
    assert_eq!(kind("nosuid").unwrap().takes, Takes::Flag);
    assert!(known_options().any(|name| name == "index"));
    assert!(known_options().all(|name| name != "lowerdir"));
}

#[test]
fn risks_are_those_of_a_value() {
    let risky = |text: &str| {
        let option = option(text);
        kind(&option.name)
            .unwrap()
            .risk_of(option.value.as_deref())
            .is_some()
    };
    for text in [
        "volatile",
        "fsync=volatile",
        "metacopy=on",
        "redirect_dir=on",
    ] {
        assert!(risky(text), "{text}");
    }
    for text in ["fsync=strict", "metacopy=off", "index=on"] {
        assert!(!risky(text), "{text}");
    }
}

#[test]
fn conflicts_are_found() {
    let found = |texts: &[&str]| {
        let options: Vec<_> = texts.iter().map(|text| option(text)).collect();
        conflicts(&options)
            .iter()
            .map(|[first, second]| format!("{first} {second}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        found(&["nfs_export=on", "metacopy=on", "index=on"]),
        ["nfs_export=on metacopy=on"]
    );
    assert_eq!(
        found(&["metacopy=on", "redirect_dir=on", "userxattr"]).len(),
        2
    );
    assert_eq!(found(&["metacopy=on", "index=off", "xino=on"]).len(), 0);
    assert_eq!(found(&["userxattr", "redirect_dir=nofollow"]).len(), 0);
    assert_eq!(
        found(&["verity=require", "metacopy=off", "redirect_dir=off"]).len(),
        2
    );
}

#[test]
fn the_options_of_an_overlay_are_read() {
    // As Linux 6.18 shows them.
    let shown = SuperOptions::parse(
        br"rw,lowerdir=/we\134:i\134\054r\040d\134\134x#\011'%,upperdir=/u:,workdir=/w,redirect_dir=nofollow,uuid=on,fsync=volatile,userxattr",
    );
    assert_eq!(shown.lower, [PathBuf::from("/we:i,r d\\x#\t'%")]);
    assert_eq!(shown.upper, Some("/u:".into()));
    assert_eq!(shown.work, Some("/w".into()));
    assert!(shown.has("userxattr") && shown.has("rw") && !shown.has("ro"));
    assert_eq!(shown.value("uuid"), Some(&b"on"[..]));
    assert!(shown.is_volatile() && !shown.appended);
    assert!(SuperOptions::parse(b"rw,volatile").is_volatile());
    assert!(!SuperOptions::parse(b"rw,fsync=strict").is_volatile());
}

#[test]
fn several_lower_layers_are_read() {
    let shown = SuperOptions::parse(b"ro,lowerdir=/a:b\\134:c::/data::/data2,redirect_dir=on");
    assert_eq!(shown.lower, [PathBuf::from("/a"), PathBuf::from("b:c")]);
    assert_eq!(
        shown.data,
        [PathBuf::from("/data"), PathBuf::from("/data2")]
    );
    assert_eq!(shown.upper, None);

    let shown = SuperOptions::parse(br"ro,lowerdir+=/we:i\054r\134x,lowerdir+=/b,datadir+=/d");
    assert_eq!(
        shown.lower,
        [PathBuf::from(r"/we:i,r\x"), PathBuf::from("/b")]
    );
    assert_eq!(shown.data, [PathBuf::from("/d")]);
    assert!(shown.appended);
}

fn path() -> impl Strategy<Value = PathBuf> {
    let byte = prop_oneof![3 => 1u8..=255, 1 => prop::sample::select(b"\\,: =\n\t#".to_vec())];
    prop::collection::vec(byte, 1..20).prop_map(|bytes| OsString::from_vec(bytes).into())
}

proptest! {
    #[test]
    fn the_kernel_s_view_reads_back(lower in path(), upper in path(), work in path()) {
        let options = MountOptions {
            lowerdir: lower.clone(),
            upperdir: upper.clone(),
            workdir: work.clone(),
            further: vec![option("index=on")],
        };
        // What the kernel does: split at commas without a backslash, keep the values as they are,
        // print them in octal.
        let text = options.text().unwrap();
        let mut shown = b"rw".to_vec();
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            let mut end = 0;
            while end < rest.len() && rest[end] != b',' {
                end += if rest[end] == b'\\' { 2 } else { 1 };
            }
            let equals = rest.iter().position(|&byte| byte == b'=').unwrap();
            shown.push(b',');
            shown.extend_from_slice(&rest[..=equals]);
            shown.extend(as_shown(&rest[equals + 1..end]));
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        let shown = SuperOptions::parse(&shown);
        prop_assert_eq!(shown.lower, vec![lower]);
        prop_assert_eq!(shown.upper, Some(upper));
        prop_assert_eq!(shown.work, Some(work));
        prop_assert_eq!(shown.others.len(), 2);
    }

    #[test]
    fn any_bytes_are_read(text: Vec<u8>) {
        let _ = SuperOptions::parse(&text);
    }
}
