//! `kappa produce`: lines of files or stdin become records.
//!
//! Invariant: nothing is sent behind a record that was not delivered, and which line that was is told.

mod input;
mod ledger;
mod watch;

use crate::{
    error::Failure,
    interrupt::Interrupt,
    progress,
    session::{self, Session},
    timestamp,
};
use indicatif::ProgressBar;
use input::{LineForm, LineRecord};
use kappa_client::{
    Acks, Compression, Delivery, Producer, ProducerConfig, ProducerRecord,
    producer::{DeliveryError, SendError},
};
use ledger::{Ledger, Line};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

const EXAMPLES: &str = "\
Examples:
  kappa topic create numbers && seq 1000 | kappa produce numbers
  kappa produce users -K : users.txt               # lines such as `alice:{\"age\":30}`
  kappa consume a -o beginning -e --output json | kappa produce b --json
  kappa produce clicks --rate 100 --compression zstd < clicks.jsonl
  echo hello | kappa produce greetings --key en --header source=cli --timestamp 2013-01-01";

/// How long what was read may still wait for its acknowledgement when a signal has asked for the end.
const INTERRUPTED_PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `kappa produce`.
///
/// The topic must exist. Each line is the value of one record. The command ends when every record is acknowledged. At the
/// first that is not, it stops: nothing behind it is sent, and it names the line to go on from. While no broker answers it says so and waits.
/// A signal (Ctrl-C, SIGTERM, SIGHUP) ends the reading, and the command once what was read is acknowledged, or after 5 s;
/// a second one ends it at once.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(about = "Write records from files or stdin to a topic")]
pub(crate) struct Produce {
    /// Name of the topic
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// Files to read; `-` or none for stdin
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Lines are JSON: {"key": ..., "value": ..., "timestamp": ms, "headers": [{"name": ..., "value": ...}]}
    #[arg(long, conflicts_with_all = ["key_separator", "empty_as_null", "key"])]
    json: bool,
    /// What stands between key and value on each line
    #[arg(short = 'K', long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// Key of every record
    #[arg(short, long, conflicts_with = "key_separator")]
    key: Option<String>,
    /// Empty keys and values are null
    #[arg(short = 'Z', long)]
    empty_as_null: bool,
    /// Header of every record
    #[arg(short = 'H', long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Event time of every record: milliseconds since 1970, or UTC such as 2013-01-01T10:00:00Z [default: now]
    #[arg(short, long, value_name = "TIME", value_parser = timestamp::parse, allow_negative_numbers = true)]
    timestamp: Option<i64>,
    /// Partition of every record [default: chosen by key; without one, a random partition for each megabyte or so, so few
    /// records go to one partition]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// When a record counts as delivered: 0 once sent, 1 once written, all once kept
    #[arg(short, long, value_name = "0|1|all", default_value = "all", value_parser = acks)]
    acks: Acks,
    /// Codec: none, gzip, snappy, lz4 or zstd
    #[arg(short = 'z', long, value_name = "CODEC", default_value = "none")]
    compression: Compression,
    /// Most records per second
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How long a record may wait for its acknowledgement before it counts as not delivered
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// The acknowledgements that a word asks for.
pub(crate) fn acks(text: &str) -> Result<Acks, String> {
    match text {
        "0" => Ok(Acks::None),
        "1" => Ok(Acks::Leader),
        "all" | "-1" => Ok(Acks::All),
        _ => Err("expected 0, 1 or all".to_owned()),
    }
}

impl Produce {
    /// Runs it.
    pub(crate) async fn run(self, session: &Session, interrupt: &mut Interrupt) -> Result<(), Failure> {
        // A mistyped name must not become a topic, so the broker is not left to create one.
        interrupt.or(session.partitions(&self.topic, self.partition.as_slice())).await?;
        let timeout = Duration::from_secs(self.timeout);
        let config = ProducerConfig::default()
            .acks(self.acks)
            .idempotent(self.acks == Acks::All)
            .compression(self.compression)
            .delivery_timeout(timeout)
            .stop_on_failure(true);
        let producer = interrupt.or(async {
            let producer = Producer::new(&session.client, config).await;
            producer.map_err(|error| session::refused("produce", &error))
        });
        let producer = producer.await?;
        let reads_terminal = self.files.is_empty() && io::stdin().is_terminal();
        let counter =
            if reads_terminal { ProgressBar::hidden() } else { progress::counter("records produced") };
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let mut watching = tokio::spawn(watch::until_stopped(producer.clone(), counter.clone(), timeout));
        let report = Report { topic: self.topic.clone(), inputs: self.inputs(), ledger: ledger.clone() };
        let mut feed = Feed {
            form: self.form(),
            pace: self.rate.map(Pace::new),
            arguments: self,
            producer: producer.clone(),
            ledger,
            counter: counter.clone(),
        };
        // Reading blocks a thread of its own: it may wait for a line that never comes, when nothing can be sent any more.
        let runtime = tokio::runtime::Handle::current();
        let reading = tokio::task::spawn_blocking(move || runtime.block_on(feed.send_all()));
        let (sent, has_stopped) = tokio::select! {
            sent = reading => (sent.unwrap_or_else(|error| Err(Failure::failed(error.to_string()))), false),
            watched = &mut watching => (watched.map_err(|error| Failure::failed(error.to_string())), true),
            () = interrupt.received() => (Err(Failure::interrupted()), false),
        };
        // What was read before a bad line, or before the end was asked for, is delivered all the same.
        let is_interrupted = sent.as_ref().is_err_and(Failure::is_quiet);
        let patience = if is_interrupted { INTERRUPTED_PATIENCE } else { Duration::MAX };
        let closing = tokio::time::timeout(patience, producer.close());
        let flushed = interrupt.or(async { Ok(closing.await.ok()) }).await.unwrap_or(None);
        if !has_stopped {
            watching.abort();
        }
        counter.finish();
        match flushed {
            Some(Ok(())) => sent.map_err(|failure| report.before(failure)),
            Some(Err(error)) => Err(report.failure(&error)),
            None => {
                let records = producer.backlog().map_or(0, |backlog| backlog.records);
                eprintln!("kappa: interrupted; {records} records were read that are not acknowledged");
                Err(Failure::interrupted())
            }
        }
    }

