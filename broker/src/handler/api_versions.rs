//! ApiVersions: what this broker answers.

use super::{Api, Node};
use kappa_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey};
use kappa_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kappa_protocol::{ApiKey, Context, ErrorCode, Reply};
use std::sync::Arc;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: ApiVersionsRequest) -> Reply {
    let named = |text: &str| is_software_name(text);
    if cx.version >= 3 && !(named(&request.client_software_name) && named(&request.client_software_version)) {
        let error_code = node.error(ErrorCode::InvalidRequest);
        return Reply::Now(ApiVersionsResponse { error_code, ..Default::default() }.into());
    }
    let api_keys = node.apis.iter().map(version_range).collect();
    let response = ApiVersionsResponse {
        api_keys,
        finalized_features_epoch: 0,
        finalized_features: finalized(),
        ..Default::default()
    };
    Reply::Now(response.into())
}

/// No feature is finalized: those of Apache Kafka stand for things this broker does not have.
pub(crate) fn finalized() -> Vec<FinalizedFeatureKey> {
    Vec::new()
}

/// The answer to a version that is not served: readable in version 0, and naming the versions that are.
pub(crate) fn unsupported(node: &Node) -> ApiVersionsResponse {
    let error_code = node.error(ErrorCode::UnsupportedVersion);
    let own = |api: &&Api| api.key == ApiKey::ApiVersions;
    let api_keys = node.apis.iter().filter(own).map(version_range).collect();
    ApiVersionsResponse { error_code, api_keys, ..Default::default() }
}

fn version_range(api: &Api) -> ApiVersion {
    ApiVersion {
        api_key: api.key as i16,
        min_version: *api.versions.start(),
        max_version: *api.versions.end(),
    }
}

/// Letters, digits, `-` and `.`, beginning and ending with a letter or digit (KIP-511).
fn is_software_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    text.chars().all(inner)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}
