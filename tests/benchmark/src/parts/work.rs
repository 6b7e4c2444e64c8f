//! One round of one kind of work at some nodes of a cluster.

use crate::{
    Failure,
    measure::{Round, plan, round},
    peers::{Cluster, spread_over},
    progress::say,
};
use conclave::bench::{Kind, Secrets};

/// Which nodes the clients are connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    Leader,
    Follower,
    All,
}

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub kind: Kind,
    pub at: At,
}

/// How much load, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub clients: u32,
    /// `None`: each client asks again when it was answered.
    pub per_second: Option<f64>,
    pub seconds: u32,
}

impl Work {
    /// Clients at the leader.
    pub fn at_leader(kind: Kind) -> Self {
        Self { kind, at: At::Leader }
    }

    /// Clients at one follower.
    pub fn at_follower(kind: Kind) -> Self {
        Self {
            kind,
            at: At::Follower,
        }
    }

    /// As tables show it.
    pub fn name(self) -> &'static str {
        match self.kind {
            Kind::Put => "put",
            Kind::Get => "get",
            Kind::Poll => "poll",
            Kind::Mixed => "mixed",
        }
    }

    /// Does it for one round. The servers' figures are the leader's first.
    ///
    /// # Errors
    /// When nothing succeeded, or there is no leader.
    pub async fn round<C: Cluster>(
        self,
        cluster: &C,
        secrets: &Secrets,
        load: Load,
    ) -> Result<Round, Failure> {
        let leader = cluster.leader().await?;
        let nodes = match self.at {
            At::Leader => vec![leader],
            At::Follower => vec![(leader + 1) % cluster.len()],
            At::All => (0..cluster.len()).collect(),
        };
        let callers = spread_over(&nodes, load.clients).map(|node| cluster.working(node, secrets, self.kind));
        let servers = cluster.pids_from_leader().await?;
        let done = round(plan(load.per_second, load.seconds), callers.collect(), &servers).await?;
        say(format!(
            "{}: {} at {}: {:.0}/s",
            cluster.name(),
            self.name(),
            self.at.name(),
            done.measured.per_second()
        ));
        Ok(done)
    }
}

impl At {
    /// As tables show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leader => "the leader",
            Self::Follower => "one follower",
            Self::All => "all three",
        }
    }
}
