//! What is served.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::error::HttpError;
use super::ready::Prober;
use super::{NodeView, cluster, orders};
use crate::cluster::Board;
use crate::metrics::{NodeSnapshot, ProcessCounters, exposition};

/// The description of every route, for machines. Written by hand; a test holds it to [`routes`].
pub const OPENAPI: &str = include_str!("openapi.json");

/// What handlers share.
#[derive(Clone)]
pub struct Shared {
    view: Arc<dyn NodeView>,
    prober: Arc<Prober>,
    /// Held while a plan is made: it takes a thread for some seconds, and there are two.
    planning: Arc<Mutex<()>>,
}

impl Shared {
    pub(super) fn board(&self) -> &Board {
        self.view.board()
    }

    /// One plan at a time.
    pub(super) async fn plans(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.planning).lock_owned().await
    }

    fn snapshot(&self) -> NodeSnapshot {
        NodeSnapshot { process: ProcessCounters::read(), ..self.view.snapshot() }
    }
}

/// Every path and its handler.
#[must_use]
pub fn routes() -> Vec<(&'static str, MethodRouter<Shared>)> {
    vec![
        ("/health/live", get(live)),
        ("/health/ready", get(ready)),
        ("/metrics", get(metrics)),
        ("/v1/cluster/configure", post(orders::configure)),
        ("/v1/cluster/demote", post(orders::demote)),
        ("/v1/cluster/leave", post(orders::leave)),
        ("/v1/cluster/members", get(cluster::members)),
        ("/v1/cluster/promote", post(orders::promote)),
        ("/v1/cluster/rebalance", get(orders::rebalance).post(orders::set_rebalance)),
        ("/v1/cluster/rebalance/plan", get(orders::rebalance_plan)),
        ("/v1/cluster/snapshot", post(orders::snapshot)),
        ("/v1/cluster/status", get(cluster::status)),
        (
            "/v1/cluster/tokens",
            get(cluster::tokens).post(cluster::create_token).delete(cluster::revoke_token),
        ),
        ("/v1/cluster/transfer", post(orders::transfer)),
        ("/v1/node", get(node)),
        ("/v1/nodes/{id}", get(orders::going)),
        ("/v1/nodes/{id}/drain", post(orders::drain)),
        ("/v1/nodes/{id}/resume", post(orders::resume)),
        ("/v1/openapi.json", get(openapi)),
        ("/v1/partitions", get(orders::partitions)),
        ("/v1/partitions/{id}/elect-unclean", post(orders::elect_unclean)),
        ("/v1/partitions/{id}/move", post(orders::move_partition)),
        ("/v1/partitions/{id}/transfer", post(orders::transfer_partition)),
    ]
}

/// The router over a node.
pub fn router(view: Arc<dyn NodeView>) -> Router {
    let prober = Arc::new(Prober::new(Arc::clone(&view)));
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, handler)| {
            router.route(path, handler.fallback(wrong_method))
        })
        .fallback(no_such_route)
        .with_state(Shared { view, prober, planning: Arc::default() })
}

/// The process runs and this thread answers; nothing is said about shards.
async fn live() -> Json<Live> {
    Json(Live { live: true })
}

#[derive(Serialize)]
struct Live {
    live: bool,
}

async fn ready(State(shared): State<Shared>) -> Response {
    let readiness = shared.prober.readiness(Instant::now()).await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Result<Response, HttpError> {
    let text = exposition::text(shared.snapshot())
        .map_err(|_| HttpError::internal("the metrics could not be encoded"))?;
    Ok(typed(exposition::CONTENT_TYPE, text))
}

/// The snapshot, and what it comes to.
#[derive(Serialize)]
struct NodeStatus {
    ready: bool,
    reasons: Vec<String>,
    #[serde(flatten)]
    snapshot: NodeSnapshot,
}

async fn node(State(shared): State<Shared>) -> Json<NodeStatus> {
    let snapshot = shared.snapshot();
    let reasons = snapshot.not_ready_reasons();
    Json(NodeStatus { ready: reasons.is_empty(), reasons, snapshot })
}

async fn openapi() -> Response {
    typed("application/json", OPENAPI.to_owned())
}

fn typed(content_type: &'static str, body: String) -> Response {
    const NAME: HeaderName = header::CONTENT_TYPE;
    ([(NAME, content_type)], body).into_response()
}

async fn no_such_route(uri: Uri) -> HttpError {
    HttpError::no_such_route(uri.path())
}

async fn wrong_method(method: Method, uri: Uri) -> HttpError {
    HttpError::method_not_allowed(method.as_str(), uri.path())
}
