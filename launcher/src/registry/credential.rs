//! Logins, where Docker's client keeps them: `config.json` in `$DOCKER_CONFIG`, else `~/.docker`.
//!
//! What the file holds beside logins is kept as it is. With `credHelpers` or `credsStore` the
//! secrets are with a program (see `helper`), and the file only names the registry.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use api::storage::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::error::RegistryError;
use super::helper::Helper;

/// Under which Docker Hub is kept.
pub(crate) const HUB_KEY: &str = "https://index.docker.io/v1/";
/// What Docker calls a login that is a refresh token, in place of the name.
const TOKEN_USER: &str = "<token>";
/// Names the variable that has logins beside the file's, in its form.
pub(crate) const GIVEN: &str = "DOCKER_AUTH_CONFIG";
/// Far more than logins take.
const MAX_FILE: u64 = 4 << 20;

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Password {
        user: String,
        password: String,
    },
    /// A refresh token (OAuth 2), which the token server exchanges.
    Token(String),
}

/// Never with the secret.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user:?})"),
            Self::Token(_) => f.write_str("Token"),
        }
    }
}

/// The file of logins.
#[derive(Debug)]
pub struct Logins {
    path: PathBuf,
    /// Everything else in the file.
    others: Map<String, Value>,
    auths: Map<String, Value>,
    /// Those of [`GIVEN`], which count before the file's.
    given: Map<String, Value>,
}

impl Logins {
    /// # Errors
    /// The file is there but cannot be read, or is none of logins.
    pub fn open() -> Result<Self, RegistryError> {
        let given = std::env::var_os(GIVEN).unwrap_or_default();
        let given = auths_of(&mut parse(Path::new(GIVEN), &given.to_string_lossy())?);
        let dir = match std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => home().join(".docker"),
        };
        let logins = Self::read(&dir.join("config.json"))?;
        Ok(Self { given, ..logins })
    }

    fn read(path: &Path) -> Result<Self, RegistryError> {
        let failed = |source| RegistryError::File {
            path: path.to_owned(),
            source,
        };
        let text = match fs::metadata(path) {
            Ok(metadata) if metadata.len() > MAX_FILE => {
                return Err(failed(io::ErrorKind::FileTooLarge.into()));
            }
            Ok(_) => fs::read_to_string(path).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        let mut others = parse(path, &text)?;
        Ok(Self {
            path: path.to_owned(),
            auths: auths_of(&mut others),
            others,
            given: Map::new(),
        })
    }

    /// With others that count before these, by host and as the file has them.
    #[must_use]
    pub fn with(mut self, others: &BTreeMap<String, Secret>) -> Self {
        for (host, auth) in others {
            if let Ok(auth) = serde_json::from_str(auth.expose()) {
                self.given.retain(|name, _| !same_registry(name, host));
                self.given.insert(key(host).to_owned(), auth);
            }
        }
        self
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The login for a registry, if there is one.
    ///
    /// # Errors
    /// A credential helper failed.
    pub fn find(&self, host: &str) -> Result<Option<Credential>, RegistryError> {
        let in_table = |auths: &Map<String, Value>| {
            let mut entries = auths.iter();
            let entry = entries.find(|(name, _)| same_registry(name, host));
            entry.and_then(|(_, entry)| credential(entry))
        };
        if let Some(given) = in_table(&self.given) {
            return Ok(Some(given));
        }
        if let Some(helper) = self.helper(host) {
            return helper.get(key(host));
        }
        Ok(in_table(&self.auths))
    }

    /// Keeps a login. True if it is in the file as good as readable.
    ///
    /// # Errors
    /// The file cannot be written, or a credential helper failed.
    pub fn store(&mut self, host: &str, credential: &Credential) -> Result<bool, RegistryError> {
        let helper = self.helper(host);
        let is_readable = helper.is_none();
        let entry = match helper {
            Some(helper) => {
                helper.store(key(host), credential)?;
                json!({})
            }
            None => entry(credential),
        };
        self.auths.retain(|name, _| !same_registry(name, host));
        self.auths.insert(key(host).to_owned(), entry);
        self.write()?;
        Ok(is_readable)
    }

    /// Forgets a login; false if there was none.
    ///
    /// # Errors
    /// As [`Self::store`].
    pub fn forget(&mut self, host: &str) -> Result<bool, RegistryError> {
        let before = self.auths.len();
        self.auths.retain(|name, _| !same_registry(name, host));
        let was_there = self.auths.len() < before;
        if let Some(helper) = self.helper(host) {
            helper.erase(key(host))?;
        }
        if was_there {
            self.write()?;
        }
        Ok(was_there)
    }

    fn helper(&self, host: &str) -> Option<Helper> {
        let own = self
            .others
            .get("credHelpers")
            .and_then(Value::as_object)
            .and_then(|helpers| {
                helpers
                    .iter()
                    .find(|(name, _)| same_registry(name, host))
                    .map(|(_, helper)| helper)
            });
        let name = own.or_else(|| self.others.get("credsStore"))?.as_str()?;
        Helper::named(name)
    }

    /// Whole or not at all, and for nobody else to read.
    fn write(&self) -> Result<(), RegistryError> {
        let failed = |source| RegistryError::File {
            path: self.path.clone(),
            source,
        };
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        if !dir.exists() {
            fs::create_dir_all(dir).map_err(failed)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        let part = dir.join(format!(".config.json.{}", std::process::id()));
        let mut content = self.others.clone();
        content.insert("auths".to_owned(), self.auths.clone().into());
        let mut text =
            serde_json::to_string_pretty(&content).map_err(|source| RegistryError::Config {
                path: self.path.clone(),
                source,
            })?;
        text.push('\n');
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&part, &self.path));
        if written.is_err() {
            // The error that counts is the one of the write.
            drop(fs::remove_file(&part));
        }
        written.map_err(failed)
    }
}

