//! AlterConfigs and IncrementalAlterConfigs: settings of topics and brokers, durable before they are answered.

use super::describe_configs::{BROKER, TOPIC};
use super::{Node, Refusal};
use crate::config::{
    BrokerLayers, Kind, Overrides, Property, Scope, broker_property, set_broker, set_topic, topic_property,
    topic_settings, unknown_broker_property, unknown_topic_property,
};
use crate::topic::{ConfigChange, ConfigOwner, TopicError};
use kappa_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, alter_configs_response, incremental_alter_configs_response,
};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

/// What is done to one property.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    Set(String),
    Delete,
    /// Adds items to a list.
    Append(String),
    /// Takes items out of a list.
    Subtract(String),
}

/// What is done to the properties of one resource.
struct Alteration {
    resource_type: i8,
    resource_name: String,
    /// Whether everything that is not named is unset.
    replace: bool,
    operators: Result<Vec<(String, Operator)>, Refusal>,
}

/// What came of an alteration, with the resource it was about.
struct Altered {
    resource_type: i8,
    resource_name: String,
    error_code: i16,
    error_message: Option<String>,
}

pub(crate) fn alter(node: &Arc<Node>, cx: &Context, request: AlterConfigsRequest) -> Reply {
    let alterations = request
        .resources
        .into_iter()
        .map(|resource| Alteration {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            replace: true,
            operators: resource
                .configs
                .into_iter()
                .map(|config| match config.value {
                    Some(value) => Ok((config.name, Operator::Set(value))),
                    None => Err(no_value(&config.name)),
                })
                .collect(),
        })
        .collect();
    let altered = apply(node, cx, alterations, request.validate_only);
    Reply::later(async move {
        let responses = altered
            .await
            .into_iter()
            .map(|altered| alter_configs_response::AlterConfigsResourceResponse {
                error_code: altered.error_code,
                error_message: altered.error_message,
                resource_type: altered.resource_type,
                resource_name: altered.resource_name,
            })
            .collect();
        AlterConfigsResponse { responses, ..Default::default() }.into()
    })
}

pub(crate) fn alter_incrementally(
    node: &Arc<Node>,
    cx: &Context,
    request: IncrementalAlterConfigsRequest,
) -> Reply {
    let alterations = request
        .resources
        .into_iter()
        .map(|resource| Alteration {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            replace: false,
            operators: resource
                .configs
                .into_iter()
                .map(|config| {
                    Ok((config.name.clone(), operator(config.name, config.config_operation, config.value)?))
                })
                .collect(),
        })
        .collect();
    let altered = apply(node, cx, alterations, request.validate_only);
    Reply::later(async move {
        let responses = altered
            .await
            .into_iter()
            .map(|altered| incremental_alter_configs_response::AlterConfigsResourceResponse {
                error_code: altered.error_code,
                error_message: altered.error_message,
                resource_type: altered.resource_type,
                resource_name: altered.resource_name,
            })
            .collect();
        IncrementalAlterConfigsResponse { responses, ..Default::default() }.into()
    })
}

fn no_value(name: &str) -> Refusal {
    Refusal::new(ErrorCode::InvalidConfig, format!("{name} has no value"))
}

fn operator(name: String, operation: i8, value: Option<String>) -> Result<Operator, Refusal> {
    match (operation, value) {
        (1, _) => Ok(Operator::Delete),
        (0, Some(value)) => Ok(Operator::Set(value)),
        (2, Some(value)) => Ok(Operator::Append(value)),
        (3, Some(value)) => Ok(Operator::Subtract(value)),
        (0 | 2 | 3, None) => Err(no_value(&name)),
        (other, _) => {
            Err(Refusal::new(ErrorCode::InvalidRequest, format!("{name}: there is no operation {other}")))
        }
    }
}

/// Hands the alterations that make sense to the catalog; the future has an outcome for each, in order.
fn apply(
    node: &Arc<Node>,
    cx: &Context,
    alterations: Vec<Alteration>,
    validate_only: bool,
) -> impl Future<Output = Vec<Altered>> + Send + 'static {
    let mut seen = BTreeSet::new();
    let (mut changes, mut resources) = (Vec::new(), Vec::new());
    for Alteration { resource_type, resource_name, replace, operators } in alterations {
        let change = owner(node, cx, resource_type, &resource_name).and_then(|owner| {
            if !seen.insert(owner.clone()) {
                let message = "the resource stands in the request more than once";
                return Err(Refusal::new(ErrorCode::InvalidRequest, message));
            }
            Ok((owner.clone(), change(owner, replace, distinct(operators?)?)))
        });
        let refusal = match change {
            Ok(change) => {
                changes.push(change);
                None
            }
            Err(refusal) => Some(refusal),
        };
        resources.push((resource_type, resource_name, refusal));
    }
    let count = changes.len();
    let altered = node.topics.change(move |catalog| catalog.alter_configs(changes, validate_only));
    let node = node.clone();
    async move {
        let mut outcomes = match altered.await {
            Ok(outcomes) => outcomes.into_iter(),
            Err(error) => vec![Err(error); count].into_iter(),
        };
        let outcome = |(resource_type, resource_name, refusal): (i8, String, Option<Refusal>)| {
            let refusal = refusal.or_else(|| outcomes.next()?.err().map(Refusal::from));
            Altered {
                resource_type,
                resource_name,
                error_code: refusal.as_ref().map_or(0, |refusal| node.error(refusal.code)),
                error_message: refusal.map(|refusal| refusal.message),
            }
        };
        resources.into_iter().map(outcome).collect()
    }
}

