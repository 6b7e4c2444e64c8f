//! Who this data directory is, durably.
//!
//! Invariant: an identity only ever moves forward (empty, accepted, member, reverted, disproved), never to
//! another cluster or another Raft id, and each step is on the disk before the call returns. A
//! directory that is no longer empty never forms another cluster (design, section 4). The one way back
//! is an operator's: a disproved state that turns out to be whole is a member's again.

use super::{
    engine::{Batch, Durability, LogEngine},
    fatal::OnFatal,
    record,
};
use crate::identity::{ClusterId, RaftId};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, sync::Arc};

/// What a data directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identity {
    /// Nothing yet: it neither initialises nor votes unless it accepts a formation.
    Empty,
    /// It accepted a cluster that is not known to be formed yet.
    Accepted(Formation),
    /// A member of a formed cluster: openraft runs on it.
    Member(Formation),
    /// Its disk lost something that it had acknowledged. It takes part in nothing any more; what it
    /// holds is set aside, and the node joins again as a new incarnation.
    Reverted {
        /// What it was.
        was: Formation,
        /// What showed it.
        reason: String,
    },
    /// Its state was found to be another than a majority's, or than what was written. It takes part
    /// in nothing any more, and is not set aside by itself: a fault of the machine or of this program
    /// would come again, and what it left is wanted by whoever looks for it.
    Disproved {
        /// What it was.
        was: Formation,
        /// What showed it.
        reason: String,
        /// To whom.
        by: Evidence,
    },
}

/// Who saw that a state is not what it must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Evidence {
    /// A majority of the nodes has another state.
    Majority,
    /// The node itself, by looking at what is stored. Nobody else can confirm it.
    OwnLook,
}

/// A cluster as a data directory knows it, and its own part in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Formation {
    /// The cluster's random id.
    pub cluster_id: ClusterId,
    /// The cluster's configured name.
    pub cluster_name: String,
    /// This node's configured name.
    pub node_name: String,
    /// This data directory's Raft id.
    pub raft_id: RaftId,
    /// The members that the cluster was formed with, or that were known when this node joined:
    /// name to Raft id and address (`host:port`).
    pub members: BTreeMap<String, (RaftId, String)>,
    /// Whether the cluster was marked dev when it was made.
    pub dev: bool,
    /// Whether this node proposed the formation, and so is the one that initialises.
    pub proposer: bool,
    /// Whether openraft was told to initialise here.
    pub initialised: bool,
}

/// The stored form of an [`Identity`] that is not empty.
#[derive(Serialize, Deserialize)]
pub(super) enum IdentityRecord {
    Accepted(Formation),
    Member(Formation),
    Reverted {
        was: Formation,
        reason: String,
    },
    Disproved {
        was: Formation,
        reason: String,
        by: Evidence,
    },
}

/// Keeps the [`Identity`] in the `log` database.
#[derive(Clone)]
pub struct IdentityStore {
    engine: Arc<dyn LogEngine>,
    on_fatal: OnFatal,
}

impl IdentityStore {
    pub(super) const KEY: &[u8] = b"identity";

    /// A store over the engine that also holds the log.
    pub fn new(engine: Arc<dyn LogEngine>, on_fatal: OnFatal) -> Self {
        Self { engine, on_fatal }
    }

    /// Reads the identity. Blocks on the disk.
    ///
    /// # Errors
    /// A damaged record.
    pub fn load(&self) -> io::Result<Identity> {
        let Some(bytes) = self.engine.get(Self::KEY)? else {
            return Ok(Identity::Empty);
        };
        Ok(
            match record::open(&bytes, &self.engine.location(), "the identity record")? {
                IdentityRecord::Accepted(formation) => Identity::Accepted(formation),
                IdentityRecord::Member(formation) => Identity::Member(formation),
                IdentityRecord::Reverted { was, reason } => Identity::Reverted { was, reason },
                IdentityRecord::Disproved { was, reason, by } => Identity::Disproved { was, reason, by },
            },
        )
    }

