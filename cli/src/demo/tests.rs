//! The topology over the first days of the year, on the engine itself with no broker: views against plain sums, replay
//! against the first pass, and what the bound on skew is for.

use super::{
    data,
    flight::Flight,
    topology::{self, CARRIERS, FLIGHTS, Sums, Views},
};
use kappa_streams::{Headers, TestDriver};
use std::{collections::BTreeMap, time::Duration};

/// About ten days.
const FLIGHTS_TAKEN: usize = 9_000;
const MS_PER_HOUR: i64 = 3_600_000;

fn first_days() -> Vec<Flight> {
    let mut flights = data::flights().unwrap();
    flights.truncate(FLIGHTS_TAKEN);
    flights
}

fn driver(skew_bound: Option<Duration>) -> (TestDriver, Views) {
    let (topology, views) = topology::topology().unwrap();
    let driver = TestDriver::new(&topology).partitions(6).topic_partitions(CARRIERS, 1).commit_every(5_000);
    let driver = match skew_bound {
        Some(bound) => driver.skew_bound(bound),
        None => driver,
    };
    let mut driver = driver.start().unwrap();
    for (carrier, name) in data::airlines().unwrap() {
        append(&mut driver, CARRIERS, Some(carrier.as_bytes()), name.as_bytes(), 0);
    }
    (driver, views)
}

fn append(driver: &mut TestDriver, topic: &str, key: Option<&[u8]>, value: &[u8], timestamp: i64) {
    driver.append(topic, None, (key, Some(value)), timestamp, Headers::default()).unwrap();
}

fn append_flights(driver: &mut TestDriver, flights: &[Flight]) {
    for flight in flights {
        let value = serde_json::to_vec(flight).unwrap();
        append(driver, FLIGHTS, flight.tailnum.as_ref().map(String::as_bytes), &value, flight.scheduled);
    }
}

fn sums_by<K: Ord>(flights: &[Flight], key: impl Fn(&Flight) -> K) -> BTreeMap<K, Sums> {
    let mut sums = BTreeMap::<K, Sums>::new();
    for flight in flights {
        let sums = sums.entry(key(flight)).or_default();
        sums.flights += 1;
        sums.departed += i64::from(flight.dep_delay.is_some());
        sums.dep_delay_sum += i64::from(flight.dep_delay.unwrap_or(0));
    }
    sums
}

#[test]
fn views_equal_plain_sums_and_a_replay_equals_the_first_pass() {
    let flights = first_days();
    let (mut driver, views) = driver(Some(Duration::from_secs(2 * 3_600)));
    append_flights(&mut driver, &flights);
    driver.run().unwrap();

    let airlines = driver.rows(&views.airlines).unwrap();
    assert!(airlines.iter().all(|(_, row)| row.value.name.is_some()));
    let airlines: BTreeMap<_, _> =
        airlines.into_iter().map(|(carrier, row)| (carrier, row.value.sums)).collect();
    assert_eq!(airlines, sums_by(&flights, |flight| flight.carrier.clone()));
    let hour = |flight: &Flight| (flight.origin.clone(), flight.scheduled / MS_PER_HOUR * MS_PER_HOUR);
    let hourly: BTreeMap<_, _> = driver
        .rows(&views.hourly)
        .unwrap()
        .into_iter()
        .map(|(windowed, row)| ((windowed.key, windowed.window.start), row.value))
        .collect();
    assert_eq!(hourly, sums_by(&flights, hour));
    let mut ranked: Vec<_> = sums_by(&flights, |flight| (flight.origin.clone(), flight.dest.clone()))
        .into_iter()
        .map(|((origin, dest), sums)| (-sums.flights, origin, dest))
        .collect();
    ranked.sort();
    let routes = driver.rows(&views.routes).unwrap();
    let routes: Vec<_> = routes.into_iter().flat_map(|(_, row)| row.value).collect();
    let found: Vec<_> =
        routes.into_iter().map(|route| (-route.traffic.flights, route.origin, route.dest)).collect();
    assert_eq!(found, ranked.get(..topology::BUSIEST).unwrap());
    assert_eq!(driver.counters().late, 0);

    driver.commit().unwrap();
    let first = driver.dump().unwrap();
    driver.replay().unwrap();
    driver.run().unwrap();
    assert!(driver.replayed());
    assert_eq!(driver.dump().unwrap(), first);
    assert_eq!(driver.counters().late, 0);
}

#[test]
fn without_the_bound_a_stalled_partition_turns_flights_late() {
    let flights = first_days();
    let (mut driver, _) = driver(None);
    driver.stall(FLIGHTS, 0).unwrap();
    append_flights(&mut driver, &flights);
    driver.run().unwrap();
    driver.resume(FLIGHTS, 0).unwrap();
    driver.run().unwrap();
    assert!(driver.counters().late > 0);
}
