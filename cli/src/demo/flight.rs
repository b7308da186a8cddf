//! One flight as it is produced: the record's key, its value as JSON, its event time and its place in the order.

use crate::timestamp;
use serde::{Serialize, Serializer};

const MS_PER_MINUTE: i64 = 60_000;

/// A flight that was scheduled to leave New York in 2013.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Flight {
    /// Scheduled departure, the event time: milliseconds since 1970; in JSON as text.
    #[serde(serialize_with = "as_text")]
    pub(crate) scheduled: i64,
    /// Two-letter code of the airline.
    pub(crate) carrier: String,
    /// Flight number.
    pub(crate) flight: u32,
    /// The plane's tail number, if known: the record's key.
    pub(crate) tailnum: Option<String>,
    /// Code of the airport it leaves.
    pub(crate) origin: String,
    /// Code of the airport it is bound for.
    pub(crate) dest: String,
    /// Miles between the two.
    pub(crate) distance: i64,
    /// Minutes it left late (early if negative); none if it was cancelled.
    pub(crate) dep_delay: Option<i32>,
    /// Minutes it arrived late, if it arrived where it was bound.
    pub(crate) arr_delay: Option<i32>,
    /// Minutes in the air.
    pub(crate) air_time: Option<i32>,
}

impl Flight {
    /// When it left: milliseconds since 1970. A cancelled flight counts from when it should have left.
    pub(crate) fn left_at(&self) -> i64 {
        self.scheduled + i64::from(self.dep_delay.unwrap_or(0)) * MS_PER_MINUTE
    }
}

fn as_text<S: Serializer>(ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp::format(*ms))
}
