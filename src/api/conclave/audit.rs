//! The audit log, in pages, and its limit. Reading needs `audit`, changing the limit `operate`; the
//! operations check that, and record it.

use super::{
    errors::Failure,
    messages::{AuditEntry, AuditLimit, AuditList, AuditListRequest, ErrorCode},
    routes::Checked,
};
use crate::{
    audit::{self, AuditQuery},
    name::FullName,
};
use conclave_cluster::model::{Action, AuditKey, OutcomeKind, Version};

/// Records in a page unless the request says how many.
const DEFAULT_LIMIT: usize = 100;

const ACTIONS: [(Action, &str); 16] = [
    (Action::Get, "get"),
    (Action::Info, "info"),
    (Action::List, "list"),
    (Action::Put, "put"),
    (Action::CreateVersion, "create-version"),
    (Action::Activate, "activate"),
    (Action::DeleteVersion, "delete-version"),
    (Action::Delete, "delete"),
    (Action::Restore, "restore"),
    (Action::Move, "move"),
    (Action::Configure, "configure"),
    (Action::Reseal, "reseal"),
    (Action::AuditRead, "audit-read"),
    (Action::Operate, "operate"),
    (Action::Login, "login"),
    (Action::Prune, "prune"),
];

const OUTCOMES: [(OutcomeKind, &str); 5] = [
    (OutcomeKind::Done, "done"),
    (OutcomeKind::NotFound, "not-found"),
    (OutcomeKind::Denied, "denied"),
    (OutcomeKind::Refused, "refused"),
    (OutcomeKind::Abandoned, "abandoned"),
];

pub(super) async fn list(call: &Checked<'_>) -> Result<AuditList, Failure> {
    let query = query(&call.message()?)?;
    let page = call
        .edge
        .operations
        .audit_list(&call.caller, &query, call.edge.deadline())
        .await?;
    Ok(AuditList {
        records: page.entries.into_iter().map(shown).collect(),
        next: page.next.map(|key| written(&key)),
    })
}

pub(super) async fn limit(call: &Checked<'_>) -> Result<AuditLimit, Failure> {
    let AuditLimit {
        limit_bytes,
        at_limit,
    } = call.message()?;
    let operations = &call.edge.operations;
    let now = operations
        .set_audit_limit(
            &call.caller,
            limit_bytes,
            at_limit.map(Into::into),
            call.edge.deadline(),
        )
        .await?;
    Ok(AuditLimit {
        limit_bytes: Some(now.limit_bytes),
        at_limit: Some(now.at_limit.into()),
    })
}

pub(super) fn query(request: &AuditListRequest) -> Result<AuditQuery, Failure> {
    let invalid = |field: &str, reason: &str| {
        Failure::new(
            ErrorCode::InvalidRequest,
            format!("invalid request: {field}: {reason}"),
        )
    };
    let limit = request.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=AuditQuery::LIMIT).contains(&limit) {
        return Err(invalid("limit", &format!("must be 1 to {}", AuditQuery::LIMIT)));
    }
    let name = request
        .secret
        .as_ref()
        .map(|name| FullName::setec(name.as_str()))
        .transpose();
    let principal = request
        .principal
        .as_ref()
        .map(|principal| principal.parse())
        .transpose();
    let action = request
        .action
        .as_deref()
        .map(|word| named(&ACTIONS, word).ok_or_else(|| invalid("action", "is not one that is recorded")));
    let outcome = request
        .outcome
        .as_deref()
        .map(|word| named(&OUTCOMES, word).ok_or_else(|| invalid("outcome", "is not one that is recorded")));
    let cursor = request
        .cursor
        .as_deref()
        .map(|text| read(text).ok_or_else(|| invalid("cursor", "is not the `next` of a page")));
    Ok(AuditQuery {
        since_ms: request.since_ms,
        until_ms: request.until_ms,
        name: name.map_err(|error| invalid("secret", &error.to_string()))?,
        principal: principal
            .map_err(|error: crate::grants::PrincipalError| invalid("principal", &error.to_string()))?,
        actions: action.transpose()?.into_iter().collect(),
        outcome: outcome.transpose()?,
        limit,
        cursor: cursor.transpose()?,
        newest_first: request.newest_first,
    })
}

