//! The views as people and programs read them: tables, a chart, and the JSON of `--json`.
//!
//! Works on rows that were read from the views; it computes nothing that a view does not say.

use super::topology::{Airline, Route, Sums};
use crate::{
    output::{self, Column, grouped},
    timestamp,
};
use serde::Serialize;
use std::fmt::Write as _;

const MS_PER_HOUR: i64 = 3_600_000;
/// Summer time in New York in 2013, from 10 March 2 o'clock to 3 November 2 o'clock local time.
const SUMMER_TIME: std::ops::Range<i64> = 1_362_898_800_000..1_383_458_400_000;
/// Characters of the chart's longest bar.
const BAR_WIDTH: usize = 48;
/// Hours that the table of the worst shows.
const WORST_HOURS: usize = 5;

/// The three views, in the order and under the names of the JSON file.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// By carrier.
    pub(super) airlines: Vec<AirlineRow>,
    /// By origin and window.
    pub(super) hourly: Vec<HourRow>,
    /// By rank.
    pub(super) routes: Vec<Route>,
}

/// One row of `airlines`.
#[derive(Debug, Serialize)]
pub(super) struct AirlineRow {
    /// Its code.
    pub(super) carrier: String,
    /// Sums and name.
    #[serde(flatten)]
    pub(super) airline: Airline,
}

/// One row of `hourly`.
#[derive(Debug, Serialize)]
pub(super) struct HourRow {
    /// Airport of departure.
    pub(super) origin: String,
    /// Start of the hour in UTC: milliseconds since 1970; in JSON as text.
    #[serde(serialize_with = "as_text")]
    pub(super) window_start: i64,
    /// Sums over the hour.
    #[serde(flatten)]
    pub(super) sums: Sums,
}

fn as_text<S: serde::Serializer>(ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp::format(*ms))
}

impl Report {
    /// Rows in the order of the JSON file, whatever the order of the views.
    pub(super) fn new(mut airlines: Vec<AirlineRow>, mut hourly: Vec<HourRow>, routes: Vec<Route>) -> Self {
        airlines.sort_by(|a, b| a.carrier.cmp(&b.carrier));
        hourly.sort_by(|a, b| (&a.origin, a.window_start).cmp(&(&b.origin, b.window_start)));
        Self { airlines, hourly, routes }
    }

    /// Flights counted by each of the views that counts them all.
    pub(super) fn flights(&self) -> (i64, i64) {
        (
            self.airlines.iter().map(|row| row.airline.sums.flights).sum(),
            self.hourly.iter().map(|row| row.sums.flights).sum(),
        )
    }

    /// The views as tables, and the chart.
    pub(super) fn text(&self) -> String {
        format!(
            "airlines\n{}\n\nroutes: the {} busiest\n{}\n\nhourly: the {WORST_HOURS} worst of {} hours\n{}\n\n\
             mean departure delay in minutes by hour of the day in New York, from hourly\n{}",
            self.airlines_table(),
            self.routes.len(),
            self.routes_table(),
            grouped(self.hourly.len() as u64),
            self.worst_hours_table(),
            self.chart(),
        )
    }

    fn airlines_table(&self) -> String {
        let columns = [
            Column::Text("CARRIER"),
            Column::Text("NAME"),
            Column::Number("FLIGHTS"),
            Column::Number("DEPARTED"),
            Column::Number("MEAN DELAY"),
        ];
        let cells = |AirlineRow { carrier, airline: Airline { sums, name } }: &AirlineRow| {
            vec![
                carrier.clone(),
                name.clone().unwrap_or_else(|| "?".to_owned()),
                count(sums.flights),
                count(sums.departed),
                mean(sums),
            ]
        };
        output::table(&columns, self.airlines.iter().map(cells))
    }

    fn routes_table(&self) -> String {
        let columns = [
            Column::Number("RANK"),
            Column::Text("FROM"),
            Column::Text("TO"),
            Column::Number("FLIGHTS"),
            Column::Number("MILES"),
        ];
        let cells = |(rank, route): (usize, &Route)| {
            let Route { origin, dest, traffic } = route;
            let rank = (rank + 1).to_string();
            vec![rank, origin.clone(), dest.clone(), count(traffic.flights), count(traffic.distance)]
        };
        output::table(&columns, self.routes.iter().enumerate().map(cells))
    }

