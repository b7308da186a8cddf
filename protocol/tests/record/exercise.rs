//! What the fuzz target does with its input, and an ordinary test with the target's corpus.
//!
//! First the bytes as they are; then with length, magic and checksum made right, since no mutation
//! gets past a checksum by chance. Whatever decodes must survive being built and decoded again.

use kappa_protocol::record::{
    BATCH_HEADER_LEN, Batch, BatchBuilder, BatchOptions, Record, TimestampType, crc32c,
};

/// Enough for any honest small input, little enough for a bomb to be cheap.
const LIMIT: usize = 1 << 20;

pub(crate) fn record_batch(input: &[u8]) {
    view(input);
    if input.len() < BATCH_HEADER_LEN {
        return;
    }
    let mut sealed = input.to_vec();
    sealed[8..12].copy_from_slice(&((input.len() - 12) as i32).to_be_bytes());
    sealed[16] = 2;
    let crc = crc32c(&sealed[21..]);
    sealed[17..21].copy_from_slice(&crc.to_be_bytes());
    view(&sealed);
}

fn view(input: &[u8]) {
    let _ = Batch::size_of(input);
    let _ = Batch::header(input).map(|batch| batch.decode(LIMIT).map(|body| body.iter().count()));
    if let Ok(batch) = Batch::produced(input) {
        assert_eq!(batch.bytes(), input);
        assert_eq!(batch.count(), batch.last_offset_delta() + 1);
    }
    let mut rest = input;
    while let Ok((batch, behind)) = Batch::stored(rest) {
        assert_eq!(batch.size() + behind.len(), rest.len());
        assert!(batch.next_offset() > batch.base_offset());
        if let Ok(body) = batch.decode(LIMIT) {
            assert!(body.bytes().len() <= LIMIT.max(batch.size()));
            if let Ok(records) = body.iter().collect::<Result<Vec<_>, _>>() {
                timestamps(&batch, &records);
                build_again(&batch, &records);
            }
        }
        rest = behind;
    }
}

/// Reading timestamps alone gives what reading all of the records does.
fn timestamps(batch: &Batch<'_>, records: &[Record<'_>]) {
    let range = batch.timestamps(LIMIT).expect("its records are whole");
    if batch.timestamp_type() == TimestampType::CreateTime {
        let own = || records.iter().map(|record| record.timestamp).filter(|timestamp| *timestamp != -1);
        assert_eq!(range.earliest, own().min().unwrap_or(i64::MAX));
        assert_eq!(range.latest, own().max().unwrap_or(-1).max(-1));
    }
}

fn build_again(batch: &Batch<'_>, records: &[Record<'_>]) {
    assert_eq!(records.len(), batch.count() as usize);
    let append_time = batch.timestamp_type() == TimestampType::LogAppendTime;
    let mut builder = BatchBuilder::new(BatchOptions {
        log_append_time: append_time.then(|| batch.max_timestamp()),
        ..BatchOptions::default()
    });
    for record in records {
        let delta = (record.offset - batch.base_offset()) as i32;
        let headers: Vec<_> = record.headers.collect();
        let headers = headers.iter().map(|(name, value)| (&**name, *value));
        builder.push_at(delta, record.timestamp, record.key, record.value, headers);
    }
    builder.span(batch.last_offset_delta(), batch.max_timestamp());
    let built = builder.finish(batch.base_offset());
    let (again, rest) = Batch::stored(&built).expect("built batches are valid");
    assert!(rest.is_empty());
    let body = again.decode(LIMIT).expect("not compressed");
    // Only a name that is not UTF-8 comes back as another one.
    let kept =
        records.iter().all(|record| record.headers.raw().all(|(name, _)| str::from_utf8(name).is_ok()));
    assert!(!kept || body.iter().eq(records.iter().map(|record| Ok(*record))));
}
