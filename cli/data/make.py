#!/usr/bin/env python3
"""Make the compressed tables in this directory from the original CSV files.

    make.py DIRECTORY      holds flights.csv (or flights.csv.zip), airlines.csv, airports.csv, planes.csv, weather.csv

The same input gives the same bytes. README.md says which columns of flights are left out and how they follow from the rest.
"""
import csv
import gzip
import io
import pathlib
import sys
import zipfile

FLIGHT_COLUMNS = ["origin", "dest", "carrier", "flight", "distance", "tailnum", "time_hour", "minute", "dep_delay",
                  "sched_arr_time", "arr_time", "arr_delay", "air_time"]
HERE = pathlib.Path(__file__).resolve().parent


def read(directory, table):
    archive = directory / f"{table}.csv.zip"
    if archive.exists():
        text = zipfile.ZipFile(archive).read(f"{table}.csv").decode()
    else:
        text = (directory / f"{table}.csv").read_text()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def write(table, columns, rows):
    text = io.StringIO(newline="")
    out = csv.writer(text, lineterminator="\n")
    out.writerow(columns)
    out.writerows([row[column] for column in columns] for row in rows)
    # No file name and no time in the header, so that the bytes depend on the rows alone.
    (HERE / f"{table}.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def main():
    directory = pathlib.Path(sys.argv[1])
    for table in ["airlines", "airports", "planes", "weather"]:
        rows = read(directory, table)
        write(table, list(rows[0]), rows)
    flights = read(directory, "flights")
    # Neighbours that share route, carrier and number compress to two thirds of what the original order takes.
    flights.sort(key=lambda row: [row["origin"], row["dest"], row["carrier"], int(row["flight"]),
                                  row["time_hour"], int(row["minute"]), row["tailnum"]])
    write("flights", FLIGHT_COLUMNS, flights)


if __name__ == "__main__":
    main()
