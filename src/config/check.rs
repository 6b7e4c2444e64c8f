//! What `conclave config check` finds beyond syntax: missing keys, contradictions, files that
//! cannot be used, and habits that are unsafe. The server refuses to start on any error.

use super::{Config, ConfigError, Override, layers::line_at, load};
use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The server starts, but a promise is weaker than it could be.
    Warning,
    /// The server does not start.
    Error,
}

/// Something that is wrong with a configuration.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// The configuration file.
    pub path: PathBuf,
    /// The 1-based line of the key, or of its section; `None` where neither is in the file.
    pub line: Option<usize>,
    /// The key, as `seal.key_file`; empty for a whole file that cannot be read.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {severity}: ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Loads a configuration and checks it. The configuration is `None` when it cannot be read.
pub fn check(path: &Path, overrides: &[Override]) -> (Option<Config>, Vec<Finding>) {
    let text = fs::read_to_string(path).unwrap_or_default();
    match load(path, overrides) {
        Err(error) => (None, vec![unusable(path, &error)]),
        Ok(config) => {
            let mut checker = Checker {
                path,
                text: &text,
                findings: Vec::new(),
            };
            checker.check_all(&config);
            (Some(config), checker.findings)
        }
    }
}

fn unusable(path: &Path, error: &ConfigError) -> Finding {
    let (line, message) = match error {
        ConfigError::Malformed { line, message, .. } => (Some(*line), message.clone()),
        ConfigError::Unreadable { error, .. } => (None, error.to_string()),
        ConfigError::Override { .. } => (None, error.to_string()),
    };
    Finding {
        severity: Severity::Error,
        path: path.to_owned(),
        line,
        key: String::new(),
        message,
    }
}

struct Checker<'a> {
    path: &'a Path,
    text: &'a str,
    findings: Vec<Finding>,
}

