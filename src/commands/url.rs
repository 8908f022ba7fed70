//! `overstore url`.

use std::process::ExitCode;

use super::Failure;
use super::description::description_and_environment;
use crate::apply::Progress;
use crate::check::{Code, description};
use crate::cli::{self, UrlFormat};
use crate::config::Store;
use crate::config::names::URL_VARIABLE;
use crate::escape::show_path;
use crate::nix::url::{StoreReference, UrlRules};
use crate::nix::version::NixVersion;
use crate::remedy::{Fault, Remedy};
use crate::report::{self, UrlByVersion, UrlReport};
use crate::systemd::notify::ServiceManager;
use crate::systemd::text::environment_value;

pub(super) fn run(arguments: &cli::Url, json: bool) -> Result<ExitCode, Failure> {
    let rules = match &arguments.nix_version {
        Some(version) => Some(rules(version)?),
        None => None,
    };
    let (store, environment) = description_and_environment(&arguments.store)?;
    let report = if arguments.client {
        let socket = arguments.socket.as_deref();
        if let Some(socket) = socket.filter(|socket| !socket.is_absolute()) {
            return Err(Failure::refused(format!(
                "`--socket`: expected an absolute path, found `{}`",
                show_path(socket)
            ))
            .remedy("begin it with `/`"));
        }
        if socket.is_none() && store.daemon.is_none() {
            warn_of_system_daemon(&store);
        }
        report(
            &store,
            &store.client_reference(socket, &environment.socket()),
            rules,
        )
    } else {
        report_of_store(&store, rules)
    };
    let format = if json {
        UrlFormat::Json
    } else {
        arguments.format
    };
    if format != UrlFormat::Json {
        report::warn(&report.findings);
    }
    let text = match format {
        UrlFormat::Env => format!("{URL_VARIABLE}={}\n", environment_value(&report.url)),
        UrlFormat::NixConf => nix_conf(&store, &report, arguments.client),
        UrlFormat::Url | UrlFormat::Json => format!("{}\n", report.url),
    };
    report::print(&report, format == UrlFormat::Json, |out| {
        out.write_all(text.as_bytes())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// No daemon is described: what is printed is right only where the system's serves this store.
fn warn_of_system_daemon(store: &Store) {
    let what = format!(
        "no daemon is described for {}: this is the URL of the system's daemon, which serves the \
         store only if its settings say so, such as `store` in nix.conf",
        store.name
    );
    let remedy =
        Remedy::say("if another daemon serves it, describe it, or name its socket with `--socket`")
            .and_set("daemon.socket", "\"/run/...\"");
    let fault = Fault::new(what).remedy(remedy);
    super::tell(&Progress::Warning(&fault), &ServiceManager::default());
}

fn rules(version: &str) -> Result<UrlRules, Failure> {
    let version: NixVersion = version.parse().map_err(|error| {
        Failure::refused(format!("`--nix-version`: {error}"))
            .remedy("give the version that `nix --version` prints")
    })?;
    Ok(UrlRules::from(version))
}

/// The report of the store's own URL, with all that goes with it.
fn report_of_store(store: &Store, rules: Option<UrlRules>) -> UrlReport {
    let mut report = report(store, &store.reference(), rules);
    report.experimental_features = store.experimental_features();
    report.findings = description::findings(store);
    if rules.is_some() {
        // The version is known, so nothing depends on it.
        report
            .findings
            .retain(|finding| finding.code != Code::UrlDependsOnVersion);
    }
    report
}

fn report(store: &Store, reference: &StoreReference, rules: Option<UrlRules>) -> UrlReport {
    let (url, by_version) = match (rules, reference.render_for_all()) {
        (Some(rules), _) => (reference.render(rules), None),
        (None, Ok(url)) => (url, None),
        (None, Err(texts)) => {
            let (before_2_34, since_2_34) = (texts.before_2_34, texts.since_2_34);
            (
                since_2_34.clone(),
                Some(UrlByVersion {
                    before_2_34,
                    since_2_34,
                }),
            )
        }
    };
    UrlReport {
        version: 1,
        store: store.name.clone(),
        url,
        by_version,
        experimental_features: Vec::new(),
        findings: Vec::new(),
    }
}

fn nix_conf(store: &Store, report: &UrlReport, client: bool) -> String {
    let name = &store.name;
    let command = store.command(["url", "--client", "--format", "nix.conf"]);
    let mut text = if client {
        format!("# For the users of the daemon that serves the store {name}.\n")
    } else {
        format!(
            "# For a machine whose only user is the one of the store {name}: with this line in\n\
             # nix.conf, every Nix that reads the file opens the store itself, its daemon too. Where a\n\
             # daemon serves the store, run it as `nix-daemon --store URL`, and set here what\n\
             # `{command}` prints.\n"
        )
    };
    text.push_str(&format!("store = {}\n", report.url));
    if !report.experimental_features.is_empty() {
        let features = report.experimental_features.join(" ");
        text.push_str(&format!("extra-experimental-features = {features}\n"));
    }
    if !client && !store.use_sqlite_wal {
        text.push_str("use-sqlite-wal = false\n");
    }
    text
}
