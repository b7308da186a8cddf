//! What flows through a topology: records, what stands beside them, windowed keys and table changes.
//!
//! Timestamps are milliseconds since the Unix epoch, always event time. Nothing here knows codecs or topics.

use bytes::Bytes;
use std::{fmt, sync::Arc, time::Duration};

/// A key, a value, their event time and headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<K, V> {
    /// The key.
    pub key: K,
    /// The value.
    pub value: V,
    /// Event time in milliseconds.
    pub timestamp: i64,
    /// Headers, cheap to clone.
    pub headers: Headers,
}

/// One header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name; names may repeat.
    pub key: Arc<str>,
    /// Its value, which may be null.
    pub value: Option<Bytes>,
}

/// The headers of a record, in order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Option<Arc<[Header]>>);

impl Headers {
    /// No headers.
    pub const NONE: Headers = Headers(None);

    /// The headers in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Header> {
        self.0.as_deref().unwrap_or_default().iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The value of the last header of this name: `None` if there is none, `Some(None)` if it is null.
    pub fn last(&self, key: &str) -> Option<Option<&Bytes>> {
        self.iter().rev().find(|header| &*header.key == key).map(|header| header.value.as_ref())
    }
}

impl FromIterator<Header> for Headers {
    fn from_iter<I: IntoIterator<Item = Header>>(headers: I) -> Headers {
        let headers: Vec<Header> = headers.into_iter().collect();
        Headers((!headers.is_empty()).then(|| headers.into()))
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = &'a Header;
    type IntoIter = std::slice::Iter<'a, Header>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What stands beside the key and the value of the record that is being processed, and where it was read.
///
/// Behind a repartition topic it is a record of that topic which is being processed: topic, partition and offset are
/// those of the repartition topic, while event time and headers are still those of the record that it came from. Whoever
/// needs to know where that was takes it along in the value, before the records are repartitioned.
#[derive(Debug, Clone, Copy)]
pub struct Meta<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) headers: &'a Headers,
}

impl<'a> Meta<'a> {
    /// Full name of the topic that the record was read from.
    pub fn topic(&self) -> &'a str {
        self.topic
    }

    /// Its partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Its offset in the partition.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Event time in milliseconds: that of the record, or, behind a table, that of the row which has changed.
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }

    /// Its headers.
    pub fn headers(&self) -> &'a Headers {
        self.headers
    }
}

/// A span of event time, `start` inclusive and `end` exclusive, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// First millisecond of the window.
    pub start: i64,
    /// First millisecond behind the window.
    pub end: i64,
}

/// A key within a window.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Windowed<K> {
    /// The key.
    pub key: K,
    /// The window.
    pub window: Window,
}

/// A change of one row of a table; `None` is an absent row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<V> {
    /// The row before; only filled where an operator behind it asks for it.
    pub old: Option<V>,
    /// The row after; `None` deletes it.
    pub new: Option<V>,
}

/// A duration in whole milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_header_of_a_name_wins_and_null_differs_from_absent() {
        let header = |key: &str, value: Option<&'static [u8]>| Header {
            key: key.into(),
            value: value.map(Bytes::from_static),
        };
        let headers: Headers =
            [header("a", Some(b"1")), header("a", Some(b"2")), header("n", None)].into_iter().collect();
        assert_eq!(headers.last("a"), Some(Some(&Bytes::from_static(b"2"))));
        assert_eq!(headers.last("n"), Some(None));
        assert_eq!(headers.last("x"), None);
        assert!(Headers::NONE.is_empty());
    }
}
