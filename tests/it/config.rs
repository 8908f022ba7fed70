//! Descriptions: what is wrong with one, and what becomes of a right one.

use std::path::{Path, PathBuf};

use overstore::testing::check::{Code, Severity, description};
use overstore::testing::config;
use overstore::testing::config::{Auto, Environment, Errors, MetadataSource, Store};
use overstore::testing::nix::url::{StoreReference, UrlRules};
use proptest::prelude::*;

use crate::support::{Content, Files, assert_expected, data, files};

fn environment() -> Environment {
    Environment {
        remount_hook: Some(PathBuf::from("/usr/bin/overstore-remount")),
        ..Environment::default()
    }
}

fn parse_in(text: &str, environment: &Environment) -> Result<Store, Errors> {
    config::parse("example", "example.toml", text, environment)
}

fn parse(text: &str) -> Store {
    parse_in(text, &environment()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn url(store: &Store) -> String {
    store.reference().render_for_all().unwrap()
}

/// A description with this lower store and these further lines.
fn over(lower_store: &str, further: &str) -> String {
    format!(
        "root = \"/srv/merged\"\nlower-store = {lower_store:?}\nupper-layer = \"/srv/upper\"\n\
         workdir = \"/srv/work\"\n{further}"
    )
}

fn hookless(lower_store: &str, further: &str) -> String {
    over(lower_store, &format!("remount-hook = false\n{further}"))
}

/// Every description in `tests/config/mistakes/input` is wrong; what is said of it is in `expected`.
#[test]
fn mistakes_are_pointed_at() {
    all_are_wrong("config/mistakes", |name, label, text| {
        config::parse(name, label, text, &environment()).map(drop)
    });
}

/// The same for publications.
#[test]
fn mistakes_in_publications_are_pointed_at() {
    all_are_wrong("config/publications", |name, label, text| {
        config::parse_publication(name, label, text).map(drop)
    });
}

fn all_are_wrong(directory: &str, parse: impl Fn(&str, &str, &str) -> Result<(), Errors>) {
    let case = data(directory);
    let mut said = Files::new();
    for (file, text) in files(&case.join("input")) {
        let Content::Text(text) = text else {
            panic!("{file:?} is no file")
        };
        let name = file.file_stem().unwrap().to_str().unwrap();
        match parse(name, file.to_str().unwrap(), &text) {
            Err(errors) => said.insert(
                file.with_extension("txt"),
                Content::Text(format!("{errors}\n")),
            ),
            Ok(_) => panic!("{file:?} is taken for right"),
        };
    }
    assert_expected(&case.join("expected"), &said);
}

#[test]
fn the_worked_example_has_nix_s_own_url() {
    let text = "root = \"/mnt/example/merged-store\"\nlower-store = \"/mnt/example/store-a\"\n\
                upper-layer = \"/mnt/example/store-b\"\nworkdir = \"/mnt/example/workdir\"\n";
    let url_of = "local-overlay://?root=/mnt/example/merged-store&lower-store=/mnt/example/store-a\
                  &upper-layer=/mnt/example/store-b";
    assert_eq!(
        url(&parse(&format!("{text}remount-hook = false\n"))),
        url_of
    );
    assert_eq!(url(&parse(&format!("{text}remount-hook = \"\"\n"))), url_of);
    assert_eq!(
        url(&parse(text)),
        format!("{url_of}&remount-hook=/usr/bin/overstore-remount")
    );
}

#[test]
fn every_form_of_lower_store_is_resolved_as_nix_does() {
    let rows = [
        "/srv/lower",
        "local",
        "local?root=/srv/lower&read-only=true",
        "local:///srv/lower",
        "local?real=/srv/objects&state=/srv/state",
        "daemon",
        "daemon?real=/srv/objects",
        "unix:///run/other.sock?root=/srv/lower",
        "auto",
        "auto?read-only=true",
        "local-overlay://?root=/srv/middle&upper-layer=/srv/u2&lower-store=/srv/lower",
        "local-overlay:///srv/middle?upper-layer=/srv/u2",
        "mounted-ssh-ng://me@host?real=/srv/objects",
    ];
    let mut shown = String::new();
    for row in rows {
        let store = parse(&hookless(row, ""));
        shown.push_str(&format!(
            "{row}\n  reference {}\n  real {}\n  {:?}\n  features {:?}\n",
            store.lower.reference.render(UrlRules::Since2_34),
            store.lower.real.display(),
            store.lower.source,
            store.experimental_features(),
        ));
    }
    insta::assert_snapshot!("lower_stores", shown);
}

#[test]
fn the_lower_table_goes_into_the_url() {
    let table = "[lower]\nreal = \"/srv/objects/\"\nstate = \"/srv/state\"\nread-only = true\n";
    let store = parse(&hookless("local", table));
    assert_eq!(
        store.lower.reference.render(UrlRules::Since2_34),
        "local?real=/srv/objects&state=/srv/state&read-only=true"
    );
    assert_eq!(store.lower.real, Path::new("/srv/objects"));
    assert_eq!(
        store.experimental_features(),
        ["local-overlay-store", "read-only-local-store"]
    );
    let written = parse(&hookless("/srv/lower", "")).lower.written_by_nix();
    assert!(written && !store.lower.written_by_nix());
}

#[test]
fn a_publication_is_read_through_a_link_of_the_store_s_own() {
    let text = "root = \"/srv/merged\"\nupper-layer = \"/srv/upper\"\nworkdir = \"/srv/work\"\n\
                remount-hook = false\n[lower]\npublication = \"/srv/publications/main\"\n\
                real = \"/srv/objects\"\n";
    let store = parse(text);
    let link = "/srv/merged/nix/var/nix/overstore/generation";
    assert_eq!(
        store.lower.reference.render(UrlRules::Since2_34),
        format!("local?real=/srv/objects&state={link}&read-only=true")
    );
    assert_eq!(store.lower.real, Path::new("/srv/objects"));
    let publication = Path::new("/srv/publications/main");
    assert_eq!(store.lower.publication.as_deref(), Some(publication));
    assert!(!store.lower.written_by_nix());
}

#[test]
fn auto_is_what_it_is_for_the_one_who_opens_the_store() {
    let of = |auto, further: &str| {
        let environment = Environment {
            auto,
            ..environment()
        };
        parse_in(&over("auto", further), &environment)
            .unwrap()
            .lower
    };
    let daemon = MetadataSource::Daemon {
        socket: "/nix/var/nix/daemon-socket/socket".into(),
    };
    assert_eq!(of(Auto::Daemon, "").source, daemon);
    assert_eq!(
        of(Auto::Daemon, "").reference,
        StoreReference::parse("daemon").unwrap()
    );
    assert_eq!(
        of(Auto::Local, "").reference,
        StoreReference::parse("local").unwrap()
    );
    let home = of(Auto::InHome("/home/me/root".into()), "");
    assert_eq!(home.real, Path::new("/home/me/root/nix/store"));
    // A daemon is root's, whoever asks.
    let served = of(Auto::Daemon, "[daemon]\nserve = true\n");
    assert_eq!(served.reference, StoreReference::parse("local").unwrap());
}

#[test]
fn nix_is_told_what_only_overstore_s_environment_says() {
    let environment = Environment {
        state_dir: Some("/srv/state".into()),
        daemon_socket: Some("/run/nix.sock".into()),
        ..environment()
    };
    let text = "real = \"/srv/merged\"\nlower-store = \"daemon\"\nupper-layer = \"/srv/upper\"\n\
                workdir = \"/srv/work\"\nremount-hook = false\n";
    let store = parse_in(text, &environment).unwrap();
    assert_eq!(
        url(&store),
        "local-overlay://?real=/srv/merged&state=/srv/state&lower-store=unix:///run/nix.sock\
         &upper-layer=/srv/upper"
    );
}

#[test]
fn clients_are_told_where_the_objects_are() {
    let socket = Path::new("/nix/var/nix/daemon-socket/socket");
    let client = |text: &str, given: Option<&str>| {
        let reference = parse(text).client_reference(given.map(Path::new), socket);
        reference.render_for_all().unwrap()
    };
    let system =
        "lower-store = \"/srv/lower\"\nupper-layer = \"/srv/upper\"\nworkdir = \"/srv/work\"\n";
    let with_root = over("/srv/lower", "");
    let served = over("/srv/lower", "[daemon]\nsocket = \"/run/own.sock\"\n");
    assert_eq!(client(system, None), "daemon");
    assert_eq!(client(system, Some("/run/s")), "unix:///run/s");
    assert_eq!(
        client(&format!("real = \"/srv/m\"\n{system}"), None),
        "unix:///nix/var/nix/daemon-socket/socket?real=/srv/m"
    );
    assert_eq!(
        client(&with_root, None),
        "unix:///nix/var/nix/daemon-socket/socket?root=/srv/merged"
    );
    assert_eq!(
        client(&served, None),
        "unix:///run/own.sock?root=/srv/merged"
    );
    assert_eq!(
        client(&served, Some("/run/s")),
        "unix:///run/s?root=/srv/merged"
    );
}

#[test]
fn a_path_that_nix_cannot_match_turns_its_check_off() {
    let text = |further: &str| over("/srv/lower", further).replace("/srv/upper", "/srv/up per+");
    let codes = |store: &Store| -> Vec<_> {
        description::findings(store)
            .iter()
            .map(|finding| (finding.code, finding.severity))
            .collect()
    };
    let store = parse(&text(""));
    assert!(url(&store).contains("&upper-layer=/srv/up%20per+&check-mount=false&"));
    assert_eq!(
        codes(&store),
        [(Code::MountCheckImpossible, Severity::Warning)]
    );
    insta::assert_json_snapshot!("mount_check_impossible", description::findings(&store));
    let store = parse(&text("check-mount = true\n"));
    assert_eq!(
        codes(&store),
        [(Code::MountCheckImpossible, Severity::Error)]
    );
    let store = parse(&text("check-mount = false\n"));
    assert!(codes(&store).is_empty() && url(&store).contains("check-mount=false"));
    assert!(!url(&parse(&over("/srv/lower", "check-mount = true\n"))).contains("check-mount"));
}

#[test]
fn other_findings_of_the_description() {
    let options =
        "[mount]\noptions = [\"volatile\", \"metacopy=on\", \"redirect_dir=on\", \"index=on\"]\n";
    let store = parse(&hookless("local?root=/srv/a%26b", options));
    insta::assert_json_snapshot!("description", description::findings(&store));
}

/// Paths that a description can have: any characters but the byte 0.
fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec("[^/\\x00]{1,12}", 1..4)
        .prop_filter("a name", |names| {
            names.iter().all(|name| name != "." && name != "..")
        })
        .prop_map(|names| format!("/{}", names.join("/")))
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

proptest! {
    /// What Nix reads out of the store URL is what the description says, for both kinds of Nix.
    #[test]
    fn urls_say_what_descriptions_do(root in path(), lower in path(), upper in path(), work in path(), read_only: bool) {
        let given = StoreReference::new(overstore::testing::nix::url::StoreKind::Local)
            .with("root", format!("/lower{lower}").as_bytes());
        let text = format!(
            "root = {}\nlower-store = {}\nupper-layer = {}\nworkdir = {}\n[lower]\nread-only = {read_only}\n",
            quote(&format!("/root{root}")),
            quote(&given.render(UrlRules::Since2_34)),
            quote(&format!("/upper{upper}")),
            quote(&format!("/work{work}")),
        );
        let store = parse_in(&text, &environment()).map_err(|errors| TestCaseError::fail(errors.to_string()))?;
        prop_assert_eq!(&store.lower.real, &PathBuf::from(format!("/lower{lower}/nix/store")));
        let again = StoreReference::parse(store.reference().render(UrlRules::Since2_34));
        prop_assert_eq!(again, Ok(store.reference()));
        let client = store.client_reference(None, Path::new("/run/s"));
        prop_assert_eq!(StoreReference::parse(client.render_for_all().unwrap()), Ok(client));
    }

    /// Any text is read without a crash, and what is said of it can be shown.
    #[test]
    fn any_text_is_answered(text in "(?s).{0,200}") {
        if let Err(errors) = parse_in(&text, &environment()) {
            prop_assert!(errors.count() > 0);
            prop_assert!(!errors.to_string().is_empty());
            prop_assert!(!errors.styled().is_empty());
        }
    }

    /// The same for texts that look more like a description.
    #[test]
    fn any_values_are_answered(
        values in proptest::collection::vec(
            (proptest::sample::select(config::KEYS[0].1), "(\"[a-z/.?=&%]{0,20}\"|true|[0-9]{1,3}|\\[\\]|\"[^\\n]{0,9}|\\{ ?\\})"),
            0..8,
        )
    ) {
        let text: String = values.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        if let Err(errors) = parse_in(&text, &environment()) {
            prop_assert!(!errors.to_string().is_empty());
        }
    }
}
