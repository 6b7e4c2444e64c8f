//! Re-sealing after a rotation: values, names and metadata under older terms are opened and sealed
//! under the newest, secret by secret, on the precondition of the revision that was read.
//!
//! What is left is derived from the terms that lie in clear beside the ciphertext, so that it can be
//! interrupted anywhere, and two nodes that do it at once only waste work. The leader's edge and the
//! node that was asked begin at once; others begin after a while, in case neither has keys. Passes
//! follow one another until one finds nothing. A node that had not yet read the new keyring may have
//! sealed under the old term what was committed behind that pass: one more pass follows when no such
//! write can be on its way any more (see [`STRAGGLERS`]), and more if it finds one. Audit records
//! keep their term.

use super::{
    cipher::{Binding, Kind},
    keyring::{Keyring, OpenError},
    sealer::{ResealProgress, Sealer},
    stored_keyring::SYSTEM_NAMESPACE,
};
use conclave_cluster::{
    apply::WINDOW_MS,
    command::{Command, Operation, Outcome, Precondition, SealedPart, Step},
    model::{Sealed, SecretId, ValueDigest},
    state::StateView,
};
use conclave_raft::node::Role;
use std::{io, sync::Weak, time::Duration};
use tokio::time::Instant;

/// Between two looks whether there is anything to do, and after a pass that failed.
const PAUSE: Duration = Duration::from_secs(10);
/// After so long a node that neither leads nor was asked begins as well.
const OTHERS_WAIT: Duration = Duration::from_secs(120);
/// Until a write that was sealed under the old term is in the log or never will be: apply refuses a
/// proposal that is older than its window, and a node that has applied the new keyring has read it
/// within seconds.
const STRAGGLERS: Duration = Duration::from_millis(WINDOW_MS + 10_000);
/// Bytes of one command; a single larger part goes alone.
const COMMAND_BYTES: usize = 256 * 1024;
/// Secrets read at once.
const PAGE: usize = 64;
/// Commands for one secret in one pass; what is left then waits for the next.
const TRIES: usize = 64;
/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Re-seals whenever the keyring has a new term, until the sealer is dropped.
pub async fn run(sealer: Weak<Sealer>) {
    let mut asked = false;
    let mut schedule: Option<Schedule> = None;
    let mut pause = Duration::ZERO;
    loop {
        let Some(notice) = sealer.upgrade().map(|sealer| sealer.reseal_asked.clone()) else {
            return;
        };
        tokio::select! {
            () = notice.notified() => asked = true,
            () = tokio::time::sleep(pause) => {}
        }
        pause = PAUSE;
        let Some(sealer) = sealer.upgrade() else { return };
        let Ok(keyring) = sealer.keyring() else { continue };
        let (term, now) = (keyring.key_term(), Instant::now());
        // Before the first rotation nothing can be under an older term.
        if term == 1 {
            continue;
        }
        let schedule = match &mut schedule {
            Some(schedule) if schedule.term == term => schedule,
            other => other.insert(Schedule::new(term, now)),
        };
        let leads = sealer.cluster.status().borrow().raft.role == Role::Leader;
        match schedule.due() {
            None => {
                asked = false;
                continue;
            }
            Some(_) if !(leads || asked || schedule.noticed + OTHERS_WAIT <= now) => continue,
            Some(at) if at > now => {
                pause = PAUSE.min(at - now);
                continue;
            }
            Some(_) => {}
        }
        let found = pass(&sealer, &keyring).await;
        if let Err(error) = &found {
            tracing::warn!(%error, "re-sealing was interrupted and goes on later");
        }
        let was_finished = schedule.is_finished();
        schedule.passed(found.ok(), Instant::now());
        let is_finished = schedule.is_finished();
        if is_finished != was_finished {
            progress(&sealer, term, |progress| progress.finished = is_finished);
        }
        if is_finished && !was_finished {
            tracing::info!(key_term = term, "everything is sealed under the newest key term");
        }
        pause = Duration::ZERO;
    }
}

/// What a pass found under an older term.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Found {
    /// Parts that it replaced.
    resealed: u64,
    /// Parts that it could not replace yet, because the secret kept changing.
    left: u64,
    /// Parts that do not open: no pass will ever replace them.
    unopenable: u64,
}

/// When the next pass is due for one term.
struct Schedule {
    term: u32,
    noticed: Instant,
    phase: Phase,
}

enum Phase {
    /// No pass was clean yet.
    Working { from: Instant },
    /// A pass was clean; one more is due once nothing under an older term can be on its way.
    LastLook { at: Instant },
    /// That one was clean as well.
    Done,
}

impl Schedule {
    fn new(term: u32, now: Instant) -> Self {
        Self {
            term,
            noticed: now,
            phase: Phase::Working { from: now },
        }
    }

