//! Store URLs: how Nix names a store, read and written.
//!
//! The rules are those of Nix's `StoreReference::parse`, `parseURL` and `decodeQuery` (sources of
//! 2.26 to 2.36). A text is read in one of two ways:
//!
//! - as a **URL**, if it begins with a scheme and a colon: `local://`, `unix://`,
//!   `local-overlay://`, `mounted-ssh-ng://`. Its path is percent-decoded.
//! - as a **word or path** otherwise: `auto` (or nothing), `daemon`, `local`, or a path. The path is
//!   taken as it is, up to the first `?`; a `%` in it means itself.
//!
//! In both, parameters follow the first `?`, separated by `&`, each `name=value`, the value
//! percent-decoded. So `&`, `#` and `%` are syntax in a value, and `?`, `#` and `%` in the path of a
//! URL; every other byte is the path's own. Nix itself refuses some of those unencoded, or would
//! read them differently in `nix.conf`; what is rendered here has them encoded.

use super::percent::{Place, decode, encode};
use super::version::NixVersion;
use crate::escape::show;

/// The parameter of a local-overlay store that holds another store's URL.
const LOWER_STORE: &str = "lower-store";

/// Levels of `lower-store` inside `lower-store` that are read. OverlayFS stacks two.
const MAX_DEPTH: usize = 8;

const EXPECTED: &str = "expected a store with a store directory in this machine's file system: a \
     path, `local`, `daemon`, `unix://`, `local-overlay://` or `mounted-ssh-ng://`";

/// How a version of Nix reads the `lower-store` parameter.
///
/// Up to 2.33 a local-overlay store percent-decodes the value once more before it opens it as a
/// store URL; since 2.34.0 it does not. (2.32 and 2.33 moreover do not decode the path of a URL such
/// as `unix:///a%20b`, so those two cannot open a socket whose path needs encoding.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UrlRules {
    /// Nix 2.33 and before: `lower-store` is decoded twice.
    Before2_34,
    /// Nix 2.34.0 and later: `lower-store` is decoded once, like every other parameter.
    Since2_34,
}

impl From<NixVersion> for UrlRules {
    fn from(version: NixVersion) -> Self {
        if version < NixVersion::new(2, 34) {
            Self::Before2_34
        } else {
            Self::Since2_34
        }
    }
}

/// A kind of store that has its store directory in this machine's file system.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoreKind {
    /// `auto`: a local store for those who may write its state directory, else the daemon.
    Auto,
    /// `local`, `local://ROOT`, or a path.
    Local,
    /// `daemon` or `unix://SOCKET`.
    Daemon {
        /// The path of the socket; `None` for Nix's own.
        socket: Option<Vec<u8>>,
    },
    /// `local-overlay://`.
    LocalOverlay,
    /// `mounted-ssh-ng://HOST`: a daemon on another machine, its store directory mounted here.
    MountedSsh {
        /// `[user@]host[:port]`, as written.
        authority: String,
    },
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// Anything but a store: a path, a number, `true`. Decoded.
    Text(Vec<u8>),
    /// The `lower-store` of a local-overlay store.
    Store(Box<StoreReference>),
}

impl From<&[u8]> for Value {
    fn from(text: &[u8]) -> Self {
        Self::Text(text.to_vec())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.as_bytes().to_vec())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::from(if value { "true" } else { "false" })
    }
}

impl From<StoreReference> for Value {
    fn from(store: StoreReference) -> Self {
        Self::Store(Box::new(store))
    }
}

/// A store, as Nix refers to it: a kind, and parameters in the order in which they were set.
///
/// The path of `local://ROOT`, of `local-overlay://ROOT` and of a bare path is the `root` parameter
/// by another name, and is kept as that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreReference {
    /// What kind of store it is.
    pub kind: StoreKind,
    parameters: Vec<(String, Value)>,
}