    fn worst_hours_table(&self) -> String {
        let columns = [
            Column::Text("FROM"),
            Column::Text("HOUR"),
            Column::Number("FLIGHTS"),
            Column::Number("DEPARTED"),
            Column::Number("MEAN DELAY"),
        ];
        let mut rows: Vec<_> = self.hourly.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.sums.dep_delay_sum));
        let cells = |HourRow { origin, window_start, sums }: &HourRow| {
            let hour = timestamp::format(*window_start);
            vec![origin.clone(), hour, count(sums.flights), count(sums.departed), mean(sums)]
        };
        output::table(&columns, rows.into_iter().take(WORST_HOURS).map(cells))
    }

    /// A bar for every hour of the day in which flights departed.
    fn chart(&self) -> String {
        let mut hours = [Sums::default(); 24];
        for row in &self.hourly {
            if let Some(sums) = hours.get_mut(new_york_hour(row.window_start)) {
                sums.departed += row.sums.departed;
                sums.dep_delay_sum += row.sums.dep_delay_sum;
            }
        }
        let means = hours.iter().map(mean_minutes);
        let longest = means.clone().flatten().fold(1.0, f64::max);
        let mut chart = String::new();
        for (hour, mean) in means.enumerate() {
            let Some(mean) = mean else { continue };
            // A String takes whatever is written.
            let _ = writeln!(chart, "{hour:02}:00  {:<BAR_WIDTH$}  {mean:>5.1}", bar(mean / longest));
        }
        chart.truncate(chart.trim_end().len());
        chart
    }
}

/// Hour of the day in New York, where an hour of 2013 began at `start`.
fn new_york_hour(start: i64) -> usize {
    let offset = if SUMMER_TIME.contains(&start) { -4 } else { -5 };
    (start / MS_PER_HOUR + offset).rem_euclid(24) as usize
}

/// A bar of a share of the full width, to an eighth of a character.
fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (BAR_WIDTH * 8) as f64).round() as usize;
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"].get(eighths % 8).copied().unwrap_or_default();
    format!("{}{rest}", "█".repeat(eighths / 8))
}

fn mean_minutes(sums: &Sums) -> Option<f64> {
    (sums.departed > 0).then(|| sums.dep_delay_sum as f64 / sums.departed as f64)
}

fn mean(sums: &Sums) -> String {
    mean_minutes(sums).map_or("-".to_owned(), |minutes| format!("{minutes:.1}"))
}

fn count(number: i64) -> String {
    u64::try_from(number).map_or_else(|_| number.to_string(), grouped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(window_start: &str, departed: i64, dep_delay_sum: i64) -> HourRow {
        let window_start = timestamp::parse(window_start).unwrap();
        HourRow {
            origin: "JFK".into(),
            window_start,
            sums: Sums { flights: departed, departed, dep_delay_sum },
        }
    }

    #[test]
    fn hours_of_the_day_follow_new_york_through_the_year() {
        for (utc, local) in [
            ("2013-01-01T10:00:00Z", 5),
            ("2013-03-10T06:00:00Z", 1),
            ("2013-03-10T07:00:00Z", 3),
            ("2013-07-04T03:00:00Z", 23),
            ("2013-11-03T05:00:00Z", 1),
            ("2013-11-03T06:00:00Z", 1),
        ] {
            assert_eq!(new_york_hour(timestamp::parse(utc).unwrap()), local, "{utc}");
        }
    }

    #[test]
    fn the_chart_has_a_bar_for_every_hour_with_departures() {
        let rows = vec![
            hour("2013-01-01T10:00:00Z", 10, 60),
            hour("2013-01-02T10:00:00Z", 10, 140),
            hour("2013-01-01T11:00:00Z", 4, 20),
            hour("2013-01-01T12:00:00Z", 0, 0),
        ];
        let chart = Report::new(Vec::new(), rows, Vec::new()).chart();
        let full = "█".repeat(BAR_WIDTH);
        let half = format!("{:<BAR_WIDTH$}", "█".repeat(BAR_WIDTH / 2));
        assert_eq!(chart, format!("05:00  {full}   10.0\n06:00  {half}    5.0"));
    }

    #[test]
    fn json_has_the_documented_names() {
        let sums = Sums { flights: 3, departed: 2, dep_delay_sum: -4 };
        let airline = Airline { sums, name: Some("A".into()) };
        let airlines = vec![AirlineRow { carrier: "AA".into(), airline }];
        let report = Report::new(airlines, vec![hour("2013-01-01T10:00:00Z", 1, 2)], Vec::new());
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            "{\"airlines\":[{\"carrier\":\"AA\",\"flights\":3,\"departed\":2,\"dep_delay_sum\":-4,\"name\":\"A\"}],\
             \"hourly\":[{\"origin\":\"JFK\",\"window_start\":\"2013-01-01T10:00:00Z\",\"flights\":1,\"departed\":1,\
             \"dep_delay_sum\":2}],\"routes\":[]}"
        );
    }
}
