//! The demo's views, built a second time beside the ones that are live.
//!
//! Start `kappa demo --keep`, then `cargo run -p kappa-streams --example flights -- HOST:PORT` with the address that it
//! prints: the same topology replays the flights under a generation of its own, with internal topics and offsets of its
//! own, while the demo's views go on answering. Prints what they say every second; ends with Ctrl-C.

#[path = "../../cli/src/demo/topology.rs"]
mod topology;

use kappa_streams::{App, Config};
use std::{process::ExitCode, time::Duration};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flights: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let servers = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let (topology, views) = topology::topology()?;
    println!("{}", topology.describe());

    let bound = Duration::from_secs(2 * 3_600);
    let app = App::start(&topology, Config::bootstrap(&servers).generation(1).skew_bound(bound)).await?;
    let airlines = app.view(&views.airlines).partial();
    let hourly = app.view(&views.hourly).partial();
    let routes = app.view(&views.routes).partial();
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            Some(failure) = app.failed() => return Err(failure.into()),
        }
        let rows = routes.all().await?.value;
        let busiest = rows.iter().flat_map(|(_, row)| &row.value);
        let busiest =
            busiest.map(|route| format!("{}-{} {}", route.origin, route.dest, route.traffic.flights));
        let busiest = busiest.collect::<Vec<_>>().join(", ");
        let flights: i64 = airlines.all().await?.iter().map(|(_, row)| row.value.sums.flights).sum();
        println!("{flights} flights in {} hours; busiest: {busiest}", hourly.all().await?.len());
    }
    app.close().await?;
    Ok(())
}