/// Why a text is not a store reference that overstore can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// A store without a store directory in this machine's file system.
    #[error("`{scheme}://` {why}")]
    NoLocalDirectory {
        /// Its scheme.
        scheme: String,
        /// Why it has none.
        why: &'static str,
    },
    /// A scheme that no store of Nix has.
    #[error("no kind of store has the scheme `{0}`")]
    UnknownScheme(String),
    /// A single word that names no store.
    #[error("`{0}` is no store")]
    UnknownWord(String),
    /// A path that does not begin with a slash.
    #[error("the path `{0}` is relative")]
    RelativePath(String),
    /// A host where only a path can be, as in `unix://run/socket`.
    #[error("`{scheme}://{host}` takes `{host}` for the beginning of a relative path")]
    Host {
        /// The scheme.
        scheme: String,
        /// What stands between the second slash and the third.
        host: String,
    },
    /// `mounted-ssh-ng://` without a host, or with more than one.
    #[error("`mounted-ssh-ng:{0}` has no valid host")]
    BadAuthority(String),
    /// A `#`, from which on Nix drops the rest of a URL.
    #[error("a `#` begins a part that Nix drops")]
    Fragment,
    /// A `%` that does not begin an encoded byte.
    #[error("`{0}` has a `%` without two hexadecimal digits")]
    BadPercent(String),
    /// A byte 0, which no path has.
    #[error("`{0}` has a byte 0, which no path can have")]
    Nul(String),
    /// A parameter without a value.
    #[error("the parameter `{0}` has no value, so Nix ignores it")]
    NoValue(String),
    /// A parameter whose name is none.
    #[error("`{0}` is not the name of a setting of Nix: letters, digits, `-` and `_`")]
    BadName(String),
    /// A parameter that is there twice.
    #[error("the parameter `{0}` is given twice, and Nix ignores the second")]
    Twice(String),
    /// `lower-store` inside `lower-store`, too often.
    #[error("more than {MAX_DEPTH} stores lie below one another")]
    TooDeep,
    /// Something is wrong with the inner store.
    #[error("in its `lower-store`: {0}")]
    LowerStore(Box<BadReference>),
}

impl BadReference {
    /// What to write instead, where that can be said.
    pub(crate) fn help(&self) -> Option<String> {
        Some(match self {
            Self::NoLocalDirectory { .. } | Self::UnknownScheme(_) => EXPECTED.to_owned(),
            Self::UnknownWord(_) => {
                "expected `local`, `daemon`, `auto`, an absolute path or a store \
                                     URL"
                .to_owned()
            }
            Self::RelativePath(_) => "expected one that begins with `/`".to_owned(),
            Self::Host { scheme, host } => {
                format!("write a third slash: `{scheme}:///{host}`")
            }
            Self::BadAuthority(_) => "expected `mounted-ssh-ng://[USER@]HOST`".to_owned(),
            Self::Fragment => "write `%23` for a `#` that belongs to a path".to_owned(),
            Self::BadPercent(_) => "write `%25` for a `%` of a path".to_owned(),
            Self::NoValue(name) => format!("write `{name}=VALUE`"),
            Self::TooDeep => "OverlayFS allows two overlays".to_owned(),
            Self::LowerStore(inner) => return inner.help(),
            Self::Nul(_) | Self::BadName(_) | Self::Twice(_) => return None,
        })
    }
}

/// The two texts of a store that no single text describes to all versions of Nix.
///
/// 2.26 to 2.30 take some texts for 2.34 as well, since they are less strict about what they have
/// decoded once more; 2.31 to 2.33 do not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Nix before 2.34 and Nix since 2.34 read this store's URL differently")]
pub struct VersionDependent {
    /// The text for Nix 2.33 and before.
    pub before_2_34: String,
    /// The text for Nix 2.34 and later.
    pub since_2_34: String,
}

/// Whether `name` can be the name of a parameter. Nix before 2.31 does not decode names, so they
/// are the letters, digits, `-` and `_` that Nix's settings are called with.
pub fn is_parameter_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

impl StoreReference {
    /// A store of this kind, without parameters.
    pub fn new(kind: StoreKind) -> Self {
        Self {
            kind,
            parameters: Vec::new(),
        }
    }

