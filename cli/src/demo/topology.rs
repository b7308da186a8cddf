//! Three views of a stream of flights, from topics alone.
//!
//! ```text
//! flights ── by carrier ── left join carriers ── sum ───────────────────── view airlines
//!        ├── by origin ─── hour of event time ── sum ───────────────────── view hourly
//!        └── by route ──── count, largest distance ── table by rank ────── view routes (the ten busiest)
//! ```
//! Every sum takes its records in any order, so the views depend on the flights alone and not on how they interleave.
//! Nothing here knows a broker, a file or a clock.

use kappa_streams::{
    Builder, Table, Topology, Windowed, Windows, WiringErrors,
    codec::{I64, Json, Utf8, opt},
};
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, time::Duration};

/// Name of the application.
pub(crate) const APPLICATION: &str = "flights-2013";
/// Topic of the flights: JSON by tail number, event time is the scheduled departure.
pub(crate) const FLIGHTS: &str = "flights";
/// Topic of the airlines: name by carrier.
pub(crate) const CARRIERS: &str = "carriers";
/// Routes that the view of the busiest keeps.
pub(crate) const BUSIEST: usize = 10;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// What the views need of a flight; the rest of its JSON is skipped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Leg {
    /// Code of the airline.
    pub(crate) carrier: String,
    /// Airport it leaves.
    pub(crate) origin: String,
    /// Airport it is bound for.
    pub(crate) dest: String,
    /// Miles between the two.
    pub(crate) distance: i64,
    /// Minutes it left late (early if negative); none if it was cancelled.
    pub(crate) dep_delay: Option<i64>,
}

/// One departure on its way to a sum.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Departure {
    /// Minutes late; none if it was cancelled.
    pub(crate) dep_delay: Option<i64>,
}

/// Sums over flights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sums {
    /// Flights, cancelled ones included.
    pub(crate) flights: i64,
    /// Flights that departed.
    pub(crate) departed: i64,
    /// Minutes that those were late, together.
    pub(crate) dep_delay_sum: i64,
}

impl Sums {
    fn add(mut self, departure: Departure) -> Sums {
        self.flights += 1;
        if let Some(minutes) = departure.dep_delay {
            self.departed += 1;
            self.dep_delay_sum += minutes;
        }
        self
    }
}

/// An airline's year.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Airline {
    /// Its flights.
    #[serde(flatten)]
    pub(crate) sums: Sums,
    /// Its name, if the topic of airlines has one.
    pub(crate) name: Option<String>,
}

/// Flights of a pair of airports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Traffic {
    /// How many.
    pub(crate) flights: i64,
    /// Largest distance in miles: sources differ by a few.
    pub(crate) distance: i64,
}

/// A row of the busiest routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    /// Airport of departure.
    pub(crate) origin: String,
    /// Airport of arrival.
    pub(crate) dest: String,
    /// Flights and distance.
    #[serde(flatten)]
    pub(crate) traffic: Traffic,
}

impl Route {
    /// Busiest first; ties by origin, then destination.
    fn rank(&self) -> (Reverse<i64>, &str, &str) {
        (Reverse(self.traffic.flights), &self.origin, &self.dest)
    }
}

/// The tables to be queried.
#[derive(Debug, Clone)]
pub(crate) struct Views {
    /// Sums and name by carrier.
    pub(crate) airlines: Table<String, Airline>,
    /// Sums by origin and hour.
    pub(crate) hourly: Table<Windowed<String>, Sums>,
    /// The busiest routes by rank, under the one key that they share.
    pub(crate) routes: Table<String, Vec<Route>>,
}

/// The topology and handles on its views.
///
/// # Errors
/// Wiring errors, which would be mistakes in this file.
pub(crate) fn topology() -> Result<(Topology, Views), WiringErrors> {
    let builder = Builder::new(APPLICATION);
    let flights = builder.stream(FLIGHTS, (opt(Utf8), Json::<Leg>::new()));
    let names = builder.global_table(CARRIERS, (Utf8, Utf8));

    let airlines = flights
        .map(|_, leg| (leg.carrier, Departure { dep_delay: leg.dep_delay }))
        .repartition("by-carrier", (Utf8, Json::new()))
        .left_join_global(
            "airline-name",
            &names,
            |carrier, _| carrier.clone(),
            |_, departure, name| (departure, name.cloned()),
        )
        .group_by_key()
        .aggregate("airlines", Json::new(), Airline::default, |_, (departure, name), airline: Airline| {
            Airline { sums: airline.sums.add(departure), name }
        });

    let hourly = flights
        .map(|_, leg| (leg.origin, Departure { dep_delay: leg.dep_delay }))
        .repartition("by-origin", (Utf8, Json::new()))
        .group_by_key()
        .windowed_by(Windows::tumbling(HOUR).grace(DAY).retention(400 * DAY))
        .aggregate("hourly", Json::new(), Sums::default, |_, departure, sums: Sums| sums.add(departure));

    let routes = flights
        .map(|_, leg| ((leg.origin, leg.dest), leg.distance))
        .repartition("by-route", ((Utf8, Utf8), I64))
        .group_by_key()
        .aggregate("traffic", Json::new(), Traffic::default, |_, distance, traffic: Traffic| Traffic {
            flights: traffic.flights + 1,
            distance: traffic.distance.max(distance),
        })
        .group_by("by-rank", (Utf8, Json::new()), |(origin, dest), traffic| {
            let route = Route { origin: origin.clone(), dest: dest.clone(), traffic: *traffic };
            ("busiest".to_owned(), route)
        })
        .aggregate(
            "routes",
            Json::new(),
            Vec::new,
            |_, route, busiest| with(busiest, route),
            |_, route, busiest| without(busiest, &route),
        );

    Ok((builder.build()?, Views { airlines, hourly, routes }))
}

/// The busiest with `route` among them, if it is one.
///
/// Ten are enough to keep: a route's flights only grow, so one that fell out comes back by a change of its own.
fn with(mut busiest: Vec<Route>, route: Route) -> Vec<Route> {
    let rank = busiest.partition_point(|other| other.rank() < route.rank());
    busiest.insert(rank, route);
    busiest.truncate(BUSIEST);
    busiest
}

/// The busiest without what `route` was before it changed.
fn without(mut busiest: Vec<Route>, route: &Route) -> Vec<Route> {
    busiest.retain(|other| (&other.origin, &other.dest) != (&route.origin, &route.dest));
    busiest
}
