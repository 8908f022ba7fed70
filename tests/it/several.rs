//! `list`, and commands over several stores at once.

use serde_json::{Value, json};

use crate::support::{Example, World};

/// Three stores with names: one to be set up, one never, one whose description is wrong.
fn three(world: &World) -> Example<'_> {
    let example = world.example("");
    let text = String::from_utf8(world.read("/etc/overstore/example.toml")).unwrap();
    let other = text
        .replace("/merged-store", "/other-merged")
        .replace("/store-b", "/other-b")
        .replace("/workdir", "/other-work");
    assert_ne!(other, text);
    world.write("/run/overstore/other.toml", &other);
    // What root has described counts.
    world.write("/usr/lib/overstore/example.toml", "nonsense = 1\n");
    world.write("/usr/lib/overstore/wrong.toml", "nonsense = 1\n");
    world.write("/etc/overstore/.hidden.toml", "nonsense = 1\n");
    example
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn list_tells_every_store_in_a_line() {
    let Some(world) = World::trixie() else { return };
    let none = world.overstore(["list"]).run();
    assert_eq!((none.code(), none.stdout()), (Some(0), String::new()));
    assert!(none.stderr().contains("overstore new"), "{none}");
    let example = three(&world);
    let shown = || world.overstore(["list"]).run();
    let stores = |list: &str| -> Vec<String> {
        let lines = list.lines().map(|line| {
            let columns: Vec<&str> = line.split("  ").filter(|it| !it.is_empty()).collect();
            format!("{}: {}", columns[0], columns[1].trim())
        });
        lines.collect()
    };
    let list = shown();
    assert_eq!(list.code(), Some(0), "{list}");
    assert_eq!(
        stores(&list.stdout()),
        [
            "example: never set up",
            "other: never set up",
            "wrong: wrong description"
        ]
    );
    example.up();
    let list = shown();
    assert_eq!(stores(&list.stdout())[0], "example: up", "{list}");
    // One that has lost something, and one that is down.
    world.ok(["mount", "-t", "tmpfs", "hides", Example::REAL]);
    let list = json(&world.overstore(["list", "--json"]).run().stdout());
    assert_eq!(list["stores"][0]["state"], "down", "{list}");
    assert_eq!(list["stores"][0]["findings"][0], "mount-hidden", "{list}");
    assert_eq!(list["stores"][0]["real"], Example::REAL);
    assert_eq!(list["stores"][2]["state"], "description-wrong");
    world.ok(["umount", Example::REAL]);
    world.ok(["umount", Example::REAL]);
    assert_eq!(stores(&shown().stdout())[0], "example: down");
    let names = world.overstore(["list", "--names"]).run();
    assert_eq!(names.stdout(), "example\nother\nwrong\n");
}

/// What is wrong with one store is nothing to the others, and the worst decides the exit code.
#[test]
fn several_stores_are_looked_at_one_after_the_other() {
    let Some(world) = World::trixie() else { return };
    let example = three(&world);
    example.up();
    let alone = world.overstore(["check", "--json", "example"]).run();
    assert_eq!(alone.code(), Some(0), "{alone}");

    let all = world.overstore(["check", "--all", "--json"]).run();
    assert_eq!(all.code(), Some(2), "{all}");
    let told = json(&all.stdout());
    let codes: Vec<&Value> = told["stores"].as_array().unwrap().iter().collect();
    let summary: Vec<Value> = codes
        .iter()
        .map(|it| json!([it["store"], it["exit-code"], it["result"]["outcome"]]))
        .collect();
    assert_eq!(
        summary,
        [
            json!(["example", 0, "unchanged"]),
            json!(["other", 1, "not-as-described"]),
            json!(["wrong", 2, "refused"]),
        ]
    );
    assert_eq!(told["stores"][0]["result"], json(&alone.stdout()));
    assert_eq!(told["stores"][2]["result"]["mistakes"][0]["line"], 1);

    // In words, with each store's own last line, and what is wrong with the last on standard error.
    let both = world.overstore(["check", "other", "example"]).run();
    assert_eq!(both.code(), Some(1), "{both}");
    let text = both.stdout();
    let (first, second) = text.split_once("\n\n").unwrap();
    assert!(first.contains("\nother: not as described"), "{both}");
    assert!(second.contains("\nexample: as described"), "{both}");

    // Options go to each of them.
    let status = world
        .overstore([
            "status",
            "--exit-code",
            "--sizes",
            "--json",
            "example",
            "other",
        ])
        .run();
    assert_eq!(status.code(), Some(1), "{status}");
    let told = json(&status.stdout());
    assert!(told["stores"][0]["result"]["sizes"].is_object(), "{status}");
    assert_eq!(told["stores"][1]["exit-code"], 1, "{status}");

    let gc = world
        .overstore(["gc", "--dry-run", "example", "other"])
        .run();
    assert_eq!(gc.code(), Some(1), "{gc}");
    assert!(gc.stdout().contains("would delete 0 objects"), "{gc}");
    assert!(
        gc.stderr().contains("the store other is not as described"),
        "{gc}"
    );

    let refresh = world.overstore(["refresh", "--all", "--json"]).run();
    assert_eq!(refresh.code(), Some(2), "{refresh}");
    let told = json(&refresh.stdout());
    let codes: Vec<&Value> = told["stores"].as_array().unwrap().iter().collect();
    let codes: Vec<Value> = codes
        .iter()
        .map(|it| json!([it["store"], it["exit-code"]]))
        .collect();
    assert_eq!(
        codes,
        [
            json!(["example", 0]),
            json!(["other", 1]),
            json!(["wrong", 2])
        ]
    );
    assert_eq!(told["stores"][0]["result"]["remounted"], true, "{refresh}");
    let is_down = &told["stores"][1]["result"];
    assert_eq!(is_down["remedy"], "overstore up other", "{refresh}");
    world.write("/etc/overstore/b.toml", "");
    let refused = world.overstore(["refresh", "a"]).run();
    assert!(
        refused.stderr().contains("give one of these names: `b`, "),
        "{refused}"
    );
}