    /// Reads a store reference as it stands in a configuration or on a command line.
    ///
    /// A nested `lower-store` is read by the rules of Nix 2.34: decoded once at each level.
    ///
    /// # Errors
    /// When Nix would not open it, or not as it seems to be meant; when it is no store with a store
    /// directory in this machine's file system.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, BadReference> {
        parse(text.as_ref(), MAX_DEPTH)
    }

    /// Sets a parameter: in its place if it is there already, else after all others.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.parameters.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.parameters.push((name.to_owned(), value)),
        }
    }

    /// [`set`](Self::set), for building in one expression.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// The parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value))
    }

    /// The parameter of that name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.parameters()
            .find_map(|(known, value)| (known == name).then_some(value))
    }

    /// The parameter of that name, if it is there and not a store.
    pub fn text(&self, name: &str) -> Option<&[u8]> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The lower store of a local-overlay store.
    pub fn lower_store(&self) -> Option<&StoreReference> {
        match self.get(LOWER_STORE) {
            Some(Value::Store(store)) => Some(store),
            _ => None,
        }
    }

    /// The text that makes a Nix with these rules open the store: ASCII, fit for a command line,
    /// the environment and `nix.conf`.
    pub fn render(&self, rules: UrlRules) -> String {
        // Everything outside ASCII is encoded where the text is not nested.
        String::from_utf8_lossy(&self.text_for(rules, Place::Value)).into_owned()
    }

    /// The text that makes every version of Nix open the store, if there is one.
    ///
    /// # Errors
    /// When what stands in `lower-store` itself needs percent-encoding: see [`UrlRules`].
    pub fn render_for_all(&self) -> Result<String, VersionDependent> {
        let before_2_34 = self.render(UrlRules::Before2_34);
        let since_2_34 = self.render(UrlRules::Since2_34);
        if before_2_34 == since_2_34 {
            Ok(since_2_34)
        } else {
            Err(VersionDependent {
                before_2_34,
                since_2_34,
            })
        }
    }

    /// The text, as bytes: a nested path stands in it as it is. `place` is that of values.
    fn text_for(&self, rules: UrlRules, place: Place) -> Vec<u8> {
        let mut hidden = None;
        let mut text = match &self.kind {
            StoreKind::Auto => b"auto".to_vec(),
            StoreKind::Local => match self.text("root").filter(|root| is_bare_path(root, place)) {
                Some(root) => {
                    hidden = Some("root");
                    root.to_vec()
                }
                None => b"local".to_vec(),
            },
            StoreKind::Daemon { socket: None } => b"daemon".to_vec(),
            StoreKind::Daemon {
                socket: Some(socket),
            } => format!("unix://{}", encode(socket, Place::Path)).into_bytes(),
            StoreKind::LocalOverlay => b"local-overlay://".to_vec(),
            StoreKind::MountedSsh { authority } => {
                format!("mounted-ssh-ng://{authority}").into_bytes()
            }
        };
        let mut separator = b'?';
        for (name, value) in self.parameters().filter(|(name, _)| Some(*name) != hidden) {
            text.push(separator);
            separator = b'&';
            text.extend_from_slice(name.as_bytes());
            text.push(b'=');
            let mut value = match value {
                Value::Text(value) => value.clone(),
                Value::Store(store) => store.text_for(rules, Place::NestedValue),
            };
            if self.holds_store(name) && rules == UrlRules::Before2_34 {
                value = escape_percent(&value);
            }
            text.extend_from_slice(encode(&value, place).as_bytes());
        }
        text
    }

    /// Whether the parameter of that name is a store reference itself.
    fn holds_store(&self, name: &str) -> bool {
        self.kind == StoreKind::LocalOverlay && name == LOWER_STORE
    }
}

/// What decodes to `text`, with as little encoding as possible.
fn escape_percent(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for &byte in text {
        match byte {
            b'%' => escaped.extend_from_slice(b"%25"),
            _ => escaped.push(byte),
        }
    }
    escaped
}

/// Whether a local store with this root can be written as a bare path.
///
/// Nix takes such a path as it is, up to a `?`, unless it looks like a URL. A `%` would do too, but
/// is not read alike by all versions when it is nested, and `local?root=` says it no worse.
fn is_bare_path(root: &[u8], place: Place) -> bool {
    root.starts_with(b"/")
        && !root.windows(3).any(|window| window == b"://")
        && root.iter().all(|&byte| match place {
            Place::NestedValue => !b"?%".contains(&byte),
            _ => byte != b'?' && place.keeps(byte),
        })
}

fn parse(text: &[u8], depth: usize) -> Result<StoreReference, BadReference> {
    if text.contains(&0) {
        return Err(BadReference::Nul(show(text).into_owned()));
    }
    let (base, query) = split_at(text, b'?');
    let (kind, root) = match split_scheme(base) {
        Some((scheme, rest)) => {
            if base.contains(&b'#') {
                return Err(BadReference::Fragment);
            }
            parse_url(scheme, rest)?
        }
        None => parse_word(base)?,
    };
    let mut store = StoreReference::new(kind);
    parse_query(&mut store, query.unwrap_or_default(), depth)?;
    // Where both are given, Nix takes the parameter.
    if let Some(root) = root
        && store.get("root").is_none()
    {
        store
            .parameters
            .insert(0, ("root".to_owned(), Value::Text(root)));
    }
    Ok(store)
}

/// What stands before and after the first `separator`.
fn split_at(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|&byte| byte == separator) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Splits `scheme:rest`.
fn split_scheme(base: &[u8]) -> Option<(&str, &[u8])> {
    let (scheme, rest) = split_at(base, b':');
    let scheme = std::str::from_utf8(scheme).ok()?;
    let well_formed = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte));
    well_formed.then_some((scheme, rest?))
}