    /// The names of all inputs, in order.
    fn inputs(&self) -> Vec<String> {
        if self.files.is_empty() {
            return vec!["stdin".to_owned()];
        }
        let name = |path: &PathBuf| {
            if path.as_os_str() == "-" { "stdin".into() } else { path.display().to_string() }
        };
        self.files.iter().map(name).collect()
    }

    fn form(&self) -> LineForm {
        if self.json {
            return LineForm::Json;
        }
        LineForm::Plain { separator: self.key_separator.clone(), empty_as_null: self.empty_as_null }
    }
}

/// Says what was delivered when not all was.
struct Report {
    topic: String,
    inputs: Vec<String>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Report {
    /// The failure of a line that was not sent, with how many before it are in the topic.
    fn before(&self, failure: Failure) -> Failure {
        if failure.is_quiet() {
            return failure;
        }
        let mut ledger = locked(&self.ledger);
        ledger.settle_all();
        match ledger.delivered() {
            0 => failure,
            1 => failure.and("the record before it was delivered"),
            delivered => failure.and(&format!("the {delivered} records before it were delivered")),
        }
    }

    /// The failure of a delivery, with the line to go on from.
    fn failure(&self, error: &DeliveryError) -> Failure {
        let failure = session::delivery_error(&self.topic, error);
        let mut ledger = locked(&self.ledger);
        ledger.settle_all();
        let Some((Line { input, number }, behind)) = ledger.lacking() else { return failure };
        let delivered = ledger.delivered();
        let input = self.inputs.get(input).map_or("the input", String::as_str);
        let mut text =
            format!("{delivered} records were delivered, line {number} of {input} is the first that was not");
        if behind > 0 {
            text += &format!(" (of those behind it {behind} were; they are in the topic already)");
        }
        let mut cure = format!("to resume, send from that line on (`tail -n +{number}`)");
        if matches!(error, DeliveryError::Timeout { .. } | DeliveryError::Request { .. }) {
            cure += &format!(
                "; what was on its way may be in the topic all the same, see `kappa consume {} -o -1 -e`",
                self.topic
            );
        }
        failure.and(&text).cure(cure)
    }
}

fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends the lines of all inputs.
struct Feed {
    arguments: Produce,
    form: LineForm,
    producer: Producer,
    pace: Option<Pace>,
    ledger: Arc<Mutex<Ledger>>,
    counter: ProgressBar,
}

impl Feed {
    async fn send_all(&mut self) -> Result<(), Failure> {
        let files = self.arguments.files.clone();
        if files.is_empty() {
            return self.send_lines(0, "stdin", &mut io::stdin().lock()).await;
        }
        for (index, path) in files.iter().enumerate() {
            if path.as_os_str() == "-" {
                self.send_lines(index, "stdin", &mut io::stdin().lock()).await?;
                continue;
            }
            let file = File::open(path).map_err(|error| Failure::file("open", path, &error))?;
            let mut reader = BufReader::with_capacity(256 * 1024, file);
            self.send_lines(index, &path.display().to_string(), &mut reader).await?;
        }
        Ok(())
    }

