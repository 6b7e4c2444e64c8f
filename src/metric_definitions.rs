//! Every metric of this crate: name, unit and help, in one place. No label names a secret or a
//! person.

use crate::identity::Unidentified;
use conclave_raft::metric_definitions::{BYTES_BUCKETS, ENTRIES_BUCKETS, HISTOGRAM_BUCKETS, SECONDS_BUCKETS};
use hyper::StatusCode;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;

const REQUESTS: &str = "conclave_requests_total";
const REQUEST_SECONDS: &str = "conclave_request_seconds";
const UNIDENTIFIED: &str = "conclave_unidentified_callers_total";
const OPEN_CONNECTIONS: &str = "conclave_open_connections";
const REFUSED_CONNECTIONS: &str = "conclave_refused_connections_total";
const SEALED: &str = "conclave_sealed";
const KEY_TERM: &str = "conclave_seal_key_term";
const GRANTS_DIGEST: &str = "conclave_grants_digest";
const GRANTS_LOAD_ERROR: &str = "conclave_grants_load_error";
const RELOADS: &str = "conclave_reloads_total";
const RELOAD_ERRORS: &str = "conclave_reload_errors_total";
const LEADER: &str = "conclave_leader";
const HAS_LEADER: &str = "conclave_has_leader";
const LEADER_CHANGES: &str = "conclave_leader_changes_total";
const ELECTIONS: &str = "conclave_elections_total";
const TERM: &str = "conclave_term";
const OUT_OF_SPACE: &str = "conclave_out_of_space";
const INFO: &str = "conclave_build_info";

/// The outcome of a request that met an outage: no majority, sealed, no space, overload.
pub(crate) const UNAVAILABLE: &str = "unavailable";

/// Installs the exporter for this process, with buckets for every histogram by its unit.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = with_buckets(PrometheusBuilder::new())?.install_recorder()?;
    conclave_raft::metric_definitions::describe();
    conclave_cluster::metric_definitions::describe();
    describe();
    gauge!(INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// By name where a crate says so, else by what the name ends with.
fn with_buckets(builder: PrometheusBuilder) -> Result<PrometheusBuilder, BuildError> {
    let mut builder = builder
        .set_buckets(ENTRIES_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), BYTES_BUCKETS)?;
    for (name, buckets) in HISTOGRAM_BUCKETS {
        builder = builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)?;
    }
    Ok(builder)
}

fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "Requests by API, action and outcome");
    describe_histogram!(
        REQUEST_SECONDS,
        Unit::Seconds,
        "Time from a request's headers to its answer"
    );
    describe_counter!(
        UNIDENTIFIED,
        Unit::Count,
        "Requests refused because nobody could be identified, by reason"
    );
    describe_gauge!(
        OPEN_CONNECTIONS,
        Unit::Count,
        "Open connections of the API listener"
    );
    describe_counter!(
        REFUSED_CONNECTIONS,
        Unit::Count,
        "Connections refused by a limit or in the TLS handshake"
    );
    describe_gauge!(SEALED, Unit::Count, "1 while this node has no seal key");
    describe_gauge!(
        KEY_TERM,
        Unit::Count,
        "The newest data-key term that this node knows"
    );
    describe_gauge!(
        GRANTS_DIGEST,
        Unit::Count,
        "The first 48 bits of the digest of the grants in force; it differs where a node was left behind"
    );
    describe_gauge!(
        GRANTS_LOAD_ERROR,
        Unit::Count,
        "1 while the last reload of grants failed"
    );
    describe_counter!(RELOADS, Unit::Count, "Reloads asked for by SIGHUP");
    describe_counter!(
        RELOAD_ERRORS,
        Unit::Count,
        "Reloads in which something could not be read"
    );
    describe_gauge!(LEADER, Unit::Count, "1 on the node that leads");
    describe_gauge!(HAS_LEADER, Unit::Count, "1 while this node knows of a leader");
    describe_counter!(
        LEADER_CHANGES,
        Unit::Count,
        "Changes of leader that this node saw"
    );
    describe_counter!(
        ELECTIONS,
        Unit::Count,
        "Terms of the log that began while this node ran"
    );
    describe_gauge!(TERM, Unit::Count, "The present term of the log");
    describe_gauge!(OUT_OF_SPACE, Unit::Count, "1 while the disk is below its reserve");
    describe_gauge!(INFO, Unit::Count, "1, with the version as a label");
    // Counters are there from the start, so that the first event is seen as an increase.
    for name in [
        REFUSED_CONNECTIONS,
        RELOADS,
        RELOAD_ERRORS,
        LEADER_CHANGES,
        ELECTIONS,
    ] {
        counter!(name).increment(0);
    }
}

/// An open connection of the API listener, until dropped.
pub(crate) struct OpenConnection(());

impl OpenConnection {
    pub(crate) fn count() -> Self {
        gauge!(OPEN_CONNECTIONS).increment(1.0);
        Self(())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        gauge!(OPEN_CONNECTIONS).decrement(1.0);
    }
}

pub(crate) fn count_refused_connection() {
    counter!(REFUSED_CONNECTIONS).increment(1);
}

