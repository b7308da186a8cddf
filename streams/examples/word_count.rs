//! Counts words: reads topic `lines`, keeps the counts in a table, writes every change to `word-counts`.
//!
//! `cargo run -p kappa-streams --example word_count -- 127.0.0.1:9092`, with a broker there, `kappa topic create lines`, and
//! lines produced to it. Ends with Ctrl-C, prints the ten most frequent words every second.

use kappa_streams::{
    App, Builder, Config,
    codec::{I64, Utf8, opt},
};
use std::{process::ExitCode, time::Duration};

fn words(line: &str) -> Vec<String> {
    line.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What an error prints says what to do; its Debug form, which `main` would show, does not.
            eprintln!("word_count: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let servers = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let b = Builder::new("word-count");
    let counts = b
        .stream("lines", (opt(Utf8), Utf8))
        .flat_map_values(|line| words(&line))
        .group_by("by-word", (Utf8, Utf8), |_, word| word.clone())
        .count("counts");
    counts.to_stream().to("word-counts", (Utf8, I64));
    let topology = b.build()?;
    println!("{}", topology.describe());

    let app = App::start(&topology, Config::bootstrap(&servers)).await?;
    let view = app.view(&counts).partial();
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            Some(failure) = app.failed() => return Err(failure.into()),
        }
        let mut rows = view.all().await?.value;
        rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.value));
        let top: Vec<String> =
            rows.iter().take(10).map(|(word, row)| format!("{word} {}", row.value)).collect();
        println!("{}", top.join(", "));
    }
    app.close().await?;
    Ok(())
}
