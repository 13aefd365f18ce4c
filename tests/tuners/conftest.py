"""Every tuner test runs on a decoder and an encoder, with both tuners."""

import pytest
from fused_cases import VARIANTS
from peft.tuners.lora.layer import Linear

from moelora.tuners import FusedLinear, fused


@pytest.fixture(params=["llama", "bert"])
def kind(request) -> str:
    return request.param


@pytest.fixture(params=["mixture", "mixlora"])
def method(request) -> str:
    return request.param


@pytest.fixture(params=list(VARIANTS))
def variant(request) -> str:
    return request.param


@pytest.fixture
def calls(monkeypatch):
    """Count what ran: our operators, and PEFT's forward of a fused layer."""
    counts = {"ours": 0, "peft": 0}
    for name in ("lora_linear", "dora_linear"):
        original = getattr(fused, name)

        def ours(*args, original=original, **kwargs):
            counts["ours"] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(fused, name, ours)
    original_forward = Linear.forward

    def peft(self, *args, **kwargs):
        counts["peft"] += isinstance(self, FusedLinear)
        return original_forward(self, *args, **kwargs)

    monkeypatch.setattr(Linear, "forward", peft)
    return counts
