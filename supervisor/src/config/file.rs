//! The configuration file: its known keys, and what is wrong with any other.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use super::ConfigError;

/// What a file says; whatever it leaves out is `None`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct File {
    pub(super) root: Option<PathBuf>,
    pub(super) state: Option<PathBuf>,
    pub(super) address: Option<PathBuf>,
    pub(super) opt: Option<PathBuf>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) proxy_plugins: BTreeMap<String, ProxyPlugin>,
}

/// A plugin that another process serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyPlugin {
    /// `snapshot`, `content`, `diff` or `sandbox`.
    pub(crate) kind: String,
    /// The socket that it listens on.
    pub(crate) address: PathBuf,
    /// The platform that it serves, this one when not given.
    pub(crate) platform: Option<String>,
    /// What it exports, as introspection shows it.
    pub(crate) exports: BTreeMap<String, String>,
    /// What it can do, as introspection shows it.
    pub(crate) capabilities: Vec<String>,
}

/// Reads a file that must be there.
pub(super) fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
    parse(path, &text)
}

/// Reads a file that may be absent.
pub(super) fn read_if_there(path: &Path) -> Result<File, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(File::default()),
        Err(cause) => Err(ConfigError::Read { path: path.to_owned(), cause }),
    }
}

fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Parse {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })?;
    let mut file = File::default();
    let mut keys = Keys { path, within: String::new(), table };
    // containerd's files begin with the version of their layout; the keys known here are the same
    // in all of them.
    keys.take("version", "a number", Value::as_integer)?;
    file.root = keys.path("root")?;
    file.state = keys.path("state")?;
    file.idle_timeout = keys
        .take("idle_timeout", "a number of seconds", |value| {
            value.as_integer().and_then(|seconds| u64::try_from(seconds).ok())
        })?
        .map(Duration::from_secs);
    if let Some(mut grpc) = keys.table("grpc")? {
        file.address = grpc.path("address")?;
        grpc.finish(&["address"])?;
    }
    if let Some(mut plugins) = keys.table("plugins")? {
        for name in ["opt", "io.containerd.internal.v1.opt"] {
            if let Some(mut opt) = plugins.table(name)? {
                file.opt = opt.path("path")?;
                opt.finish(&["path"])?;
            }
        }
        plugins.finish(&["opt", "io.containerd.internal.v1.opt"])?;
    }
    if let Some(mut proxies) = keys.table("proxy_plugins")? {
        let names: Vec<String> = proxies.table.keys().cloned().collect();
        for name in names {
            if let Some(plugin) = proxies.table(&name)? {
                file.proxy_plugins.insert(name, proxy_plugin(plugin)?);
            }
        }
    }
    keys.finish(&["version", "root", "state", "idle_timeout", "grpc", "plugins", "proxy_plugins"])?;
    Ok(file)
}

fn proxy_plugin(mut keys: Keys<'_>) -> Result<ProxyPlugin, ConfigError> {
    let kinds = "one of \"snapshot\", \"content\", \"diff\", \"sandbox\"";
    let kind = keys.take("type", kinds, |value| {
        let kind = value.as_str()?;
        ["snapshot", "content", "diff", "sandbox"].contains(&kind).then(|| kind.to_owned())
    })?;
    let kind = kind.ok_or_else(|| keys.wrong("type", kinds))?;
    let address = keys.path("address")?.ok_or_else(|| keys.wrong("address", "a socket's path"))?;
    let platform =
        keys.take("platform", "a platform", |value| value.as_str().map(str::to_owned))?;
    let exports = keys.take("exports", "a table of strings", |value| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        value.as_table()?.iter().map(|(name, value)| Some((name.clone(), text(value)?))).collect()
    })?;
    let capabilities = keys.take("capabilities", "a list of strings", |value| {
        value.as_array()?.iter().map(|value| value.as_str().map(str::to_owned)).collect()
    })?;
    keys.finish(&["type", "address", "platform", "exports", "capabilities"])?;
    Ok(ProxyPlugin {
        kind,
        address,
        platform,
        exports: exports.unwrap_or_default(),
        capabilities: capabilities.unwrap_or_default(),
    })
}

/// A table whose known keys are taken out one by one; what remains is unknown.
struct Keys<'a> {
    path: &'a Path,
    /// Where the table stands in the file, with a dot behind it.
    within: String,
    table: Table,
}

impl<'a> Keys<'a> {
    fn take<T>(
        &mut self,
        key: &str,
        want: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| self.wrong(key, want))
    }

    fn path(&mut self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        self.take(key, "a path that is not empty", |value| {
            value.as_str().filter(|text| !text.is_empty()).map(PathBuf::from)
        })
    }

    fn table(&mut self, key: &str) -> Result<Option<Keys<'a>>, ConfigError> {
        let table = self.take(key, "a table", |value| value.as_table().cloned())?;
        let within = format!("{}{key}.", self.within);
        Ok(table.map(|table| Keys { path: self.path, within, table }))
    }

    fn wrong(&self, key: &str, want: &'static str) -> ConfigError {
        let key = format!("{}{key}", self.within);
        ConfigError::WrongType { path: self.path.to_owned(), key, want }
    }

    /// Refuses what was not taken.
    fn finish(self, known: &[&str]) -> Result<(), ConfigError> {
        let Some(key) = self.table.keys().next() else { return Ok(()) };
        let near = known
            .iter()
            .map(|known| (strsim::levenshtein(key, known), known))
            .min()
            .map(|(_, near)| format!("{}{near}", self.within));
        let key = format!("{}{key}", self.within);
        Err(ConfigError::UnknownKey { path: self.path.to_owned(), key, near })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<File, ConfigError> {
        parse(Path::new("config.toml"), text)
    }

    #[test]
    fn containerds_keys_mean_what_they_mean_there() {
        let file = parsed(
            r#"
            version = 2
            root = "/data"
            [grpc]
            address = "/run/x.sock"
            [plugins."io.containerd.internal.v1.opt"]
            path = "/opt/tools"
            [proxy_plugins.stargz]
            type = "snapshot"
            address = "/run/stargz.sock"
            [proxy_plugins.stargz.exports]
            root = "/var/lib/stargz"
            "#,
        )
        .unwrap();
        assert_eq!(file.root, Some("/data".into()));
        assert_eq!(file.opt, Some("/opt/tools".into()));
        let plugin = &file.proxy_plugins["stargz"];
        assert_eq!(plugin.kind, "snapshot");
        assert_eq!(plugin.exports["root"], "/var/lib/stargz");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_nearest() {
        let error = parsed("[plugins.opt]\npaht = \"/x\"").unwrap_err().to_string();
        assert_eq!(
            error,
            "config.toml: unknown key plugins.opt.paht, did you mean plugins.opt.path?"
        );
        let error = parsed("stat = \"/x\"").unwrap_err().to_string();
        assert!(error.contains("did you mean state?"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_what_is_wanted() {
        let error = parsed("[proxy_plugins.x]\ntype = \"snap\"").unwrap_err().to_string();
        assert!(error.contains("proxy_plugins.x.type must be one of \"snapshot\""), "{error}");
        let error = parsed("root = 3").unwrap_err().to_string();
        assert!(error.contains("root must be a path"), "{error}");
        assert!(parsed("root = ").unwrap_err().to_string().contains("parse configuration"));
    }
}
