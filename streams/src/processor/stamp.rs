//! How far the event time of a topic's writer has come, as its readers are told in the log.

/// The least event time that a partition, or a task through its inputs, may still bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Frontier {
    /// This time or a later one; `i64::MIN` before anything is known.
    At(i64),
    /// Nothing for now: it holds nobody.
    Idle,
}

impl Frontier {
    /// Whether something of this time is at most `bound` ahead.
    pub(crate) fn admits(self, time: i64, bound: Option<i64>) -> bool {
        match (self, bound) {
            (Frontier::Idle, _) | (_, None) => true,
            (Frontier::At(least), Some(bound)) => time <= least.saturating_add(bound),
        }
    }
}

/// The frontier of one writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Partition of the task that writes.
    pub(crate) writer: i32,
    pub(crate) frontier: Frontier,
}

impl Stamp {
    /// Bytes of a stamp in a header.
    pub(crate) const LEN: usize = 12;
    /// What stands for idle: no record is of this time.
    const IDLE: i64 = i64::MAX;

    /// The value of the header: writer (4 bytes, big endian) ‖ event time in milliseconds (8), the greatest for idle.
    pub(crate) fn encode(self) -> [u8; Stamp::LEN] {
        let time = match self.frontier {
            Frontier::At(time) => time,
            Frontier::Idle => Stamp::IDLE,
        };
        let mut value = [0; Stamp::LEN];
        let (writer, at) = value.split_at_mut(4);
        writer.copy_from_slice(&self.writer.to_be_bytes());
        at.copy_from_slice(&time.to_be_bytes());
        value
    }

    /// Reads what [`Stamp::encode`] wrote; `None` if it is something else.
    pub(crate) fn decode(value: &[u8]) -> Option<Stamp> {
        let (writer, time) = value.split_first_chunk::<4>()?;
        let frontier = match i64::from_be_bytes(time.try_into().ok()?) {
            Stamp::IDLE => Frontier::Idle,
            time => Frontier::At(time),
        };
        Some(Stamp { writer: i32::from_be_bytes(*writer), frontier })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_as_it_was_written() {
        for frontier in [Frontier::At(-7), Frontier::At(i64::MIN), Frontier::Idle] {
            let stamp = Stamp { writer: 70_000, frontier };
            assert_eq!(Stamp::decode(&stamp.encode()), Some(stamp));
        }
        assert_eq!(Stamp::decode(&[0; 11]), None);
        assert_eq!(Stamp::decode(&[0; 13]), None);
    }

    #[test]
    fn the_bound_is_counted_from_the_least() {
        assert!(Frontier::At(10).admits(15, Some(5)) && !Frontier::At(10).admits(16, Some(5)));
        assert!(Frontier::Idle.admits(i64::MAX, Some(0)) && Frontier::At(0).admits(9, None));
    }
}
