//! The cluster over HTTP: how it is, and tokens that let nodes join. Any node answers; what changes
//! something goes to the leader of the metadata group.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use ironring_core::WallTime;
use ironring_ring::metadata::{Command, JoinToken, Outcome, TOKEN_VALID_MS};
use serde::{Deserialize, Serialize};

use super::error::HttpError;
use super::request::{Body, Query};
use super::routes::Shared;
use crate::cluster::plane::{Answer, Ask, Failure};
use crate::cluster::status::{ClusterStatus, MemberView};
use crate::cluster::token;
use crate::driver::clock;

/// How long the metadata group may take; a little more than it takes itself at the most.
const WITHIN: Duration = Duration::from_secs(11);
/// Longest time a token may be valid.
const VALID_MAX_S: u64 = 366 * 24 * 60 * 60;

pub(super) async fn status(State(shared): State<Shared>) -> Result<Json<ClusterStatus>, HttpError> {
    let status = ClusterStatus::of(shared.board());
    status.map(Json).ok_or_else(|| HttpError::unavailable("the metadata group starts"))
}

pub(super) async fn members(
    State(shared): State<Shared>,
) -> Result<Json<Vec<MemberView>>, HttpError> {
    Ok(Json(status(State(shared)).await?.0.members))
}

/// A token as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Its public name.
    pub id: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_unix_ms: u64,
    /// Until when it lets nodes in.
    pub expires_unix_ms: u64,
    /// Whether it lets in one node only.
    pub single_use: bool,
    /// The last node it let in.
    pub used_by: Option<u64>,
    /// The secret; only in the answer to who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl TokenView {
    fn new(token: &JoinToken, secret: Option<String>) -> TokenView {
        TokenView {
            id: token.id.clone(),
            created_unix_ms: token.created.0,
            expires_unix_ms: token.expires.0,
            single_use: token.single_use,
            used_by: token.used_by.map(|node| node.0),
            token: secret,
        }
    }
}

pub(super) async fn tokens(State(shared): State<Shared>) -> Json<Vec<TokenView>> {
    let metadata = shared.board().metadata();
    Json(metadata.tokens().values().map(|token| TokenView::new(token, None)).collect())
}

/// What a new token should be like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenWish {
    /// For how many seconds it is valid; none: a day.
    pub valid_s: Option<u64>,
    /// Whether it lets in one node only.
    pub single_use: bool,
}

pub(super) async fn create_token(
    State(shared): State<Shared>,
    Body(wish): Body<TokenWish>,
) -> Result<Json<TokenView>, HttpError> {
    let valid_s = wish.valid_s.unwrap_or(TOKEN_VALID_MS / 1000);
    if valid_s == 0 || valid_s > VALID_MAX_S {
        return Err(HttpError::refused(format!(
            "a token is valid for 1 to {VALID_MAX_S} seconds, not {valid_s}"
        )));
    }
    let now: WallTime = clock::now().wall;
    let (secret, token) = token::draw(now, valid_s * 1000, wish.single_use);
    let view = TokenView::new(&token, Some(secret));
    change(&shared, Command::AddToken(token)).await?;
    Ok(Json(view))
}

/// Which token.
#[derive(Deserialize)]
pub(super) struct TokenName {
    id: String,
}

pub(super) async fn revoke_token(
    State(shared): State<Shared>,
    Query(TokenName { id }): Query<TokenName>,
) -> Result<Json<Revoked>, HttpError> {
    change(&shared, Command::RevokeToken { id: id.clone() }).await?;
    Ok(Json(Revoked { revoked: id }))
}

/// A token that lets nobody in any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Its public name.
    pub revoked: String,
}

/// Has the metadata group make a change, and waits for it.
async fn change(shared: &Shared, command: Command) -> Result<(), HttpError> {
    ask(shared, Ask::Change(Box::new(command))).await.map(|_| ())
}

/// Asks the node, or the one that leads the metadata group, and waits for what comes of it.
pub(super) async fn ask(shared: &Shared, ask: Ask) -> Result<Answer, HttpError> {
    let told = shared.board().order(ask);
    let answer = match tokio::time::timeout(WITHIN, told).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => return Err(HttpError::unavailable("the node is about to stop")),
        Err(_) => Answer::Failed(Failure::Unknown),
    };
    match answer {
        Answer::Applied(Outcome::Rejected(why)) => Err(HttpError::refused(why.to_string())),
        Answer::Failed(Failure::Unknown) => Err(HttpError::unknown(Failure::Unknown.to_string())),
        Answer::Failed(Failure::Begun(why)) => Err(HttpError::unknown(why)),
        Answer::Failed(Failure::Refused(why)) => Err(HttpError::refused(why)),
        Answer::Failed(Failure::Denied(refusal)) => Err(HttpError::denied(&refusal)),
        Answer::Failed(failure) => Err(HttpError::unavailable(failure.to_string())),
        answer => Ok(answer),
    }
}