    /// Reads the identity, and refuses the disk of another cluster or node.
    ///
    /// # Errors
    /// Says whose disk it is.
    pub fn load_for(&self, cluster_name: &str, node_name: &str) -> io::Result<Identity> {
        let identity = self.load()?;
        if let Some(formation) = identity.formation() {
            for (what, stored, configured) in [
                ("cluster", &formation.cluster_name, cluster_name),
                ("node", &formation.node_name, node_name),
            ] {
                if stored != configured {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "the data directory {} belongs to {what} {stored:?} (cluster id {}), and this node is \
                             configured as {what} {configured:?}: refusing another's disk",
                            self.engine.location(),
                            formation.cluster_id,
                        ),
                    ));
                }
            }
        }
        Ok(identity)
    }

    /// Makes a step durable. Blocks until it is synced.
    ///
    /// # Errors
    /// Refuses a step backwards, to another cluster or to another Raft id. A failed sync is fatal.
    pub fn save(&self, next: &Identity) -> io::Result<()> {
        check_step(&self.load()?, next).map_err(|reason| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the data directory {}: {reason}", self.engine.location()),
            )
        })?;
        let stored = match next.clone() {
            Identity::Empty => return Ok(()),
            Identity::Accepted(formation) => IdentityRecord::Accepted(formation),
            Identity::Member(formation) => IdentityRecord::Member(formation),
            Identity::Reverted { was, reason } => IdentityRecord::Reverted { was, reason },
            Identity::Disproved { was, reason, by } => IdentityRecord::Disproved { was, reason, by },
        };
        self.write(&stored)
    }

    /// Takes back what this node alone had seen of its state, once that was found to be whole. Blocks
    /// until it is synced. False: there is nothing of that kind to take back.
    ///
    /// # Errors
    /// A damaged record. A failed sync is fatal.
    pub fn acquit(&self) -> io::Result<bool> {
        let Identity::Disproved {
            was,
            by: Evidence::OwnLook,
            ..
        } = self.load()?
        else {
            return Ok(false);
        };
        self.write(&IdentityRecord::Member(was))?;
        Ok(true)
    }

    fn write(&self, stored: &IdentityRecord) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.put(Self::KEY, record::seal(stored));
        self.engine.write(batch, Durability::Synced).inspect_err(|error| {
            self.on_fatal
                .call(&format!("the identity could not be synced: {error}"));
        })
    }
}

impl Identity {
    /// The cluster and the part in it, unless the directory is empty.
    pub fn formation(&self) -> Option<&Formation> {
        match self {
            Self::Empty => None,
            Self::Accepted(formation)
            | Self::Member(formation)
            | Self::Reverted { was: formation, .. }
            | Self::Disproved { was: formation, .. } => Some(formation),
        }
    }

    /// How far it has come; it never goes back.
    fn stage(&self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Accepted(_) => 1,
            Self::Member(_) => 2,
            Self::Reverted { .. } => 3,
            Self::Disproved { .. } => 4,
        }
    }
}

