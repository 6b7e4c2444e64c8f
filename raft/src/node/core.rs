//! What a node is, shared by its facade, its transport and its tasks.

use super::{
    Member, Peer, PeerService, RaftStatus, Role,
    options::RaftOptions,
    peer_space::{Leader, PeerSpace},
};
use crate::{
    formation::{
        self,
        messages::{FormationAnswer, FormationRequest, JoinRefusal, Standing},
    },
    identity::{ClusterId, NodeRecord, RaftId},
    runtime::Runtime,
    storage::{
        engine::LogEngine,
        identity_store::{Identity, IdentityStore},
        log_store::LogStore,
        snapshot_store::{SnapshotData, SnapshotStore},
        space::{self, EntryClass, SpaceGate, SpaceLevel, SpaceProbe},
        state_machine_adapter::StateMachineThread,
    },
    transport::{
        acknowledged::{Acknowledged, Durable},
        host::{Endpoint, Host},
        sending_snapshot::off_thread,
    },
    types::{LogTypes, Raft, SnapshotMeta},
};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use openraft::{AsyncRuntime, raft::AppendEntriesRequest};
use std::{
    collections::BTreeMap,
    io,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// A voter that was not heard for so many election time-outs does not count as one with space.
const SILENT_ELECTION_TIMEOUTS: u32 = 8;

/// A node's shared state.
pub(crate) struct Core {
    /// As it was started.
    pub options: RaftOptions,
    /// The cluster whose data was set aside here: the only one that this directory may be part of.
    pub set_aside_from: Option<ClusterId>,
    /// Held while the identity takes a step.
    pub forming: tokio::sync::Mutex<()>,
    /// Held while the membership is changed: one change at a time.
    pub changing: tokio::sync::Mutex<()>,
    /// What is published.
    pub status: watch::Sender<RaftStatus>,
    /// What is applied here, told at once: the status follows a little later.
    pub applied_index: watch::Sender<Option<u64>>,
    /// Whether it may stand for election.
    pub may_lead: AtomicBool,
    /// Free space.
    pub space: SpaceGate,
    /// How often a member found a snapshot of this node's state to be bad.
    pub doubts: watch::Sender<u64>,
    probe: Arc<dyn SpaceProbe>,
    identity: watch::Sender<Identity>,
    raft: watch::Sender<Option<Raft>>,
    /// Set when the node is asked to stop.
    stopping: AtomicBool,
    /// Set once the directory must take part no more.
    withdrawn: AtomicBool,
    /// What holds the disk open; given up when the node stops.
    opened: Mutex<Option<Opened>>,
    peer_space: PeerSpace,
}

/// What a running node holds on to.
#[derive(Clone)]
pub(crate) struct Opened {
    pub engine: Arc<dyn LogEngine>,
    pub identity_store: IdentityStore,
    pub log: LogStore,
    pub snapshots: SnapshotStore,
    pub machine: StateMachineThread,
    pub service: Arc<dyn PeerService>,
}

impl Core {
    pub fn new(
        options: RaftOptions,
        identity: Identity,
        opened: Opened,
        space: SpaceGate,
        probe: Arc<dyn SpaceProbe>,
        set_aside_from: Option<ClusterId>,
    ) -> Arc<Self> {
        Arc::new(Self {
            options,
            set_aside_from,
            forming: tokio::sync::Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            status: watch::Sender::default(),
            applied_index: watch::Sender::default(),
            may_lead: AtomicBool::new(true),
            space,
            doubts: watch::Sender::default(),
            probe,
            identity: watch::Sender::new(identity),
            raft: watch::Sender::default(),
            stopping: AtomicBool::new(false),
            withdrawn: AtomicBool::new(false),
            opened: Mutex::new(Some(opened)),
            peer_space: PeerSpace::new(),
        })
    }

    /// Who the data directory is now.
    pub fn identity(&self) -> Identity {
        self.identity.borrow().clone()
    }

    /// Whether its cluster was marked as one for development when it was made.
    pub fn dev(&self) -> bool {
        self.identity.borrow().formation().is_some_and(|of| of.dev)
    }

    /// Hears of each step of the identity.
    pub fn watch_identity(&self) -> watch::Receiver<Identity> {
        self.identity.subscribe()
    }

    /// Takes a step, durably.
    pub async fn become_identity(&self, next: Identity) -> io::Result<()> {
        let store = self.opened()?.identity_store;
        let saved = next.clone();
        off_thread(move || store.save(&saved)).await?;
        self.identity.send_replace(next);
        Ok(())
    }

    /// openraft, once it runs.
    pub fn running(&self) -> Option<Raft> {
        self.raft.borrow().clone()
    }

    /// Publishes openraft, for as long as the node takes part.
    ///
    /// # Errors
    /// It halted, withdrew or began to stop meanwhile; openraft is to be stopped.
    pub fn set_running(&self, raft: &Raft) -> io::Result<()> {
        self.raft.send_replace(Some(raft.clone()));
        // Looked at only now: whoever halts or stops the node looks for openraft after it has said so.
        let halted = self.status.borrow().halted.is_some();
        if halted || self.is_withdrawn() || self.stopping.load(Ordering::Acquire) {
            return Err(io::Error::other("it takes part no more"));
        }
        Ok(())
    }

    /// Takes part no more, at once: no vote, append or snapshot is answered, and openraft stops. The
    /// caller marks the directory, which takes a while, and halts. False: another does so already.
    pub fn withdraw(&self) -> bool {
        if self.withdrawn.swap(true, Ordering::SeqCst) {
            return false;
        }
        self.end_raft();
        true
    }

    /// Whether the directory must take part no more; whoever found it halts the node.
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::SeqCst)
    }

    /// The store and the service.
    ///
    /// # Errors
    /// When the node has stopped.
    pub fn opened(&self) -> io::Result<Opened> {
        self.locked_opened()
            .clone()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the node has stopped"))
    }

    /// Lets go of the service and of the disk. The last user of what remains closes the disk.
    pub fn close(&self) -> Option<Arc<dyn LogEngine>> {
        self.locked_opened().take().map(|opened| opened.engine)
    }

    /// From here on it is no news that something ends: nothing halts the node any more.
    pub fn begin_to_stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Runs one of the node's tasks; a panic in it halts the node, which would else go on without.
    pub async fn supervise(self: Arc<Self>, what: &'static str, task: impl Future<Output = ()>) {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            self.halt(format!("the task that {what} panicked"));
        }
    }

    /// Stops taking part for good. The first reason stays.
    pub fn halt(&self, reason: String) {
        if self.stopping.load(Ordering::Acquire) {
            return;
        }
        let first = self.status.send_if_modified(|status| {
            let first = status.halted.is_none();
            if first {
                status.halted = Some(reason.clone());
            }
            first
        });
        if first {
            tracing::error!(%reason, "this node has halted");
            self.end_raft();
        }
    }

    /// What is known of a member: by the membership, or before one is known by the formation.
    pub fn member(&self, raft_id: RaftId) -> Option<NodeRecord> {
        if let Some(member) = self.status.borrow().members.get(&raft_id) {
            return Some(member.record.clone());
        }
        let identity = self.identity();
        formation::records(identity.formation()?).remove(&raft_id)
    }

    /// Whether a member's disk was last heard to be below its reserve, if it was heard.
    pub fn peer_is_below_reserve(&self, peer: RaftId) -> Option<bool> {
        self.peer_space.is_below_reserve(peer)
    }

    /// Whether a voter's disk was heard to have space, no longer ago than this.
    pub fn peer_has_space(&self, peer: RaftId, within: Duration) -> bool {
        self.peer_space.has_space(peer, within, Instant::now())
    }

    /// Whether more may be proposed here than what frees space.
    pub fn takes_ordinary_entries(&self) -> bool {
        let has_space = self.space.level() == SpaceLevel::Enough;
        let status = self.status.borrow();
        let (true, Role::Leader, Some(own)) = (has_space, status.role, status.raft_id) else {
            return has_space;
        };
        let leader = Leader {
            term: status.term,
            own,
            has_space,
            voter_sets: &status.voter_sets,
        };
        let silence = self.options.election_timeout * SILENT_ELECTION_TIMEOUTS;
        self.peer_space
            .majorities_have_space(&leader, silence, Instant::now())
    }

    /// Whether this may be proposed here, as far as space goes.
    pub fn admits_proposal(&self, payload: &Bytes) -> bool {
        if self.takes_ordinary_entries() {
            return true;
        }
        // Looked into only now: telling what frees space takes decoding it.
        match (self.options.classify)(payload) {
            EntryClass::Relieving => self.space.admits(EntryClass::Relieving),
            EntryClass::Ordinary => {
                space::refused();
                false
            }
        }
    }

    fn end_raft(&self) {
        if let Some(raft) = self.running() {
            Runtime::spawn(async move { raft.shutdown().await });
        }
    }

    fn locked_opened(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a node of this name is a member, as far as this disk knows, or configured here: an old
    /// disk does not know members that came since.
    fn knows(&self, name: &str) -> bool {
        let identity = self.identity();
        let status = self.status.borrow();
        let is_member = if status.members.is_empty() {
            identity
                .formation()
                .is_some_and(|of| of.members.contains_key(name))
        } else {
            status.members.values().any(|member| member.record.name == name)
        };
        is_member || self.configured_address(name).is_some()
    }

    fn standing(&self) -> Standing {
        let knows_members = !self.status.borrow().members.is_empty();
        match self.identity() {
            Identity::Empty => self.set_aside_from.map_or(Standing::Empty, Standing::SetAside),
            Identity::Reverted { was, .. } => Standing::SetAside(was.cluster_id),
            Identity::Accepted(formation)
            | Identity::Member(formation)
            | Identity::Disproved { was: formation, .. } => {
                if knows_members {
                    Standing::Formed(formation.cluster_id)
                } else {
                    Standing::Accepted(formation.cluster_id)
                }
            }
        }
    }
}

