"""Runs the checks of one script and prints one line for each: `ok NAME` or `FAIL NAME: why`.

A check is a function decorated with `@check`; it fails by raising. Checks run in the order in which
they stand in the file, each against topics of its own, so that one failure does not hide the next.
"""

import os
import sys
import time
import traceback
import uuid

BOOTSTRAP = os.environ["KAPPA_BOOTSTRAP"]
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
_checks = []


def check(function):
    _checks.append(function)
    return function


def fresh(stem):
    """A name that no other check uses."""
    return f"{stem}-{uuid.uuid4().hex[:8]}"


def equal(actual, expected, what="value"):
    if actual != expected:
        raise AssertionError(f"{what}: expected {_short(expected)}, got {_short(actual)}")


def contains(text, *parts):
    for part in parts:
        if part not in text:
            raise AssertionError(f"expected {part!r} in {_short(text, 2000)}")


def wait_until(condition, what, seconds=30):
    """Polls `condition` until it is true; the time limit is for the broken case only."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def main():
    only = sys.argv[1:]
    failed = 0
    for function in _checks:
        if only and function.__name__ not in only:
            continue
        name = function.__name__.replace("_", " ")
        started = time.monotonic()
        try:
            function()
        except Exception as error:  # noqa: BLE001 - whatever a client raises is a failed check
            failed += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{os.path.basename(place.filename)}:{place.lineno}"
            print(f"FAIL {name}: {type(error).__name__}: {error} ({where})", flush=True)
        else:
            print(f"ok {name} ({time.monotonic() - started:.1f} s)", flush=True)
    sys.stdout.flush()
    # Client libraries keep threads that would delay a normal exit.
    os._exit(1 if failed else 0)


def _short(value, limit=400):
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
