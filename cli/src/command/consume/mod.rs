//! `kappa consume`: records of a topic on stdout.

mod format;

use crate::{
    error::{Exit, Failure},
    interrupt::Interrupt,
    output::{self, Output},
    place::{self, Place, Span},
    record_json::RecordOut,
    session::{self, Session},
};
use format::Format;
use kappa_client::{
    Consumer, ConsumerConfig, FetchedBatch, OffsetReset, Record, TopicPartition, admin::OffsetAndMetadata,
    consumer::ConsumerError,
};
use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::{Duration, Instant},
};

const EXAMPLES: &str = "\
Places:
  beginning   the first record that is still there        end    behind the last record
  N           offset N of each partition                  -N     N before the end of each partition
  @TIME       the first record of that time or later, as @2013-01-01T10:00:00Z or @1357034400000

Formats:
  %t topic    %p partition    %o offset    %T timestamp in ms    %h headers
  %k key      %K its length   %s value     %S its length         %% a percent sign    \\n \\t \\r \\0 \\\\

Examples:
  kappa consume flights                            # from now on, until Ctrl-C
  kappa consume flights -o beginning -e            # all that is there, then exit
  kappa consume flights -o -10 -e -f '%p:%o %k\\t%s\\n'
  kappa consume flights -o @2013-07-04 -n 5 --output json
  kappa consume flights -g billing                 # as a member of a group, committing offsets";

/// Arguments of `kappa consume`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(about = "Print records of a topic")]
pub(crate) struct Consume {
    /// Name of the topic
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// Where to start: beginning, end, N, -N or @TIME [default: end; with a group, its committed offset, or else beginning]
    #[arg(short, long, value_name = "PLACE", allow_hyphen_values = true)]
    offset: Option<Place>,
    /// Stop after so many records
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Stop at the end: after the last record that was there at the start
    #[arg(short, long)]
    exit: bool,
    /// Read as a member of this group, and commit what was printed
    #[arg(short, long, value_name = "GROUP", conflicts_with_all = ["offset", "partition"])]
    group: Option<String>,
    /// Only this partition; may be repeated [default: all]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// How to print each record [default: the value and a line feed]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
}

/// A record with where it came from.
#[derive(Debug)]
pub(crate) struct Fetched<'a> {
    /// Name of the topic.
    pub(crate) topic: &'a str,
    /// Number of the partition.
    pub(crate) partition: i32,
    /// The record.
    pub(crate) record: Record<'a>,
}

/// How long a poll may wait when nothing is left to be written.
const POLL: Duration = Duration::from_millis(500);
/// Longest time between two commits while records keep coming.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

impl Consume {
    /// Runs it.
    pub(crate) async fn run(self, session: &Session, interrupt: &mut Interrupt) -> Result<(), Failure> {
        let opened = interrupt.or(async {
            let partitions = session.partitions(&self.topic, &self.partition).await?;
            let spans = place::spans(&session.admin, &partitions).await?;
            Ok((self.consumer(session, &partitions, &spans).await?, spans))
        });
        let (consumer, spans) = opened.await?;
        let ends = spans.into_iter().map(|(partition, span)| (partition, span.end)).collect();
        let mut printer = Printer {
            out: output::stdout(),
            form: match (&self.format, session.output) {
                (Some(format), _) => Form::Format(format.clone()),
                (None, Output::Json) => Form::Json,
                (None, Output::Table) => Form::Format(Format::value_lines()),
            },
            left: self.count.unwrap_or(u64::MAX),
            printed: BTreeMap::new(),
        };
        let ended = self.print_all(&consumer, &mut printer, &ends, interrupt).await;
        let flushed = printer.flush();
        // Who asks for the end once more does not want to wait for this.
        let is_due = self.group.is_some() && flushed.is_ok();
        let closed = interrupt.or(async {
            let committed = if is_due { commit(&consumer, &mut printer).await } else { Ok(()) };
            let left = consumer.close().await.map_err(|error| session::consumer_error("leave", &error));
            committed.and(left)
        });
        flushed.and(closed.await)?;
        ended
    }

    /// A poll that failed.
    fn failure(&self, error: &ConsumerError) -> Failure {
        let failure = session::consumer_error(&format!("consume topic '{}'", self.topic), error);
        let ConsumerError::Corrupt { partition, .. } = error else { return failure };
        let (topic, number) = (&partition.topic, partition.partition);
        failure.cure_too(&match &self.group {
            Some(group) => format!(
                "to read on behind it, `kappa group reset-offsets {group} --topic {topic}:{number} --to OFFSET --execute`"
            ),
            None => format!("to read on behind it, `kappa consume {topic} -p {number} -o OFFSET`"),
        })
    }

    /// Says where an offset is not, so that nothing is printed for want of knowing it.
    fn tell_misses(&self, offset: i64, spans: &BTreeMap<TopicPartition, Span>) {
        let misses = |is_miss: fn(i64, &Span) -> bool, edge: fn(&Span) -> i64| {
            let missed = spans.iter().filter(|(_, span)| is_miss(offset, span));
            let named = missed.map(|(name, span)| format!("{} at {}", name.partition, edge(span)));
            named.collect::<Vec<_>>().join(", ")
        };
        let beyond = misses(|offset, span| offset > span.end, |span| span.end);
        if !beyond.is_empty() {
            eprintln!("kappa: offset {offset} is beyond the end of partition {beyond}; reading from there");
        }
        let gone = misses(|offset, span| offset < span.start, |span| span.start);
        if !gone.is_empty() {
            eprintln!(
                "kappa: offset {offset} is gone, the first left is of partition {gone}; reading from there"
            );
        }
    }

