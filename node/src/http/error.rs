//! Refusals as JSON: code, message, hint, retriable.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::cluster::operation::Refusal;

/// What a refusal can be called.
#[derive(Debug)]
pub struct HttpCode {
    /// Its name in JSON and for `ironring explain`.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub hint: &'static str,
    /// Whether the same request may succeed later.
    pub retriable: bool,
}

macro_rules! http_codes {
    ($( $constant:ident = $name:literal, $meaning:literal, retriable: $retriable:literal, hint: $hint:literal; )*) => {
        $(
            #[doc = $meaning]
            pub const $constant: HttpCode = HttpCode {
                name: $name, meaning: $meaning, hint: $hint, retriable: $retriable,
            };
        )*

        /// Every code a refusal can have.
        pub const CODES: &[HttpCode] = &[ $( $constant, )* ];
    };
}

http_codes! {
    NO_SUCH_ROUTE = "no_such_route", "Nothing is served under the path.", retriable: false, hint: "see /v1/openapi.json for what is";
    METHOD_NOT_ALLOWED = "method_not_allowed", "The path is served, but not with the method.", retriable: false, hint: "see /v1/openapi.json for what it takes";
    BAD_REQUEST = "bad_request", "The body, the query or the path does not parse, or is not what the route takes. Nothing was changed.", retriable: false, hint: "see the message, and /v1/openapi.json for what is taken";
    INTERNAL = "internal", "The node failed to answer, by a fault of its own.", retriable: true, hint: "report it with the node's log";
    CLUSTER_UNAVAILABLE = "cluster_unavailable", "The metadata group does not answer now: it starts, has no leader, or the node is about to stop.", retriable: true, hint: "nothing was changed: ask again a little later";
    REFUSED = "refused", "The order may not be carried out. The message says why, and `reason` names it where it has a name.", retriable: false, hint: "nothing was changed: see the message";
    OUTCOME_UNKNOWN = "outcome_unknown", "The change was begun and then its fate was lost: it may or may not have been made.", retriable: false, hint: "look whether it was made before asking again";
}

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
    fn new(code: &HttpCode, status: StatusCode, message: impl Into<String>) -> HttpError {
        HttpError {
            status,
            code: code.name,
            message: message.into(),
            hint: code.hint,
            retriable: code.retriable,
            reason: None,
        }
    }

    /// Nothing is served under this path.
    #[must_use]
    pub fn no_such_route(path: &str) -> HttpError {
        let message = format!("nothing is served at {path}");
        HttpError::new(&NO_SUCH_ROUTE, StatusCode::NOT_FOUND, message)
    }

    /// The path is served, but not with this method.
    #[must_use]
    pub fn method_not_allowed(method: &str, path: &str) -> HttpError {
        let message = format!("{path} does not take {method}");
        HttpError::new(&METHOD_NOT_ALLOWED, StatusCode::METHOD_NOT_ALLOWED, message)
    }

    /// The request does not parse, or is not what the route takes; the status says which.
    #[must_use]
    pub fn bad_request(status: StatusCode, message: impl Into<String>) -> HttpError {
        HttpError::new(&BAD_REQUEST, status, message)
    }

    /// The metadata group does not take a change now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> HttpError {
        HttpError::new(&CLUSTER_UNAVAILABLE, StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// The metadata group refuses a change.
    #[must_use]
    pub fn refused(message: impl Into<String>) -> HttpError {
        HttpError::new(&REFUSED, StatusCode::BAD_REQUEST, message)
    }

    /// An operator's order is refused.
    #[must_use]
    pub fn denied(refusal: &Refusal) -> HttpError {
        HttpError { reason: Some(refusal.name()), ..HttpError::refused(refusal.to_string()) }
    }

    /// A change may have been made.
    #[must_use]
    pub fn unknown(message: impl Into<String>) -> HttpError {
        HttpError::new(&OUTCOME_UNKNOWN, StatusCode::GATEWAY_TIMEOUT, message)
    }

    /// Our own fault.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> HttpError {
        HttpError::new(&INTERNAL, StatusCode::INTERNAL_SERVER_ERROR, message)
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}
