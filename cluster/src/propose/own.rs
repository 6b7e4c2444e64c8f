//! What a leader proposes for its cluster by itself is refused from any other node: nobody else
//! knows when it is right. Rules that are raised before every member knows them stop those that do
//! not.

use crate::command::Command;
use bytes::Bytes;
use conclave_raft::codec;

/// The largest encoded command of the cluster's own upkeep, generously.
const OWN_COMMAND_BYTES: usize = 64;

/// Whether an encoded command is one of the cluster's own. Larger commands are not even decoded.
pub(crate) fn is_the_clusters_own(command: &Bytes) -> bool {
    command.len() <= OWN_COMMAND_BYTES
        && codec::decode::<Command>(command).is_ok_and(|command| command.is_the_clusters_own())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{AtAuditLimit, AuditRetention, Expected, Operation, Step};
    use crate::model::SecretId;

    fn encoded(operations: Vec<Operation>) -> Bytes {
        let steps = operations.into_iter().map(|operation| Step {
            preconditions: vec![],
            operation,
            audit: None,
        });
        codec::encode(&Command {
            guards: vec![],
            steps: steps.collect(),
        })
        .into()
    }

    #[test]
    fn the_clusters_own_operations_are_told_apart() {
        for own in [
            Operation::AllocateRaftId,
            Operation::RaiseRules { version: u32::MAX },
            Operation::SetAuditRetention(AuditRetention {
                limit_bytes: u64::MAX,
                at_limit: AtAuditLimit::PruneOldest,
            }),
            Operation::Tick,
        ] {
            let alone = encoded(vec![own.clone()]);
            assert!(is_the_clusters_own(&alone), "{own:?} in {} bytes", alone.len());
        }
        let other = Operation::Delete {
            at: Expected::Id(SecretId([1; 16])),
            recoverable_ms: None,
        };
        assert!(!is_the_clusters_own(&encoded(vec![other])));
        // Beside others it is refused when it is applied.
        assert!(!is_the_clusters_own(&encoded(vec![
            Operation::AllocateRaftId,
            Operation::AllocateRaftId
        ])));
        assert!(!is_the_clusters_own(&Bytes::from_static(b"garbage")));
    }
}
