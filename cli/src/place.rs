//! A place in a partition as people name it: `beginning`, `end`, an offset, so many before the end, or a time.
//!
//! The same words start a `consume` and reset a group's offsets. A place resolves to an offset within what the
//! partition holds; one beyond it is moved to the nearest end.

use crate::{error::Failure, session, timestamp};
use kappa_client::{Admin, TopicPartition, admin::OffsetSpec};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The first record that is still there.
    Beginning,
    /// Behind the last record.
    End,
    /// An offset.
    Offset(i64),
    /// So many offsets before the end.
    BeforeEnd(i64),
    /// The first record with this timestamp or a later one: milliseconds since 1970.
    Time(i64),
}

/// A text that names no place.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{text}' is no place in a partition; write beginning, end, an offset, -N for N before the end, or @TIME"
)]
pub(crate) struct UnknownPlace {
    text: String,
}

impl FromStr for Place {
    type Err = UnknownPlace;

    fn from_str(text: &str) -> Result<Self, UnknownPlace> {
        let unknown = || UnknownPlace { text: text.to_owned() };
        match text {
            "beginning" | "earliest" => Ok(Place::Beginning),
            "end" | "latest" => Ok(Place::End),
            _ => match (text.strip_prefix('@'), text.strip_prefix('-')) {
                (Some(time), _) => timestamp::parse(time).map(Place::Time).map_err(|_| unknown()),
                (None, Some(count)) => unsigned(count).map(Place::BeforeEnd).ok_or_else(unknown),
                (None, None) => unsigned(text).map(Place::Offset).ok_or_else(unknown),
            },
        }
    }
}

fn unsigned(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number| *number >= 0 && !text.starts_with(['+', '-']))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Beginning => f.write_str("beginning"),
            Place::End => f.write_str("end"),
            Place::Offset(offset) => write!(f, "{offset}"),
            Place::BeforeEnd(count) => write!(f, "-{count}"),
            Place::Time(ms) => write!(f, "@{}", timestamp::format(*ms)),
        }
    }
}

impl Place {
    /// The offset of this place in each partition.
    pub(crate) async fn offsets(
        self,
        admin: &Admin,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
        let spans = spans(admin, partitions).await?;
        let by_time = match self {
            Place::Time(ms) => listed(admin, partitions, OffsetSpec::Timestamp(ms)).await?,
            _ => BTreeMap::new(),
        };
        let offset = |(partition, span): (TopicPartition, Span)| {
            let offset = match self {
                Place::Beginning => span.start,
                Place::End => span.end,
                Place::Offset(offset) => offset.clamp(span.start, span.end),
                Place::BeforeEnd(count) => span.end.saturating_sub(count).max(span.start),
                Place::Time(_) => by_time.get(&partition).copied().flatten().unwrap_or(span.end),
            };
            (partition, offset)
        };
        Ok(spans.into_iter().map(offset).collect())
    }
}

/// What a partition holds: offsets from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// First offset that can still be read.
    pub(crate) start: i64,
    /// Offset of the next record.
    pub(crate) end: i64,
}

/// What each partition holds.
pub(crate) async fn spans(
    admin: &Admin,
    partitions: &[TopicPartition],
) -> Result<BTreeMap<TopicPartition, Span>, Failure> {
    let starts = listed(admin, partitions, OffsetSpec::Earliest).await?;
    let ends = listed(admin, partitions, OffsetSpec::Latest).await?;
    let span = |(partition, start): (TopicPartition, Option<i64>)| {
        let end = ends.get(&partition).copied().flatten().unwrap_or(0);
        (partition, Span { start: start.unwrap_or(0), end })
    };
    Ok(starts.into_iter().map(span).collect())
}

async fn listed(
    admin: &Admin,
    partitions: &[TopicPartition],
    spec: OffsetSpec,
) -> Result<BTreeMap<TopicPartition, Option<i64>>, Failure> {
    let wanted: Vec<_> = partitions.iter().map(|partition| (partition.clone(), spec)).collect();
    let listed =
        admin.list_offsets(&wanted).await.map_err(|error| session::refused("list offsets", &error))?;
    let listed = session::all(listed, |partition, error| {
        session::topic_error(&format!("list offsets of {partition}"), &partition.topic, error)
    })?;
    Ok(listed.into_iter().map(|(partition, found)| (partition, found.map(|found| found.offset))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        for (text, place) in [
            ("beginning", Place::Beginning),
            ("end", Place::End),
            ("42", Place::Offset(42)),
            ("-10", Place::BeforeEnd(10)),
            ("@2013-01-01T10:00:00Z", Place::Time(1_357_034_400_000)),
        ] {
            assert_eq!(text.parse::<Place>().unwrap(), place);
            assert_eq!(place.to_string(), text);
        }
        assert_eq!("@1357034400000".parse::<Place>().unwrap(), Place::Time(1_357_034_400_000));
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in ["", "start", "--1", "+1", "@", "@noon", "1.5"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
