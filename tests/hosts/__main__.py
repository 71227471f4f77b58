"""The table of engines, storages and faults: `PYTHONPATH=src:tests:. python -m hosts [ENGINE...]`, as root.

All cases run on clusters of four hosts: the driver, two hosts with two workers each, and one with the servers.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hosts.cases import FAULTS, Outcome, expected_of, photos_of, run_case
from hosts.cluster import ENGINES, STORAGES
from hosts.network import missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hosts", description=__doc__)
    parser.add_argument("--engine", action="append", choices=ENGINES)
    parser.add_argument("--storage", action="append", choices=STORAGES)
    parser.add_argument("--fault", action="append", choices=[*FAULTS])
    parser.add_argument("--photos", type=int, default=160)
    parser.add_argument("--together", type=int, default=2, help="Number of clusters at the same time.")
    parser.add_argument("--folder", type=Path, help="Where the hosts' disks lie, and stay.")
    given = parser.parse_args()
    if reason := missing():
        parser.error(reason)
    faults = given.fault or [*FAULTS]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        photos = photos_of(folder / "photos", given.photos)
        expected = expected_of(photos, folder)

        def run(engine: str, storage: str, fault: str) -> Outcome:
            name = f"{engine}-{storage}-{fault.replace(' ', '-')}"
            try:
                return run_case(folder / name, engine, storage, fault, photos, expected)
            except Exception as error:
                sys.stderr.write(f"{error}\n")
                return Outcome([str(error).partition("\n")[0]], 0.0)

        cases = [*itertools.product(given.engine or ENGINES, given.storage or STORAGES, faults)]
        sys.stdout.write(
            "engine | storage | fault | holds | s | charged | noticed after s | done meanwhile\n"
        )
        with ThreadPoolExecutor(given.together) as pool:
            bad = 0
            for case, outcome in zip(cases, pool.map(lambda case: run(*case), cases), strict=True):
                noticed = "" if outcome.noticed is None else f"{outcome.noticed:.0f}"
                holds = "; ".join(outcome.faults) or "yes"
                numbers = f"{outcome.seconds:.0f} | {outcome.again} | {noticed} | {outcome.meanwhile or ''}"
                sys.stdout.write(f"{' | '.join(case)} | {holds} | {numbers}\n")
                sys.stdout.flush()
                bad += bool(outcome.faults)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
