//! When a cluster serves: every node knows the same cluster and a leader, and is not sealed.

use super::{DevError, Layout};
use crate::client::{Client, Settings};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// A cluster that serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Readiness {
    pub cluster_id: String,
    /// Each node's Raft id, in the layout's order.
    pub node_ids: Vec<u64>,
    pub leader_id: u64,
}

/// Waits until all nodes serve.
///
/// # Errors
/// When they do not within `time`; the message says what each one lacks.
pub async fn wait_until_serving(layout: &Layout, time: Duration) -> Result<Readiness, DevError> {
    let settings = Settings {
        addresses: layout.nodes().iter().map(super::NodeLayout::api).collect(),
        authority: layout.authority(),
        identity: Some(layout.client()),
        timeout: ASK_TIMEOUT,
    };
    let client = Client::new(&settings).map_err(|error| DevError(error.to_string()))?;
    let deadline = Instant::now() + time;
    loop {
        let reason = match look(&client, layout).await {
            Ok(readiness) => return Ok(readiness),
            Err(reason) => reason,
        };
        if Instant::now() >= deadline {
            return Err(DevError(format!(
                "the cluster does not serve after {} s: {reason}",
                time.as_secs()
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

const ASK_TIMEOUT: Duration = Duration::from_millis(1_000);
const PAUSE: Duration = Duration::from_millis(50);

async fn look(client: &Client, layout: &Layout) -> Result<Readiness, String> {
    let answers = futures::future::join_all(
        (0..layout.nodes().len()).map(|position| async move { client.at(position).status().await }),
    )
    .await;
    let mut clusters = BTreeSet::new();
    let mut leaders = BTreeSet::new();
    let mut node_ids = Vec::new();
    let mut lacking = Vec::new();
    for (node, answer) in layout.nodes().iter().zip(answers) {
        match answer {
            Err(error) => lacking.push(format!("{}: {error}", node.name)),
            Ok(status) => match (status.cluster_id, status.node_id, status.leader_id) {
                _ if status.sealed => {
                    lacking.push(format!(
                        "{}: sealed: {}",
                        node.name,
                        status.sealed_reason.unwrap_or_default()
                    ));
                }
                (Some(cluster), Some(id), Some(leader)) => {
                    clusters.insert(cluster);
                    leaders.insert(leader);
                    node_ids.push(id);
                }
                _ => lacking.push(format!(
                    "{}: has not joined a cluster with a leader yet",
                    node.name
                )),
            },
        }
    }
    if !lacking.is_empty() {
        return Err(lacking.join("; "));
    }
    if clusters.len() != 1 || leaders.len() != 1 {
        return Err("the nodes do not agree on cluster and leader yet".to_owned());
    }
    let (cluster_id, leader_id) = (clusters.pop_first(), leaders.pop_first());
    Ok(Readiness {
        cluster_id: cluster_id.expect("there is exactly one"),
        node_ids,
        leader_id: leader_id.expect("there is exactly one"),
    })
}