    async fn send_lines(
        &mut self,
        input: usize,
        name: &str,
        reader: &mut impl BufRead,
    ) -> Result<(), Failure> {
        let mut line = Vec::new();
        let mut number = 0_u64;
        while input::read_line(reader, &mut line)
            .map_err(|error| Failure::failed(format!("cannot read {name}: {error}")))?
        {
            number += 1;
            if let Some(pace) = &mut self.pace {
                pace.wait().await;
            }
            let delivery = self.send_line(&line).await.map_err(|error| match error {
                SendLineError::Line(error) => Failure::failed(format!("line {number} of {name} {error}")),
                SendLineError::Send(error) => session::send_error(&self.arguments.topic, &error)
                    .and(&format!("line {number} of {name} and what follows was not sent")),
            })?;
            locked(&self.ledger).take(Line { input, number }, delivery);
            self.counter.inc(1);
        }
        Ok(())
    }

    async fn send_line(&self, line: &[u8]) -> Result<Delivery, SendLineError> {
        loop {
            match self.form.with_record(line, |record| self.try_send(&record))? {
                Ok(delivery) => return Ok(delivery),
                Err(SendError::Full { .. }) => self.producer.room().await,
                Err(SendError::TopicUnknown { topic }) => {
                    let known = self.producer.partitions_for(&topic).await;
                    known.map_err(|reason| SendError::Metadata { topic, reason })?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn try_send(&self, line: &LineRecord<'_>) -> Result<Delivery, SendError> {
        let own = self.arguments.header.iter().map(|(name, value)| (name.as_str(), Some(value.as_bytes())));
        let headers: Vec<_> = line.headers.iter().copied().chain(own).collect();
        let record = ProducerRecord {
            topic: &self.arguments.topic,
            partition: self.arguments.partition,
            timestamp: line.timestamp.or(self.arguments.timestamp),
            key: line.key.or(self.arguments.key.as_ref().map(String::as_bytes)),
            value: line.value,
            headers: &headers,
        };
        self.producer.try_send(record)
    }
}

/// Why a line was not sent.
#[derive(Debug, thiserror::Error)]
enum SendLineError {
    #[error(transparent)]
    Line(#[from] input::LineError),
    #[error(transparent)]
    Send(#[from] SendError),
}

/// Holds a loop to so many rounds per second.
pub(crate) struct Pace {
    started: Instant,
    rounds: u64,
    per_second: f64,
}

impl Pace {
    /// Beginning now.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { started: Instant::now(), rounds: 0, per_second: f64::from(per_second) }
    }

    /// Waits until the next round is due, and says when that was: not when a late waker noticed it.
    pub(crate) async fn wait(&mut self) -> Instant {
        let due = self.started + Duration::from_secs_f64(self.rounds as f64 / self.per_second);
        self.rounds += 1;
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        due
    }
}
