//! The dialects that clients speak. Each only maps requests to operations and outcomes to answers.
//!
//! Every dialect has the same shape: the module finds its route in a path, and the route says how
//! it is counted, how it refuses what the entrance stopped, and how it answers a call.

pub mod conclave;
pub mod setec;

use crate::server::{Answer, Call, Edge};
use hyper::StatusCode;

/// Where a path leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route {
    Setec(setec::Method),
    Conclave(conclave::Route),
    Nowhere,
}

/// The route of a path.
pub(crate) fn route(path: &str) -> Route {
    if let Some(method) = setec::Method::of_path(path) {
        Route::Setec(method)
    } else if let Some(route) = conclave::Route::of_path(path) {
        Route::Conclave(route)
    } else {
        Route::Nowhere
    }
}

impl Route {
    /// API and action, as metrics call them.
    pub(crate) fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Setec(method) => ("setec", method.label()),
            Self::Conclave(route) => ("conclave", route.label()),
            Self::Nowhere => ("none", "none"),
        }
    }

    /// Refuses a request in the dialect's form.
    pub(crate) fn refuse(self, status: StatusCode, message: &str) -> Answer {
        match self {
            Self::Conclave(_) => conclave::refuse(status, message),
            Self::Setec(_) | Self::Nowhere => Answer::text(status, message),
        }
    }

    /// Answers a call.
    pub(crate) async fn handle(self, edge: &Edge, call: &mut Call) -> Answer {
        match self {
            Self::Setec(method) => setec::handle(edge, method, call).await,
            // On the heap: else every request's future would have room for the largest of these.
            Self::Conclave(route) => Box::pin(conclave::handle(edge, route, call)).await,
            Self::Nowhere => Answer::text(StatusCode::NOT_FOUND, "not found"),
        }
    }
}
