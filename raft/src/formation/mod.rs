//! How a data directory becomes part of a cluster, exactly once.
//!
//! A directory is an incarnation: it gets one Raft id, durably, and never another. Two ways lead
//! there. When every configured node is empty, the first one proposes a cluster; each node syncs its
//! acceptance, and only when all have accepted does that one node initialise (bootstrap). Otherwise
//! the node asks a member to be let in, gets an id through the log, and starts as a learner
//! (joining). openraft is started only on a directory that has its id.
//!
//! Every step may be repeated after a crash: the proposal is the same as long as its proposer's disk
//! lasts, and a proposer that lost its disk cannot propose again while another node remembers.

mod bootstrap;
pub(crate) mod directory;
mod joining;
pub mod messages;

pub(crate) use bootstrap::{collect_acceptances, consider, records};
pub use directory::{acquit, set_aside_if_reverted};
pub(crate) use directory::{disproved, set_aside_from};
pub(crate) use joining::find_cluster;

use crate::{
    node::core::Core,
    transport::{
        Target, Transport,
        greeting::Lane,
        messages::{Question, Reply},
    },
};
use bytes::Bytes;
use messages::{FormationAnswer, FormationRequest};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// For a step that the other node answers from its own disk.
const STEP_DEADLINE: Duration = Duration::from_secs(5);
/// Between two rounds while nothing can be done.
const PAUSE: Duration = Duration::from_millis(200);

/// Asks one configured node, whichever incarnation of it is there.
async fn ask(
    transport: &Arc<Transport>,
    (name, address): &(String, String),
    request: FormationRequest,
    deadline: Duration,
) -> Result<FormationAnswer, String> {
    let target = Target {
        name: name.clone(),
        address: address.clone(),
        raft_id: None,
    };
    ask_node(transport, &target, request, deadline).await
}

/// Asks one node.
pub(crate) async fn ask_node(
    transport: &Arc<Transport>,
    target: &Target,
    request: FormationRequest,
    deadline: Duration,
) -> Result<FormationAnswer, String> {
    let link = transport.link(target, Lane::Control);
    match link
        .ask(
            Question::Formation(request),
            Bytes::new(),
            Instant::now() + deadline,
        )
        .await
    {
        Ok((Reply::Formation(answer), _)) => Ok(answer),
        Ok((Reply::Refused(refusal), _)) => Err(refusal.to_string()),
        Ok(_) => Err("another reply than to formation".into()),
        Err(fault) => Err(fault.to_string()),
    }
}

/// Every configured node but this one.
fn others(core: &Core) -> impl Iterator<Item = &(String, String)> {
    let own = &core.options.node_name;
    core.options.nodes.iter().filter(move |(name, _)| name != own)
}
