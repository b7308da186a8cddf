//! Requests that are not handled where their frame was read: large ones, and those with long answers.
//!
//! Invariants: a long answer is made and encoded with its memory reserved, and whoever waits for that lets others pass what
//! it holds itself; only one large request at a time is decoded.

use super::{ConnectionError, Framing, Outcome};
use crate::budget::{Parked, Share};
use crate::dispatch::{Asked, Frame, LONG_BYTES, encoded_bytes};
use crate::handler::Node;
use kappa_protocol::{LaneError, Reply, Response};
use std::sync::Arc;

/// Handles a request, which is `counted` as so many bytes, when this is polled first.
pub(super) async fn handle_later(
    node: Arc<Node>,
    frame: Frame,
    framing: Framing,
    counted: usize,
) -> Result<Outcome, ConnectionError> {
    let asked = frame.decode(&node)?;
    let Some(bytes) = asked.short_bytes(&node) else {
        let parked = node.budget.park(counted);
        return answer_elsewhere(node, asked, framing, parked).await;
    };
    let mut kept = node.budget.share();
    kept.set(bytes);
    Ok(match asked.handle(&node) {
        Reply::Now(response) => Outcome::Response(response),
        Reply::Later(reply) => Outcome::Response(reply.await?),
        Reply::None => Outcome::None,
    })
}

/// Encodes a long answer where it holds up no other client, once there is memory for that.
pub(super) async fn encode_elsewhere(
    node: Arc<Node>,
    framing: Framing,
    response: Response,
    parked: Parked,
) -> Result<Outcome, ConnectionError> {
    let reserved = node.budget.reserve_whole(encoded_bytes(&response)).await;
    drop(parked);
    let encoded = encode_by_job(&node, framing, response).await;
    drop(reserved);
    encoded
}

async fn encode_by_job(
    node: &Node,
    framing: Framing,
    response: Response,
) -> Result<Outcome, ConnectionError> {
    let encoded = node.jobs.run(move || framing.encode(&response)).await;
    Ok(Outcome::Pieces(encoded.map_err(|_| lost("the encoder of a long answer panicked"))??))
}

/// Handles a request whose answer may be long where it holds up no other client, once there is memory for that.
pub(super) async fn answer_elsewhere(
    node: Arc<Node>,
    asked: Asked,
    framing: Framing,
    parked: Parked,
) -> Result<Outcome, ConnectionError> {
    let (reply, reserved) = handle_by_job(&node, asked, parked).await?;
    finish_elsewhere(node, framing, reply, reserved).await
}

/// Decodes and handles a large request on the background runtime, one at a time of all.
pub(super) async fn handle_elsewhere(
    node: Arc<Node>,
    frame: Frame,
    framing: Framing,
    parked: Parked,
) -> Result<Outcome, ConnectionError> {
    let permit = node.large_requests.acquire().await;
    let work_node = node.clone();
    let decoded = node.jobs.run(move || frame.decode(&work_node)).await;
    let asked = decoded.map_err(|_| lost("the decoder of a large request panicked"))??;
    let (reply, reserved) = handle_by_job(&node, asked, parked).await?;
    drop(permit);
    finish_elsewhere(node.clone(), framing, reply, reserved).await
}

/// The reply, with the memory that was reserved for it.
async fn handle_by_job(
    node: &Arc<Node>,
    asked: Asked,
    parked: Parked,
) -> Result<(Reply, Option<Share>), LaneError> {
    let panicked = |_| lost("the handler of a large request or answer panicked");
    let work_node = node.clone();
    let (bytes, asked) = node.jobs.run(move || (asked.weigh(&work_node), asked)).await.map_err(panicked)?;
    let reserved = match bytes {
        LONG_BYTES.. => Some(node.budget.reserve_whole(bytes).await),
        _ => None,
    };
    drop(parked);
    let work_node = node.clone();
    let reply = node.jobs.run(move || asked.handle(&work_node)).await.map_err(panicked)?;
    Ok((reply, reserved))
}

async fn finish_elsewhere(
    node: Arc<Node>,
    framing: Framing,
    reply: Reply,
    reserved: Option<Share>,
) -> Result<Outcome, ConnectionError> {
    let response = match reply {
        Reply::Now(response) => response,
        Reply::Later(reply) => reply.await?,
        Reply::None => return Ok(Outcome::None),
    };
    if reserved.is_none() {
        return Ok(Outcome::Response(response));
    }
    let encoded = encode_by_job(&node, framing, response).await;
    drop(reserved);
    encoded
}

fn lost(why: &str) -> LaneError {
    LaneError::Disconnected { reason: why.into() }
}