/// See [`Host::was_removed`].
fn was_removed(members: &BTreeMap<RaftId, Member>, raft_id: RaftId) -> bool {
    let newest = members.last_key_value();
    newest.is_some_and(|(newest, _)| raft_id < *newest) && !members.contains_key(&raft_id)
}

impl Host for Core {
    fn name(&self) -> &str {
        &self.options.node_name
    }

    fn address(&self) -> &str {
        &self.options.advertise
    }

    fn configured_address(&self, node_name: &str) -> Option<&str> {
        let mut configured = self.options.nodes.iter();
        configured
            .find(|(name, _)| name == node_name)
            .map(|(_, address)| address.as_str())
    }

    fn incarnation(&self) -> Option<(ClusterId, RaftId)> {
        match &*self.identity.borrow() {
            Identity::Empty | Identity::Reverted { .. } | Identity::Disproved { .. } => None,
            Identity::Accepted(formation) | Identity::Member(formation) => {
                Some((formation.cluster_id, formation.raft_id))
            }
        }
    }

    fn durable(&self) -> io::Result<Durable> {
        let durable = self.opened()?.log.durable();
        Ok(Durable {
            log: durable.last.map(Into::into),
            term: durable.vote.map_or(0, |vote| vote.leader_id.term),
        })
    }

