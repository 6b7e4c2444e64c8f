//! The greeting that opens each connection: which incarnation of which node speaks.
//!
//! The accepting side greets first. Each side takes note of what it knows of its peers' disks
//! before the other looks at its own disk, so that what is known is never newer than what is said.
//! A side that refuses the other says why before it closes: a node whose disk was reverted learns of
//! it here.

use super::{
    acknowledged::{Acknowledged, Durable},
    host::Host,
};
use crate::{
    identity::{ClusterId, RaftId},
    node::Peer,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The version of everything that is said after the greeting.
pub(crate) const PROTOCOL_VERSION: u16 = 2;

/// What a connection is for. Numbers are part of the format: only append.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum Lane {
    Control,
    Service,
    Append,
    Snapshot,
}

/// What each side says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u16,
    /// What the connection is for; the accepting side repeats nothing and says `None`.
    pub lane: Option<Lane>,
    /// The configured name. The certificate proves it.
    pub name: String,
    /// Where other nodes reach it.
    pub address: String,
    /// The cluster and Raft id of its data directory.
    pub incarnation: Option<(ClusterId, RaftId)>,
    /// The Raft id that the connecting side wants to reach.
    pub wanted: Option<RaftId>,
    /// What lies on its disk.
    pub durable: Durable,
}

/// What each side thinks of the other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Verdict {
    Accepted,
    Refused(Rejection),
}

/// Why a peer is refused. Numbers are part of the format: only append.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Rejection {
    #[error("it speaks protocol {theirs}, this node {mine}")]
    Protocol { theirs: u16, mine: u16 },
    #[error("it calls itself {said:?}, but its certificate says {certified:?}")]
    Name { said: String, certified: String },
    #[error("it belongs to cluster {theirs}, this node to {mine}: a disk of another cluster")]
    OtherCluster { theirs: ClusterId, mine: ClusterId },
    #[error("Raft id {raft_id} belongs to {member:?}, not to {said:?}")]
    ForeignId {
        raft_id: RaftId,
        member: String,
        said: String,
    },
    #[error("Raft id {wanted} is wanted, but the directory there has {found:?}")]
    OtherIncarnation { wanted: RaftId, found: Option<RaftId> },
    #[error("its disk has forgotten what it acknowledged ({0:?}): it must rejoin as a new incarnation")]
    Reverted(Acknowledged),
    #[error("the connection says not what it is for")]
    NoLane,
}

impl Greeting {
    /// What this node says now.
    pub fn of(host: &dyn Host, lane: Option<Lane>, wanted: Option<RaftId>) -> std::io::Result<Self> {
        Ok(Self {
            protocol: PROTOCOL_VERSION,
            lane,
            name: host.name().to_owned(),
            address: host.address().to_owned(),
            incarnation: host.incarnation(),
            wanted,
            durable: host.durable()?,
        })
    }

    /// Who the other side is, if it may talk to this node.
    pub fn check(
        &self,
        mine: &Self,
        certified: &str,
        known: &HashMap<RaftId, Acknowledged>,
        host: &dyn Host,
    ) -> Result<Peer, Rejection> {
        if self.protocol != mine.protocol {
            return Err(Rejection::Protocol {
                theirs: self.protocol,
                mine: mine.protocol,
            });
        }
        if self.name != certified {
            return Err(Rejection::Name {
                said: self.name.clone(),
                certified: certified.to_owned(),
            });
        }
        if let (Some((theirs, _)), Some((mine, _))) = (self.incarnation, mine.incarnation)
            && theirs != mine
        {
            return Err(Rejection::OtherCluster { theirs, mine });
        }
        let raft_id = self.incarnation.map(|(_, raft_id)| raft_id);
        let own_id = mine.incarnation.map(|(_, raft_id)| raft_id);
        for (wanted, found) in [(self.wanted, own_id), (mine.wanted, raft_id)] {
            if let Some(wanted) = wanted
                && found != Some(wanted)
            {
                return Err(Rejection::OtherIncarnation { wanted, found });
            }
        }
        if let Some(raft_id) = raft_id {
            if let Some(member) = host.member_name(raft_id)
                && member != self.name
            {
                return Err(Rejection::ForeignId {
                    raft_id,
                    member,
                    said: self.name.clone(),
                });
            }
            if let Some(known) = known.get(&raft_id)
                && known.forgotten_by(&self.durable)
            {
                return Err(Rejection::Reverted(*known));
            }
        }
        Ok(Peer {
            name: self.name.clone(),
            raft_id,
            address: self.address.clone(),
        })
    }
}
