//! What a request brings: its body, its query and a part of its path. They are axum's own, but for
//! what they answer when it does not parse: JSON, as for every other refusal.

use std::error::Error;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::HttpError;

/// The body, which is JSON.
pub struct Body<T>(pub T);

impl<T, S> FromRequest<S> for Body<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = HttpError;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, HttpError> {
        match <Json<T> as FromRequest<S>>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Body(body)),
            Err(rejection) => Err(bad_body(&rejection)),
        }
    }
}

/// The query string.
pub struct Query<T>(pub T);

impl<T, S> FromRequestParts<S> for Query<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Query<T>, HttpError> {
        match extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(extract::Query(query)) => Ok(Query(query)),
            Err(rejection) => {
                let message = format!("the query does not parse: {}", why(&rejection));
                Err(HttpError::bad_request(rejection.status(), message))
            }
        }
    }
}

/// The part of the path that varies.
pub struct Path<T>(pub T);

impl<T, S> FromRequestParts<S> for Path<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Path<T>, HttpError> {
        match <extract::Path<T> as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Ok(extract::Path(part)) => Ok(Path(part)),
            Err(rejection) if rejection.status() == StatusCode::INTERNAL_SERVER_ERROR => {
                Err(HttpError::internal(rejection.body_text()))
            }
            Err(rejection) => {
                let message = format!("the path does not parse: {}", rejection.body_text());
                Err(HttpError::bad_request(rejection.status(), message))
            }
        }
    }
}

fn bad_body(rejection: &JsonRejection) -> HttpError {
    let message = match rejection {
        JsonRejection::MissingJsonContentType(_) => {
            "the body must be JSON, with `Content-Type: application/json`".to_owned()
        }
        JsonRejection::JsonSyntaxError(error) => format!("the body is no JSON: {}", why(error)),
        JsonRejection::JsonDataError(error) => {
            format!("the body is not what is taken here: {}", why(error))
        }
        other => format!("the body cannot be read: {}", why(other)),
    };
    HttpError::bad_request(rejection.status(), message)
}

/// What the parser says, without the words axum puts before it.
fn why(rejection: &dyn Error) -> String {
    match rejection.source() {
        Some(inner) => inner.to_string(),
        None => rejection.to_string(),
    }
}