    fn member_name(&self, raft_id: RaftId) -> Option<String> {
        let status = self.status.borrow();
        Some(status.members.get(&raft_id)?.record.name.clone())
    }

    fn was_removed(&self, raft_id: RaftId) -> bool {
        was_removed(&self.status.borrow().members, raft_id)
    }

    fn raft(&self) -> Option<Arc<dyn Endpoint>> {
        if self.is_withdrawn() {
            return None;
        }
        Some(Arc::new(self.running()?))
    }

    fn service(&self) -> io::Result<Arc<dyn PeerService>> {
        Ok(self.opened()?.service)
    }

    fn form(self: Arc<Self>, from: Peer, request: FormationRequest) -> BoxFuture<'static, FormationAnswer> {
        Box::pin(async move {
            match request {
                // Whoever counts on this node must not.
                FormationRequest::Inquire if self.is_withdrawn() || self.status.borrow().halted.is_some() => {
                    FormationAnswer::Refused("this node is about to halt".into())
                }
                FormationRequest::Inquire => FormationAnswer::Standing(self.standing()),
                FormationRequest::Propose(proposal) => {
                    match formation::consider(&self, &from, proposal).await {
                        Ok(()) => FormationAnswer::Accepted,
                        Err(reason) => FormationAnswer::Refused(reason),
                    }
                }
                FormationRequest::Join if from.raft_id.is_some() => {
                    FormationAnswer::Refused("a node that has a Raft id does not join".into())
                }
                FormationRequest::Join => match self.service() {
                    Ok(service) => match service.join(from).await {
                        Ok(grant) => FormationAnswer::Granted(grant),
                        Err(JoinRefusal::AskLeader(leader)) => FormationAnswer::AskLeader(leader),
                        Err(JoinRefusal::Because(reason)) => FormationAnswer::Refused(reason),
                    },
                    Err(error) => FormationAnswer::Refused(error.to_string()),
                },
            }
        })
    }

    fn reverted(self: Arc<Self>, by: &Peer, acknowledged: Acknowledged) -> Result<(), String> {
        let durable = self.durable().map_err(|error| error.to_string())?;
        if by.raft_id.is_none() || !self.knows(&by.name) {
            return Err(format!("node {} is no member that is known here", by.name));
        }
        if !acknowledged.is_near(&durable) {
            return Err(format!(
                "it speaks of a term that cannot have come meanwhile ({acknowledged:?}, and this disk has {durable:?})"
            ));
        }
        let reason = format!(
            "this disk is older than what node {} knows it acknowledged ({acknowledged:?}); its data is set aside \
             at the next start, and the node joins again as a new incarnation",
            by.name
        );
        // Nobody gets a vote of this disk any more, however long it takes to mark it.
        if self.incarnation().is_none() || !self.withdraw() {
            return Ok(());
        }
        Runtime::spawn(async move {
            let _one_step_at_a_time = self.forming.lock().await;
            if let Identity::Accepted(was) | Identity::Member(was) = self.identity() {
                let marked = Identity::Reverted {
                    was,
                    reason: reason.clone(),
                };
                match self.become_identity(marked).await {
                    Ok(()) => self.status.send_modify(|status| status.reverted = true),
                    Err(error) => tracing::error!(%error, "the reverted disk could not be marked"),
                }
            }
            self.halt(reason);
        });
        Ok(())
    }

    fn peer_out_of_space(&self, peer: RaftId, out_of_space: bool) {
        match (
            self.peer_space.hear(peer, out_of_space, Instant::now()),
            out_of_space,
        ) {
            (false, _) => {}
            (true, true) => tracing::warn!(
                node = %peer,
                "another node's disk is below its reserve; what it misses from now on it needs room for, before \
                 anything can be deleted there"
            ),
            (true, false) => tracing::info!(node = %peer, "another node's disk has space again"),
        }
    }

    fn out_of_space(&self) -> bool {
        self.space.level() < SpaceLevel::Enough
    }

    fn drains(&self) -> bool {
        !self.takes_ordinary_entries()
    }

    fn admits(&self, append: &AppendEntriesRequest<LogTypes>, draining: bool) -> bool {
        if self.space.level() == SpaceLevel::Enough {
            return true;
        }
        // A new leader feels its way through what is here already; that takes no space.
        let Ok(opened) = self.opened() else { return false };
        let new = append
            .entries
            .iter()
            .filter(|entry| !opened.log.holds(entry.log_id));
        let classes = new.map(|entry| space::class_of(&entry.payload, &self.options.classify));
        self.space.admits_append(classes, draining)
    }

    fn may_lead(&self) -> bool {
        self.may_lead.load(Ordering::Relaxed)
    }

    fn has_room_for(&self, snapshot_bytes: u64) -> bool {
        match self.probe.free_bytes() {
            Ok(free_bytes) => {
                let reserve_bytes = self.options.reserves.ordinary_bytes;
                let fits = snapshot_bytes.saturating_add(reserve_bytes) <= free_bytes;
                if !fits {
                    tracing::debug!(
                        snapshot_bytes,
                        free_bytes,
                        reserve_bytes,
                        "no room for a snapshot"
                    );
                }
                fits
            }
            Err(error) => {
                tracing::warn!(%error, "the free space could not be determined");
                !self.out_of_space()
            }
        }
    }

    fn verify_snapshot(&self, meta: SnapshotMeta, data: SnapshotData) -> BoxFuture<'static, io::Result<()>> {
        let opened = self.opened();
        async move { opened?.machine.verify(&meta, &data).await }.boxed()
    }

    fn verify_own_snapshot(
        &self,
        meta: SnapshotMeta,
        data: SnapshotData,
    ) -> BoxFuture<'static, io::Result<()>> {
        let opened = self.opened();
        async move {
            let Opened {
                snapshots, machine, ..
            } = opened?;
            let original = data.clone();
            let copy = off_thread(move || snapshots.copy_to_look_at(&original)).await?;
            machine.verify(&meta, &copy).await?;
            data.mark_verified();
            Ok(())
        }
        .boxed()
    }

    fn snapshot_disproved(&self) {
        self.doubts.send_modify(|doubts| *doubts += 1);
    }

    fn disk_failed(&self, reason: &str) {
        self.options.on_fatal.call(reason);
        self.halt(reason.to_owned());
    }

    fn incoming(&self) -> io::Result<SnapshotData> {
        self.opened()?.snapshots.incoming()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::lone, *};
    use crate::{node::lone::LoneNode, state_machine::LogPosition};

    #[tokio::test]
    async fn a_disk_that_is_called_reverted_takes_part_in_nothing_from_that_moment_on() {
        let node = LoneNode::start().await;
        let core = &node.core;
        let mut status = core.status.subscribe();
        let leads = status.wait_for(|status| status.role == Role::Leader);
        leads.await.expect("it leads");
        let newer = LogPosition {
            term: 1,
            index: 1_000,
        };
        let acknowledged = Acknowledged {
            committed: Some(newer),
            log: Some((newer, 1)),
            term: 1,
        };
        let believed = Arc::clone(core).reverted(&lone::peer(), acknowledged);
        believed.expect("a configured node is believed");
        // Nothing else had its turn yet: nothing is marked.
        assert!(matches!(node.stored_identity(), Identity::Member(_)));
        assert!(core.raft().is_none(), "it votes until it is marked");
        let halted = status.wait_for(|status| status.halted.is_some());
        let halted = halted.await.expect("it halts").clone();
        assert!(halted.reverted, "{halted:?}");
        assert!(matches!(node.stored_identity(), Identity::Reverted { .. }));
    }

    #[tokio::test]
    async fn raft_does_not_start_on_a_node_that_halted_meanwhile() {
        let node = LoneNode::start().await;
        assert!(node.core.running().is_none(), "nothing had its turn yet");
        node.core.halt("of something else".into());
        let mut raft = node.core.raft.subscribe();
        let raft = raft.wait_for(Option::is_some).await.expect("it is published");
        let raft = raft.clone().expect("it was waited for");
        while raft.is_initialized().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_full_disk_takes_only_entries_again_that_it_has() {
        let node = LoneNode::start().await;
        let mut applied = node.core.status.subscribe();
        let applied = applied.wait_for(|status| status.applied_index == Some(1));
        applied.await.expect("it leads");
        node.free_bytes
            .0
            .store(lone::RESERVES.relieving_bytes, Ordering::SeqCst);
        node.core.space.measure();
        let admits = |term, index| {
            let entry = crate::types::Entry {
                log_id: crate::types::LogId::new_term_index(term, index),
                payload: crate::types::Payload::Normal(crate::types::Proposal("a".into())),
            };
            let append = AppendEntriesRequest {
                vote: crate::types::Vote::new_committed(2, 2),
                prev_log_id: None,
                entries: vec![entry],
                leader_commit: None,
            };
            node.core.admits(&append, false)
        };
        assert!(admits(1, 1), "it has this one");
        assert!(!admits(1, 2), "a later one");
        assert!(!admits(0, 2), "a later one of an earlier term");
        assert!(!admits(0, 1), "another one in its place");
    }

    #[test]
    fn an_id_that_is_no_members_and_not_new_was_removed() {
        let member = |raft_id| {
            let record = NodeRecord {
                name: format!("n{raft_id}"),
                address: "127.0.0.1:1".into(),
            };
            let member = Member {
                record,
                voter: true,
                matched_index: None,
                last_acknowledged_ms: None,
            };
            (RaftId(raft_id), member)
        };
        let members = BTreeMap::from([member(1), member(3), member(4)]);
        let removed = |raft_id| was_removed(&members, RaftId(raft_id));
        assert!(removed(2));
        assert!(!removed(3) && !removed(4));
        assert!(!removed(5), "a member that is not known here yet");
        assert!(!was_removed(&BTreeMap::new(), RaftId(1)));
    }
}