    /// When the next pass is due; `None`: never.
    fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Working { from: at } | Phase::LastLook { at } => Some(at),
            Phase::Done => None,
        }
    }

    fn is_finished(&self) -> bool {
        !matches!(self.phase, Phase::Working { .. })
    }

    /// A pass ended now, with what it found; `None`: it was interrupted.
    fn passed(&mut self, found: Option<Found>, now: Instant) {
        self.phase = match (found, &self.phase) {
            (None, Phase::Working { .. }) => Phase::Working { from: now + PAUSE },
            (None, _) => Phase::LastLook { at: now + PAUSE },
            (
                Some(Found {
                    resealed: 0, left: 0, ..
                }),
                Phase::Working { .. },
            ) => Phase::LastLook { at: now + STRAGGLERS },
            (
                Some(Found {
                    resealed: 0, left: 0, ..
                }),
                _,
            ) => Phase::Done,
            (Some(Found { left: 0, .. }), _) => Phase::Working { from: now },
            (Some(_), _) => Phase::Working { from: now + PAUSE },
        };
    }
}

/// One look at every secret.
async fn pass(sealer: &Sealer, keyring: &Keyring) -> io::Result<Found> {
    let term = keyring.key_term();
    progress(sealer, term, |progress| progress.secrets_seen = 0);
    let (mut after, mut found) = (None, Found::default());
    loop {
        let page = sealer.cluster.view().secrets(after, PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(found);
        };
        after = Some(*last);
        for (secret, _) in &page {
            reseal_secret(sealer, keyring, *secret, &mut found).await?;
        }
        progress(sealer, term, |progress| {
            progress.secrets_seen += page.len() as u64
        });
        tokio::task::yield_now().await;
    }
}

/// A secret's revision, and its sealed parts under older terms.
struct Outdated {
    revision: u64,
    parts: Vec<OutdatedPart>,
}

struct OutdatedPart {
    part: SealedPart,
    sealed: Sealed,
    /// A value's.
    digest: Option<ValueDigest>,
}

async fn reseal_secret(
    sealer: &Sealer,
    keyring: &Keyring,
    secret: SecretId,
    found: &mut Found,
) -> io::Result<()> {
    let mut unopenable = Vec::new();
    for _ in 0..TRIES {
        let Some(Outdated { revision, mut parts }) = outdated_parts(&sealer.cluster.view(), keyring, secret)?
        else {
            return Ok(());
        };
        parts.retain(|outdated| !unopenable.contains(&outdated.part));
        let (mut steps, mut bytes) = (Vec::new(), 0);
        for outdated in parts {
            let size_bytes = outdated.sealed.ciphertext.len();
            if bytes > 0 && bytes + size_bytes > COMMAND_BYTES {
                break;
            }
            let replacement = match reseal_part(keyring, secret, &outdated) {
                Ok(replacement) => replacement,
                Err(error) => {
                    tracing::error!(%secret, %error, "a stored ciphertext cannot be re-sealed");
                    unopenable.push(outdated.part);
                    found.unopenable += 1;
                    continue;
                }
            };
            bytes += size_bytes;
            // Only the first step names the revision: the others follow it in one command.
            let unchanged = Precondition::AtRevision { secret, revision };
            steps.push(Step {
                preconditions: if steps.is_empty() {
                    vec![unchanged]
                } else {
                    Vec::new()
                },
                operation: Operation::Reseal {
                    secret,
                    part: outdated.part,
                    replacement,
                },
                audit: None,
            });
        }
        if steps.is_empty() {
            return Ok(());
        }
        let count = steps.len() as u64;
        let deadline = Instant::now() + PATIENCE;
        let answer = sealer
            .cluster
            .propose(
                Command {
                    guards: Vec::new(),
                    steps,
                },
                deadline,
            )
            .await
            .map_err(io::Error::other)?;
        if matches!(answer.outcome, Outcome::Done(_)) {
            found.resealed += count;
            progress(sealer, keyring.key_term(), |progress| {
                progress.parts_resealed += count
            });
        }
        if !sealer.cluster.wait_applied(answer.index, deadline).await {
            return Err(io::Error::other("the answer was not applied here in time"));
        }
        tokio::time::sleep(pace(bytes, sealer.reseal_bytes_per_s)).await;
    }
    found.left += 1;
    Ok(())
}

/// Opens a part and seals it again. The digest must be the value's: a value that was put in another's
/// place is not carried on.
fn reseal_part(keyring: &Keyring, secret: SecretId, outdated: &OutdatedPart) -> Result<Sealed, OpenError> {
    let binding = Binding {
        secret,
        kind: kind(outdated.part),
        sealed_revision: None,
    };
    let plaintext = keyring.open(&binding, &outdated.sealed)?;
    if let Some(digest) = &outdated.digest {
        keyring.check_digest(secret, &plaintext, digest)?;
    }
    Ok(keyring.seal(&binding, &plaintext))
}

