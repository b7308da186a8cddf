//! The broker as a process: the ready line, signals, the exit code.

use crate::args::Args;
use crate::broker::{Broker, system_error};
use crate::config::BrokerConfig;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a broker until SIGTERM, SIGINT or SIGHUP: 0 after a clean stop, 1 if it could not start or stop, and
/// [`ArgsError::exit_code`](crate::args::ArgsError::exit_code) for wrong flags.
pub fn run(args: Args) -> ExitCode {
    let config = match args.into_config() {
        Ok(config) => config,
        Err(error) => return failed(&error, error.exit_code()),
    };
    raise_file_limit();
    refuse_huge_pages();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, 1),
    };
    runtime.block_on(run_until_signal(config))
}

async fn run_until_signal(config: BrokerConfig) -> ExitCode {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let (mut terminate, mut interrupt, mut hangup) = match kinds.map(signal) {
        [Ok(terminate), Ok(interrupt), Ok(hangup)] => (terminate, interrupt, hangup),
        [Err(error), ..] | [_, Err(error), _] | [.., Err(error)] => return failed(&error, 1),
    };
    // Caught, it is an error of the write that passes the limit of a file's size, and no end of the process.
    let _file_size = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));
    let data_dir = config.data_dir.clone();
    let broker = match Broker::start(config).await {
        Ok(broker) => broker,
        Err(error) => return failed(&error, 1),
    };
    let http = broker.http_address().map_or_else(|| "off".to_owned(), |address| address.to_string());
    let ready =
        format!("kappa broker ready kafka={} http={http} data={}\n", broker.address(), data_dir.display());
    if !broker.address().ip().is_loopback() {
        tracing::warn!(
            address = %broker.address(),
            "anyone who reaches this address can read and write everything, since there is no authentication; \
             clients on other machines need --advertise HOST:PORT"
        );
    }
    if let Some(address) = broker.http_address().filter(|address| !address.ip().is_loopback()) {
        tracing::warn!(
            %address,
            "anyone who reaches this address can read the names of topics and groups, their sizes and offsets; \
             set --http (kappa.http) to a loopback address or off"
        );
    }
    let mut stdout = std::io::stdout().lock();
    // Nobody has to read it.
    let _ = stdout.write_all(ready.as_bytes()).and_then(|()| stdout.flush());
    drop(stdout);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    tracing::info!("stopping");
    match broker.stop().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, 1),
    }
}

fn failed(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    match system_error(error) {
        Some(error) if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            text += "; nothing was lost: raise the limit of open files (`ulimit -n`, LimitNOFILE=), since each \
                     partition takes one and each connection";
        }
        Some(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            text += "; nothing was lost: make room on the disk of the data directory and start again";
        }
        _ => {}
    }
    let _ = writeln!(std::io::stderr(), "kappa broker: {text}");
    ExitCode::from(code)
}

/// Every connection and every segment takes a descriptor: ask for all that may be had.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Memory in pages of 2 MiB would have a third more of it resident: what many small things leave free is taken, too.
fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay allowed");
    }
}

/// Sends what the broker has to say to standard error: information and worse, or what `RUST_LOG` asks for. What cannot be
/// written there is lost and stops nothing.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A process that has a subscriber already keeps it.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say so where it cannot write, and panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
