"""Data parallelism: two processes, in one of which an expert gets no token, do not wait for each other for ever."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from subjects import check, not_applicable

from moelora.methods import get_method, method_names

PATIENCE = 90  # seconds without a word, start-up included, after which a method is taken to hang
KIND = "llama"


def trains_on_a_decoder(name: str) -> bool:
    abilities = get_method(name).abilities
    return abilities.trains and "decoder" in abilities.architectures and name != "base"


@pytest.fixture(scope="session")
def outcomes(request):
    """Return why each chosen method failed, or nothing; one start serves all, and a failure costs one start more."""
    found: dict[str, str] = {}
    chosen = {item.callspec.params["subject"][0] for item in request.session.items if _asks(item)}
    todo = [name for name in method_names() if name in chosen and trains_on_a_decoder(name)]
    while todo:
        found |= talk(todo)
        unheard = [name for name in todo if name not in found]
        if len(unheard) == len(todo):
            found[todo[0]] = f"said nothing for {PATIENCE} s or ended: it hangs or crashed"
        todo = [name for name in unheard if name not in found]
    return found


def _asks(item) -> bool:
    return getattr(item, "originalname", "") == test_two_processes_agree_and_a_starved_expert_does_not_hang.__name__


def talk(names: list[str]) -> dict[str, str]:
    """Run two processes over some methods until one fails, hangs or all are done."""
    script = Path(__file__).with_name("two_processes.py")
    process = subprocess.Popen(
        [sys.executable, script, *names], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )  # fmt: skip
    lines: queue.Queue = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in (*process.stdout, "")], daemon=True).start()
    found: dict[str, str] = {}
    heard: dict[str, int] = dict.fromkeys(names, 0)
    try:
        while len(found) < len(names) and (line := lines.get(timeout=PATIENCE)):
            if not line.startswith("{"):
                continue  # a library's
            said = json.loads(line)
            if said["reason"]:
                found[said["method"]] = said["reason"]
                break
            heard[said["method"]] += 1
            if heard[said["method"]] == 2:
                found[said["method"]] = ""
    except queue.Empty:
        pass  # the first method that was not heard of hangs
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return found


@pytest.mark.slow
@pytest.mark.xdist_group("two_processes")  # one start for all, where tests are spread by group
@check("two processes, a starved expert", kinds=(KIND,))
def test_two_processes_agree_and_a_starved_expert_does_not_hang(subject, request):
    subject.needs_training()
    if "decoder" not in subject.abilities.architectures:
        not_applicable("is for encoders, and this check runs on a decoder")
    if not trains_on_a_decoder(subject.name):
        not_applicable("trains the head only, and a decoder has none")
    reason = request.getfixturevalue("outcomes")[subject.name]
    assert not reason, reason
