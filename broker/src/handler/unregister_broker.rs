//! UnregisterBroker: this broker is all of the cluster, and no other was ever registered (KIP-631).

use super::Node;
use kappa_protocol::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

/// Apache Kafka lets a broker that runs be unregistered, and then has none until its restart; here that is refused.
pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: UnregisterBrokerRequest) -> Reply {
    let broker = request.broker_id;
    let (code, message) = if !cx.allows(Operation::Alter, Resource::Cluster) {
        (ErrorCode::ClusterAuthorizationFailed, "not allowed to alter the cluster".into())
    } else if broker == node.id() {
        (
            ErrorCode::InvalidRequest,
            format!("broker {broker} runs, and is all of the cluster: stop it instead"),
        )
    } else {
        (ErrorCode::BrokerIdNotRegistered, format!("no broker {broker} is registered"))
    };
    let (error_code, error_message) = (node.error(code), Some(message));
    Reply::Now(UnregisterBrokerResponse { error_code, error_message, ..Default::default() }.into())
}
