//! ListConfigResources: everything that has settings of its own.

use super::Node;
use super::describe_configs::{BROKER, TOPIC};
use kappa_protocol::messages::list_config_resources_response::ConfigResource;
use kappa_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

/// Client metrics subscriptions, all that version 0 can list; there are none.
const CLIENT_METRICS: i8 = 16;
/// Settings of groups; there are none.
const GROUP: i8 = 32;
/// Logging of a broker; it is not set by requests.
const BROKER_LOGGER: i8 = 8;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: ListConfigResourcesRequest) -> Reply {
    if !cx.allows(Operation::DescribeConfigs, Resource::Cluster) {
        let error_code = node.error(ErrorCode::ClusterAuthorizationFailed);
        return Reply::Now(ListConfigResourcesResponse { error_code, ..Default::default() }.into());
    }
    let types = match (cx.version, request.resource_types.as_slice()) {
        (0, _) => vec![CLIENT_METRICS],
        (_, []) => vec![TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP],
        (_, types) => types.to_vec(),
    };
    let known = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    if types.iter().any(|kind| !known.contains(kind)) {
        let error_code = node.error(ErrorCode::UnsupportedVersion);
        return Reply::Now(ListConfigResourcesResponse { error_code, ..Default::default() }.into());
    }
    let mut config_resources = Vec::new();
    let mut list = |resource_type: i8, resource_name: String| {
        config_resources.push(ConfigResource { resource_name, resource_type });
    };
    if types.contains(&TOPIC) {
        let topics = node.topics.all();
        let listed = topics.iter().filter(|topic| topic.is_listed());
        listed.for_each(|topic| list(TOPIC, topic.name.to_string()));
    }
    if types.contains(&BROKER) {
        list(BROKER, node.id().to_string());
    }
    if types.contains(&BROKER_LOGGER) {
        list(BROKER_LOGGER, node.id().to_string());
    }
    Reply::Now(ListConfigResourcesResponse { config_resources, ..Default::default() }.into())
}
