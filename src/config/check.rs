//! What `conclave config check` finds beyond syntax: missing keys, contradictions, files that
//! cannot be used, and habits that are unsafe. The server refuses to start on any error.

use super::{
    Config, ConfigError, Override, authorities::check_authorities, faults::faults, layers::line_at, load,
};
use crate::{server, telemetry};
use conclave_raft::transport::tls::{CertifiedName, NodeTls, TlsFiles};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};
use x509_parser::prelude::{FromDer, X509Certificate};

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
    /// The 1-based line of the key, or of its section; `None` where neither is in the file, or its
    /// value is not from there.
    pub line: Option<usize>,
    /// Where the value is from, if not from the file: `--set api.listen`, `environment variable
    /// CONCLAVE_API__LISTEN`.
    pub origin: Option<String>,
    /// The key, as `seal.key_file` or `cluster.nodes[1].address`; empty for a whole file that cannot
    /// be read.
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
        match (&self.origin, self.line) {
            (Some(origin), _) => write!(f, "{origin}")?,
            (None, Some(line)) => write!(f, "{}:{line}", self.path.display())?,
            (None, None) => write!(f, "{}", self.path.display())?,
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
        Err(error) => (None, unusable(path, &text, &error)),
        Ok(config) => {
            let mut checker = Checker {
                path,
                text: &text,
                overrides,
                findings: Vec::new(),
            };
            checker.check_all(&config);
            (Some(config), checker.findings)
        }
    }
}

fn unusable(path: &Path, text: &str, error: &ConfigError) -> Vec<Finding> {
    let finding = |line, origin, message| Finding {
        severity: Severity::Error,
        path: path.to_owned(),
        line,
        origin,
        key: String::new(),
        message,
    };
    match error {
        ConfigError::Malformed { .. } => faults(text)
            .into_iter()
            .map(|fault| finding(Some(fault.line), None, fault.message))
            .collect(),
        ConfigError::Unreadable { error, .. } => vec![finding(None, None, error.to_string())],
        ConfigError::Override { origin, message } => {
            vec![finding(None, Some(origin.clone()), message.clone())]
        }
    }
}