    async fn consumer(
        &self,
        session: &Session,
        partitions: &[TopicPartition],
        spans: &BTreeMap<TopicPartition, Span>,
    ) -> Result<Consumer, Failure> {
        let doing = format!("consume topic '{}'", self.topic);
        let failure = |error| session::consumer_error(&doing, &error);
        // Offsets are committed here, once their records have been written to stdout.
        let config = ConsumerConfig::default().auto_commit(None).offset_reset(OffsetReset::Earliest);
        let config = config.allow_auto_create_topics(false);
        let Some(group) = &self.group else {
            let consumer = Consumer::new(&session.client, config).map_err(failure)?;
            consumer.assign(partitions.iter().cloned()).map_err(failure)?;
            let place = self.offset.unwrap_or(Place::End);
            if let Place::Offset(offset) = place {
                self.tell_misses(offset, spans);
            }
            for (partition, offset) in place.offsets(&session.admin, partitions).await? {
                consumer.seek(&partition, offset).map_err(failure)?;
            }
            return Ok(consumer);
        };
        let consumer = Consumer::new(&session.client, config.group_id(group.clone())).map_err(failure)?;
        consumer.subscribe([self.topic.as_str()]).map_err(failure)?;
        Ok(consumer)
    }

    async fn print_all(
        &self,
        consumer: &Consumer,
        printer: &mut Printer,
        ends: &BTreeMap<TopicPartition, i64>,
        interrupt: &mut Interrupt,
    ) -> Result<(), Failure> {
        let mut committed_at = Instant::now();
        let mut idle = true;
        while printer.left > 0 && !(self.exit && at_end(consumer, ends)) {
            let polled = tokio::select! {
                polled = consumer.poll(if idle { POLL } else { Duration::ZERO }) => polled,
                () = interrupt.received() => return Err(Failure::interrupted()),
            };
            let batches = polled.map_err(|error| self.failure(&error))?;
            idle = batches.is_empty();
            for batch in &batches {
                printer.print(batch, if self.exit { ends.get(&batch.partition).copied() } else { None })?;
            }
            if idle {
                printer.flush()?;
            }
            if self.group.is_some() && (idle || committed_at.elapsed() > COMMIT_INTERVAL) {
                printer.flush()?;
                commit(consumer, printer).await?;
                committed_at = Instant::now();
            }
        }
        Ok(())
    }
}

/// Whether everything assigned has been read to where it ended at the start.
fn at_end(consumer: &Consumer, ends: &BTreeMap<TopicPartition, i64>) -> bool {
    let assigned = consumer.assignment();
    let reached = |partition: &TopicPartition| match ends.get(partition) {
        Some(end) => consumer.position(partition).is_some_and(|position| position >= *end),
        // A partition that was added since.
        None => true,
    };
    !assigned.is_empty() && assigned.iter().all(reached)
}

/// Commits what has been written to stdout.
async fn commit(consumer: &Consumer, printer: &mut Printer) -> Result<(), Failure> {
    if printer.printed.is_empty() {
        return Ok(());
    }
    let offsets: Vec<_> = std::mem::take(&mut printer.printed)
        .into_iter()
        .map(|(partition, next)| (partition, OffsetAndMetadata::new(next)))
        .collect();
    consumer.commit_offsets(&offsets).await.map_err(|error| session::consumer_error("commit offsets", &error))
}

enum Form {
    Format(Format),
    Json,
}

/// Writes records and remembers what it wrote.
struct Printer {
    out: io::BufWriter<io::StdoutLock<'static>>,
    form: Form,
    /// Records still wanted.
    left: u64,
    /// Next offset of each partition of which records were written since the last commit.
    printed: BTreeMap<TopicPartition, i64>,
}

impl Printer {
    fn print(&mut self, batch: &FetchedBatch, end: Option<i64>) -> Result<(), Failure> {
        let mut next = None;
        for record in batch.records() {
            let record = record.map_err(|error| {
                Failure::new(
                    Exit::Unsound,
                    format!("{}, batch at offset {}: {error}", batch.partition, batch.start),
                )
            })?;
            if self.left == 0 || end.is_some_and(|end| record.offset >= end) {
                break;
            }
            next = Some(record.offset + 1);
            self.left -= 1;
            let fetched =
                Fetched { topic: &batch.partition.topic, partition: batch.partition.partition, record };
            self.write(&fetched).map_err(|error| Failure::output(&error))?;
        }
        if let Some(next) = next {
            self.printed.insert(batch.partition.clone(), next);
        }
        Ok(())
    }

    fn write(&mut self, fetched: &Fetched<'_>) -> io::Result<()> {
        match &self.form {
            Form::Format(format) => format.write(&mut self.out, fetched),
            Form::Json => {
                let line = RecordOut::new(fetched.topic, fetched.partition, &fetched.record);
                serde_json::to_writer(&mut self.out, &line)?;
                self.out.write_all(b"\n")
            }
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| Failure::output(&error))
    }
}
