//! How fast a batch is checked and its records read, beside a plain checksum and a plain copy of the same bytes.
//!
//! `cargo bench -p kappa-benches --bench decode`

mod harness;

use harness::{Comparison, batch, rounds, scaled, timed};
use kappa_protocol::record::{Batch, Compression, crc32c};
use std::hint::black_box;

fn main() {
    for (name, records, len) in [("100 B", 9000, 100), ("1 KiB", 950, 1024)] {
        let bytes = batch(records, len, Compression::None);
        let passes = scaled(2000);
        let total = (passes * bytes.len()) as f64;
        let mut speed = Comparison::new(format!("1 MB batch of {name} records"), "bytes/s");
        let mut rate = Comparison::new(format!("records of {name}, decoded"), "records/s");
        for _ in 0..rounds() {
            let mut copy = vec![0; bytes.len()];
            let elapsed =
                timed(|| (0..passes).for_each(|_| black_box(&mut copy).copy_from_slice(black_box(&bytes))));
            speed.add("memcpy", total / elapsed.as_secs_f64());
            let elapsed = timed(|| {
                (0..passes).for_each(|_| {
                    black_box(crc32c(black_box(&bytes)));
                })
            });
            speed.add("crc32c", total / elapsed.as_secs_f64());
            let elapsed = timed(|| {
                (0..passes).for_each(|_| {
                    black_box(Batch::produced(black_box(&bytes)).expect("a valid batch"));
                })
            });
            speed.add("check as produced", total / elapsed.as_secs_f64());
            let elapsed =
                timed(|| (0..passes).for_each(|_| assert_eq!(read_all(black_box(&bytes)), records)));
            speed.add("read every record", total / elapsed.as_secs_f64());
            rate.add("read every record", (passes * records) as f64 / elapsed.as_secs_f64());
        }
        speed.print();
        rate.print();
    }
}

fn read_all(bytes: &[u8]) -> usize {
    let batch = Batch::header(bytes).expect("a valid batch");
    let body = batch.decode(usize::MAX).expect("not compressed");
    let mut records = 0;
    for record in body.iter() {
        black_box(record.expect("a valid record"));
        records += 1;
    }
    records
}
