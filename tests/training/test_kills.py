"""kill -9 of training and scoring, many times; see nursery.py for how."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
NURSERY = Path(__file__).parent / "nursery.py"


def nursery(folder: Path, *words: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MOELORA_DEVICE": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")])
    process = subprocess.run([sys.executable, NURSERY, folder, *words], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_runs_killed_at_twenty_moments_end_with_the_bytes_of_undisturbed_ones(tmp_path):
    said = nursery(tmp_path, "20", "8")
    print(said)
    last = said.strip().splitlines()[-1]
    words = dict(part.split() for part in last.split(", "))
    assert int(words["kills"]) >= 20 and int(words["resumes"]) >= 1 and words["mismatches"] == "0"


def test_of_two_processes_at_one_run_the_second_waits_and_finds_the_work_done(tmp_path):
    found = json.loads(nursery(tmp_path, "race").splitlines()[-1])
    assert found["statuses"] == [0, 0] and found["equal"]
    waited = [number for number, said in enumerate(found["said"]) if "waiting for process" in said]
    assert len(waited) == 1
    other = found["numbers"][1 - waited[0]]
    assert f"waiting for process {other} on " in found["said"][waited[0]]
    assert "already done" in found["said"][waited[0]] and "already done" not in found["said"][1 - waited[0]]
