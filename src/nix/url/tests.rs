use super::*;
use insta::assert_snapshot;
use proptest::prelude::*;

fn read(text: &str) -> StoreReference {
    StoreReference::parse(text).unwrap()
}

fn error(text: impl AsRef<[u8]>) -> String {
    let error = StoreReference::parse(text).unwrap_err();
    match error.help() {
        Some(help) => format!("{error}; {help}"),
        None => error.to_string(),
    }
}

fn overlay_on(lower: impl Into<Value>) -> StoreReference {
    StoreReference::new(StoreKind::LocalOverlay).with("lower-store", lower)
}

fn local(root: &[u8]) -> StoreReference {
    StoreReference::new(StoreKind::Local).with("root", root)
}

/// The example of the Nix manual's "Local Overlay Store".
#[test]
fn the_worked_example_reads_as_in_the_manual() {
    let store = StoreReference::new(StoreKind::LocalOverlay)
        .with("root", "/mnt/example/merged-store")
        .with("lower-store", read("/mnt/example/store-a"))
        .with("upper-layer", "/mnt/example/store-b");
    assert_eq!(
        store.render_for_all().unwrap(),
        "local-overlay://?root=/mnt/example/merged-store&lower-store=/mnt/example/store-a\
         &upper-layer=/mnt/example/store-b"
    );
}

#[test]
fn every_form_of_a_store_with_a_local_directory_is_read() {
    let forms = [
        "/mnt/lower",
        "/mnt/lower?read-only=true",
        "local",
        "local?root=/mnt/lower&read-only=true",
        "local://",
        "local:///mnt/lower",
        "local:///mnt/lower?state=/srv/state",
        "local:/mnt/lower",
        "local:///mnt/lo%20wer?root=/elsewhere",
        "",
        "auto",
        "auto?state=/srv/state",
        "daemon",
        "daemon?root=/srv",
        "unix://",
        "unix:///run/nix.sock?root=/srv",
        "unix:///run/a%20b",
        "local-overlay://?root=/m&lower-store=/mnt/lower?read-only=true&upper-layer=/u",
        "local-overlay:///m?lower-store=daemon",
        "mounted-ssh-ng://nix@builder:22?real=/mnt/store",
        "mounted-ssh-ng://[fe80::1%25eth0]",
    ];
    let read: Vec<String> = forms
        .iter()
        .map(|form| format!("{form}\n    {}", read(form).render(UrlRules::Since2_34)))
        .collect();
    assert_snapshot!(read.join("\n"));
}

#[test]
fn what_has_no_local_directory_is_refused_with_the_reason() {
    let texts = [
        "https://cache.nixos.org",
        "http://cache.example",
        "file:///var/cache",
        "s3://bucket?region=eu",
        "ssh://host",
        "ssh-ng://host",
        "dummy://",
        "locl:///srv",
        "Local:///srv",
        "lower",
        "mnt/lower",
        "./lower",
        "local:srv",
        "local://mnt/lower",
        "unix://run/nix.sock",
        "mounted-ssh-ng://",
        "mounted-ssh-ng://a/b",
        "mounted-ssh-ng://nix@",
        "unix:///run/a#b",
        "local?root=/a#b",
        "local?root=/100%",
        "unix:///a%zz",
        "local?root=/a%00",
        "local?read-only",
        "local?re%61d-only=true",
        "local?root=/a&root=/b",
        "local-overlay://?lower-store=local?root",
        "local-overlay://?lower-store=https://cache.nixos.org",
    ];
    let errors: Vec<String> = texts
        .iter()
        .map(|text| format!("{text}\n    {}", error(text)))
        .collect();
    assert_snapshot!(errors.join("\n"));
    assert!(StoreReference::parse(b"/a\0").is_err());
}

#[test]
fn a_parameter_wins_over_the_path() {
    assert_eq!(read("local:///a?root=/b").text("root"), Some(&b"/b"[..]));
    assert_eq!(read("local:///a"), read("/a"));
    assert_eq!(read("/a").text("root"), Some(&b"/a"[..]));
}

