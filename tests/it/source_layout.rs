//! The layout of the source is the way of the data: folders use only those above them in the list
//! of `src/lib.rs`, and no two files import each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// Files outside of the order: the map itself, the program, and what is re-exported for tests.
const OUTSIDE: [&str; 3] = ["lib", "main", "testing"];

#[test]
fn no_folder_uses_one_below_it() {
    let order = order();
    let place = |module: &str| {
        let folder = module.split("::").next().unwrap();
        let found = order.iter().position(|name| name == folder);
        found.unwrap_or_else(|| panic!("src/lib.rs does not list {folder}"))
    };
    let upward: Vec<String> = imports()
        .iter()
        .flat_map(|(module, used)| used.iter().map(move |used| (module, used)))
        .filter(|(module, used)| place(used) > place(module))
        .map(|(module, used)| format!("{module} uses {used}"))
        .collect();
    assert!(
        upward.is_empty(),
        "against the order of src/lib.rs: {upward:#?}"
    );
}

#[test]
fn no_files_import_each_other() {
    let imports = imports();
    // A folder's own file and those in it are one.
    let related = |one: &str, other: &str| {
        one.starts_with(&format!("{other}::")) || other.starts_with(&format!("{one}::"))
    };
    let reachable = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from];
        while let Some(module) = next.pop() {
            for used in imports.get(module).into_iter().flatten() {
                if !related(module, used) && seen.insert(used.clone()) {
                    next.push(used);
                }
            }
        }
        seen
    };
    let circles: Vec<&String> = imports
        .keys()
        .filter(|module| reachable(module).contains(*module))
        .collect();
    assert!(circles.is_empty(), "in circles of imports: {circles:#?}");
}

/// What an error says is what is wrong. What fixes it is a value beside it, and no part of the text.
#[test]
fn errors_leave_advice_to_their_remedies() {
    const ADVICE: [&str; 11] = [
        "remedy",
        "use `overstore",
        "`overstore check",
        "`nix-store",
        "; use ",
        ": use ",
        "; run ",
        ". run ",
        "try again",
        "as root",
        "wait for",
    ];
    let mut files = BTreeMap::new();
    find_files(&source(), "", &mut files);
    let mut texts = Texts::default();
    for (module, file) in &files {
        texts.module.clone_from(module);
        texts.visit_file(&syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap());
    }
    assert!(texts.found.len() > 100, "{:#?}", texts.found);
    let advice: Vec<_> = texts
        .found
        .iter()
        .filter(|(_, text)| {
            let text = text.to_lowercase();
            ADVICE.iter().any(|advice| text.contains(advice))
        })
        .collect();
    assert!(advice.is_empty(), "{advice:#?}");
}

/// Collects the texts of errors: `#[error("...")]`, with the module that each is in.
#[derive(Default)]
struct Texts {
    module: String,
    found: Vec<(String, String)>,
}

impl<'ast> Visit<'ast> for Texts {
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("error")
            && let syn::Meta::List(list) = &attribute.meta
            && let Some(first) = list.tokens.clone().into_iter().next()
            && let Ok(text) = syn::parse_str::<syn::LitStr>(&first.to_string())
        {
            self.found.push((self.module.clone(), text.value()));
        }
    }
}

/// The folders, as the documentation of `src/lib.rs` lists them.
fn order() -> Vec<String> {
    fs::read_to_string(source().join("lib.rs"))
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("//! - [`")?.split('`').next())
        .map(str::to_owned)
        .collect()
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// What each file uses of other files, without its tests.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let mut files = BTreeMap::new();
    find_files(&source(), "", &mut files);
    let modules: BTreeSet<String> = files.keys().cloned().collect();
    files
        .iter()
        .filter(|(module, _)| !OUTSIDE.contains(&module.as_str()))
        .map(|(module, file)| {
            let mut finder = Finder::default();
            finder.visit_file(&syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap());
            let used = finder
                .paths
                .iter()
                .filter_map(|path| resolve(module, path, &modules))
                .filter(|used| used != module)
                .collect();
            (module.clone(), used)
        })
        .collect()
}

/// Finds the Rust files below a directory, each with its module's path. Tests have files called so.
fn find_files(directory: &Path, prefix: &str, files: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            find_files(&path, &format!("{prefix}{name}::"), files);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !matches!(name.as_str(), "tests" | "fixture")
        {
            let module = match name.as_str() {
                "mod" => prefix.trim_end_matches("::").to_owned(),
                name => format!("{prefix}{name}"),
            };
            files.insert(module, path);
        }
    }
}

/// The module that has what a path names, seen from a module.
fn resolve(module: &str, path: &[String], modules: &BTreeSet<String>) -> Option<String> {
    let mut whole: Vec<&str> = module.split("::").collect();
    let mut rest = path;
    if rest.first()? == "crate" {
        whole.clear();
        rest = &rest[1..];
    }
    while rest.first().is_some_and(|name| name == "super") {
        whole.pop();
        rest = &rest[1..];
    }
    whole.extend(rest.iter().map(String::as_str));
    while !whole.is_empty() {
        let name = whole.join("::");
        if modules.contains(&name) {
            return Some(name);
        }
        whole.pop();
    }
    None
}

/// Collects the paths that begin with `crate` or `super`, but for those of tests.
#[derive(Default)]
struct Finder {
    paths: Vec<Vec<String>>,
}

impl Finder {
    fn add_tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => self.add(with(&name.ident)),
            syn::UseTree::Rename(rename) => self.add(with(&rename.ident)),
            syn::UseTree::Glob(_) => self.add(before.to_owned()),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(tree, before);
                }
            }
        }
    }

    fn add(&mut self, path: Vec<String>) {
        if path
            .first()
            .is_some_and(|name| name == "crate" || name == "super")
        {
            self.paths.push(path);
        }
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.add_tree(&item.tree, &[]);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(
            path.segments
                .iter()
                .map(|part| part.ident.to_string())
                .collect(),
        );
        visit::visit_path(self, path);
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|condition| condition.is_ident("test"))
    })
}

#[test]
fn what_a_path_names_is_found() {
    let modules = ["a", "a::b", "a::c", "d"].map(str::to_owned).into();
    let resolve = |module, path: &str| {
        let path: Vec<String> = path.split("::").map(str::to_owned).collect();
        resolve(module, &path, &modules)
    };
    assert_eq!(resolve("a::b", "super::c::Thing").unwrap(), "a::c");
    assert_eq!(resolve("a::b", "super::Thing").unwrap(), "a");
    assert_eq!(resolve("a", "super::d::Thing").unwrap(), "d");
    assert_eq!(resolve("a::b", "crate::d::Thing::new").unwrap(), "d");
    assert_eq!(resolve("a::b", "crate::Thing"), None);
}
