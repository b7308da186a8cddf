//! Configurations of topics, brokers and groups.

use super::{Admin, ItemResults};
use crate::{LaneKind, RequestError};
use kappa_protocol::{
    ApiKey, RequestMessage,
    messages::{
        DescribeConfigsRequest, IncrementalAlterConfigsRequest,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::DescribeConfigsResourceResult,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    },
};
use std::collections::BTreeMap;

/// What has a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(String),
    /// A broker, by node id.
    Broker(i32),
    /// A consumer group, by id.
    Group(String),
}

impl ConfigResource {
    /// Number of the kind on the wire, and the name.
    pub(crate) fn wire(&self) -> (i8, String) {
        match self {
            ConfigResource::Topic(name) => (2, name.clone()),
            ConfigResource::Broker(node) => (4, node.to_string()),
            ConfigResource::Group(id) => (32, id.clone()),
        }
    }
}

/// Where a configuration value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set on this broker while it runs.
    DynamicBroker,
    /// Set for all brokers while they run.
    DynamicDefault,
    /// From the broker's configuration file or command line.
    StaticBroker,
    /// Built in.
    Default,
    /// Set on the group.
    Group,
    /// Something that this client does not know.
    Unknown,
}

impl From<i8> for ConfigSource {
    fn from(source: i8) -> Self {
        match source {
            1 => ConfigSource::Topic,
            2 => ConfigSource::DynamicBroker,
            3 => ConfigSource::DynamicDefault,
            4 => ConfigSource::StaticBroker,
            5 => ConfigSource::Default,
            8 => ConfigSource::Group,
            _ => ConfigSource::Unknown,
        }
    }
}

/// One configuration value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name, such as `retention.ms`.
    pub name: String,
    /// Its value; `None` for null, or when it is a secret.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: ConfigSource,
    /// Whether it cannot be altered.
    pub read_only: bool,
    /// Whether its value is a secret.
    pub sensitive: bool,
    /// The broker's explanation, where asked for and given.
    pub documentation: Option<String>,
}

/// One change of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// Sets a value.
    Set(String, String),
    /// Goes back to the default.
    Delete(String),
    /// Adds to a list.
    Append(String, String),
    /// Takes from a list.
    Subtract(String, String),
}

impl ConfigChange {
    fn wire(&self) -> AlterableConfig {
        let (name, operation, value) = match self {
            ConfigChange::Set(name, value) => (name, 0, Some(value)),
            ConfigChange::Delete(name) => (name, 1, None),
            ConfigChange::Append(name, value) => (name, 2, Some(value)),
            ConfigChange::Subtract(name, value) => (name, 3, Some(value)),
        };
        AlterableConfig { name: name.clone(), config_operation: operation, value: value.cloned() }
    }
}

impl Admin {
    /// Every configuration value of each resource, defaults included.
    ///
    /// # Errors
    /// If no broker answers; what is wrong with a resource is its own result.
    pub async fn describe_configs(
        &self,
        resources: &[ConfigResource],
    ) -> Result<ItemResults<ConfigResource, Vec<ConfigEntry>>, RequestError> {
        let mut described = BTreeMap::new();
        for resource in resources {
            let (resource_type, resource_name) = resource.wire();
            let request = |version| DescribeConfigsRequest {
                resources: vec![DescribeConfigsResource {
                    resource_type,
                    resource_name: resource_name.clone(),
                    configuration_keys: None,
                }],
                include_synonyms: false,
                include_documentation: version >= 3,
            };
            let mut response = self.ask_for(resource, request).await?;
            let missing = RequestError::Incomplete { api: ApiKey::DescribeConfigs };
            let entries = match response.results.pop() {
                Some(found) => RequestError::check(
                    ApiKey::DescribeConfigs,
                    found.error_code,
                    found.error_message.as_deref(),
                )
                .map(|()| found.configs.into_iter().map(entry).collect()),
                None => Err(missing),
            };
            described.insert(resource.clone(), entries);
        }
        Ok(described)
    }

    /// Changes configurations; what is not named stays as it is.
    ///
    /// # Errors
    /// If no broker answers; what is wrong with a resource is its own result.
    pub async fn alter_configs(
        &self,
        changes: &[(ConfigResource, Vec<ConfigChange>)],
    ) -> Result<ItemResults<ConfigResource, ()>, RequestError> {
        let mut altered = BTreeMap::new();
        for (resource, changes) in changes {
            let (resource_type, resource_name) = resource.wire();
            let request = |_| IncrementalAlterConfigsRequest {
                resources: vec![AlterConfigsResource {
                    resource_type,
                    resource_name: resource_name.clone(),
                    configs: changes.iter().map(ConfigChange::wire).collect(),
                }],
                validate_only: false,
            };
            let mut response = self.ask_for(resource, request).await?;
            let api = ApiKey::IncrementalAlterConfigs;
            let done = match response.responses.pop() {
                Some(done) => RequestError::check(api, done.error_code, done.error_message.as_deref()),
                None => Err(RequestError::Incomplete { api }),
            };
            altered.insert(resource.clone(), done);
        }
        Ok(altered)
    }

    /// A broker answers for itself, any of them for the rest.
    async fn ask_for<R: RequestMessage>(
        &self,
        resource: &ConfigResource,
        build: impl Fn(i16) -> R,
    ) -> Result<R::Response, RequestError> {
        match resource {
            ConfigResource::Broker(node) => {
                self.client.refresh(&[], false).await?;
                self.client.ask(*node, LaneKind::Admin, build).await
            }
            _ => self.client.retry(|| self.client.ask_any(&build), |_| false).await,
        }
    }
}

fn entry(config: DescribeConfigsResourceResult) -> ConfigEntry {
    ConfigEntry {
        name: config.name,
        value: config.value,
        source: ConfigSource::from(config.config_source),
        read_only: config.read_only,
        sensitive: config.is_sensitive,
        documentation: config.documentation,
    }
}