#[test]
fn which_bytes_are_syntax() {
    // In a path: only the question mark.
    assert_eq!(read("/a%20#b&c").text("root"), Some(&b"/a%20#b&c"[..]));
    // In a URL's path: `?`, `#` and `%`.
    assert_eq!(
        read("local:///a%20b&c=d").text("root"),
        Some(&b"/a b&c=d"[..])
    );
    // In a value: `&`, `#` and `%`.
    assert_eq!(
        read("local?root=/a%26b?c=d").text("root"),
        Some(&b"/a&b?c=d"[..])
    );
    assert_eq!(
        read("local?root=/größe x").text("root"),
        Some("/größe x".as_bytes())
    );
}

#[test]
fn a_percent_sign_below_needs_two_texts() {
    let store = overlay_on(local(b"/100%"));
    assert_eq!(
        store.render_for_all(),
        Err(VersionDependent {
            before_2_34: "local-overlay://?lower-store=local?root=/100%252525".to_owned(),
            since_2_34: "local-overlay://?lower-store=local?root=/100%2525".to_owned(),
        })
    );
}

#[test]
fn most_bytes_below_need_one_text() {
    let one = |store: StoreReference| overlay_on(store).render_for_all();
    assert_eq!(
        one(local("/größe #1 & \"x\"".as_bytes())).unwrap(),
        "local-overlay://?lower-store=/gr%C3%B6%C3%9Fe%20%231%20%26%20%22x%22"
    );
    assert_eq!(
        one(local(b"/a?b").with("read-only", true)).unwrap(),
        "local-overlay://?lower-store=local?root=/a?b%26read-only=true"
    );
    assert_eq!(
        one(local(b"/a").with("state", "/s t")).unwrap(),
        "local-overlay://?lower-store=/a?state=/s%20t"
    );
    assert_eq!(
        one(StoreReference::new(StoreKind::Daemon {
            socket: Some(b"/run/s".to_vec())
        })
        .with("root", "/a"))
        .unwrap(),
        "local-overlay://?lower-store=unix:///run/s?root=/a"
    );
    // A value of the inner store, in the inner store's URL, has to be encoded twice.
    assert!(one(local(b"/a").with("state", "/a&b")).is_err());
    assert!(one(local(b"/a").with("state", "/ä")).is_err());
    assert!(
        one(StoreReference::new(StoreKind::Daemon {
            socket: Some(b"/a b".to_vec())
        }))
        .is_err()
    );
}

#[test]
fn a_lower_store_given_as_text_is_encoded_all_the_same() {
    assert_eq!(
        overlay_on("local?root=/100%25").render(UrlRules::Before2_34),
        overlay_on(read("local?root=/100%25")).render(UrlRules::Before2_34),
    );
}

#[test]
fn a_text_outside_a_url_is_ascii() {
    assert_eq!(
        local("/ä".as_bytes()).render(UrlRules::Since2_34),
        "local?root=/%C3%A4"
    );
    assert_eq!(
        local(b"/a b").render(UrlRules::Since2_34),
        "local?root=/a%20b"
    );
    assert_eq!(local(b"/a").render(UrlRules::Since2_34), "/a");
    assert_eq!(
        local(b"/a://b").render(UrlRules::Since2_34),
        "local?root=/a://b"
    );
}

#[test]
fn setting_a_parameter_again_keeps_its_place() {
    let mut store = read("/a?state=/s&log=/l");
    store.set("state", "/t");
    assert_eq!(store.render(UrlRules::Since2_34), "/a?state=/t&log=/l");
}

#[test]
fn nesting_has_an_end() {
    let nest = |times| {
        (0..times).fold("daemon".to_owned(), |inner, _| {
            overlay_on(read("daemon"))
                .render(UrlRules::Since2_34)
                .replace("daemon", &encode(inner.as_bytes(), Place::Value))
        })
    };
    assert!(StoreReference::parse(nest(MAX_DEPTH)).is_ok());
    assert_eq!(
        StoreReference::parse(nest(MAX_DEPTH + 1)),
        Err(BadReference::TooDeep)
    );
    assert_eq!(
        StoreReference::parse(nest(2000)),
        Err(BadReference::TooDeep)
    );
}

#[test]
fn versions_have_their_rules() {
    let rules = |version: &str| UrlRules::from(version.parse::<NixVersion>().unwrap());
    assert_eq!(rules("2.26.3"), UrlRules::Before2_34);
    assert_eq!(rules("2.33.6"), UrlRules::Before2_34);
    assert_eq!(rules("2.34.0"), UrlRules::Since2_34);
    assert_eq!(rules("3.0"), UrlRules::Since2_34);
}

