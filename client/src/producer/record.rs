//! What a producer sends, and what it gets to know about it.

/// A record to send; everything is borrowed, since it is encoded at once.
///
/// ```
/// # use kappa_client::ProducerRecord;
/// let record = ProducerRecord::to("flights").key(b"N14228").value(b"EWR-IAH").timestamp(1_357_034_400_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerRecord<'a> {
    /// Name of the topic.
    pub topic: &'a str,
    /// The partition; `None` to have it chosen by the key, or evenly without one.
    pub partition: Option<i32>,
    /// Milliseconds since the epoch; `None` for now.
    pub timestamp: Option<i64>,
    /// The key, `None` for null.
    pub key: Option<&'a [u8]>,
    /// The value, `None` for null.
    pub value: Option<&'a [u8]>,
    /// The headers, in order; names may repeat.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

impl<'a> ProducerRecord<'a> {
    /// A record without key, value or headers.
    #[must_use]
    pub fn to(topic: &'a str) -> Self {
        Self { topic, partition: None, timestamp: None, key: None, value: None, headers: &[] }
    }

    /// Sets the partition, whatever the key.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets the timestamp in milliseconds since the epoch.
    #[must_use]
    pub fn timestamp(mut self, timestamp_ms: i64) -> Self {
        self.timestamp = Some(timestamp_ms);
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn key<B: AsRef<[u8]> + ?Sized>(mut self, key: &'a B) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// Sets the value.
    #[must_use]
    pub fn value<B: AsRef<[u8]> + ?Sized>(mut self, value: &'a B) -> Self {
        self.value = Some(value.as_ref());
        self
    }

    /// Sets the headers.
    #[must_use]
    pub fn headers(mut self, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> Self {
        self.headers = headers;
        self
    }
}

/// Where a record was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// Number of the partition.
    pub partition: i32,
    /// Its offset; -1 where the broker did not tell, as with `acks` none.
    pub offset: i64,
    /// The timestamp that the broker gave it, in ms; `None` if it kept the producer's.
    pub append_time: Option<i64>,
}
