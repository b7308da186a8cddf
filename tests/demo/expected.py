#!/usr/bin/env python3
"""What `kappa demo --json FILE` must contain, computed from the CSV files alone.

    expected.py                      print the expected JSON
    expected.py FILE                 compare FILE with it: exit 0 if equal, 1 with the first differences if not
    expected.py --data DIR [FILE]    read flights and airlines (.csv.gz, .csv or .csv.zip) from DIR, default cli/data

It shares no code with the demo and needs nothing but Python's standard library.
"""
import argparse
import csv
import gzip
import io
import json
import pathlib
import sys
import zipfile
from collections import Counter, defaultdict
from datetime import datetime, timedelta, timezone

FLIGHTS = 336_776
DEFAULT_DATA = pathlib.Path(__file__).resolve().parents[2] / "cli" / "data"


def read(directory, table):
    """The rows of one table as dictionaries, whichever way it is packed."""
    plain, zipped, gzipped = (directory / f"{table}.csv{suffix}" for suffix in ("", ".zip", ".gz"))
    if gzipped.exists():
        text = gzip.decompress(gzipped.read_bytes()).decode()
    elif zipped.exists():
        text = zipfile.ZipFile(zipped).read(f"{table}.csv").decode()
    else:
        text = plain.read_text()
    return csv.DictReader(io.StringIO(text, newline=""))


def known(field):
    return None if field in ("NA", "") else field


class Sums:
    """Flights, those that departed, and the minutes they were late by."""

    def __init__(self):
        self.flights = self.departed = self.dep_delay_sum = 0

    def add(self, dep_delay):
        self.flights += 1
        if dep_delay is not None:
            self.departed += 1
            self.dep_delay_sum += int(dep_delay)

    def fields(self):
        return {"flights": self.flights, "departed": self.departed, "dep_delay_sum": self.dep_delay_sum}


def hour_of(flight):
    """The tumbling hour of the scheduled departure, which is the flight's event time."""
    hour = datetime.strptime(flight["time_hour"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    event_time = hour + timedelta(minutes=int(flight["minute"]))
    return event_time.replace(minute=0, second=0)


def expected(directory):
    names = {row["carrier"]: row["name"] for row in read(directory, "airlines")}
    carriers, hours = defaultdict(Sums), defaultdict(Sums)
    route_flights, route_distance = Counter(), {}
    total = 0
    for flight in read(directory, "flights"):
        total += 1
        dep_delay = known(flight["dep_delay"])
        carriers[flight["carrier"]].add(dep_delay)
        hours[flight["origin"], hour_of(flight)].add(dep_delay)
        route = flight["origin"], flight["dest"]
        route_flights[route] += 1
        route_distance[route] = max(route_distance.get(route, 0), int(flight["distance"]))
    if total != FLIGHTS:
        sys.exit(f"{directory} has {total} flights, not {FLIGHTS}")
    busiest = sorted(route_flights, key=lambda route: (-route_flights[route], route))[:10]
    return {
        "airlines": [
            {"carrier": carrier, **carriers[carrier].fields(), "name": names.get(carrier)} for carrier in sorted(carriers)
        ],
        "hourly": [
            {"origin": origin, "window_start": hour.strftime("%Y-%m-%dT%H:%M:%SZ"), **hours[origin, hour].fields()}
            for origin, hour in sorted(hours)
        ],
        "routes": [
            {"origin": origin, "dest": dest, "flights": route_flights[origin, dest], "distance": route_distance[origin, dest]}
            for origin, dest in busiest
        ],
    }


def differences(want, got):
    if sorted(got) != sorted(want):
        yield f"views: expected {sorted(want)}, found {sorted(got)}"
        return
    for view in want:
        if len(want[view]) != len(got[view]):
            yield f"{view}: expected {len(want[view])} rows, found {len(got[view])}"
        for number, (a, b) in enumerate(zip(want[view], got[view])):
            if a != b:
                yield f"{view}[{number}]: expected {a}, found {b}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default=DEFAULT_DATA)
    parser.add_argument("file", type=pathlib.Path, nargs="?")
    arguments = parser.parse_args()
    want = expected(arguments.data)
    if arguments.file is None:
        json.dump(want, sys.stdout, indent=1)
        print()
        return
    found = list(differences(want, json.loads(arguments.file.read_text())))
    for line in found[:20]:
        print(line, file=sys.stderr)
    if found:
        sys.exit(f"{arguments.file} differs from the CSV files in {len(found)} places")
    rows = ", ".join(f"{len(want[view])} {view}" for view in want)
    print(f"{arguments.file} equals what the CSV files say: {rows}")


if __name__ == "__main__":
    main()
