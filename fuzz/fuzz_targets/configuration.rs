//! A configuration that is not one, and store URLs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overstore::testing::config;
use overstore::testing::config::Environment;
use overstore::testing::nix::url::{StoreReference, UrlRules};

fn url(bytes: &[u8]) {
    let Ok(reference) = StoreReference::parse(bytes) else {
        return;
    };
    let _ = reference.render_for_all();
    let text = reference.render(UrlRules::Since2_34);
    let again = StoreReference::parse(&text);
    assert_eq!(again.as_ref(), Ok(&reference), "{text}");
}

fuzz_target!(|bytes: &[u8]| {
    url(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match config::parse("fuzz", "fuzz.toml", text, &Environment::default()) {
        Ok(store) => {
            url(store.reference().render(UrlRules::Since2_34).as_bytes());
            store.unmatchable_paths();
            store.experimental_features();
        }
        Err(errors) => {
            assert!(errors.count() > 0);
            errors.mistakes();
            errors.styled();
            let _ = errors.to_string();
        }
    }
});
