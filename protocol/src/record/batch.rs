//! The borrowed view of one record batch (v2), and the checks that make bytes into one.
//!
//! ```text
//!  0 base offset i64 | 8 length i32 | 12 leader epoch i32 | 16 magic i8 = 2 | 17 crc u32
//! 21 attributes i16 | 23 last offset delta i32 | 27 base timestamp i64 | 35 max timestamp i64
//! 43 producer id i64 | 51 producer epoch i16 | 53 base sequence i32 | 57 count i32 | 61 records
//! ```
//! All big-endian. `length` counts from offset 12 on, and the checksum covers offset 21 to the
//! end, so a log may set base offset and leader epoch without touching it.
//! Invariant: a [`Batch`] has a whole header of magic 2 whose length, count and last offset delta
//! are sane. What else holds is said by the constructor used. Records are not looked at here.

use super::{
    Compression, DecompressError, ProducerStamp, RecordBody, RecordError, TimestampType,
    checksum::{crc32c, crc32c_of_two},
};
use bytes::{BufMut, Bytes};

/// Bytes of a batch before its records.
pub const BATCH_HEADER_LEN: usize = 61;
/// Bytes of a batch that its length field does not count: base offset and the length itself.
pub(super) const LENGTH_END: usize = 12;
/// Bytes of a batch before those that the checksum covers.
pub(super) const CRC_END: usize = 21;
const MAGIC: i8 = 2;
const MAGIC_AT: usize = 16;

pub(super) const COMPRESSION_MASK: i16 = 0x07;
pub(super) const LOG_APPEND_TIME_BIT: i16 = 0x08;
pub(super) const TRANSACTIONAL_BIT: i16 = 0x10;
pub(super) const CONTROL_BIT: i16 = 0x20;
pub(super) const DELETE_HORIZON_BIT: i16 = 0x40;

