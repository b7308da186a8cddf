//! Every cap of the protocol in one list. What reads the wire imports its bounds from here.

/// Default cap of one request frame in bytes (`socket.request.max.bytes`).
pub const REQUEST_BYTES_MAX: usize = 100 * 1024 * 1024;

/// Cap of one response frame in bytes that a client accepts.
pub const RESPONSE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Structures that all arrays of one frame may hold together. A structure takes at least one byte on the wire but
/// many in memory, so the frame's size alone does not bound what decoding it allocates.
pub const FRAME_ITEMS_MAX: usize = 2_000_000;

/// Longest topic name in bytes, as in Kafka.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// Bytes that the records of one batch may decompress to, unless the caller sets another cap.
pub const BATCH_DECOMPRESSED_BYTES_MAX: usize = 256 * 1024 * 1024;