fn parse(path: &Path, text: &str) -> Result<Map<String, Value>, RegistryError> {
    match text.trim() {
        "" => Ok(Map::new()),
        text => serde_json::from_str(text).map_err(|source| RegistryError::Config {
            path: path.to_owned(),
            source,
        }),
    }
}

fn auths_of(config: &mut Map<String, Value>) -> Map<String, Value> {
    match config.remove("auths") {
        Some(Value::Object(auths)) => auths,
        _ => Map::new(),
    }
}

/// As the file has it.
pub(crate) fn text(credential: &Credential) -> Secret {
    Secret::new(entry(credential).to_string())
}

/// The content of a file with one login, for [`GIVEN`].
pub(crate) fn alone(host: &str, credential: &Credential) -> String {
    json!({ "auths": { key(host): entry(credential) } }).to_string()
}

fn entry(credential: &Credential) -> Value {
    match credential {
        Credential::Password { user, password } => {
            json!({ "auth": STANDARD.encode(format!("{user}:{password}")) })
        }
        Credential::Token(token) => json!({ "identitytoken": token }),
    }
}

fn home() -> PathBuf {
    std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map_or_else(|| PathBuf::from("/root"), PathBuf::from)
}

/// The key of a registry in the file.
fn key(host: &str) -> &str {
    if host == api::reference::DEFAULT_HOST {
        HUB_KEY
    } else {
        host
    }
}

/// Keys are hosts, or URLs as old clients wrote them.
fn same_registry(name: &str, host: &str) -> bool {
    if name == key(host) {
        return true;
    }
    let bare = name
        .strip_prefix("https://")
        .or_else(|| name.strip_prefix("http://"))
        .unwrap_or(name);
    let bare = bare.split('/').next().unwrap_or_default();
    match host {
        api::reference::DEFAULT_HOST => matches!(bare, "docker.io" | "index.docker.io"),
        host => bare == host,
    }
}