impl Checker<'_> {
    fn check_all(&mut self, config: &Config) {
        self.check_names(config);
        self.check_addresses(config);
        self.check_files(config);
        self.check_seal(config);
        self.check_grants(config);
        self.check_numbers(config);
    }

    fn check_names(&mut self, config: &Config) {
        for (key, name) in [
            ("node_name", &config.node_name),
            ("cluster_name", &config.cluster_name),
        ] {
            if !is_name(name) {
                self.error(key, "must have 1 to 63 characters of a-z, 0-9 and -");
            }
        }
        if config.data_dir.as_os_str().is_empty() {
            self.error("data_dir", "is required");
        }
    }

    fn check_addresses(&mut self, config: &Config) {
        let cluster = &config.cluster;
        if cluster.nodes.is_empty() {
            self.error("cluster.nodes", "is required: name and address of every node");
        } else if config.own_node().is_none() {
            self.error(
                "cluster.nodes",
                format!("does not contain this node, {:?}", config.node_name),
            );
        }
        for (position, node) in cluster.nodes.iter().enumerate() {
            if !is_name(&node.name) {
                self.error("cluster.nodes", format!("{:?} is not a node name", node.name));
            }
            if !is_host_and_port(&node.address) {
                self.error("cluster.nodes", format!("{:?} is not host:port", node.address));
            }
            let earlier = &cluster.nodes[..position];
            if earlier
                .iter()
                .any(|other| other.name == node.name || other.address == node.address)
            {
                self.error(
                    "cluster.nodes",
                    format!("{:?} repeats a name or an address", node.name),
                );
            }
        }
        if cluster
            .advertise
            .as_deref()
            .is_some_and(|address| !is_host_and_port(address))
        {
            self.error("cluster.advertise", "is not host:port");
        }
        if cluster.listen.port() == 0 {
            self.error(
                "cluster.listen",
                "needs a port that other nodes can know; 0 is none",
            );
        }
        if config.dev && config.tailscale.enabled {
            self.error("tailscale.enabled", "cannot be used with dev = true");
        }
        let listeners = [
            ("api.listen", config.api.listen),
            ("cluster.listen", cluster.listen),
            ("metrics.listen", config.metrics.listen),
        ];
        for (key, address) in listeners {
            if config.dev && !address.ip().is_loopback() {
                self.error(key, "must be on loopback with dev = true");
            }
        }
        if !config.metrics.listen.ip().is_loopback() {
            self.warning(
                "metrics.listen",
                "is not on loopback; metrics are served in clear to anybody",
            );
        }
        for host in &config.api.allowed_hosts {
            if host.is_empty() || host.contains(['/', '*', ' ']) {
                self.error("api.allowed_hosts", format!("{host:?} is not a host name"));
            }
        }
        for origin in &config.api.allowed_origins {
            let rest = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            if rest.is_none_or(|rest| rest.is_empty() || rest.contains(['/', '*', ' '])) {
                self.error(
                    "api.allowed_origins",
                    format!("{origin:?} is not an origin such as https://host"),
                );
            }
        }
    }

    fn check_files(&mut self, config: &Config) {
        let tls = &config.tls;
        let certificates = [
            ("tls.api_certificate", Some(&tls.api_certificate)),
            ("tls.client_authority", tls.client_authority.as_ref()),
            ("tls.node_certificate", Some(&tls.node_certificate)),
            ("tls.node_authority", Some(&tls.node_authority)),
        ];
        for (key, path) in certificates {
            if let Some(path) = path {
                self.check_readable(key, path);
            }
        }
        let keys = [
            ("tls.api_private_key", &tls.api_private_key),
            ("tls.node_private_key", &tls.node_private_key),
        ];
        for (key, path) in keys {
            if let Some(metadata) = self.check_readable(key, path)
                && metadata.mode() & 0o077 != 0
            {
                self.error(
                    key,
                    format!("{} can be read by others; chmod 600 it", path.display()),
                );
            }
        }
        if let Some(client_authority) = &tls.client_authority
            && let (Ok(clients), Ok(nodes)) = (fs::read(client_authority), fs::read(&tls.node_authority))
            && clients == nodes
        {
            self.error(
                "tls.client_authority",
                "is the node CA; nodes and clients must have CAs of their own",
            );
        }
        if tls.client_authority.is_none() && !config.tailscale.enabled && !config.dev {
            self.warning(
                "tls.client_authority",
                "is missing and Tailscale is off: nobody can be identified",
            );
        }
    }

    fn check_readable(&mut self, key: &str, path: &Path) -> Option<fs::Metadata> {
        if path.as_os_str().is_empty() {
            self.error(key, "is required");
            return None;
        }
        let metadata = fs::metadata(path).and_then(|metadata| fs::File::open(path).map(|_| metadata));
        metadata
            .map_err(|error| self.error(key, format!("{}: {error}", path.display())))
            .ok()
    }

    fn check_seal(&mut self, config: &Config) {
        let Some(key_file) = &config.seal.key_file else {
            self.warning("seal.key_file", "is missing: the node starts sealed");
            return;
        };
        match fs::metadata(key_file) {
            Err(error) => self.warning(
                "seal.key_file",
                format!("{}: {error}; the node starts sealed", key_file.display()),
            ),
            Ok(metadata) => {
                // Warnings only, for a sealed node still votes.
                let path = key_file.display();
                if metadata.len() != 32 {
                    self.warning(
                        "seal.key_file",
                        format!("{path} has not 32 bytes; the node starts sealed"),
                    );
                }
                if metadata.mode() & 0o077 != 0 {
                    let message =
                        format!("{path} can be read by others, chmod 600 it; the node starts sealed");
                    self.warning("seal.key_file", message);
                }
                if device_of(&config.data_dir).is_ok_and(|device| device == metadata.dev()) {
                    self.warning(
                        "seal.key_file",
                        "lies on the file system of data_dir: whoever takes that disk has both",
                    );
                }
            }
        }
    }

    fn check_grants(&mut self, config: &Config) {
        match &config.grants.file {
            Some(_) if !config.grants.principals.0.is_empty() => {
                self.error("grants", "has both a file and principals; keep one");
            }
            // Only a warning, for a node that votes is worth more than one that does not start.
            Some(_) => {
                if let Err(message) = config.grants.read_table().and_then(|table| table.check()) {
                    self.warning(
                        "grants.file",
                        format!("{message}; nobody has rights until it is read"),
                    );
                }
            }
            None => {
                if let Err(message) = config.grants.principals.check() {
                    self.error("grants.principals", message);
                }
            }
        }
    }

    fn check_numbers(&mut self, config: &Config) {
        let (limits, cluster) = (&config.limits, &config.cluster);
        if limits.header_bytes < 8 << 10 {
            self.error("limits.header_bytes", "must be at least 8192");
        }
        if limits.body_bytes
            < limits
                .value_bytes
                .div_ceil(3)
                .saturating_mul(4)
                .saturating_add(4096)
        {
            self.error(
                "limits.body_bytes",
                "is too small for limits.value_bytes in base64 and 4096 bytes more",
            );
        }
        if limits.value_bytes.saturating_add(64 << 10) > cluster.batch_bytes {
            self.error(
                "limits.value_bytes",
                "must be at least 65536 less than cluster.batch_bytes",
            );
        }
        if cluster.batch_bytes > 16 << 20 {
            self.error("cluster.batch_bytes", "must be at most 16 MiB");
        }
        if cluster.last_reserve_bytes >= cluster.reserve_bytes {
            self.error(
                "cluster.last_reserve_bytes",
                "must be less than cluster.reserve_bytes",
            );
        }
        if !(50..=60_000).contains(&cluster.election_timeout_ms) {
            self.error("cluster.election_timeout_ms", "must be 50 to 60000");
        }
        if !cluster.sync && !config.dev {
            self.error(
                "cluster.sync",
                "can be false only with dev = true: it loses acknowledged writes",
            );
        }
        let positive = [
            ("limits.value_bytes", limits.value_bytes as u64),
            ("limits.connections", limits.connections as u64),
            (
                "limits.connections_per_source",
                limits.connections_per_source as u64,
            ),
            ("limits.requests_in_flight", limits.requests_in_flight as u64),
            (
                "limits.requests_in_flight_per_principal",
                limits.requests_in_flight_per_principal as u64,
            ),
            (
                "limits.requests_per_s_per_principal",
                limits.requests_per_s_per_principal.into(),
            ),
            ("limits.handshake_timeout_ms", limits.handshake_timeout_ms),
            ("limits.header_timeout_ms", limits.header_timeout_ms),
            ("limits.body_timeout_ms", limits.body_timeout_ms),
            ("limits.request_timeout_ms", limits.request_timeout_ms),
            ("cluster.staleness_bound_ms", cluster.staleness_bound_ms),
            ("cluster.clock_skew_bound_ms", cluster.clock_skew_bound_ms),
            ("seal.reseal_bytes_per_s", config.seal.reseal_bytes_per_s),
            ("cluster.scrub_bytes_per_s", cluster.scrub_bytes_per_s),
            ("audit.limit_bytes", config.audit.limit_bytes),
        ];
        for (key, number) in positive {
            if number == 0 {
                self.error(key, "must be greater than 0");
            }
        }
    }

    fn error(&mut self, key: &str, message: impl Into<String>) {
        self.add(Severity::Error, key, message.into());
    }

    fn warning(&mut self, key: &str, message: impl Into<String>) {
        self.add(Severity::Warning, key, message.into());
    }

    fn add(&mut self, severity: Severity, key: &str, message: String) {
        let (path, line) = (self.path.to_owned(), line_of(self.text, key));
        self.findings.push(Finding {
            severity,
            path,
            line,
            key: key.to_owned(),
            message,
        });
    }
}

