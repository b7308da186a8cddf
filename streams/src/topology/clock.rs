//! Operators that keep the time of what they have seen.

/// Most of them in a task: what a task says of their clocks beside an offset leaves room for what else stands there.
pub(crate) const CLOCKS_MAX: usize = 100;

/// What stands for an operator beside its clock: FNV-1a, 32 bits, of its name. `build()` sees to it that no two clocks of
/// a task share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClockId(pub(crate) u32);

impl ClockId {
    pub(crate) fn of(operator: &str) -> ClockId {
        let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        ClockId(operator.as_bytes().iter().fold(0x811c_9dc5, step))
    }
}