fn shown(entry: audit::AuditEntry) -> AuditEntry {
    let (plain, error) = match entry.plain {
        Ok(plain) => (plain, None),
        Err(reason) => (None, Some(reason)),
    };
    let plain = plain.as_ref();
    AuditEntry {
        id: written(&entry.key),
        time_ms: entry.time_ms,
        action: word(&ACTIONS, entry.action).to_owned(),
        outcome: word(&OUTCOMES, entry.outcome).to_owned(),
        secret: plain.and_then(|plain| plain.name.clone()),
        version: entry.version.map(Version::get),
        principal: plain.map(|plain| plain.principal.clone()),
        device: plain.and_then(|plain| plain.device.clone()),
        remote: plain.map(|plain| plain.remote.clone()),
        api: plain.map(|plain| plain.api.clone()),
        request_id: plain.map(|plain| plain.request_id.clone()),
        node: plain.map(|plain| plain.node.clone()),
        node_id: entry.node_id,
        detail: plain.and_then(|plain| plain.detail.clone()),
        attempts: entry.attempts,
        error,
    }
}

fn named<T: Copy>(words: &[(T, &'static str)], word: &str) -> Option<T> {
    words
        .iter()
        .find(|(_, known)| *known == word)
        .map(|(value, _)| *value)
}

fn word<T: Copy + PartialEq>(words: &[(T, &'static str)], value: T) -> &'static str {
    words
        .iter()
        .find(|(known, _)| *known == value)
        .map_or("unknown", |(_, word)| word)
}

pub(super) fn written(key: &AuditKey) -> String {
    format!("{}-{}-{}", key.index, key.position, key.step)
}

pub(super) fn read(text: &str) -> Option<AuditKey> {
    let mut parts = text.split('-');
    let key = AuditKey {
        index: parts.next()?.parse().ok()?,
        position: parts.next()?.parse().ok()?,
        step: parts.next()?.parse().ok()?,
    };
    parts.next().is_none().then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn filters_are_read_strictly() {
        let request = AuditListRequest {
            secret: Some("a/b".into()),
            principal: Some("cn:app".into()),
            action: Some("create-version".into()),
            outcome: Some("not-found".into()),
            cursor: Some("7-0-1".into()),
            limit: Some(1000),
            ..AuditListRequest::default()
        };
        let query = query(&request).unwrap();
        assert_eq!(query.actions, [Action::CreateVersion]);
        assert_eq!(query.outcome, Some(OutcomeKind::NotFound));
        assert_eq!(
            query.cursor,
            Some(AuditKey {
                index: 7,
                position: 0,
                step: 1
            })
        );

        let base = AuditListRequest::default;
        for (field, request) in [
            (
                "limit",
                AuditListRequest {
                    limit: Some(0),
                    ..base()
                },
            ),
            (
                "limit",
                AuditListRequest {
                    limit: Some(1001),
                    ..base()
                },
            ),
            (
                "secret",
                AuditListRequest {
                    secret: Some(String::new()),
                    ..base()
                },
            ),
            (
                "principal",
                AuditListRequest {
                    principal: Some("app".into()),
                    ..base()
                },
            ),
            (
                "action",
                AuditListRequest {
                    action: Some("fetch".into()),
                    ..base()
                },
            ),
            (
                "outcome",
                AuditListRequest {
                    outcome: Some("Done".into()),
                    ..base()
                },
            ),
            (
                "cursor",
                AuditListRequest {
                    cursor: Some("1-2".into()),
                    ..base()
                },
            ),
        ] {
            let failure = super::query(&request).unwrap_err().answer();
            assert_eq!(failure.status(), 400);
            assert!(String::from_utf8_lossy(failure.body()).contains(field), "{field}");
        }
    }

    proptest! {
        #[test]
        fn cursors_come_back(index: u64, position: u32, step: u16) {
            let key = AuditKey { index, position, step };
            prop_assert_eq!(read(&written(&key)), Some(key));
        }

        #[test]
        fn garbage_is_no_cursor(text in "[^0-9]*") {
            prop_assert_eq!(read(&text), None);
        }
    }
}