/// What of a secret lies under an older term; `None` when nothing does.
fn outdated_parts(view: &StateView, keyring: &Keyring, secret: SecretId) -> io::Result<Option<Outdated>> {
    let Some(found) = view.secret_view(&secret)? else {
        return Ok(None);
    };
    // What lies in the system's stores is sealed by other rules.
    if found
        .place
        .is_some_and(|place| place.namespace == SYSTEM_NAMESPACE)
    {
        return Ok(None);
    }
    let mut parts = Vec::new();
    let mut look = |part: SealedPart, sealed: Option<Sealed>, digest: Option<ValueDigest>| {
        let outdated = sealed.filter(|sealed| sealed.key_term < keyring.key_term());
        parts.extend(outdated.map(|sealed| OutdatedPart { part, sealed, digest }));
    };
    look(SealedPart::Name, Some(found.name), None);
    look(SealedPart::Metadata, found.metadata, None);
    for version in found.versions {
        let number = version.version;
        look(SealedPart::VersionMetadata(number), version.metadata, None);
        if let Some(value) = view.sealed_value(&secret, number)? {
            let digest = view.version(&secret, number)?.and_then(|version| version.digest);
            look(SealedPart::Value(number), Some(value), digest);
        }
    }
    Ok(if parts.is_empty() {
        None
    } else {
        Some(Outdated {
            revision: found.revision,
            parts,
        })
    })
}

fn kind(part: SealedPart) -> Kind {
    match part {
        SealedPart::Name => Kind::Name,
        SealedPart::Metadata => Kind::Metadata,
        SealedPart::Value(_) => Kind::Value,
        SealedPart::VersionMetadata(_) => Kind::VersionMetadata,
    }
}

fn pace(bytes: usize, bytes_per_s: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / bytes_per_s.max(1) as f64).min(PATIENCE)
}

/// Shows how far this node is.
pub(super) fn progress(sealer: &Sealer, key_term: u32, change: impl FnOnce(&mut ResealProgress)) {
    sealer.status.send_modify(|status| {
        let fresh = ResealProgress {
            key_term,
            secrets_seen: 0,
            parts_resealed: 0,
            finished: false,
        };
        let mut progress = status
            .reseal
            .filter(|progress| progress.key_term == key_term)
            .unwrap_or(fresh);
        change(&mut progress);
        status.reseal = Some(progress);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plaintext::Plaintext;
    use conclave_cluster::model::Version;

    const CLEAN: Found = Found {
        resealed: 0,
        left: 0,
        unopenable: 0,
    };

    #[test]
    fn one_clean_pass_finishes_and_nothing_is_waited_for() {
        let began = Instant::now();
        let mut schedule = Schedule::new(2, began);
        assert_eq!(schedule.due(), Some(began));
        let replaced = Found { resealed: 2, ..CLEAN };
        schedule.passed(Some(replaced), began);
        assert_eq!((schedule.due(), schedule.is_finished()), (Some(began), false));
        schedule.passed(Some(CLEAN), began);
        assert!(schedule.is_finished());
    }

    #[test]
    fn what_was_sealed_behind_the_clean_pass_is_looked_for_until_none_can_come() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(2, now);
        schedule.passed(Some(CLEAN), now);
        assert_eq!(schedule.due(), Some(now + STRAGGLERS));
        assert!(STRAGGLERS > Duration::from_millis(WINDOW_MS));
        // An interruption delays that look and does not replace it.
        now += STRAGGLERS;
        schedule.passed(None, now);
        assert_eq!(schedule.due(), Some(now + PAUSE));
        // A straggler begins it all anew.
        now += PAUSE;
        schedule.passed(Some(Found { resealed: 1, ..CLEAN }), now);
        assert_eq!((schedule.due(), schedule.is_finished()), (Some(now), false));
        schedule.passed(Some(CLEAN), now);
        assert_eq!(schedule.due(), Some(now + STRAGGLERS));
        schedule.passed(Some(CLEAN), now + STRAGGLERS);
        assert_eq!((schedule.due(), schedule.is_finished()), (None, true));
    }

    #[test]
    fn what_cannot_be_replaced_is_not_tried_again_and_again() {
        let now = Instant::now();
        let mut schedule = Schedule::new(2, now);
        schedule.passed(Some(Found { left: 1, ..CLEAN }), now);
        assert_eq!(schedule.due(), Some(now + PAUSE));
        schedule.passed(None, now + PAUSE);
        assert_eq!(schedule.due(), Some(now + 2 * PAUSE));
        let unopenable = Found {
            unopenable: 1,
            ..CLEAN
        };
        schedule.passed(Some(unopenable), now + 2 * PAUSE);
        assert!(schedule.is_finished(), "no pass will ever open it");
    }

    #[test]
    fn a_value_in_another_s_place_is_not_carried_on() {
        let (old, secret) = (Keyring::generate(), SecretId([1; 16]));
        let new = old.with_next_term();
        let (one, one_digest) = old.seal_value(secret, &Plaintext::new(b"one".to_vec()));
        let (_, two_digest) = old.seal_value(secret, &Plaintext::new(b"two".to_vec()));
        let outdated = |digest| OutdatedPart {
            part: SealedPart::Value(Version::FIRST),
            sealed: one.clone(),
            digest: Some(digest),
        };
        let resealed = reseal_part(&new, secret, &outdated(one_digest)).unwrap();
        assert_eq!(resealed.key_term, 2);
        assert!(new.open_value(secret, &resealed, &one_digest).is_ok());
        assert_eq!(
            reseal_part(&new, secret, &outdated(two_digest)).err(),
            Some(OpenError::WrongDigest)
        );
    }
}
