//! The seal. Each route needs `operate` and is recorded; on a sealed node only its status and trying
//! again are served, and recorded once it is unsealed.

use super::{
    errors::Failure,
    messages::{ErrorCode, Rekey, ResealProgress, SealStatus},
    routes::Checked,
};
use crate::{operations::Recording, server::Edge};
use std::path::PathBuf;

pub(super) async fn show(call: &Checked<'_>) -> Result<SealStatus, Failure> {
    call.operate("seal status", Recording::WhenPossible).await?;
    Ok(status(call.edge))
}

pub(super) async fn retry(call: &Checked<'_>) -> Result<SealStatus, Failure> {
    call.operate("seal retry", Recording::WhenPossible).await?;
    // What came of it, a node that stays sealed included, is what the status says.
    let _ = call.edge.sealer.retry_and_wait(call.edge.deadline()).await;
    Ok(status(call.edge))
}

pub(super) async fn rotate(call: &Checked<'_>) -> Result<SealStatus, Failure> {
    call.operate("seal rotate", Recording::Required).await?;
    let key_term = call.edge.sealer.rotate(call.edge.deadline()).await?;
    Ok(SealStatus {
        key_term: Some(key_term),
        ..status(call.edge)
    })
}

pub(super) async fn rekey(call: &Checked<'_>) -> Result<SealStatus, Failure> {
    let Rekey { key_file } = call.message()?;
    let key_file = PathBuf::from(key_file);
    if !key_file.is_absolute() {
        let message = "invalid request: key_file: must be an absolute path on the node that is asked";
        return Err(Failure::new(ErrorCode::InvalidRequest, message));
    }
    call.operate("seal rekey", Recording::Required).await?;
    let in_use = call.edge.sealer.status().borrow().seal_key_id.clone();
    let provider = call.edge.key_files.bring(key_file, in_use.as_deref())?;
    call.edge.sealer.rekey(&*provider, call.edge.deadline()).await?;
    Ok(status(call.edge))
}

fn status(edge: &Edge) -> SealStatus {
    let status = edge.sealer.status().borrow().clone();
    SealStatus {
        sealed: status.sealed.is_some(),
        reason: status.sealed.map(|reason| reason.to_string()),
        seal_key_id: status.seal_key_id,
        keyring_id: status.keyring_id,
        key_term: status.key_term,
        reseal: status.reseal.map(|progress| ResealProgress {
            key_term: progress.key_term,
            secrets_seen: progress.secrets_seen,
            parts_resealed: progress.parts_resealed,
            finished: progress.finished,
        }),
        warning: status.warning,
    }
}
