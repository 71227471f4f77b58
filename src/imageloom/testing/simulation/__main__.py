"""`python -m imageloom.testing.simulation`: runs the histories of many seeds, or prints the history of one seed.

--seed 123                   print the history of a seed, and the law that it breaks
--seeds 2000 --jobs 2        run many seeds in several processes, and print the table of events by state
"""

from __future__ import annotations

import argparse
import logging
import sys

from imageloom.testing.simulation.coverage import missing, table
from imageloom.testing.simulation.many import one, run_all


def main() -> int:
    parser = argparse.ArgumentParser("imageloom.testing.simulation")
    parser.add_argument("--seed", type=int, help="Print the history of this seed.")
    parser.add_argument("--seeds", type=int, default=2000, help="Number of seeds to run.")
    parser.add_argument("--first", type=int, default=0, help="The first seed.")
    parser.add_argument("--jobs", type=int, default=2, help="Number of processes.")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # refused results are logged in every history
    write = sys.stdout.write
    if arguments.seed is not None:
        history = one(arguments.seed)
        write("\n".join([*history.log, *history.broken, ""]))
        return bool(history.broken)
    found = run_all(range(arguments.first, arguments.first + arguments.seeds), arguments.jobs)
    write(f"{table(found.seen)}\n")
    for cell in missing(found.seen):
        write(f"never: {' '.join(cell)}\n")
    for seed, law in found.broken:
        write(f"seed {seed}: {law}\n")
    write(
        f"{found.histories:,} histories with {found.faults:,} faults, at least {found.least_faults} each, and "
        f"{found.runs:,} runs; {len(found.broken)} broken\n"
    )
    return bool(found.broken)


if __name__ == "__main__":
    sys.exit(main())