pub(crate) fn count_request(
    api: &'static str,
    action: &'static str,
    outcome: &'static str,
    elapsed: Duration,
) {
    counter!(REQUESTS, "api" => api, "action" => action, "outcome" => outcome).increment(1);
    histogram!(REQUEST_SECONDS, "api" => api, "action" => action).record(elapsed.as_secs_f64());
}

pub(crate) fn count_unidentified(reason: &Unidentified) {
    counter!(UNIDENTIFIED, "reason" => reason.kind()).increment(1);
}

pub(crate) fn count_reload(succeeded: bool) {
    counter!(RELOADS).increment(1);
    if !succeeded {
        counter!(RELOAD_ERRORS).increment(1);
    }
}

pub(crate) fn show_grants(status: &crate::grants::GrantsStatus) {
    let first_48_bits = status
        .digest
        .get(..12)
        .and_then(|digits| u64::from_str_radix(digits, 16).ok());
    gauge!(GRANTS_DIGEST).set(first_48_bits.unwrap_or_default() as f64);
    gauge!(GRANTS_LOAD_ERROR).set(f64::from(u8::from(status.load_error.is_some())));
}

pub(crate) fn show_seal(status: &crate::seal::SealStatus) {
    gauge!(SEALED).set(f64::from(u8::from(status.sealed.is_some())));
    gauge!(KEY_TERM).set(f64::from(status.key_term.unwrap_or_default()));
}

pub(crate) fn show_node(status: &conclave_raft::node::RaftStatus) {
    let is_leader = status.role == conclave_raft::node::Role::Leader;
    gauge!(LEADER).set(f64::from(u8::from(is_leader)));
    gauge!(HAS_LEADER).set(f64::from(u8::from(status.leader.is_some())));
    gauge!(TERM).set(status.term as f64);
    gauge!(OUT_OF_SPACE).set(f64::from(u8::from(status.out_of_space)));
}

/// Counts terms and leaders until the node ends.
pub(crate) async fn follow_elections(cluster: conclave_cluster::node::Cluster) {
    let mut status = cluster.status();
    let (mut term, mut leader) = {
        let raft = &status.borrow().raft;
        (raft.term, raft.leader)
    };
    while let Ok(changed) = status
        .wait_for(|status| (status.raft.term, status.raft.leader) != (term, leader))
        .await
    {
        let raft = &changed.raft;
        counter!(ELECTIONS).increment(raft.term.saturating_sub(term));
        if raft.leader.is_some() && raft.leader != leader {
            counter!(LEADER_CHANGES).increment(1);
        }
        (term, leader) = (raft.term, raft.leader);
        show_node(raft);
    }
}

/// How a request with this status is counted, where the status alone says it.
pub(crate) fn outcome(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..=299 => "ok",
        304 => "not_modified",
        400 | 405 | 413 => "invalid",
        403 => "denied",
        404 => "not_found",
        408 => "too_slow",
        409 | 412 => "refused",
        421 => "unknown_host",
        429 => "rate_limited",
        503 | 504 | 507 => UNAVAILABLE,
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString};
    use std::{collections::BTreeSet, sync::Mutex};

    #[test]
    fn histograms_have_buckets() {
        let recorder = with_buckets(PrometheusBuilder::new()).unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            count_request("setec", "get", outcome(StatusCode::OK), Duration::from_millis(3));
        });
        let text = handle.render();
        assert!(
            text.contains("conclave_request_seconds_bucket{api=\"setec\",action=\"get\",le=\"0.005\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("# HELP conclave_requests_total Requests by API"),
            "{text}"
        );
        assert!(!text.contains("quantile"), "{text}");
    }

    /// Names, units and helps as they are described.
    #[derive(Default)]
    struct Described(Mutex<Vec<(String, Option<Unit>, String)>>);

    impl Described {
        fn note(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
            let described = (name.as_str().to_owned(), unit, help.into_owned());
            self.0.lock().unwrap().push(described);
        }
    }

    impl Recorder for Described {
        fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
            assert!(name.as_str().ends_with("_total"), "{}", name.as_str());
            self.note(name, unit, help);
        }

        fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
            assert!(!name.as_str().ends_with("_total"), "{}", name.as_str());
            self.note(name, unit, help);
        }

        fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
            assert!(!name.as_str().ends_with("_total"), "{}", name.as_str());
            self.note(name, unit, help);
        }

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    /// The exporter writes no units, so that names must show them.
    #[test]
    fn every_metric_has_help_and_shows_its_unit_in_its_name() {
        let described = Described::default();
        metrics::with_local_recorder(&described, || {
            conclave_raft::metric_definitions::describe();
            conclave_cluster::metric_definitions::describe();
            describe();
        });
        let described = described.0.into_inner().unwrap();
        assert!(described.len() > 40, "{}", described.len());
        for (name, unit, help) in &described {
            assert!(
                name.starts_with("conclave_") && !help.is_empty(),
                "{name}: {help}"
            );
            let shown =
                ["_seconds", "_bytes"].map(|suffix| name.trim_end_matches("_total").ends_with(suffix));
            let expected = match unit {
                Some(Unit::Seconds) => [true, false],
                Some(Unit::Bytes) => [false, true],
                Some(Unit::Count) => [false, false],
                other => panic!("{name} has the unit {other:?}"),
            };
            assert_eq!(shown, expected, "{name}: {unit:?}");
        }
        let names: BTreeSet<&String> = described.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), described.len(), "a name is described twice");
    }
}