struct Checker<'a> {
    path: &'a Path,
    text: &'a str,
    overrides: &'a [Override],
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
        self.check_log(config);
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
            let key = |field: &str| format!("cluster.nodes[{position}].{field}");
            if !is_name(&node.name) {
                self.error(&key("name"), format!("{:?} is not a node name", node.name));
            }
            if !is_host_and_port(&node.address) {
                self.error(&key("address"), format!("{:?} is not host:port", node.address));
            }
            let earlier = &cluster.nodes[..position];
            if earlier.iter().any(|other| other.name == node.name) {
                self.error(&key("name"), format!("{:?} is there already", node.name));
            }
            if earlier.iter().any(|other| other.address == node.address) {
                self.error(&key("address"), format!("{:?} is there already", node.address));
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
        for (position, host) in config.api.allowed_hosts.iter().enumerate() {
            if host.is_empty() || host.contains(['/', '*', ' ']) {
                let key = format!("api.allowed_hosts[{position}]");
                self.error(&key, format!("{host:?} is not a host name"));
            }
        }
        for (position, origin) in config.api.allowed_origins.iter().enumerate() {
            let rest = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            if rest.is_none_or(|rest| rest.is_empty() || rest.contains(['/', '*', ' '])) {
                self.error(
                    &format!("api.allowed_origins[{position}]"),
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
        if self.tls_is_right() {
            self.check_certificates(config);
        }
        if self.tls_is_right()
            && let Err(message) = check_authorities(tls)
        {
            self.error("tls.client_authority", message);
        }
        if tls.client_authority.is_none() && !config.tailscale.enabled && !config.dev {
            self.warning(
                "tls.client_authority",
                "is missing and Tailscale is off: nobody can be identified",
            );
        }
    }

    /// Loads all certificates as the listeners will.
    fn check_certificates(&mut self, config: &Config) {
        let tls = &config.tls;
        let node_files = TlsFiles {
            certificate: tls.node_certificate.clone(),
            private_key: tls.node_private_key.clone(),
            authority: tls.node_authority.clone(),
        };
        let own = CertifiedName {
            cluster: config.cluster_name.clone(),
            node: config.node_name.clone(),
        };
        let loaded = [
            server::check_api_certificates(tls),
            NodeTls::load(node_files, own)
                .map(drop)
                .map_err(|error| error.to_string()),
        ];
        for message in loaded.into_iter().filter_map(Result::err) {
            // A message begins with the file that it is about.
            let files = [
                ("tls.api_certificate", Some(&tls.api_certificate)),
                ("tls.api_private_key", Some(&tls.api_private_key)),
                ("tls.client_authority", tls.client_authority.as_ref()),
                ("tls.node_certificate", Some(&tls.node_certificate)),
                ("tls.node_private_key", Some(&tls.node_private_key)),
                ("tls.node_authority", Some(&tls.node_authority)),
            ];
            let named = files.into_iter().find(|(_, path)| {
                path.is_some_and(|path| message.starts_with(&format!("{}:", path.display())))
            });
            self.error(named.map_or("tls", |(key, _)| key), message);
        }
        // An expired node certificate was refused above; this one the clients would refuse.
        if let Some(false) = is_valid_now(&tls.api_certificate) {
            let path = tls.api_certificate.display();
            self.warning(
                "tls.api_certificate",
                format!("{path} has expired or is not valid yet; no client will trust it"),
            );
        }
    }

    /// Whether no error was found in `[tls]` so far.
    fn tls_is_right(&self) -> bool {
        let mut errors = self
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error);
        !errors.any(|finding| finding.key.starts_with("tls."))
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
        if limits.value_bytes.saturating_add(64 << 10) > cluster.proposal_queue_bytes {
            self.error(
                "cluster.proposal_queue_bytes",
                "must be at least 65536 more than limits.value_bytes",
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
            ("limits.large_answer_bytes", limits.large_answer_bytes as u64),
            (
                "limits.requests_per_s_per_principal",
                limits.requests_per_s_per_principal.into(),
            ),
            ("limits.handshake_timeout_ms", limits.handshake_timeout_ms),
            ("limits.header_timeout_ms", limits.header_timeout_ms),
            ("limits.body_timeout_ms", limits.body_timeout_ms),
            ("limits.request_timeout_ms", limits.request_timeout_ms),
            ("limits.shutdown_grace_ms", limits.shutdown_grace_ms),
            ("cluster.snapshot_log_bytes", cluster.snapshot_log_bytes),
            ("limits.send_timeout_ms", limits.send_timeout_ms),
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

    fn check_log(&mut self, config: &Config) {
        if let Err(error) = telemetry::filter(&config.log) {
            self.error("log.level", error);
        }
    }

    fn error(&mut self, key: &str, message: impl Into<String>) {
        self.add(Severity::Error, key, message.into());
    }

    fn warning(&mut self, key: &str, message: impl Into<String>) {
        self.add(Severity::Warning, key, message.into());
    }

    fn add(&mut self, severity: Severity, key: &str, message: String) {
        let origin = origin_of(self.overrides, key);
        let line = if origin.is_none() {
            line_of(self.text, key)
        } else {
            None
        };
        self.findings.push(Finding {
            severity,
            path: self.path.to_owned(),
            line,
            origin,
            key: key.to_owned(),
            message,
        });
    }
}

/// What laid a key, or the table or array that it lies in, over the file last.
fn origin_of(overrides: &[Override], key: &str) -> Option<String> {
    let covers = |laid: &str| {
        let rest = key.strip_prefix(laid);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    overrides
        .iter()
        .rfind(|laid| covers(&laid.key))
        .map(|laid| laid.origin.clone())
}

/// The line of a key such as `seal.key_file` or `cluster.nodes[1].address`, or of the nearest thing
/// around it.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut line = None;
    for part in key.split('.') {
        let (part, position) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            Some((part, position)) => (part, position.parse::<usize>().ok()),
            None => (part, None),
        };
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else {
            break;
        };
        line = Some(line_at(text, name.span().start));
        let mut value = value;
        if let (DeValue::Array(elements), Some(position)) = (value.get_ref(), position) {
            let Some(element) = elements.get(position) else {
                break;
            };
            line = Some(line_at(text, element.span().start));
            value = element;
        }
        let DeValue::Table(inner) = value.get_ref() else {
            break;
        };
        table = inner;
    }
    line
}

/// Whether a certificate's time has come and not passed; `None` where there is none to read.
fn is_valid_now(path: &Path) -> Option<bool> {
    let leaf = CertificateDer::from_pem_file(path).ok()?;
    let (_, leaf) = X509Certificate::from_der(&leaf).ok()?;
    Some(leaf.validity().is_valid())
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
    use crate::pki::{Authority, AuthorityKind, Issued, NodeName, Validity};
    use std::{
        os::unix::fs::PermissionsExt,
        time::{Duration, SystemTime},
    };

    /// The findings about a file beside certificates of node `a` in cluster `conclave`.
    fn findings_of(text: &str) -> Vec<String> {
        findings_with(text, &[])
    }

    fn findings_with(text: &str, overrides: &[Override]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        write_certificates(folder.path());
        for (name, content, mode) in [
            ("seal.key", &[7; 32][..], 0o600),
            ("garbage.pem", b"garbage", 0o600),
            ("open.key", b"garbage", 0o644),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = folder.path().join("node.toml");
        fs::write(&path, text).unwrap();
        let (_, findings) = check(&path, overrides);
        let prefix = format!("{}/", folder.path().display());
        findings
            .iter()
            .map(|finding| finding.to_string().replace(&prefix, ""))
            .collect()
    }

    fn write_certificates(folder: &Path) {
        let files = |name: &str| {
            (
                folder.join(format!("{name}.pem")),
                folder.join(format!("{name}.key")),
            )
        };
        let write = |issued: Issued, name: &str| {
            let (certificate, key) = files(name);
            issued.write(&certificate, &key).unwrap();
        };
        let (validity, hosts) = (Validity::days(1), ["127.0.0.1".to_owned()]);
        let nodes = Authority::generate(AuthorityKind::Nodes, "conclave", validity).unwrap();
        let clients = Authority::generate(AuthorityKind::Clients, "conclave", validity).unwrap();
        for (authority, name) in [(&nodes, "node-ca"), (&clients, "client-ca")] {
            let (certificate, key) = files(name);
            authority.write(&certificate, &key).unwrap();
        }
        for (cluster, node, name) in [
            ("conclave", "a", "node"),
            ("conclave", "b", "other-node"),
            ("elsewhere", "a", "other-cluster"),
        ] {
            let node = NodeName::new(cluster, node).unwrap();
            write(nodes.issue_node(&node, &hosts, validity).unwrap(), name);
        }
        write(nodes.issue_api_server(&hosts, validity).unwrap(), "api");
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        let past = Validity {
            from: now - 2 * hour,
            until: now - hour,
        };
        write(nodes.issue_api_server(&hosts, past).unwrap(), "expired");
    }

    const GOOD: &str = r#"node_name = "a"
data_dir = "data"
[cluster]
listen = "127.0.0.1:8201"
nodes = [
    { name = "a", address = "127.0.0.1:8201" },
    { name = "b", address = "127.0.0.1:8211" },
]
[tls]
api_certificate = "api.pem"
api_private_key = "api.key"
client_authority = "client-ca.pem"
node_certificate = "node.pem"
node_private_key = "node.key"
node_authority = "node-ca.pem"
[seal]
key_file = "seal.key"
"#;

    #[test]
    fn a_good_file_only_warns_of_the_keys_file_system() {
        let findings = findings_of(GOOD);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(
            findings[0].starts_with("node.toml:17: warning: seal.key_file: lies on"),
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
                "\"c\"\ndata",
                "node.toml:5: error: cluster.nodes: does not contain",
            ),
            (
                "client_authority = \"client-ca",
                "client_authority = \"node-ca",
                "node.toml:12: error: tls.client_authority: node-ca.pem and node-ca.pem have 1 CA in common",
            ),
            (
                "api_private_key = \"api",
                "api_private_key = \"open",
                "node.toml:11: error: tls.api_private_key:",
            ),
            (
                "api_private_key = \"api",
                "api_private_key = \"gone",
                "node.toml:11: error: tls.api_private_key:",
            ),
            (
                "api_private_key = \"api.key",
                "api_private_key = \"garbage.pem",
                "node.toml:11: error: tls.api_private_key: garbage.pem:",
            ),
            // A key that does not fit.
            (
                "api_private_key = \"api",
                "api_private_key = \"node",
                "node.toml:10: error: tls.api_certificate: api.pem:",
            ),
            (
                "api_certificate = \"api",
                "api_certificate = \"garbage",
                "node.toml:10: error: tls.api_certificate: garbage.pem:",
            ),
            (
                "client_authority = \"client-ca",
                "client_authority = \"garbage",
                "node.toml:12: error: tls.client_authority: garbage.pem:",
            ),
            (
                "node_certificate = \"node",
                "node_certificate = \"other-node",
                "node.toml:13: error: tls.node_certificate: other-node.pem: it names",
            ),
            (
                "node_certificate = \"node",
                "node_certificate = \"other-cluster",
                "node.toml:13: error: tls.node_certificate: other-cluster.pem: it names",
            ),
            (
                "node_authority = \"node-ca",
                "node_authority = \"client-ca",
                "node.toml:13: error: tls.node_certificate: node.pem:",
            ),
            (
                "listen = \"127.0.0.1:8201\"",
                "listen = \"127.0.0.1:0\"",
                "node.toml:4: error: cluster.listen: needs",
            ),
            (
                "8211",
                "port",
                "node.toml:7: error: cluster.nodes[1].address: \"127.0.0.1:port\" is not",
            ),
            (
                "\"b\"",
                "\"a\"",
                "node.toml:7: error: cluster.nodes[1].name: \"a\" is there already",
            ),
            (
                "key_file = \"seal.key\"",
                "key_file = \"open.key\"",
                "node.toml:17: warning: seal.key_file: open.key can be read by others",
            ),
            (
                "[seal]",
                "[limits]\nvalue_bytes = 3000000\n[seal]",
                "node.toml:16: error: limits.body_bytes: is too small",
            ),
            (
                "[seal]",
                "[limits]\nheader_bytes = 1\n[seal]",
                "node.toml:17: error: limits.header_bytes: must",
            ),
            (
                "[seal]",
                "[limits]\nshutdown_grace_ms = 0\n[seal]",
                "node.toml:17: error: limits.shutdown_grace_ms: must",
            ),
            (
                "[tls]",
                "proposal_queue_bytes = 1000000\n[tls]",
                "node.toml:9: error: cluster.proposal_queue_bytes: must",
            ),
            (
                "[tls]",
                "snapshot_log_bytes = 0\n[tls]",
                "node.toml:9: error: cluster.snapshot_log_bytes: must",
            ),
            (
                "[seal]",
                "[log]\nlevel = \"nonsense[[\"\n[seal]",
                "node.toml:17: error: log.level:",
            ),
            (
                "[seal]",
                "[api]\nallowed_hosts = [\n\"a.example\",\n\"https://b/\",\n]\n[seal]",
                "node.toml:19: error: api.allowed_hosts[1]:",
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
    fn what_is_not_from_the_file_is_not_blamed_on_it() {
        let laid = |key: &str, value: &str, origin: &str| Override {
            key: key.into(),
            value: value.into(),
            origin: origin.into(),
        };
        let overrides = [
            laid("tls.api_certificate", "seal.key", "--set tls.api_certificate"),
            laid(
                "cluster.nodes",
                "[{ name = \"a\", address = \"nowhere\" }]",
                "environment variable CONCLAVE_CLUSTER__NODES",
            ),
        ];
        let findings = findings_with(GOOD, &overrides);
        for expected in [
            "--set tls.api_certificate: error: tls.api_certificate: seal.key:",
            "environment variable CONCLAVE_CLUSTER__NODES: error: cluster.nodes[0].address: \"nowhere\"",
            "node.toml:17: warning: seal.key_file: lies on",
        ] {
            assert!(
                findings.iter().any(|finding| finding.starts_with(expected)),
                "{expected}: {findings:?}"
            );
        }
        let misspelt = findings_with(GOOD, &[laid("dev", "perhaps", "--set dev")]);
        assert!(misspelt[0].starts_with("--set dev: error: dev: "), "{misspelt:?}");
    }

    #[test]
    fn a_certificate_that_clients_would_refuse_is_a_warning() {
        let findings = findings_of(&GOOD.replace("\"api.", "\"expired."));
        assert!(
            findings[0].starts_with("node.toml:10: warning: tls.api_certificate: expired.pem has expired"),
            "{findings:?}"
        );
        // And hides no error.
        let text = GOOD
            .replace("\"api.", "\"expired.")
            .replace("client-ca", "node-ca");
        let findings = findings_of(&text);
        assert!(
            findings.iter().any(|finding| finding.contains("CA in common")),
            "{findings:?}"
        );
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
