//! UpdateFeatures: the levels of features stand as ApiVersions tells them, and stay (KIP-584, KIP-1022).

use super::{Node, Refusal, api_versions, once};
use kappa_protocol::messages::api_versions_response::FinalizedFeatureKey;
use kappa_protocol::messages::update_features_request::FeatureUpdateKey;
use kappa_protocol::messages::update_features_response::UpdatableFeatureResult;
use kappa_protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

/// Upgrade, safe downgrade, unsafe downgrade.
const UPGRADE_TYPES: [i8; 3] = [1, 2, 3];

/// All updates of a request are accepted or none. As accepted ones change nothing, `validate_only` makes no difference.
pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: UpdateFeaturesRequest) -> Reply {
    let finalized = api_versions::finalized();
    let checked = match cx.allows(Operation::Alter, Resource::Cluster) {
        true => request.feature_updates.iter().try_for_each(|update| check(&finalized, update)),
        false => Err(Refusal::new(ErrorCode::ClusterAuthorizationFailed, "not allowed to alter the cluster")),
    };
    let response = match checked {
        Ok(()) => UpdateFeaturesResponse {
            error_message: None,
            results: once(request.feature_updates, |update| (0, &update.feature))
                .into_iter()
                .map(done)
                .collect(),
            ..Default::default()
        },
        Err(Refusal { code, message }) => UpdateFeaturesResponse {
            error_code: node.error(code),
            error_message: Some(message),
            ..Default::default()
        },
    };
    Reply::Now(response.into())
}

fn check(finalized: &[FinalizedFeatureKey], update: &FeatureUpdateKey) -> Result<(), Refusal> {
    let FeatureUpdateKey { feature, max_version_level: level, upgrade_type, .. } = update;
    let refused = |why: String| {
        let message = format!("no feature is updated: {why}");
        Err(Refusal::new(ErrorCode::InvalidUpdateVersion, message))
    };
    if !UPGRADE_TYPES.contains(upgrade_type) {
        return refused(format!("there is no upgrade of type {upgrade_type}"));
    }
    match finalized.iter().find(|finalized| finalized.name == *feature) {
        None => refused(format!("this broker has no feature {feature}")),
        Some(finalized) if finalized.max_version_level != *level => {
            let stands = finalized.max_version_level;
            refused(format!("{feature} stands at level {stands}, and cannot be set to {level}"))
        }
        Some(_) => Ok(()),
    }
}

fn done(update: FeatureUpdateKey) -> UpdatableFeatureResult {
    UpdatableFeatureResult { feature: update.feature, error_message: None, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_may_be_set_to_the_level_it_has_and_to_no_other() {
        let finalized =
            [FinalizedFeatureKey { name: "a.version".into(), max_version_level: 2, min_version_level: 2 }];
        let code = |feature: &str, max_version_level, upgrade_type| {
            let feature = feature.to_owned();
            let update = FeatureUpdateKey { feature, max_version_level, upgrade_type, ..Default::default() };
            check(&finalized, &update).map_err(|refusal| refusal.code)
        };
        for upgrade_type in UPGRADE_TYPES {
            assert_eq!(code("a.version", 2, upgrade_type), Ok(()));
            for (feature, level) in
                [("a.version", 1), ("a.version", 3), ("a.version", 0), ("a.version", -1), ("b", 2), ("b", 0)]
            {
                assert_eq!(code(feature, level, upgrade_type), Err(ErrorCode::InvalidUpdateVersion));
            }
        }
        for upgrade_type in [-1, 0, 4] {
            assert_eq!(code("a.version", 2, upgrade_type), Err(ErrorCode::InvalidUpdateVersion));
        }
    }
}
