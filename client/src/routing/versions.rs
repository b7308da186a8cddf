//! Which version of each API a node and this client share.
//!
//! The newest one is used, except where a newer one brings nothing here: [`newest`] has the exceptions.

use kappa_protocol::{ApiKey, messages::ApiVersionsResponse};

/// The version ranges that a node told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Versions {
    /// Indexed by API number.
    ranges: Vec<Option<(i16, i16)>>,
}

impl Versions {
    /// Reads a node's answer; APIs that this client does not know are left out.
    pub(crate) fn new(response: &ApiVersionsResponse) -> Versions {
        let mut ranges = vec![None; ApiKey::ALL.iter().map(|key| *key as usize + 1).max().unwrap_or(0)];
        for api in &response.api_keys {
            if let Some(range) = usize::try_from(api.api_key).ok().and_then(|key| ranges.get_mut(key)) {
                *range = Some((api.min_version, api.max_version));
            }
        }
        Versions { ranges }
    }

    /// The newest version of `key`, at most `max`, that both sides know.
    pub(crate) fn at_most(&self, key: ApiKey, max: i16) -> Option<i16> {
        let (theirs_min, theirs_max) = (*self.ranges.get(key as usize)?)?;
        let version = theirs_max.min(newest(key)).min(max);
        (version >= theirs_min.max(key.schema().min)).then_some(version)
    }

    /// The newest version of `key` that both sides know.
    pub(crate) fn newest(&self, key: ApiKey) -> Option<i16> {
        self.at_most(key, i16::MAX)
    }
}

/// The newest version that this client uses.
pub(crate) fn newest(key: ApiKey) -> i16 {
    match key {
        // Version 6 is unstable and serves two-phase commit only.
        ApiKey::InitProducerId => 5,
        // Later versions name topics by id; offsets are kept by name, and so outlive a topic that is made anew.
        ApiKey::OffsetCommit | ApiKey::OffsetFetch => 9,
        // Version 4 and later are for brokers that verify transactions.
        ApiKey::AddPartitionsToTxn => 3,
        _ => key.schema().max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kappa_protocol::messages::api_versions_response::ApiVersion;

    #[test]
    fn newest_common_version_is_chosen_and_none_where_the_ranges_are_apart() {
        let api = |key: ApiKey, min_version, max_version| ApiVersion {
            api_key: key as i16,
            min_version,
            max_version,
        };
        let api_keys =
            vec![api(ApiKey::Fetch, 0, 11), api(ApiKey::Produce, 99, 100), api(ApiKey::Heartbeat, 0, 99)];
        let versions = Versions::new(&ApiVersionsResponse { api_keys, ..Default::default() });
        assert_eq!(versions.newest(ApiKey::Fetch), Some(11));
        assert_eq!(versions.at_most(ApiKey::Fetch, 7), Some(7));
        assert_eq!(versions.newest(ApiKey::Heartbeat), Some(4));
        assert_eq!(versions.newest(ApiKey::Produce), None);
        assert_eq!(versions.newest(ApiKey::JoinGroup), None);
    }
}
