//! InitProducerId: gives each idempotent producer an id that no other had before.

use super::{Node, Refusal};
use kappa_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: InitProducerIdRequest) -> Reply {
    if request.transactional_id.as_deref() == Some("") {
        return refused(node, ErrorCode::InvalidRequest);
    }
    if let Some(id) = request.transactional_id {
        // The answer has no room for a message: the log of the broker says why.
        tracing::info!(transactional_id = id, "refused: transactions are not supported yet");
        return refused(node, ErrorCode::UnsupportedVersion);
    }
    if !cx.allows(Operation::IdempotentWrite, Resource::Cluster) {
        return refused(node, ErrorCode::ClusterAuthorizationFailed);
    }
    // A producer that lost track of its sequences gets a new id, whose sequences start anew.
    if let Some(id) = node.topics.reserved_producer_id() {
        return Reply::Now(given(id).into());
    }
    let reserved = node.topics.change(|catalog| catalog.producer_id());
    let node = node.clone();
    Reply::later(async move {
        match reserved.await.and_then(|id| id) {
            Ok(id) => given(id).into(),
            Err(error) => {
                let error_code = node.error(Refusal::from(error).code);
                InitProducerIdResponse { error_code, producer_epoch: -1, ..Default::default() }.into()
            }
        }
    })
}

fn given(producer_id: i64) -> InitProducerIdResponse {
    InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() }
}

fn refused(node: &Node, code: ErrorCode) -> Reply {
    let error_code = node.error(code);
    Reply::Now(InitProducerIdResponse { error_code, producer_epoch: -1, ..Default::default() }.into())
}
