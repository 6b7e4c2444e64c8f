//! Re-sealing after a rotation: values, names and metadata under older terms are opened and sealed
//! under the newest, secret by secret, on the precondition of the revision that was read.
//!
//! What is left is derived from the terms that lie in clear beside the ciphertext, so that it can be
//! interrupted anywhere, and two nodes that do it at once only waste work. The leader's edge and the
//! node that was asked begin at once; others begin after a while, in case neither has keys. A node
//! that had not yet read the new keyring may still have sealed under the old term: only a second
//! pass without a find, some time after the first, ends it. Audit records keep their term.

use super::{
    cipher::{Binding, Kind},
    keyring::Keyring,
    sealer::{ResealProgress, Sealer},
    stored_keyring::SYSTEM_NAMESPACE,
};
use conclave_cluster::{
    command::{Command, Operation, Outcome, Precondition, SealedPart, Step},
    model::{Sealed, SecretId},
    state::StateView,
};
use conclave_raft::node::Role;
use std::{io, sync::Weak, time::Duration};
use tokio::time::Instant;

/// Between two passes, and between two looks whether there is anything to do.
const PAUSE: Duration = Duration::from_secs(10);
/// After so long a node that neither leads nor was asked begins as well.
const OTHERS_WAIT: Duration = Duration::from_secs(120);
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
    let mut noticed: Option<(u32, Instant)> = None;
    let mut clean_passes = 0;
    loop {
        let Some(notice) = sealer.upgrade().map(|sealer| sealer.reseal_asked.clone()) else {
            return;
        };
        tokio::select! {
            () = notice.notified() => asked = true,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let Some(sealer) = sealer.upgrade() else { return };
        let Ok(keyring) = sealer.keyring() else { continue };
        let term = keyring.key_term();
        // Before the first rotation nothing can be under an older term.
        if term == 1 {
            continue;
        }
        let since = match noticed {
            Some((noticed_term, since)) if noticed_term == term => since,
            _ => {
                noticed = Some((term, Instant::now()));
                clean_passes = 0;
                Instant::now()
            }
        };
        let leads = sealer.cluster.status().borrow().raft.role == Role::Leader;
        if clean_passes >= 2 || !(leads || asked || since.elapsed() >= OTHERS_WAIT) {
            continue;
        }
        match pass(&sealer, &keyring).await {
            Ok(0) => clean_passes += 1,
            Ok(_) => clean_passes = 0,
            Err(error) => tracing::warn!(%error, "re-sealing was interrupted and goes on later"),
        }
        if clean_passes >= 2 {
            asked = false;
            progress(&sealer, term, |progress| progress.finished = true);
            tracing::info!(key_term = term, "everything is sealed under the newest key term");
        }
    }
}

/// One look at every secret. Returns how many parts were found under an older term.
async fn pass(sealer: &Sealer, keyring: &Keyring) -> io::Result<u64> {
    let term = keyring.key_term();
    progress(sealer, term, |progress| progress.secrets_seen = 0);
    let (mut after, mut found) = (None, 0);
    loop {
        let page = sealer.cluster.view().secrets(after, PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(found);
        };
        after = Some(*last);
        for (secret, _) in &page {
            found += reseal_secret(sealer, keyring, *secret).await?;
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
    parts: Vec<(SealedPart, Sealed)>,
}

async fn reseal_secret(sealer: &Sealer, keyring: &Keyring, secret: SecretId) -> io::Result<u64> {
    let mut found = 0;
    for _ in 0..TRIES {
        let Some(Outdated { revision, parts }) = outdated_parts(&sealer.cluster.view(), keyring, secret)?
        else {
            return Ok(found);
        };
        let (mut steps, mut bytes) = (Vec::new(), 0);
        for (part, sealed) in parts {
            if bytes > 0 && bytes + sealed.ciphertext.len() > COMMAND_BYTES {
                break;
            }
            let binding = Binding {
                secret,
                kind: kind(part),
                sealed_revision: None,
            };
            let plaintext = match keyring.open(&binding, &sealed) {
                Ok(plaintext) => plaintext,
                Err(error) => {
                    tracing::error!(%secret, %error, "a stored ciphertext cannot be re-sealed");
                    return Ok(found + 1);
                }
            };
            bytes += sealed.ciphertext.len();
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
                    part,
                    replacement: keyring.seal(&binding, &plaintext),
                },
                audit: None,
            });
        }
        let count = steps.len() as u64;
        found += count;
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
            progress(sealer, keyring.key_term(), |progress| {
                progress.parts_resealed += count
            });
        }
        if !sealer.cluster.wait_applied(answer.index, deadline).await {
            return Err(io::Error::other("the answer was not applied here in time"));
        }
        tokio::time::sleep(pace(bytes, sealer.options.reseal_bytes_per_s)).await;
    }
    Ok(found)
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
    let is_outdated = |sealed: &Sealed| sealed.key_term < keyring.key_term();
    let mut parts = Vec::new();
    parts.extend(
        Some(found.name)
            .filter(is_outdated)
            .map(|name| (SealedPart::Name, name)),
    );
    parts.extend(
        found
            .metadata
            .filter(is_outdated)
            .map(|metadata| (SealedPart::Metadata, metadata)),
    );
    for version in found.versions {
        let number = version.version;
        let metadata = version.metadata.filter(is_outdated);
        parts.extend(metadata.map(|metadata| (SealedPart::VersionMetadata(number), metadata)));
        let value = view.sealed_value(&secret, number)?.filter(is_outdated);
        parts.extend(value.map(|value| (SealedPart::Value(number), value)));
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

fn progress(sealer: &Sealer, key_term: u32, change: impl FnOnce(&mut ResealProgress)) {
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