fn credential(entry: &Value) -> Option<Credential> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    if !text("identitytoken").is_empty() {
        return Some(Credential::Token(text("identitytoken").to_owned()));
    }
    let decoded = STANDARD.decode(text("auth")).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (user, password) = match decoded.split_once(':') {
        // Docker of old ended them with a NUL.
        Some((user, password)) => (user, password.trim_end_matches('\0')),
        None => (text("username"), text("password")),
    };
    named(user, password)
}

/// A name and a secret as files and helpers give them.
pub(crate) fn named(user: &str, secret: &str) -> Option<Credential> {
    match user {
        "" => None,
        TOKEN_USER => Some(Credential::Token(secret.to_owned())),
        user => Some(Credential::Password {
            user: user.to_owned(),
            password: secret.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Credential {
        Credential::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    fn logins(text: &str) -> (tempfile::TempDir, Logins) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker/config.json");
        fs::create_dir(dir.path().join("docker")).unwrap();
        fs::write(&path, text).unwrap();
        let logins = Logins::read(&path).unwrap();
        (dir, logins)
    }

    #[test]
    fn logins_of_dockers_client_are_found() {
        let auth = STANDARD.encode("me:se:cret");
        let (_dir, logins) = logins(&format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{auth}"}},
                "https://old.example/v1/": {{"auth": "{auth}"}},
                "r.example:5000": {{"identitytoken": "t0"}},
                "empty.example": {{}}, "bad.example": {{"auth": "!!"}}}}}}"#
        ));
        let find = |host| logins.find(host).unwrap();
        assert_eq!(find("docker.io"), Some(password("me", "se:cret")));
        assert_eq!(find("old.example"), Some(password("me", "se:cret")));
        assert_eq!(find("r.example:5000"), Some(Credential::Token("t0".into())));
        for host in ["r.example", "empty.example", "bad.example", "x"] {
            assert_eq!(find(host), None, "{host}");
        }
    }

    #[test]
    fn logins_that_come_along_count_before_those_here() {
        let auth = STANDARD.encode("me:here");
        let (_dir, logins) = logins(&format!(
            r#"{{"auths": {{"r.example": {{"auth": "{auth}"}}, "s.example": {{"auth": "{auth}"}}}}}}"#
        ));
        let hub = Credential::Token("t0".into());
        let others = [
            ("r.example".to_owned(), text(&password("you", "p:w"))),
            ("docker.io".to_owned(), text(&hub)),
        ];
        let logins = logins.with(&others.into());
        let find = |host| logins.find(host).unwrap();
        assert_eq!(find("r.example"), Some(password("you", "p:w")));
        assert_eq!(find("docker.io"), Some(hub));
        assert_eq!(find("s.example"), Some(password("me", "here")));
    }

    #[test]
    fn a_login_is_kept_for_its_owner_alone_and_the_rest_of_the_file_stays() {
        let (dir, mut logins) = logins(r#"{"psFormat": "x", "auths": {"https://r.example": {}}}"#);
        assert!(logins.store("r.example", &password("me", "pw")).unwrap());
        let path = dir.path().join("docker/config.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("psFormat") && !text.contains("https://r.example"),
            "{text}"
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut again = Logins::read(&path).unwrap();
        assert_eq!(again.find("r.example").unwrap(), Some(password("me", "pw")));
        assert!(again.forget("r.example").unwrap());
        assert!(!again.forget("r.example").unwrap());
        assert_eq!(
            Logins::read(&path).unwrap().find("r.example").unwrap(),
            None
        );
    }

    #[test]
    fn a_file_that_is_not_there_has_no_logins_and_a_broken_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.json");
        let mut logins = Logins::read(&path).unwrap();
        assert_eq!(logins.find("r").unwrap(), None);
        logins.store("r", &password("a", "b")).unwrap();
        let mode = fs::metadata(path.parent().unwrap())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::write(&path, "{").unwrap();
        let error = Logins::read(&path).unwrap_err().to_string();
        assert!(error.contains("config.json"), "{error}");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let shown = format!(
            "{:?} {:?}",
            password("me", "pw"),
            Credential::Token("t0".into())
        );
        assert!(!shown.contains("pw") && !shown.contains("t0"), "{shown}");
    }
}
