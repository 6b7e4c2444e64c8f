//! The methods, and the order in which a call is checked: HTTP method, content type, the header
//! that no browser can send, who calls and within which limits, the body, then rights and all else in the operation.

use super::{answers, errors, requests::Malformed, requests::Request};
use crate::{
    name::StorePath,
    operations::{Caller, Dialect, OperationError, Polled},
    server::{Answer, BodyError, Call, Edge},
};
use conclave_cluster::{command::Which, model::Action};
use hyper::{HeaderMap, StatusCode, header, header::HeaderName};
use tokio::time::Instant;

/// A header that no browser sends to another site unasked.
pub(crate) const NO_BROWSERS: HeaderName = HeaderName::from_static("sec-x-tailscale-no-browsers");
/// What it must say.
pub(crate) const NO_BROWSERS_VALUE: &str = "setec";

/// A method of the API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Method {
    List,
    Get,
    Info,
    Put,
    CreateVersion,
    Activate,
    Delete,
    DeleteVersion,
}

impl Method {
    /// The method at a path.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        Some(match path.strip_prefix("/api/")? {
            "list" => Self::List,
            "get" => Self::Get,
            "info" => Self::Info,
            "put" => Self::Put,
            "create-version" => Self::CreateVersion,
            "activate" => Self::Activate,
            "delete" => Self::Delete,
            "delete-version" => Self::DeleteVersion,
            _ => return None,
        })
    }

    /// As audit records call it.
    fn action(self) -> Action {
        match self {
            Self::List => Action::List,
            Self::Get => Action::Get,
            Self::Info => Action::Info,
            Self::Put => Action::Put,
            Self::CreateVersion => Action::CreateVersion,
            Self::Activate => Action::Activate,
            Self::Delete => Action::Delete,
            Self::DeleteVersion => Action::DeleteVersion,
        }
    }

    /// Its name in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Get => "get",
            Self::Info => "info",
            Self::Put => "put",
            Self::CreateVersion => "create-version",
            Self::Activate => "activate",
            Self::Delete => "delete",
            Self::DeleteVersion => "delete-version",
        }
    }
}

/// Answers a call.
pub(crate) async fn handle(edge: &Edge, method: Method, call: &mut Call) -> Answer {
    if let Some(refusal) = check_form(call.request.method(), call.request.headers()) {
        return refusal;
    }
    let caller = match call.admit(edge, Dialect::Setec, method.action()).await {
        Ok(caller) => caller,
        Err(refusal) => return errors::not_admitted(&refusal),
    };
    let body = match call.read_body(&edge.limits).await {
        Ok(body) => body,
        Err(error @ BodyError::TooSlow { .. }) => {
            return Answer::text(StatusCode::REQUEST_TIMEOUT, error.to_string());
        }
        Err(error) => return Answer::text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    match answer(edge, method, &caller, &body, edge.deadline()).await {
        Ok(answer) => answer,
        Err(Failure::Malformed(error)) => Answer::text(StatusCode::BAD_REQUEST, error.to_string()),
        Err(Failure::Operation(error)) => errors::answer(&error),
    }
}

enum Failure {
    Malformed(Malformed),
    Operation(OperationError),
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        Self::Operation(error)
    }
}

async fn answer(
    edge: &Edge,
    method: Method,
    caller: &Caller,
    body: &[u8],
    deadline: Instant,
) -> Result<Answer, Failure> {
    let operations = &edge.operations;
    if method == Method::List {
        Request::parse_list(body)?;
        let infos = operations.list(caller, &StorePath::setec(), deadline).await?;
        return Ok(answers::list(&infos));
    }
    let request = Request::parse(body)?;
    let name = request.name()?;
    Ok(match method {
        Method::List => unreachable!("answered above"),
        Method::Get => match request.optional_version() {
            Some(have) if request.update_if_changed() => {
                match operations.poll(caller, &name, have, deadline).await? {
                    Polled::NotModified => Answer::empty(StatusCode::NOT_MODIFIED),
                    Polled::Changed(value) => answers::value(&value),
                }
            }
            wanted => {
                let which = wanted.map_or(Which::Active, Which::Number);
                answers::value(&operations.get(caller, &name, which, deadline).await?)
            }
        },
        Method::Info => answers::info(&operations.info(caller, &name, deadline).await?),
        Method::Put => {
            let put = operations
                .put(caller, &name, request.into_value(), deadline)
                .await?;
            answers::version(put.version)
        }
        Method::CreateVersion => {
            let version = request.version()?;
            operations
                .create_version(caller, &name, version, request.into_value(), deadline)
                .await?;
            answers::null()
        }
        Method::Activate => {
            operations
                .activate(caller, &name, request.version()?, deadline)
                .await?;
            answers::null()
        }
        Method::Delete => {
            operations.delete(caller, &name, deadline).await?;
            answers::null()
        }
        Method::DeleteVersion => {
            operations
                .delete_version(caller, &name, request.version()?, deadline)
                .await?;
            answers::null()
        }
    })
}

/// What is wrong with a call's form.
pub(super) fn check_form(method: &hyper::Method, headers: &HeaderMap) -> Option<Answer> {
    if method != hyper::Method::POST {
        return Some(Answer::text(
            StatusCode::BAD_REQUEST,
            "only POST requests are allowed",
        ));
    }
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = content_type
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        return Some(Answer::text(
            StatusCode::BAD_REQUEST,
            "the content type must be application/json",
        ));
    }
    if headers.get(NO_BROWSERS).map(|value| value.as_bytes()) != Some(NO_BROWSERS_VALUE.as_bytes()) {
        let message = "access denied: the header Sec-X-Tailscale-No-Browsers: setec is missing";
        return Some(Answer::text(StatusCode::FORBIDDEN, message));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    fn status(method: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        check_form(&method.parse().unwrap(), &map).map(|answer| answer.status().as_u16())
    }

    #[test]
    fn the_form_is_checked_in_order() {
        let json = ("Content-Type", "application/json");
        let marker = ("Sec-X-Tailscale-No-Browsers", "setec");
        assert_eq!(status("POST", &[json, marker]), None);
        assert_eq!(
            status(
                "POST",
                &[("content-type", "Application/JSON; charset=utf-8"), marker]
            ),
            None
        );
        assert_eq!(status("GET", &[]), Some(400));
        assert_eq!(status("PUT", &[json, marker]), Some(400));
        assert_eq!(status("POST", &[marker]), Some(400));
        assert_eq!(
            status("POST", &[("Content-Type", "text/plain"), marker]),
            Some(400)
        );
        assert_eq!(
            status("POST", &[("Content-Type", "application/jsonp"), marker]),
            Some(400)
        );
        assert_eq!(status("POST", &[json]), Some(403));
        assert_eq!(
            status("POST", &[json, ("Sec-X-Tailscale-No-Browsers", "yes")]),
            Some(403)
        );
    }

    #[test]
    fn every_method_of_the_document_has_a_path() {
        for path in [
            "list",
            "get",
            "info",
            "put",
            "create-version",
            "activate",
            "delete",
            "delete-version",
        ] {
            assert_eq!(Method::of_path(&format!("/api/{path}")).unwrap().label(), path);
        }
        for path in ["/api/", "/api/get/", "/api/Get", "/api/xget", "/get", ""] {
            assert_eq!(Method::of_path(path), None);
        }
    }
}
