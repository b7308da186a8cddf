//! DescribeCluster: this broker, which is all of the cluster.

use super::Node;
use super::metadata::CLUSTER_OPERATIONS;
use kappa_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kappa_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};
use kappa_protocol::{Context, ErrorCode, Reply};
use std::sync::Arc;

/// The only kind of endpoint there is: brokers.
const BROKERS: i8 = 1;

pub(crate) fn handle(node: &Arc<Node>, _cx: &Context, request: DescribeClusterRequest) -> Reply {
    if request.endpoint_type != BROKERS {
        let response = DescribeClusterResponse {
            error_code: node.error(ErrorCode::MismatchedEndpointType),
            error_message: Some("this address serves brokers: there is no controller endpoint".into()),
            endpoint_type: BROKERS,
            ..Default::default()
        };
        return Reply::Now(response.into());
    }
    let advertised = node.advertised();
    let response = DescribeClusterResponse {
        endpoint_type: BROKERS,
        cluster_id: node.cluster_id.to_string(),
        controller_id: node.id(),
        brokers: vec![DescribeClusterBroker {
            broker_id: node.id(),
            host: advertised.host.to_string(),
            port: i32::from(advertised.port),
            ..Default::default()
        }],
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true => CLUSTER_OPERATIONS,
            false => i32::MIN,
        },
        ..Default::default()
    };
    Reply::Now(response.into())
}
