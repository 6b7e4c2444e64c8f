//! Conclave's own API: what operators ask of a cluster.

use super::{
    Client, ClientError, Repetition,
    transport::{Accept, Request},
};
use crate::api::conclave::messages::{
    AddMember, AuditLimit, AuditList, AuditListRequest, ClusterMembers, ErrorBody, ErrorCode, Health,
    MemberChanged, MemberId, Rekey, SealStatus, Status, TransferLeadership, Verification, Verify,
};
use bytes::Bytes;
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

impl Client {
    /// How one node stands; asked of the first known node that answers at all.
    pub async fn health(&self) -> Result<Health, ClientError> {
        let request = Request {
            method: Method::GET,
            path: format!("{ROOT}/health"),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            repetition: Repetition::Harmless,
            accept: Accept::Any,
        };
        let response = self.send(request).await?;
        serde_json::from_slice(&response.body).map_err(|error| {
            ClientError::Other(format!(
                "the node's answer ({}) cannot be understood: {error}",
                response.status
            ))
        })
    }

    /// Everything about one node.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.look("status").await
    }

    /// One page of audit records.
    pub async fn audit_list(&self, request: &AuditListRequest) -> Result<AuditList, ClientError> {
        self.order("audit/list", request, Repetition::Harmless).await
    }

    /// Sets how much audit is kept; answers what holds from now on.
    pub async fn set_audit_limit(&self, request: &AuditLimit) -> Result<AuditLimit, ClientError> {
        self.order("audit/limit", request, Repetition::Harmless).await
    }

    /// The members of the cluster as one node knows them.
    pub async fn members(&self) -> Result<ClusterMembers, ClientError> {
        self.look("cluster").await
    }

    /// Adds a waiting node as a learner.
    pub async fn add_member(&self, request: &AddMember) -> Result<MemberChanged, ClientError> {
        self.order("cluster/add", request, Repetition::Harmful).await
    }

    /// Makes a learner that has caught up a voter.
    pub async fn promote_member(&self, request: &MemberId) -> Result<MemberChanged, ClientError> {
        self.order("cluster/promote", request, Repetition::Harmful).await
    }

    /// Removes a member.
    pub async fn remove_member(&self, request: &MemberId) -> Result<MemberChanged, ClientError> {
        self.order("cluster/remove", request, Repetition::Harmful).await
    }

    /// Gives a member's place to the waiting node of the same name.
    pub async fn replace_member(&self, request: &MemberId) -> Result<MemberChanged, ClientError> {
        self.order("cluster/replace", request, Repetition::Harmful).await
    }

    /// Hands leadership over; answers the new leader.
    pub async fn transfer_leadership(
        &self,
        request: &TransferLeadership,
    ) -> Result<MemberChanged, ClientError> {
        self.order("cluster/transfer", request, Repetition::Harmful).await
    }

    /// Lets every node rescan its stored state, and compares.
    pub async fn verify(&self) -> Result<Verification, ClientError> {
        // The nodes give up a little earlier than this client does, so that they say how it ended.
        let wait = self.timeout().saturating_sub(ANSWER_TIME).max(self.timeout() / 2);
        let request = Verify {
            timeout_ms: u64::try_from(wait.as_millis()).ok(),
        };
        self.order("cluster/verify", &request, Repetition::Harmful).await
    }

    /// How one node's seal stands.
    pub async fn seal_status(&self) -> Result<SealStatus, ClientError> {
        self.look("seal").await
    }

    /// Lets one node try its seal key again.
    pub async fn seal_retry(&self) -> Result<SealStatus, ClientError> {
        self.order("seal/retry", &Nothing {}, Repetition::Harmless).await
    }

    /// Adds a data-key term and seals everything again in the background.
    pub async fn seal_rotate(&self) -> Result<SealStatus, ClientError> {
        self.order("seal/rotate", &Nothing {}, Repetition::Harmful).await
    }

    /// Wraps the keyring under another key file.
    pub async fn seal_rekey(&self, request: &Rekey) -> Result<SealStatus, ClientError> {
        self.order("seal/rekey", request, Repetition::Harmful).await
    }

    async fn look<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::GET, path, Bytes::new(), Repetition::Harmless)
            .await
    }

    async fn order<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
        repetition: Repetition,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| ClientError::Other(error.to_string()))?;
        self.exchange(Method::POST, path, body.into(), repetition).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        repetition: Repetition,
    ) -> Result<T, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let path = format!("{ROOT}/{path}");
        let request = Request {
            method,
            path,
            headers,
            body,
            repetition,
            accept: Accept::Served,
        };
        let response = self.send(request).await?;
        if response.status.is_success() {
            return serde_json::from_slice(&response.body).map_err(|error| {
                ClientError::Other(format!("the node's answer cannot be understood: {error}"))
            });
        }
        Err(match serde_json::from_slice::<ErrorBody>(&response.body) {
            Ok(ErrorBody { error }) => refusal(error.code, error.message),
            Err(_) => {
                let text = String::from_utf8_lossy(&response.body);
                ClientError::Other(format!("the node answered {}: {}", response.status, text.trim()))
            }
        })
    }
}

/// What a node may need for its answer once it has one.
const ANSWER_TIME: Duration = Duration::from_secs(5);

const ROOT: &str = "/conclave/v1";

/// A request without content.
#[derive(Serialize)]
struct Nothing {}

fn refusal(code: ErrorCode, message: String) -> ClientError {
    match code {
        ErrorCode::NotFound => ClientError::NotFound(message),
        ErrorCode::Denied => ClientError::Denied(message),
        ErrorCode::InvalidRequest
        | ErrorCode::MethodNotAllowed
        | ErrorCode::TooSlow
        | ErrorCode::Conflict
        | ErrorCode::TooLarge
        | ErrorCode::UnknownHost => ClientError::Invalid(message),
        ErrorCode::RateLimited | ErrorCode::Sealed | ErrorCode::Unavailable => {
            ClientError::Unavailable(message)
        }
        ErrorCode::OutcomeUnknown => ClientError::OutcomeUnknown(message),
        ErrorCode::Internal => ClientError::Other(message),
    }
}
