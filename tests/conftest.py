"""Fixtures that several parts of the tests use."""

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "training"))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so for what a shell starts in the background; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["MOELORA_DEVICE"] = "cpu"  # tests state what the CPU gives; GPU tests are marked and choose for themselves


@pytest.fixture
def heard():
    """Return what moelora's logger says, line by line, whichever handlers it has and gets."""
    from moelora.progress import logger

    messages: list[str] = []

    def hear(record):
        messages.append(record.getMessage())
        return True

    logger.addFilter(hear)
    yield messages
    logger.removeFilter(hear)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Return a folder with small data and small base models."""
    import torch
    from world import write_world

    torch.set_num_threads(1)
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """Return an environment whose Hugging Face clients reach a stand-in for the hub.

    MOELORA_TEST_HUB names a folder with ``serve.py``; ``shared/hub`` beside the checkout is the default.
    """
    import socket
    import subprocess
    import time

    root = Path(os.environ.get("MOELORA_TEST_HUB") or Path(__file__).resolve().parents[2] / "shared" / "hub")
    if not (root / "serve.py").is_file():
        pytest.skip(f"no stand-in for the hub at {root}; set MOELORA_TEST_HUB to a folder with serve.py")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, root / "serve.py", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    environment = {
        key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    }
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "HF_HOME": str(tmp_path_factory.mktemp("hf-home")),
    }
    yield environment
    process.terminate()
    process.wait()