/// A name that is nearly right, a version that is the program's, and JSON where there is none.
#[test]
fn small_things_that_people_type() {
    let Some(world) = World::trixie() else { return };
    three(&world);
    for (argument, meant) in [("exampel", "example"), ("othr", "other")] {
        let refused = world.overstore(["check", argument]).run();
        assert_eq!(refused.code(), Some(2), "{refused}");
        let hint = format!("\nremedy: did you mean `{meant}`?\n");
        assert!(refused.stderr().ends_with(&hint), "{refused}");
    }
    world.write("/tmp/stores/builder.toml", "");
    let refused = world.overstore(["plan", "/tmp/stores/bulider.toml"]).run();
    let hint = "\nremedy: did you mean `/tmp/stores/builder.toml`?\n";
    assert!(refused.stderr().ends_with(hint), "{refused}");
    let far = world.overstore(["plan", "something-else"]).run();
    let hint = "give one of these names: `example`, `other`, `wrong`";
    assert!(far.stderr().contains(hint), "{far}");

    let version = world.overstore(["up", "-V"]).run();
    let expected = concat!("overstore ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(
        (version.code(), version.stdout().as_str()),
        (Some(0), expected)
    );

    for arguments in [&["--json", "new"][..], &["manual", "--json", "/tmp"]] {
        let refused = world.overstore(arguments).run();
        assert_eq!((refused.code(), refused.stdout()), (Some(2), String::new()));
        assert!(refused.stderr().contains("`--json`"), "{refused}");
    }
}

/// At a terminal, findings end their lines between words, and commands stay whole.
#[test]
fn findings_fit_the_terminal() {
    let Some(world) = World::trixie() else { return };
    let example = three(&world);
    example.up();
    world.ok(["mount", "-t", "tmpfs", "hides", Example::REAL]);
    for columns in [80, 120] {
        let typed = format!("stty cols {columns}; NO_COLOR=1 overstore check example");
        let shown = world.run(["script", "-qec", &typed, "/dev/null"]);
        let text = shown.stdout().replace('\r', "");
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(columns.min(100)), "{columns}: {text}");
        let wrapped = text
            .lines()
            .filter(|line| line.starts_with("              "));
        assert_ne!(wrapped.count(), 0, "{text}");
        let whole = world.overstore(["check", "example"]).run().stdout();
        let joined = text.replace("\n              ", " ");
        assert_eq!(joined, whole);
    }
}

/// A bare tree has no devices.
#[test]
fn nothing_of_it_needs_a_device() {
    let Some(world) = World::trixie() else { return };
    three(&world).up();
    let bare = |words: &[&str]| {
        let script = "mount -t tmpfs none /dev && exec overstore \"$@\"";
        let all = ["unshare", "--mount", "sh", "-c", script, "sh"];
        world.run(all.iter().chain(words).copied())
    };
    for (words, code) in [
        (&["list"][..], 0),
        (&["status", "example", "other"], 0),
        (&["status", "--all", "--json"], 2),
    ] {
        let (with, without) = (world.overstore(words.iter().copied()).run(), bare(words));
        assert_eq!(without.code(), Some(code), "{without}");
        assert_eq!(without.code(), with.code(), "{words:?}: {with}");
        // The others tell of times.
        if words == ["list"] {
            assert_eq!(without.stdout(), with.stdout());
        }
        assert!(
            !without.stderr().contains("cannot run this program"),
            "{without}"
        );
    }
}