fn distinct(operators: Vec<(String, Operator)>) -> Result<Vec<(String, Operator)>, Refusal> {
    let mut names = BTreeSet::new();
    match operators.iter().find(|(name, _)| !names.insert(name.as_str())) {
        Some((name, _)) => Err(Refusal::new(
            ErrorCode::InvalidRequest,
            format!("{name} stands in the request more than once"),
        )),
        None => Ok(operators),
    }
}

fn owner(node: &Node, cx: &Context, resource_type: i8, name: &str) -> Result<ConfigOwner, Refusal> {
    match resource_type {
        TOPIC if !cx.allows(Operation::AlterConfigs, Resource::Topic(name)) => {
            let message = format!("not allowed to alter the configuration of topic {name}");
            Err(Refusal::new(ErrorCode::TopicAuthorizationFailed, message))
        }
        TOPIC => Ok(ConfigOwner::Topic(name.to_owned())),
        BROKER if !cx.allows(Operation::AlterConfigs, Resource::Cluster) => {
            let message = "not allowed to alter the configuration of brokers";
            Err(Refusal::new(ErrorCode::ClusterAuthorizationFailed, message))
        }
        BROKER if name.is_empty() => Ok(ConfigOwner::Broker(None)),
        BROKER if name == node.id().to_string() => Ok(ConfigOwner::Broker(Some(node.id()))),
        BROKER => {
            let message = format!("there is no broker {name}: this one is {}", node.id());
            Err(Refusal::new(ErrorCode::InvalidRequest, message))
        }
        other => {
            let message = format!("resources of type {other} have no configuration to alter");
            Err(Refusal::new(ErrorCode::InvalidRequest, message))
        }
    }
}

fn change(owner: ConfigOwner, replace: bool, operators: Vec<(String, Operator)>) -> ConfigChange {
    Box::new(move |present, layers| {
        let mut next = if replace { Overrides::new() } else { present.clone() };
        for (name, operator) in &operators {
            let property = property(&owner, name)?;
            let value = match operator {
                Operator::Delete => {
                    next.remove(name);
                    continue;
                }
                Operator::Set(value) => value.clone(),
                Operator::Append(items) => {
                    let mut list = items_of(property, &current(&owner, property, &next, layers))?;
                    list.extend(split(items).filter(|item| !list.contains(item)).collect::<Vec<_>>());
                    list.join(",")
                }
                Operator::Subtract(items) => {
                    let mut list = items_of(property, &current(&owner, property, &next, layers))?;
                    list.retain(|item| !split(items).any(|gone| gone == *item));
                    list.join(",")
                }
            };
            match owner {
                ConfigOwner::Topic(_) => set_topic(&mut next, name, &value)?,
                ConfigOwner::Broker(_) => set_broker(&mut next, name, &value)?,
            }
        }
        Ok(next)
    })
}

fn property(owner: &ConfigOwner, name: &str) -> Result<&'static Property, TopicError> {
    match owner {
        ConfigOwner::Topic(_) => Ok(topic_property(name).ok_or_else(|| unknown_topic_property(name))?),
        ConfigOwner::Broker(_) => {
            let property = broker_property(name).ok_or_else(|| unknown_broker_property(name))?;
            if property.scope == Scope::Broker {
                let message =
                    format!("{name} is read when the broker starts: set it by --set or in the --config file");
                return Err(TopicError::Config(message));
            }
            Ok(property)
        }
    }
}

fn current(
    owner: &ConfigOwner,
    property: &'static Property,
    own: &Overrides,
    layers: &BrokerLayers,
) -> String {
    let holding = match owner {
        ConfigOwner::Topic(_) => {
            topic_settings(property, own, layers).into_iter().next().map(|found| found.value)
        }
        ConfigOwner::Broker(_) => own.get(property.broker_name()).map(|value| Cow::Borrowed(value.as_str())),
    };
    holding.unwrap_or_else(|| layers.value(property)).into_owned()
}

fn items_of(property: &Property, value: &str) -> Result<Vec<String>, TopicError> {
    match property.kind {
        Kind::List(_) => Ok(split(value).collect()),
        _ => Err(TopicError::Config(format!(
            "{} is not a list: nothing can be added or taken out",
            property.name
        ))),
    }
}

fn split(value: &str) -> impl Iterator<Item = String> + '_ {
    value.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty())
}