fn check_step(present: &Identity, next: &Identity) -> Result<(), String> {
    if next.stage() < present.stage() {
        return Err(format!(
            "its identity cannot go back from {present:?} to {next:?}"
        ));
    }
    let (Some(was), Some(becomes)) = (present.formation(), next.formation()) else {
        return Ok(());
    };
    if was.cluster_id != becomes.cluster_id {
        return Err(format!(
            "it belongs to cluster {}, not to {}",
            was.cluster_id, becomes.cluster_id
        ));
    }
    if was.raft_id != becomes.raft_id {
        return Err(format!("its Raft id is {}, not {}", was.raft_id, becomes.raft_id));
    }
    if was.initialised && !becomes.initialised {
        return Err("it is initialised already".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::simulated_engine::SimulatedEngine;

    fn formation() -> Formation {
        Formation {
            cluster_id: ClusterId([7; 16]),
            cluster_name: "c".into(),
            node_name: "a".into(),
            raft_id: RaftId(1),
            members: BTreeMap::from([("a".into(), (RaftId(1), "h:1".into()))]),
            dev: false,
            proposer: true,
            initialised: false,
        }
    }

    fn store(engine: &SimulatedEngine) -> IdentityStore {
        IdentityStore::new(Arc::new(engine.clone()), OnFatal::new(|_| {}))
    }

    #[test]
    fn what_was_saved_survives_a_power_cut() {
        let mut engine = SimulatedEngine::default();
        assert_eq!(store(&engine).load().unwrap(), Identity::Empty);
        for identity in [
            Identity::Accepted(formation()),
            Identity::Member(formation()),
            Identity::Member(Formation {
                initialised: true,
                ..formation()
            }),
        ] {
            store(&engine).save(&identity).unwrap();
            engine = engine.crash();
            assert_eq!(store(&engine).load().unwrap(), identity);
        }
    }

    #[test]
    fn golden_records() {
        let stored = |identity: Identity| {
            let engine = SimulatedEngine::default();
            store(&engine).save(&identity).unwrap();
            let bytes = engine.get(IdentityStore::KEY).unwrap().unwrap();
            bytes[..bytes.len() - 4].to_vec()
        };
        let mut formation_bytes = vec![7; 16];
        formation_bytes.extend([1, b'c', 1, b'a', 1, 1, 1, b'a', 1, 3, b'h', b':', b'1', 0, 1, 0]);
        let record = |tag: u8| [&[1, tag][..], &formation_bytes].concat();
        assert_eq!(stored(Identity::Accepted(formation())), record(0));
        assert_eq!(stored(Identity::Member(formation())), record(1));
        let reverted = Identity::Reverted {
            was: formation(),
            reason: "r".into(),
        };
        assert_eq!(stored(reverted), [&record(2)[..], &[1, b'r']].concat());
        for (by, tag) in [(Evidence::Majority, 0), (Evidence::OwnLook, 1)] {
            let disproved = Identity::Disproved {
                was: formation(),
                reason: "r".into(),
                by,
            };
            assert_eq!(stored(disproved), [&record(3)[..], &[1, b'r', tag]].concat());
        }
    }

    #[test]
    fn steps_only_go_forward_within_one_incarnation() {
        let engine = SimulatedEngine::default();
        let store = store(&engine);
        store.save(&Identity::Member(formation())).unwrap();
        let other_cluster = Formation {
            cluster_id: ClusterId([8; 16]),
            ..formation()
        };
        let other_id = Formation {
            raft_id: RaftId(2),
            ..formation()
        };
        for refused in [
            Identity::Empty,
            Identity::Accepted(formation()),
            Identity::Member(other_cluster),
            Identity::Member(other_id),
        ] {
            assert_eq!(
                store.save(&refused).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        }
        let reverted = Identity::Reverted {
            was: formation(),
            reason: "older than acknowledged".into(),
        };
        store.save(&reverted).unwrap();
        assert_eq!(store.load().unwrap(), reverted);
    }

    #[test]
    fn only_what_nobody_else_saw_is_taken_back() {
        for (by, taken_back) in [(Evidence::Majority, false), (Evidence::OwnLook, true)] {
            let engine = SimulatedEngine::default();
            let disproved = Identity::Disproved {
                was: formation(),
                reason: "r".into(),
                by,
            };
            store(&engine).save(&disproved).unwrap();
            assert_eq!(store(&engine).acquit().unwrap(), taken_back);
            let left = store(&engine.crash()).load().unwrap();
            let member = Identity::Member(formation());
            assert_eq!(left, if taken_back { member } else { disproved });
        }
        let empty = SimulatedEngine::default();
        assert!(!store(&empty).acquit().unwrap());
    }

    #[test]
    fn anothers_disk_is_refused_by_name() {
        let engine = SimulatedEngine::default();
        let store = store(&engine);
        store.save(&Identity::Member(formation())).unwrap();
        assert!(store.load_for("c", "a").is_ok());
        let error = store.load_for("other", "a").unwrap_err().to_string();
        assert!(error.contains("belongs to cluster \"c\""), "{error}");
        let error = store.load_for("c", "b").unwrap_err().to_string();
        assert!(error.contains("belongs to node \"a\""), "{error}");
    }

    #[test]
    fn a_damaged_record_is_refused() {
        let engine = SimulatedEngine::default();
        store(&engine).save(&Identity::Accepted(formation())).unwrap();
        assert!(engine.damage(IdentityStore::KEY));
        let error = store(&engine).load().unwrap_err().to_string();
        assert!(error.contains("identity record"), "{error}");
    }

    #[test]
    fn a_failed_sync_is_fatal() {
        let engine = SimulatedEngine::default();
        let (said, heard) = std::sync::mpsc::channel();
        let store = IdentityStore::new(
            Arc::new(engine.clone()),
            OnFatal::new(move |reason| said.send(reason.to_owned()).unwrap()),
        );
        engine.fail_next_sync();
        assert!(store.save(&Identity::Accepted(formation())).is_err());
        assert!(heard.recv().unwrap().contains("could not be synced"));
    }
}