/// Why bytes are not an acceptable record batch.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("record batch of {needed} bytes is cut short at {available}")]
    Incomplete {
        /// Bytes that the batch (or its header) takes.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// The length field is less than a header.
    #[error("record batch with a length field of {length}")]
    InvalidLength {
        /// The field, which counts from the leader epoch on.
        length: i32,
    },
    /// The batch has another format than v2, such as a message set of Kafka before 0.11.
    #[error("record format with magic {magic} is not supported, only 2 is")]
    UnsupportedMagic {
        /// The magic byte found.
        magic: i8,
    },
    /// More than one batch, or something else, where exactly one is expected.
    #[error("{extra} bytes after the record batch")]
    TrailingBytes {
        /// Bytes after the first batch.
        extra: usize,
    },
    /// The bytes are not those that the writer wrote.
    #[error("record batch checksum is {computed:#010x}, its header says {stored:#010x}")]
    ChecksumMismatch {
        /// CRC-32C in the header.
        stored: u32,
        /// CRC-32C of the bytes.
        computed: u32,
    },
    /// The offsets are negative or beyond what 63 bits hold.
    #[error("record batch with base offset {base_offset} and last offset delta {last_offset_delta}")]
    InvalidOffsets {
        /// Base offset of the header.
        base_offset: i64,
        /// Last offset delta of the header.
        last_offset_delta: i32,
    },
    /// The number of records disagrees with the offsets that the batch takes.
    #[error("record batch of {count} records with last offset delta {last_offset_delta}")]
    InvalidCount {
        /// Record count of the header.
        count: i32,
        /// Last offset delta of the header.
        last_offset_delta: i32,
    },
    /// A producer sent a control batch, which only a broker writes.
    #[error("control batch from a producer")]
    ControlBatch,
    /// A batch has a producer id and no sequence.
    #[error("record batch of producer {producer_id} with base sequence {base_sequence}")]
    MissingSequence {
        /// Producer id of the header.
        producer_id: i64,
        /// Base sequence of the header, negative.
        base_sequence: i32,
    },
    /// The attributes name a codec that does not exist.
    #[error("record batch with unknown compression codec {codec}")]
    UnknownCompression {
        /// The codec number, 5 to 7.
        codec: u8,
    },
    /// The records could not be decompressed.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    /// The bytes behind the header are not the records that it counts.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// One record batch in borrowed bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a> {
    header: &'a [u8; BATCH_HEADER_LEN],
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Size in bytes of the batch that begins here, from its first 12 bytes; `None` when fewer are
    /// there. It says nothing about whether so many bytes follow.
    ///
    /// # Errors
    /// [`BatchError::InvalidLength`] when no batch can be so short, or
    /// [`BatchError::UnsupportedMagic`] when the reason for it is to be seen.
    pub fn size_of(bytes: &[u8]) -> Result<Option<usize>, BatchError> {
        let Some(prefix) = bytes.first_chunk::<LENGTH_END>() else { return Ok(None) };
        let length = i32::from_be_bytes(field(prefix, 8));
        match usize::try_from(length) {
            Ok(length) if length >= BATCH_HEADER_LEN - LENGTH_END => Ok(Some(LENGTH_END + length)),
            _ => {
                check_magic(bytes)?;
                Err(BatchError::InvalidLength { length })
            }
        }
    }

    /// Checks what a producer sent: exactly one batch, magic 2, whole, with the right checksum, no
    /// control batch, a known codec, as many records as offsets and at least one, and a sequence if
    /// there is a producer id. The base offset is not looked at, since the log assigns it.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn produced(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let (batch, rest) = Self::whole(bytes)?;
        if !rest.is_empty() {
            return Err(BatchError::TrailingBytes { extra: rest.len() });
        }
        let (count, last_offset_delta) = (batch.count(), batch.last_offset_delta());
        if count <= 0 || count - 1 != last_offset_delta {
            return Err(BatchError::InvalidCount { count, last_offset_delta });
        }
        if batch.is_control() {
            return Err(BatchError::ControlBatch);
        }
        let (producer_id, base_sequence) = (batch.producer_id(), batch.base_sequence());
        if producer_id >= 0 && base_sequence < 0 {
            return Err(BatchError::MissingSequence { producer_id, base_sequence });
        }
        batch.compression()?;
        batch.check_crc()?;
        Ok(batch)
    }

    /// Checks the next batch of a log or a fetch response and returns it with the bytes behind it.
    /// Gaps between offsets, no records at all and control batches are valid here.
    ///
    /// # Errors
    /// [`BatchError::Incomplete`] when the bytes end within the batch, else what is wrong with it.
    pub fn stored(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), BatchError> {
        let (batch, rest) = Self::whole(bytes)?;
        batch.check_stored_header()?;
        batch.check_crc()?;
        Ok((batch, rest))
    }

    /// Like [`Batch::stored`], but from the header alone: at least [`BATCH_HEADER_LEN`] bytes are
    /// needed, the records may be missing, the checksum is not checked, and [`Batch::bytes`] is
    /// what is there of the batch.
    ///
    /// # Errors
    /// [`BatchError::Incomplete`] for less than a header, else what is wrong with it.
    pub fn header(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let batch = Self::view(bytes)?;
        batch.check_stored_header()?;
        Ok(batch)
    }

    /// A view whose header is sane in itself and whose bytes may be cut short.
    fn view(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let size = Self::size_of(bytes)?.unwrap_or(BATCH_HEADER_LEN);
        check_magic(bytes)?;
        let header = bytes
            .first_chunk()
            .ok_or(BatchError::Incomplete { needed: BATCH_HEADER_LEN, available: bytes.len() })?;
        let batch = Self { header, bytes: bytes.get(..size).unwrap_or(bytes) };
        let (count, last_offset_delta) = (batch.count(), batch.last_offset_delta());
        if count < 0 || last_offset_delta < 0 || count - 1 > last_offset_delta {
            return Err(BatchError::InvalidCount { count, last_offset_delta });
        }
        Ok(batch)
    }

    fn whole(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), BatchError> {
        let batch = Self::view(bytes)?;
        match bytes.split_at_checked(batch.size()) {
            Some((_, rest)) => Ok((batch, rest)),
            None => Err(BatchError::Incomplete { needed: batch.size(), available: bytes.len() }),
        }
    }

    fn check_stored_header(&self) -> Result<(), BatchError> {
        let (base_offset, last_offset_delta) = (self.base_offset(), self.last_offset_delta());
        // The next offset must exist too.
        let in_range = base_offset >= 0 && base_offset < i64::MAX - i64::from(last_offset_delta);
        if in_range { Ok(()) } else { Err(BatchError::InvalidOffsets { base_offset, last_offset_delta }) }
    }

    fn check_crc(&self) -> Result<(), BatchError> {
        let stored = self.crc();
        let computed = crc32c(self.bytes.get(CRC_END..).unwrap_or_default());
        if stored == computed { Ok(()) } else { Err(BatchError::ChecksumMismatch { stored, computed }) }
    }

    /// The records, decompressed if need be; `limit` caps the bytes of the decompressed form.
    /// Uncompressed records are borrowed, whatever their size.
    ///
    /// # Errors
    /// [`BatchError::UnknownCompression`] or [`BatchError::Decompress`]; and
    /// [`BatchError::Incomplete`] for a [`Batch::header`] whose records are missing.
    pub fn decode(&self, limit: usize) -> Result<RecordBody<'a>, BatchError> {
        if self.bytes.len() < self.size() {
            return Err(BatchError::Incomplete { needed: self.size(), available: self.bytes.len() });
        }
        RecordBody::decode(*self, limit)
    }

    /// The bytes of the batch, header included.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes behind the header: the records, compressed or not.
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(BATCH_HEADER_LEN..).unwrap_or_default()
    }

    pub(super) fn header_bytes(&self) -> &'a [u8; BATCH_HEADER_LEN] {
        self.header
    }

    /// Size of the whole batch in bytes, as its header says.
    pub fn size(&self) -> usize {
        // The length field was checked to be positive.
        LENGTH_END + u32::from_be_bytes(self.field(8)) as usize
    }

    /// Offset of the first record, or what was it before compaction took that record.
    pub fn base_offset(&self) -> i64 {
        i64::from_be_bytes(self.field(0))
    }

    /// Offset of the last record (inclusive), or what was it before compaction took that record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset().wrapping_add(i64::from(self.last_offset_delta()))
    }

    /// The offset that follows the batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().wrapping_add(1)
    }

    /// Generation of the leader that appended the batch; -1 if unknown.
    pub fn leader_epoch(&self) -> i32 {
        i32::from_be_bytes(self.field(12))
    }

    /// CRC-32C of everything from the attributes on, as the header says.
    pub fn crc(&self) -> u32 {
        u32::from_be_bytes(self.field(17))
    }

    /// The attribute bits: codec, timestamp type, transactional, control, delete horizon.
    pub fn attributes(&self) -> i16 {
        i16::from_be_bytes(self.field(21))
    }

    /// Difference between last and base offset.
    pub fn last_offset_delta(&self) -> i32 {
        i32::from_be_bytes(self.field(23))
    }

    /// The time in ms that the records' timestamps are relative to.
    pub fn base_timestamp(&self) -> i64 {
        i64::from_be_bytes(self.field(27))
    }

    /// Largest timestamp of the records in ms, or the append time for all of them.
    pub fn max_timestamp(&self) -> i64 {
        i64::from_be_bytes(self.field(35))
    }

    /// Id of the idempotent or transactional producer; -1 for none.
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(self.field(43))
    }

    /// Epoch of the producer; -1 for none.
    pub fn producer_epoch(&self) -> i16 {
        i16::from_be_bytes(self.field(51))
    }

    /// Sequence of the first record; -1 for none.
    pub fn base_sequence(&self) -> i32 {
        i32::from_be_bytes(self.field(53))
    }

    /// Sequence of the last record, which wraps from [`i32::MAX`] to 0; -1 for none.
    pub fn last_sequence(&self) -> i32 {
        match self.base_sequence() {
            -1 => -1,
            base => base.wrapping_add(self.last_offset_delta()) & i32::MAX,
        }
    }

    /// Number of records.
    pub fn count(&self) -> i32 {
        i32::from_be_bytes(self.field(57))
    }

    /// The codec of the records.
    ///
    /// # Errors
    /// [`BatchError::UnknownCompression`] for a number that no codec has.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let codec = (self.attributes() & COMPRESSION_MASK) as u8;
        Compression::from_id(codec).ok_or(BatchError::UnknownCompression { codec })
    }

    /// Whose clock the timestamps are from.
    pub fn timestamp_type(&self) -> TimestampType {
        match self.attributes() & LOG_APPEND_TIME_BIT {
            0 => TimestampType::CreateTime,
            _ => TimestampType::LogAppendTime,
        }
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL_BIT != 0
    }

    /// Whether its records are control records (transaction markers), not data.
    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL_BIT != 0
    }

    /// When compaction may drop the batch's tombstones, in ms; `None` while not yet decided.
    pub fn delete_horizon(&self) -> Option<i64> {
        (self.attributes() & DELETE_HORIZON_BIT != 0).then(|| self.base_timestamp())
    }

    /// The header that the batch has in a log whose topic wants append time (in ms): with base offset
    /// and leader epoch assigned, and the checksum made anew. The records stay as they are.
    pub fn header_with_append_time(
        &self,
        base_offset: i64,
        leader_epoch: i32,
        append_time: i64,
    ) -> [u8; BATCH_HEADER_LEN] {
        let mut header = *self.header;
        put(&mut header, 0, base_offset.to_be_bytes());
        put(&mut header, 12, leader_epoch.to_be_bytes());
        put(&mut header, 21, (self.attributes() | LOG_APPEND_TIME_BIT).to_be_bytes());
        put(&mut header, 35, append_time.to_be_bytes());
        self.sealed(header)
    }

    /// The header of the same batch with another largest timestamp, in ms, and the checksum made anew.
    pub fn header_with_max_timestamp(&self, max_timestamp: i64) -> [u8; BATCH_HEADER_LEN] {
        let mut header = *self.header;
        put(&mut header, 35, max_timestamp.to_be_bytes());
        self.sealed(header)
    }

    /// The header of the same batch as another producer id, epoch or sequence would send it.
    pub fn header_with_producer(&self, producer: ProducerStamp) -> [u8; BATCH_HEADER_LEN] {
        let mut header = *self.header;
        put(&mut header, 43, producer.id.to_be_bytes());
        put(&mut header, 51, producer.epoch.to_be_bytes());
        put(&mut header, 53, producer.sequence.to_be_bytes());
        self.sealed(header)
    }

    /// `header` with the checksum of it and this batch's records.
    fn sealed(&self, mut header: [u8; BATCH_HEADER_LEN]) -> [u8; BATCH_HEADER_LEN] {
        let covered = header.get(CRC_END..).unwrap_or_default();
        let crc = crc32c_of_two(covered, self.body());
        put(&mut header, 17, crc.to_be_bytes());
        header
    }

    #[inline]
    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        field(self.header, at)
    }
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("base_offset", &self.base_offset())
            .field("last_offset", &self.last_offset())
            .field("count", &self.count())
            .field("size", &self.size())
            .field("attributes", &self.attributes())
            .field("producer_id", &self.producer_id())
            .field("base_sequence", &self.base_sequence())
            .finish_non_exhaustive()
    }
}

