//! Keeps a node unsealed: follows every write of the keyring, and puts it back when it disappears.
//!
//! Somebody with a stolen node certificate can delete the stored keyring or write other bytes over it,
//! and cannot make one that opens. Nodes that hold the keys go on with them, say so, and store the
//! keyring again, wrapped under their seal key, on the precondition of what they found. The newest
//! must win, so whoever read the last that was stored acts at once and others only after a while; a
//! node that finds an older one than its own stored replaces that as well.
//!
//! Nothing that passes keeps a node sealed: an error of the key file or of reading the state is tried
//! again by itself. What only another seal key or another keyring can mend waits for those.

use super::{
    sealer::{Failure, SealError, Sealer, Standing},
    stored_keyring::{self, Found},
};
use conclave_cluster::{
    command::{Outcome, Refusal},
    node::Change,
};
use futures::FutureExt;
use std::{panic::AssertUnwindSafe, sync::Weak, time::Duration};
use tokio::{sync::broadcast, time::Instant};

/// Between attempts while there is no keyring, and before the first after an error.
const PAUSE: Duration = Duration::from_millis(200);
/// Errors are tried again after pauses that double up to this.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// After so long a node puts back what it holds although a newer keyring was stored: nobody has that.
const OTHERS_WAIT: Duration = Duration::from_secs(5);

/// Unseals, and follows every later write of the keyring, until the sealer is dropped. A node on
/// which nobody did would look well and stay sealed after the next rotation.
pub async fn keep_unsealed(sealer: Weak<Sealer>, mut changes: broadcast::Receiver<Change>) {
    while AssertUnwindSafe(follow(&sealer, &mut changes))
        .catch_unwind()
        .await
        .is_err()
    {
        tracing::error!("following the keyring panicked; it is followed again");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn follow(sealer: &Weak<Sealer>, changes: &mut broadcast::Receiver<Change>) {
    let mut lost_since = None;
    let mut pause_after_error = PAUSE;
    loop {
        let Some(sealer) = sealer.upgrade() else { return };
        let standing = sealer.unseal().await;
        if standing != Standing::HoldsLost {
            lost_since = None;
        }
        if standing != Standing::Hindered {
            pause_after_error = PAUSE;
        }
        let pause = match standing {
            Standing::Settled => None,
            Standing::AwaitsKeyring => Some(PAUSE),
            Standing::HoldsLost => {
                let since = *lost_since.get_or_insert_with(Instant::now);
                Some(match put_back(&sealer, since).await {
                    Ok(()) => PAUSE,
                    Err(error) => {
                        tracing::warn!(%error, "the keyring could not be put back yet");
                        Sealer::PATIENCE
                    }
                })
            }
            Standing::Hindered => {
                let pause = pause_after_error;
                pause_after_error = PAUSE_MAX.min(2 * pause);
                Some(pause)
            }
        };
        // Other writes do not make readable what is not; that is tried again after a pause.
        let keyring_secret = sealer.read_place().map(|place| place.secret());
        let concerns_the_keyring = |secret| match keyring_secret {
            Ok(stored) => stored.is_none_or(|stored| stored == secret),
            Err(_) => false,
        };
        let pause = pause.or_else(|| keyring_secret.is_err().then_some(PAUSE));
        let wake = pause.map(|pause| Instant::now() + pause);
        let retry = sealer.retry.clone();
        drop(sealer);
        loop {
            tokio::select! {
                () = retry.notified() => break,
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => break,
                change = changes.recv() => match change {
                    Ok(Change::Secret { secret, .. }) if !concerns_the_keyring(secret) => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
            }
        }
    }
}

/// Stores the keyring that is held once more, unless another node did or should.
async fn put_back(sealer: &Sealer, lost_since: Instant) -> Result<(), SealError> {
    let held = sealer.held()?;
    let is_due = |last_number| last_number == Some(held.number) || lost_since.elapsed() >= OTHERS_WAIT;
    if !is_due(sealer.read_place()?.last_number) {
        return Ok(());
    }
    let deadline = Instant::now() + Sealer::PATIENCE;
    sealer.cluster.read_barrier(deadline).await?;
    let place = sealer.read_place()?;
    if !is_due(place.last_number) {
        return Ok(());
    }
    // The same wrapping where possible; under an outdated one others at least hear what is needed.
    let source = &sealer.source;
    let provider = source
        .with_id(&held.seal_key_id)
        .or_else(|_| source.configured())?;
    let command = match place.found {
        Found::Nothing => stored_keyring::create_command(&held.keyring, &*provider).await?,
        Found::NoKeyring(occupant) => {
            stored_keyring::replace_command(&occupant, &held.keyring, &*provider).await?
        }
        Found::Keyring(stored) => match sealer.open(&stored, Some(&held)).await {
            Err(Failure::Lost(_)) => {
                stored_keyring::replace_command(&stored.occupant, &held.keyring, &*provider).await?
            }
            // Put back meanwhile.
            _ => return Ok(()),
        },
    };
    let answer = sealer.cluster.propose(command, deadline).await?;
    match answer.outcome {
        Outcome::Done(_) => tracing::warn!("the keyring was gone, and this node put it back"),
        Outcome::Refused {
            refusal: refusal @ Refusal::Precondition { .. },
            ..
        } => tracing::info!(%refusal, "the keyring was not put back: another node was faster"),
        Outcome::Refused { refusal, .. } => return Err(SealError::Damaged(refusal.to_string())),
    }
    sealer.cluster.wait_applied(answer.index, deadline).await;
    Ok(())
}