/// The line of a key such as `seal.key_file`, or of its section.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut line = None;
    for part in key.split('.') {
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else {
            break;
        };
        line = Some(line_at(text, name.span().start));
        let DeValue::Table(inner) = value.get_ref() else {
            break;
        };
        table = inner;
    }
    line
}

/// Whether a node or cluster may have this name: it becomes part of a URI, a DNS label and a
/// folder.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_host_and_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', ' ']) && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

/// The device of the nearest existing folder above `path`.
fn device_of(path: &Path) -> io::Result<u64> {
    let mut nearest = path;
    loop {
        match fs::metadata(nearest) {
            Ok(metadata) => return Ok(metadata.dev()),
            Err(error) => nearest = nearest.parent().ok_or(error)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn findings_of(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cert.pem", "key.pem", "other.pem", "open.pem", "seal.key"] {
            let path = folder.path().join(name);
            fs::write(
                &path,
                if name == "seal.key" {
                    [7; 32].to_vec()
                } else {
                    name.as_bytes().to_vec()
                },
            )
            .unwrap();
            let mode = if name == "open.pem" { 0o644 } else { 0o600 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = folder.path().join("node.toml");
        fs::write(&path, text).unwrap();
        let (_, findings) = check(&path, &[]);
        let prefix = format!("{}/", folder.path().display());
        findings
            .iter()
            .map(|finding| finding.to_string().replace(&prefix, ""))
            .collect()
    }

    const GOOD: &str = r#"node_name = "a"
data_dir = "data"
[cluster]
listen = "127.0.0.1:8201"
nodes = [{ name = "a", address = "127.0.0.1:8201" }]
[tls]
api_certificate = "cert.pem"
api_private_key = "key.pem"
client_authority = "other.pem"
node_certificate = "cert.pem"
node_private_key = "key.pem"
node_authority = "cert.pem"
[seal]
key_file = "seal.key"
"#;

    #[test]
    fn a_good_file_only_warns_of_the_keys_file_system() {
        let findings = findings_of(GOOD);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(
            findings[0].starts_with("node.toml:14: warning: seal.key_file: lies on"),
            "{findings:?}"
        );
    }

    #[test]
    fn findings_name_line_and_key() {
        for (from, to, expected) in [
            (
                "\"a\"\ndata",
                "\"A\"\ndata",
                "node.toml:1: error: node_name: must have",
            ),
            (
                "\"a\"\ndata",
                "\"b\"\ndata",
                "node.toml:5: error: cluster.nodes: does not contain",
            ),
            (
                "client_authority = \"other",
                "client_authority = \"cert",
                "node.toml:9: error: tls.client_authority: is the node CA",
            ),
            (
                "api_private_key = \"key",
                "api_private_key = \"open",
                "node.toml:8: error: tls.api_private_key:",
            ),
            (
                "api_private_key = \"key",
                "api_private_key = \"gone",
                "node.toml:8: error: tls.api_private_key:",
            ),
            (
                "listen = \"127.0.0.1:8201\"",
                "listen = \"127.0.0.1:0\"",
                "node.toml:4: error: cluster.listen: needs",
            ),
            (
                "key_file = \"seal.key\"",
                "key_file = \"open.pem\"",
                "node.toml:14: warning: seal.key_file: open.pem can be read by others",
            ),
            (
                "[seal]",
                "[limits]\nvalue_bytes = 3000000\n[seal]",
                "node.toml:13: error: limits.body_bytes: is too small",
            ),
            (
                "[seal]",
                "[limits]\nheader_bytes = 1\n[seal]",
                "node.toml:14: error: limits.header_bytes: must",
            ),
            (
                "data_dir = \"data\"\n",
                "",
                "node.toml: error: data_dir: is required",
            ),
            ("data_dir", "data_dri", "node.toml:2: error: unknown field"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD);
            let findings = findings_of(&text);
            assert!(
                findings.iter().any(|finding| finding.starts_with(expected)),
                "{expected}: {findings:?}"
            );
        }
    }

    #[test]
    fn dev_is_confined_to_loopback_without_tailscale() {
        let findings = findings_of(&GOOD.replacen("data_dir", "dev = true\ndata_dir", 1));
        assert!(
            findings
                .iter()
                .any(|finding| finding.contains("api.listen: must be on loopback")),
            "{findings:?}"
        );
        let findings = findings_of(&GOOD.replacen("[seal]", "[cluster2]", 1));
        assert!(findings[0].contains("error"), "{findings:?}");
    }
}