/// The first 16 bytes of the batch `bytes` with the base offset and leader epoch that a log assigns;
/// what follows from `bytes[16..]` stays as it is, checksum included.
///
/// # Panics
/// If `bytes` has less than 16 bytes, which no checked batch has.
pub fn patched_prefix(bytes: &[u8], base_offset: i64, leader_epoch: i32) -> [u8; 16] {
    let mut prefix = *bytes.first_chunk::<16>().expect("a batch has a header");
    put(&mut prefix, 0, base_offset.to_be_bytes());
    put(&mut prefix, 12, leader_epoch.to_be_bytes());
    prefix
}

/// The batch of `bytes`, which begin with room for the header, with everything of it that the checksum covers in `covered`.
pub(super) fn assemble(mut bytes: Vec<u8>, (base_offset, leader_epoch): (i64, i32), covered: &[u8]) -> Bytes {
    let length = i32::try_from(bytes.len() - LENGTH_END).expect("the caller bounds the size of a batch");
    let (mut prefix, rest) = bytes.split_at_mut(CRC_END);
    rest.get_mut(..covered.len()).expect("room for the header was kept").copy_from_slice(covered);
    prefix.put_i64(base_offset);
    prefix.put_i32(length);
    prefix.put_i32(leader_epoch);
    prefix.put_i8(MAGIC);
    prefix.put_u32(crc32c(rest));
    bytes.into()
}

fn check_magic(bytes: &[u8]) -> Result<(), BatchError> {
    match bytes.get(MAGIC_AT) {
        Some(&byte) if byte.cast_signed() != MAGIC => {
            Err(BatchError::UnsupportedMagic { magic: byte.cast_signed() })
        }
        _ => Ok(()),
    }
}

/// The `N` bytes of a header field; every caller names a constant place within its array.
#[inline]
fn field<const N: usize, const LEN: usize>(header: &[u8; LEN], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&header[at..at + N]);
    field
}

fn put<const N: usize, const LEN: usize>(header: &mut [u8; LEN], at: usize, field: [u8; N]) {
    header[at..at + N].copy_from_slice(&field);
}