/// The kind of store, and the root directory that its path means.
type KindAndRoot = (StoreKind, Option<Vec<u8>>);

fn parse_word(base: &[u8]) -> Result<KindAndRoot, BadReference> {
    Ok(match base {
        b"" | b"auto" => (StoreKind::Auto, None),
        b"local" => (StoreKind::Local, None),
        b"daemon" => (StoreKind::Daemon { socket: None }, None),
        [b'/', ..] => (StoreKind::Local, Some(base.to_vec())),
        _ if base.contains(&b'/') => {
            return Err(BadReference::RelativePath(show(base).into_owned()));
        }
        _ => return Err(BadReference::UnknownWord(show(base).into_owned())),
    })
}

fn parse_url(scheme: &str, rest: &[u8]) -> Result<KindAndRoot, BadReference> {
    let no_local_directory = |why| {
        Err(BadReference::NoLocalDirectory {
            scheme: scheme.to_owned(),
            why,
        })
    };
    match scheme {
        "local" => Ok((StoreKind::Local, parse_path(scheme, rest)?)),
        "local-overlay" => Ok((StoreKind::LocalOverlay, parse_path(scheme, rest)?)),
        "unix" => Ok((
            StoreKind::Daemon {
                socket: parse_path(scheme, rest)?,
            },
            None,
        )),
        "mounted-ssh-ng" => Ok((
            StoreKind::MountedSsh {
                authority: parse_authority(rest)?,
            },
            None,
        )),
        "ssh" | "ssh-ng" => no_local_directory(
            "is a store on another machine (if its store directory is mounted here, write \
             `mounted-ssh-ng://`)",
        ),
        "http" | "https" | "file" | "s3" => {
            no_local_directory("is a binary cache: it holds archives, not a store directory")
        }
        "dummy" => no_local_directory("is a store without objects"),
        _ => Err(BadReference::UnknownScheme(scheme.to_owned())),
    }
}

/// The path of a URL that can have no host; `None` if it is empty.
fn parse_path(scheme: &str, rest: &[u8]) -> Result<Option<Vec<u8>>, BadReference> {
    let path = rest.strip_prefix(b"//").unwrap_or(rest);
    let path = decode(path).map_err(|_| BadReference::BadPercent(show(path).into_owned()))?;
    match path.first() {
        None => Ok(None),
        _ if path.contains(&0) => Err(BadReference::Nul(show(rest).into_owned())),
        Some(b'/') => Ok(Some(path)),
        Some(_) if rest.starts_with(b"//") => Err(BadReference::Host {
            scheme: scheme.to_owned(),
            host: show(&path).into_owned(),
        }),
        Some(_) => Err(BadReference::RelativePath(show(&path).into_owned())),
    }
}

fn parse_authority(rest: &[u8]) -> Result<String, BadReference> {
    let bad = || BadReference::BadAuthority(show(rest).into_owned());
    let text = rest.strip_prefix(b"//").ok_or_else(bad)?;
    let text = std::str::from_utf8(text).map_err(|_| bad())?;
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@[]%".contains(&byte);
    let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
    if host.is_empty() || !text.bytes().all(allowed) || decode(text.as_bytes()).is_err() {
        return Err(bad());
    }
    Ok(text.to_owned())
}

fn parse_query(store: &mut StoreReference, query: &[u8], depth: usize) -> Result<(), BadReference> {
    if query.contains(&b'#') {
        return Err(BadReference::Fragment);
    }
    for pair in query
        .split(|&byte| byte == b'&')
        .filter(|pair| !pair.is_empty())
    {
        let (name, value) = split_at(pair, b'=');
        let name = match std::str::from_utf8(name) {
            Ok(name) if is_parameter_name(name) => name,
            _ => return Err(BadReference::BadName(show(name).into_owned())),
        };
        let value = value.ok_or_else(|| BadReference::NoValue(name.to_owned()))?;
        let value = decode(value).map_err(|_| BadReference::BadPercent(show(pair).into_owned()))?;
        if value.contains(&0) {
            return Err(BadReference::Nul(show(pair).into_owned()));
        }
        if store.get(name).is_some() {
            return Err(BadReference::Twice(name.to_owned()));
        }
        let value = if store.holds_store(name) {
            let depth = depth.checked_sub(1).ok_or(BadReference::TooDeep)?;
            let inner = parse(&value, depth).map_err(|error| match error {
                BadReference::TooDeep => error,
                _ => BadReference::LowerStore(Box::new(error)),
            })?;
            Value::from(inner)
        } else {
            Value::Text(value)
        };
        store.set(name, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
