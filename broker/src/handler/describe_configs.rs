//! DescribeConfigs: what holds for topics and brokers, where it comes from, and what it means.

use super::{Node, Refusal, elsewhere, joined};
use crate::config::{BrokerLayers, Overrides, Property, Scope, Setting, Source, TABLE, topic_settings};
use kappa_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kappa_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kappa_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

/// Kafka's number for topics.
pub(crate) const TOPIC: i8 = 2;
/// Kafka's number for brokers; the empty name stands for all of them.
pub(crate) const BROKER: i8 = 4;

/// What the request wants to know beside the values.
#[derive(Clone, Copy)]
struct Detail {
    synonyms: bool,
    documentation: bool,
}

/// Resources from which on describing them takes too long for the thread that serves everybody.
const MANY_RESOURCES: usize = 20;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, mut request: DescribeConfigsRequest) -> Reply {
    let named = |resource: &DescribeConfigsResource| {
        (u128::from(resource.resource_type.unsigned_abs()), resource.resource_name.clone())
    };
    request.resources = joined(request.resources, named, |first, again| {
        let all = |keys: &Option<Vec<String>>| keys.as_ref().is_none_or(Vec::is_empty);
        match (&mut first.configuration_keys, again.configuration_keys) {
            (Some(keys), Some(others)) if !keys.is_empty() && !others.is_empty() => keys.extend(others),
            (keys, others) if !all(keys) && all(&others) => *keys = None,
            _ => {}
        }
    });
    match request.resources.len() {
        MANY_RESOURCES.. => elsewhere(node, cx, request, describe_all),
        _ => describe_all(node, cx, request),
    }
}

fn describe_all(node: &Arc<Node>, cx: &Context, request: DescribeConfigsRequest) -> Reply {
    let detail = Detail { synonyms: request.include_synonyms, documentation: request.include_documentation };
    let results = request
        .resources
        .into_iter()
        .map(|resource| {
            let described = describe(node, cx, &resource, detail);
            let (configs, refusal) = match described {
                Ok(configs) => (configs, None),
                Err(refusal) => (Vec::new(), Some(refusal)),
            };
            DescribeConfigsResult {
                error_code: refusal.as_ref().map_or(0, |refusal| node.error(refusal.code)),
                error_message: refusal.map(|refusal| refusal.message),
                resource_type: resource.resource_type,
                resource_name: resource.resource_name,
                configs,
            }
        })
        .collect();
    Reply::Now(DescribeConfigsResponse { results, ..Default::default() }.into())
}

fn describe(
    node: &Node,
    cx: &Context,
    resource: &DescribeConfigsResource,
    detail: Detail,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    let wanted = |name: &str| match resource.configuration_keys.as_deref() {
        None | Some([]) => true,
        Some(keys) => keys.iter().any(|key| key == name),
    };
    let layers = node.topics.layers();
    match resource.resource_type {
        TOPIC => {
            let overrides = topic_overrides(node, cx, &resource.resource_name)?;
            let properties = TABLE.iter().filter(|p| p.is_dynamic() && wanted(p.name));
            let describe = |property| of_topic(property, &overrides, &layers, detail);
            Ok(properties.map(describe).collect())
        }
        BROKER if resource.resource_name.is_empty() => {
            let properties = TABLE.iter().filter(|p| wanted(p.broker_name()));
            Ok(properties.filter_map(|property| of_all_brokers(property, &layers, detail)).collect())
        }
        BROKER if resource.resource_name == node.id().to_string() => {
            let properties = TABLE.iter().filter(|p| wanted(p.broker_name()));
            Ok(properties.map(|property| of_broker(property, &layers, detail)).collect())
        }
        BROKER => Err(Refusal::new(
            ErrorCode::InvalidRequest,
            format!("there is no broker {}: this one is {}", resource.resource_name, node.id()),
        )),
        // Client metrics, groups and loggers have no settings here.
        8 | 16 | 32 => Ok(Vec::new()),
        other => Err(Refusal::new(
            ErrorCode::InvalidRequest,
            format!("resources of type {other} have no configuration"),
        )),
    }
}

fn topic_overrides(node: &Node, cx: &Context, name: &str) -> Result<Arc<Overrides>, Refusal> {
    if !cx.allows(Operation::DescribeConfigs, Resource::Topic(name)) {
        let message = format!("not allowed to describe the configuration of topic {name}");
        return Err(Refusal::new(ErrorCode::TopicAuthorizationFailed, message));
    }
    if let Err(error) = crate::topic::TopicName::new(name) {
        return Err(Refusal::new(ErrorCode::InvalidTopicException, error.to_string()));
    }
    let topic = node.topics.topic(name).ok_or_else(|| Refusal::unknown_topic(name, uuid::Uuid::nil()))?;
    Ok(topic.overrides())
}

fn of_topic(
    property: &'static Property,
    overrides: &Overrides,
    layers: &BrokerLayers,
    detail: Detail,
) -> DescribeConfigsResourceResult {
    result(property.name, property, false, topic_settings(property, overrides, layers), detail)
}

fn of_broker(
    property: &'static Property,
    layers: &BrokerLayers,
    detail: Detail,
) -> DescribeConfigsResourceResult {
    let read_only = property.scope == Scope::Broker;
    result(property.broker_name(), property, read_only, layers.settings(property), detail)
}

/// Only what was set at run time for all brokers.
fn of_all_brokers(
    property: &'static Property,
    layers: &BrokerLayers,
    detail: Detail,
) -> Option<DescribeConfigsResourceResult> {
    let mut settings = layers.settings(property);
    settings.retain(|setting| setting.source == Source::DynamicDefault);
    (!settings.is_empty()).then(|| result(property.broker_name(), property, false, settings, detail))
}

fn result(
    name: &str,
    property: &Property,
    read_only: bool,
    settings: Vec<Setting<'_>>,
    detail: Detail,
) -> DescribeConfigsResourceResult {
    let holding = settings.first();
    DescribeConfigsResourceResult {
        name: name.to_owned(),
        value: holding.map(|setting| setting.value.to_string()),
        read_only,
        config_source: holding.map_or(Source::Default as i8, |setting| setting.source as i8),
        config_type: property.kind.wire_type(),
        documentation: detail.documentation.then(|| property.doc.to_owned()),
        synonyms: if detail.synonyms { settings.iter().map(synonym).collect() } else { Vec::new() },
        ..Default::default()
    }
}

fn synonym(setting: &Setting<'_>) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym {
        name: setting.name.to_owned(),
        value: Some(setting.value.to_string()),
        source: setting.source as i8,
    }
}
