//! CRC-32C (Castagnoli), the checksum of record batches.
//!
//! The one place that knows which crate computes it. It must not be mixed up with the IEEE
//! polynomial of gzip and of Kafka's old message sets.

/// CRC-32C of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32C of `first` followed by `second`, which need not lie side by side.
pub(super) fn crc32c_of_two(first: &[u8], second: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(first);
    digest.update(second);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The textbook table-driven form: a guard against a vectorised path that is wrong, or that
    /// raises an illegal instruction, on the machine at hand.
    fn table_crc32c(bytes: &[u8]) -> u32 {
        let table: [u32; 256] = std::array::from_fn(|index| {
            (0..8).fold(index as u32, |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
        });
        !bytes.iter().fold(!0_u32, |crc, byte| (crc >> 8) ^ table[(crc as u8 ^ byte) as usize])
    }

    #[test]
    fn vectorised_checksum_equals_the_table_at_every_length_and_alignment() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let bytes: Vec<u8> = (0_u32..70_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for len in (0..1_200).chain([4_095, 4_096, 4_097, 16_384, 65_535, 65_536, 69_990]) {
            for start in [0, 1, 7] {
                let slice = &bytes[start..start + len];
                assert_eq!(crc32c(slice), table_crc32c(slice), "{len} bytes from {start}");
            }
            let (first, second) = bytes[..len].split_at(len / 3);
            assert_eq!(crc32c_of_two(first, second), table_crc32c(&bytes[..len]));
        }
    }
}
