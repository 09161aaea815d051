//! Refusals as JSON: code, message, hint, retriable.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::cluster::operation::Refusal;

/// Every code a refusal can have.
pub const CODES: &[&str] = &[
    "no_such_route",
    "method_not_allowed",
    "cluster_unavailable",
    "refused",
    "outcome_unknown",
    "internal",
];

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpError {
    /// HTTP status.
    #[serde(skip)]
    pub status: StatusCode,
    /// Stable name.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: &'static str,
    /// Whether the same request may succeed later.
    pub retriable: bool,
    /// Of an order that is refused: the stable name of why.
    pub reason: Option<&'static str>,
}

impl HttpError {
    /// Nothing is served under this path.
    #[must_use]
    pub fn no_such_route(path: &str) -> HttpError {
        HttpError {
            status: StatusCode::NOT_FOUND,
            code: "no_such_route",
            message: format!("nothing is served at {path}"),
            hint: "see /v1/openapi.json for what is",
            retriable: false,
            reason: None,
        }
    }

    /// The path is served, but not with this method.
    #[must_use]
    pub fn method_not_allowed(method: &str, path: &str) -> HttpError {
        HttpError {
            status: StatusCode::METHOD_NOT_ALLOWED,
            code: "method_not_allowed",
            message: format!("{path} does not take {method}"),
            hint: "see /v1/openapi.json for what it takes",
            retriable: false,
            reason: None,
        }
    }

    /// The metadata group does not take a change now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> HttpError {
        HttpError {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "cluster_unavailable",
            message: message.into(),
            hint: "nothing was changed: ask again a little later",
            retriable: true,
            reason: None,
        }
    }

    /// The metadata group refuses a change.
    #[must_use]
    pub fn refused(message: impl Into<String>) -> HttpError {
        HttpError {
            status: StatusCode::BAD_REQUEST,
            code: "refused",
            message: message.into(),
            hint: "nothing was changed: see the message",
            retriable: false,
            reason: None,
        }
    }

    /// An operator's order is refused.
    #[must_use]
    pub fn denied(refusal: &Refusal) -> HttpError {
        HttpError { reason: Some(refusal.name()), ..HttpError::refused(refusal.to_string()) }
    }

    /// A change may have been made.
    #[must_use]
    pub fn unknown(message: impl Into<String>) -> HttpError {
        HttpError {
            status: StatusCode::GATEWAY_TIMEOUT,
            code: "outcome_unknown",
            message: message.into(),
            hint: "look whether it was made before asking again",
            retriable: false,
            reason: None,
        }
    }

    /// Our own fault.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> HttpError {
        HttpError {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "internal",
            message: message.into(),
            hint: "report it with the node's log",
            retriable: true,
            reason: None,
        }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}
