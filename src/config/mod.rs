//! A node's configuration: one TOML file, environment variables and flags over it.
//!
//! The file is the whole truth about a node; nothing is configured elsewhere. Every key is a field
//! below, documented with its unit and default; unknown keys are refused. Three layers, later ones
//! win: the file, the environment (`CONCLAVE_API__LISTEN` sets `listen` in `[api]`, `CONCLAVE_DATA_DIR`
//! sets `data_dir`), flags (`--set api.listen=…`). Relative paths are relative to the file's folder.

mod at_audit_limit;
mod authorities;
mod check;
mod faults;
#[cfg(test)]
mod fuzz;
mod layers;
mod limits;
mod sections;

pub use at_audit_limit::AtAuditLimit;
pub(crate) use authorities::check_authorities;
pub(crate) use check::is_name;
pub use check::{Finding, Severity, check};
pub use layers::{ConfigError, Override, load, overrides_from_environment};
pub use limits::LimitsSection;
pub use sections::{
    ApiSection, AuditSection, ClusterSection, Config, GrantsSection, LogFormat, LogSection, MetricsSection,
    NodeAddress, RejoinMode, SealSection, TailscaleSection, TlsSection,
};
