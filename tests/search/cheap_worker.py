"""A worker with a cheap objective, as a process that tests may kill: cheap_worker.py STUDY.json LOG SECONDS."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from studies import peak

from moelora.search.outcome import Outcome
from moelora.search.study import open_study_file
from moelora.search.worker import work


def main(path: str, log: str, seconds: str) -> None:
    with open(log, "a", buffering=1) as told:

        def objective(asked):
            told.write(f"began {asked.slot} {asked.number}\n")
            time.sleep(float(seconds))
            told.write(f"ended {asked.slot} {asked.number}\n")
            return Outcome(values={"score": peak(asked.values)})

        work(open_study_file(path), objective, wait=0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
