//! A real daemon tells the same of its store as the store's database does.

use std::path::Path;
use std::time::Duration;

use crate::support::World;
use overstore::testing::lower::DaemonSource;
use overstore::testing::lower::SqliteSource;
use overstore::testing::lower::{OverlaySource, Source};
use overstore::testing::nix::StorePath;
use overstore::testing::nix::probe;
use overstore::testing::nix::{PathInfo, StoreDirectory};

const SOCKET: &str = "/run/nix.socket";
const DATABASE: &str = "/nix/var/nix/db/db.sqlite";

fn path(number: usize) -> StorePath {
    StorePath::parse(format!("{number:032}-object").as_bytes()).unwrap()
}

/// A store with `count` paths as Nix makes it from a list, each of which refers to itself, to the
/// one before and to others; and with what Nix 2.26 would not write, but reads.
fn fill(world: &World, count: usize) {
    let mut list = String::new();
    for number in 0..count {
        let references: Vec<_> = [Some(number), number.checked_sub(1), Some(number / 2)]
            .into_iter()
            .flatten()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .map(|number| format!("/nix/store/{}\n", path(number)))
            .collect();
        let deriver = match number % 3 {
            0 => String::new(),
            _ => format!("/nix/store/{}.drv", path(number / 10)),
        };
        list += &format!(
            "/nix/store/{}\n{:064x}\n{}\n{deriver}\n{}\n{}",
            path(number),
            number,
            number * 7,
            references.len(),
            references.concat()
        );
    }
    world.nix(["nix-store", "--load-db"]).stdin(list).ok();
    world.ok([
        "sqlite3",
        DATABASE,
        "update ValidPaths set sigs = 'b-1:Ymw= a-1:YWE=' where id % 5 = 0;
         update ValidPaths set ultimate = 1 where id % 7 = 0;
         update ValidPaths set ca = 'fixed:r:sha256:' || substr(hash, 8) where id % 11 = 0;",
    ]);
}

fn all(source: &mut dyn Source) -> Vec<(StorePath, PathInfo)> {
    let mut paths = Vec::new();
    source
        .all_paths(&mut |path| {
            paths.push(path);
            Ok(())
        })
        .unwrap();
    paths.sort();
    infos(source, &paths)
}

/// Keeps as many questions open as the source allows.
fn infos(source: &mut dyn Source, paths: &[StorePath]) -> Vec<(StorePath, PathInfo)> {
    let mut infos = Vec::new();
    let mut asked = 0;
    while infos.len() < paths.len() {
        while asked < paths.len() && asked - infos.len() < source.window() {
            source.ask(&paths[asked]).unwrap();
            asked += 1;
        }
        let info = source.answer().unwrap().unwrap();
        infos.push((paths[infos.len()].clone(), info));
    }
    infos
}

fn database(world: &World) -> SqliteSource {
    let store = StoreDirectory::new(b"/nix/store");
    SqliteSource::open(&world.path(DATABASE), store).unwrap()
}

fn daemon(world: &World, socket: &str) -> DaemonSource {
    let store = StoreDirectory::new(b"/nix/store");
    DaemonSource::open(&world.path(socket), store).unwrap()
}

#[test]
fn a_daemon_tells_what_its_database_has() {
    for world in World::each() {
        fill(&world, 3000);
        let _daemon = world.nix_daemon("local", SOCKET);
        let info = probe(&world.path(SOCKET), Duration::from_secs(60)).unwrap();
        let version = world.nix(["nix", "--version"]).ok();
        assert!(version.trim_end().ends_with(&info.nix_version.unwrap()));

        let from_daemon = all(&mut daemon(&world, SOCKET));
        let from_database = all(&mut database(&world));
        assert_eq!(from_daemon.len(), 3000);
        assert!(from_daemon == from_database);
        for feature in [
            |info: &PathInfo| !info.signatures.is_empty(),
            |info: &PathInfo| info.deriver.is_some(),
            |info: &PathInfo| info.content_address.is_some(),
            |info: &PathInfo| info.ultimate,
            |info: &PathInfo| info.nar_size == 0,
            |info: &PathInfo| info.references.len() == 3,
        ] {
            assert!(from_daemon.iter().any(|(_, info)| feature(info)));
        }
    }
}

#[test]
fn an_invalid_path_is_none_and_the_conversation_goes_on() {
    for world in World::each() {
        fill(&world, 3);
        let _daemon = world.nix_daemon("local", SOCKET);
        let mut source = daemon(&world, SOCKET);
        for number in [1, 7, 2] {
            source.ask(&path(number)).unwrap();
        }
        let answers = [(); 3].map(|()| source.answer().unwrap().is_some());
        assert_eq!(answers, [true, false, true]);
    }
}

#[test]
fn a_nested_store_has_its_own_paths_and_those_below() {
    let Some(world) = World::trixie() else { return };
    fill(&world, 20);
    let below = all(&mut database(&world));
    world.ok(["cp", "-r", "/nix/var/nix/db", "/mnt/middle"]);
    world.ok([
        "sqlite3",
        "/mnt/middle/db.sqlite",
        "pragma wal_checkpoint(truncate);
         delete from Refs; delete from DerivationOutputs;
         delete from ValidPaths where id > 10;
         update ValidPaths set registrationTime = 1;
         insert into ValidPaths (path, hash, registrationTime)
         select replace(path, '-object', '-own'), hash, 1 from ValidPaths where id = 5;",
    ]);
    let store = || StoreDirectory::new(b"/nix/store");
    let upper =
        || SqliteSource::open(&world.path(Path::new("/mnt/middle/db.sqlite")), store()).unwrap();
    let mut nested = OverlaySource::new(upper(), Box::new(database(&world)));
    let nested = all(&mut nested);
    let upper = all(&mut upper());
    assert_eq!(upper.len(), 11);
    assert_eq!(nested.len(), 21);
    for item in &nested {
        let wins = upper.iter().find(|own| own.0 == item.0);
        assert_eq!(
            Some(item),
            wins.or_else(|| below.iter().find(|it| it.0 == item.0))
        );
    }
}
