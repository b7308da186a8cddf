//! The flights of 2013 and the airlines that flew them, from the compressed tables shipped inside the binary.
//!
//! Owns the tables' columns and the meaning of their cells (`data/README.md`). A cell that cannot be read is a defect
//! of the shipped file, reported with its line. Knows nothing of topics.

use super::flight::Flight;
use crate::timestamp;
use flate2::read::GzDecoder;
use std::{collections::HashMap, io::Read};

const FLIGHTS: &[u8] = include_bytes!("../../data/flights.csv.gz");
const AIRLINES: &[u8] = include_bytes!("../../data/airlines.csv.gz");

/// Rows of `flights`.
pub(crate) const FLIGHT_COUNT: usize = 336_776;

const FLIGHT_HEADER: &str = "origin,dest,carrier,flight,distance,tailnum,time_hour,minute,dep_delay,\
                             sched_arr_time,arr_time,arr_delay,air_time";
const AIRLINE_HEADER: &str = "carrier,name";
const MS_PER_MINUTE: i64 = 60_000;

/// A shipped table is not what this program was built for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    /// It cannot be decompressed.
    #[error("{table}.csv.gz cannot be decompressed")]
    Compressed {
        /// The table.
        table: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its columns are others.
    #[error("{table}.csv.gz has the columns '{found}'")]
    Columns {
        /// The table.
        table: &'static str,
        /// Its first line.
        found: String,
    },
    /// One of its rows cannot be read.
    #[error("{table}.csv.gz, line {line}: '{text}' is not a row of the table")]
    Row {
        /// The table.
        table: &'static str,
        /// Counted from 1.
        line: usize,
        /// The row.
        text: String,
    },
}

/// All flights in the order in which they left: by actual departure, cancelled ones when they should have left.
pub(crate) fn flights() -> Result<Vec<Flight>, DataError> {
    let text = decompress("flights", FLIGHTS)?;
    let mut hours = Hours::default();
    let mut flights = Vec::with_capacity(FLIGHT_COUNT);
    for (line, row) in rows("flights", FLIGHT_HEADER, &text)? {
        let flight = flight(row, &mut hours);
        flights.push(flight.ok_or_else(|| bad_row("flights", line, row))?);
    }
    flights.sort_by_key(Flight::left_at);
    Ok(flights)
}

/// Carrier code and name of every airline.
pub(crate) fn airlines() -> Result<Vec<(String, String)>, DataError> {
    let text = decompress("airlines", AIRLINES)?;
    rows("airlines", AIRLINE_HEADER, &text)?
        .map(|(line, row)| {
            let (carrier, name) = row.split_once(',').ok_or_else(|| bad_row("airlines", line, row))?;
            Ok((carrier.to_owned(), name.to_owned()))
        })
        .collect()
}

fn decompress(table: &'static str, bytes: &[u8]) -> Result<String, DataError> {
    let mut text = String::new();
    GzDecoder::new(bytes)
        .read_to_string(&mut text)
        .map_err(|source| DataError::Compressed { table, source })?;
    Ok(text)
}

/// The rows with their line numbers. No cell of the tables holds a quote or a comma, so a row splits at its commas.
fn rows<'a>(
    table: &'static str,
    columns: &str,
    text: &'a str,
) -> Result<impl Iterator<Item = (usize, &'a str)>, DataError> {
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    match lines.next() {
        Some((_, header)) if header == columns => Ok(lines),
        header => Err(DataError::Columns { table, found: header.map_or("", |(_, line)| line).to_owned() }),
    }
}

fn bad_row(table: &'static str, line: usize, text: &str) -> DataError {
    DataError::Row { table, line, text: text.to_owned() }
}

fn flight<'a>(row: &'a str, hours: &mut Hours<'a>) -> Option<Flight> {
    let mut cells = row.split(',');
    let (origin, dest, carrier) = (cells.next()?, cells.next()?, cells.next()?);
    let (flight, distance, tailnum) = (cells.next()?, cells.next()?, cells.next()?);
    let (hour, minute, dep_delay) = (cells.next()?, cells.next()?, cells.next()?);
    let (_sched_arr_time, _arr_time) = (cells.next()?, cells.next()?);
    let (arr_delay, air_time) = (cells.next()?, cells.next()?);
    if cells.next().is_some() {
        return None;
    }
    Some(Flight {
        scheduled: hours.start(hour)? + minute.parse::<i64>().ok()? * MS_PER_MINUTE,
        carrier: carrier.to_owned(),
        flight: flight.parse().ok()?,
        tailnum: known(tailnum).map(str::to_owned),
        origin: origin.to_owned(),
        dest: dest.to_owned(),
        distance: distance.parse().ok()?,
        dep_delay: number(dep_delay)?,
        arr_delay: number(arr_delay)?,
        air_time: number(air_time)?,
    })
}

fn known(cell: &str) -> Option<&str> {
    (cell != "NA").then_some(cell)
}

/// A number, or nothing where the cell says `NA`; `None` if it is neither.
fn number(cell: &str) -> Option<Option<i32>> {
    known(cell).map(|cell| cell.parse().ok()).map_or(Some(None), |number| number.map(Some))
}

/// Starts of hours by their text: a year has few of them.
#[derive(Default)]
struct Hours<'a>(HashMap<&'a str, i64>);

impl<'a> Hours<'a> {
    fn start(&mut self, hour: &'a str) -> Option<i64> {
        if let Some(start) = self.0.get(hour) {
            return Some(*start);
        }
        let start = timestamp::parse(hour).ok()?;
        self.0.insert(hour, start);
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flight_of_the_year_is_there_in_the_order_of_departure() {
        let flights = flights().unwrap();
        assert_eq!(flights.len(), FLIGHT_COUNT);
        assert_eq!(flights.iter().filter(|flight| flight.dep_delay.is_none()).count(), 8_255);
        assert_eq!(flights.iter().filter(|flight| flight.tailnum.is_none()).count(), 2_512);
        assert_eq!(flights.iter().filter_map(|flight| flight.dep_delay).max(), Some(1_301));
        assert!(flights.is_sorted_by_key(Flight::left_at));
    }

    #[test]
    fn event_time_is_out_of_order_by_up_to_the_longest_delay() {
        let mut newest = i64::MIN;
        let mut behind = 0;
        for flight in flights().unwrap() {
            newest = newest.max(flight.scheduled);
            behind = behind.max(newest - flight.scheduled);
        }
        let hours = behind as f64 / 3_600_000.0;
        assert!((21.0..22.0).contains(&hours), "{hours} h");
    }

    #[test]
    fn every_carrier_that_flew_has_a_name() {
        let airlines: HashMap<_, _> = airlines().unwrap().into_iter().collect();
        assert_eq!(airlines.len(), 16);
        assert!(flights().unwrap().iter().all(|flight| airlines.contains_key(&flight.carrier)));
    }

    #[test]
    fn a_row_that_is_not_a_flight_is_refused() {
        let good = "EWR,ALB,EV,4112,143,N13538,2013-01-01T18:00:00Z,17,-2,1419,1403,-16,30";
        assert!(flight(good, &mut Hours::default()).is_some());
        for bad in
            ["", "EWR,ALB", &format!("{good},1"), &good.replace("4112", "x"), &good.replace("-16", "soon")]
        {
            assert!(flight(bad, &mut Hours::default()).is_none(), "{bad}");
        }
    }
}