/// What a version of Nix makes of a rendered text, as far as the inner store goes: its own steps,
/// written down apart from the renderer.
fn as_nix_reads(url: &str, rules: UrlRules) -> StoreReference {
    let outer = url.strip_prefix("local-overlay://?").unwrap();
    let mut store = StoreReference::new(StoreKind::LocalOverlay);
    for pair in outer.split('&') {
        let (name, value) = pair.split_once('=').unwrap();
        let value = decode(value.as_bytes()).unwrap();
        if name != "lower-store" {
            store.set(name, value.as_slice());
            continue;
        }
        let inner = match rules {
            UrlRules::Before2_34 => decode(&value).unwrap(),
            UrlRules::Since2_34 => value,
        };
        match inner.starts_with(b"local-overlay://?") {
            true => store.set(
                name,
                as_nix_reads(std::str::from_utf8(&inner).unwrap(), rules),
            ),
            false => store.set(name, StoreReference::parse(inner).unwrap()),
        }
    }
    store
}

/// Bytes of a path: anything but 0.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => 1u8..=255, 1 => prop::sample::select(b"%?&#=/: \"".to_vec())];
    prop::collection::vec(byte, 0..12).prop_map(|tail| [b"/", tail.as_slice()].concat())
}

fn leaf() -> impl Strategy<Value = StoreReference> {
    let kind = prop_oneof![
        Just(StoreKind::Auto),
        Just(StoreKind::Local),
        prop::option::of(path()).prop_map(|socket| StoreKind::Daemon { socket }),
        "[a-z]{1,5}(:[0-9]{2})?".prop_map(|authority| StoreKind::MountedSsh { authority }),
    ];
    (kind, parameters()).prop_map(|(kind, parameters)| {
        parameters
            .into_iter()
            .fold(StoreReference::new(kind), |store, (name, value)| {
                store.with(&name, value.as_slice())
            })
    })
}

/// With `root` first, where a bare path puts it.
fn parameters() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let others = prop::collection::vec(("[a-z][a-z0-9-]{0,5}", path()), 0..3);
    (prop::option::of(path()), others).prop_map(|(root, others)| {
        root.map(|root| ("root".to_owned(), root))
            .into_iter()
            .chain(others)
            .collect()
    })
}

fn overlay() -> impl Strategy<Value = StoreReference> {
    leaf().prop_recursive(2, 4, 1, |inner| {
        (parameters(), inner).prop_map(|(parameters, inner)| {
            parameters
                .into_iter()
                .fold(
                    StoreReference::new(StoreKind::LocalOverlay),
                    |store, (name, value)| store.with(&name, value.as_slice()),
                )
                .with("lower-store", inner)
        })
    })
}

proptest! {
    #[test]
    fn reading_undoes_writing(store in overlay()) {
        let text = store.render(UrlRules::Since2_34);
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'));
        prop_assert_eq!(StoreReference::parse(&text), Ok(store));
    }

    #[test]
    fn both_versions_read_what_was_written_for_them(store in overlay()) {
        prop_assume!(store.kind == StoreKind::LocalOverlay);
        for rules in [UrlRules::Before2_34, UrlRules::Since2_34] {
            let text = store.render(rules);
            prop_assert_eq!(as_nix_reads(&text, rules), store.clone());
        }
    }

    #[test]
    fn one_text_is_offered_only_where_both_read_it_alike(store in overlay()) {
        prop_assume!(store.kind == StoreKind::LocalOverlay);
        if let Ok(text) = store.render_for_all() {
            for rules in [UrlRules::Before2_34, UrlRules::Since2_34] {
                prop_assert_eq!(as_nix_reads(&text, rules), store.clone());
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(text: Vec<u8>) {
        let _ = StoreReference::parse(text);
    }

    #[test]
    fn what_was_read_can_be_written_and_read_again(text in "(local|unix|local-overlay)(://)?[ -~]{0,20}") {
        if let Ok(store) = StoreReference::parse(&text) {
            prop_assert_eq!(StoreReference::parse(store.render(UrlRules::Since2_34)), Ok(store));
        }
    }
}
