"""The Triton kernels: their switch, what they need from torch, and `kernel_checks.py` in a process of its own.

They need triton, which torch's CPU builds do not bring and the lock file therefore does not name: `pip install triton`.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from operator_cases import choose, densify
from torch.nn import functional

from moelora.errors import ConfigError
from moelora.ops.triton import SWITCH, groups, uses_kernels
from moelora.ops.triton.covered import is_covered, kernel_name

CHECKS = Path(__file__).with_name("kernel_checks.py")
REPOSITORY = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the kernels need triton: pip install triton"
)

compiled = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter's kernels cannot be compiled"
)


def test_the_switch_is_off_and_imports_no_kernel(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
    assert not uses_kernels(torch.ones(2, 3), functional.silu, 8)
    script = "import sys, moelora.ops; assert not any(one.startswith('moelora.ops.triton.') and one[19:] != 'covered'" \
        " for one in sys.modules)"  # fmt: skip
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY)


def test_the_switch_refuses_what_cannot_be(monkeypatch):
    x = torch.ones(2, 3)
    monkeypatch.setenv(SWITCH, "yes")
    with pytest.raises(ConfigError, match="is 'yes'; expected 1"):
        uses_kernels(x, functional.silu, 8)
    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("moelora.ops.triton.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="triton is not installed; `pip install triton`"):
        uses_kernels(x, functional.silu, 8)
    monkeypatch.setattr("moelora.ops.triton.find_spec", lambda name: name)
    with pytest.raises(ConfigError, match="the tokens are on cpu"):
        uses_kernels(x, functional.silu, 8)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert uses_kernels(x, functional.silu, 8)
    assert not uses_kernels(x[:0], functional.silu, 8)


def test_what_is_covered():
    x = torch.ones(2)
    assert kernel_name(torch.nn.GELU(approximate="tanh")) == "gelu_tanh"
    assert kernel_name(torch.tanh) is None
    assert is_covered(functional.silu, 64, x.half(), x.bfloat16())
    assert is_covered(functional.silu, 32, x, x.half())
    assert not is_covered(functional.silu, 33, x, x.half())
    assert not is_covered(functional.silu, 65, x.half())
    assert not is_covered(functional.silu, 8, x, x.double())
    assert not is_covered(torch.tanh, 8, x)


@pytest.mark.parametrize("experts, slots", [(4, 2), (64, 12), (1, 1)])
def test_groups_of_tokens(experts, slots):
    torch.manual_seed(0)
    chosen, weights = choose(50, experts, slots, unused=True), torch.rand(50, slots)
    found = groups.group_tokens(chosen, weights, experts)
    assert sorted(found.order.tolist()) == list(range(50))
    assert torch.equal(found.unsort(found.chosen), chosen.int())
    assert torch.equal(found.unsort(found.weights), weights.masked_fill(chosen < 0, 0))
    in_order = [tuple(row) for row in found.chosen[found.order].tolist()]
    exact = slots * experts.bit_length() < 60  # a set of twelve of 64 does not fit into a number of 64 bits
    assert not exact or in_order == sorted(in_order)
    dense = groups.spread(found.weights.unsqueeze(-1), found.chosen, experts).squeeze(-1)
    assert torch.equal(dense, densify(chosen, weights, experts))


def test_pairs_by_expert():
    chosen = torch.tensor([[-1, 2], [0, 2], [-1, -1], [0, 3]], dtype=torch.int32)
    pairs, starts = groups.group_pairs(chosen, 5)
    assert starts.tolist() == [3, 5, 5, 7, 8, 8]
    assert pairs[3:].tolist() == [2, 6, 1, 3, 7]


def run_checks(**environment: str) -> str:
    """Run `kernel_checks.py` and return what pytest prints last."""
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", CHECKS],
        cwd=REPOSITORY,
        env={**{key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}, **environment},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout[-8000:] + process.stderr[-2000:]
    return process.stdout.strip().splitlines()[-1]


@needs_triton
def test_the_kernels_compute_what_the_operators_compute():
    last = run_checks(TRITON_INTERPRET="1")
    assert re.match(r"\d+ passed", last) and "skipped" not in last


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_compute_what_the_operators_compute_on_a_gpu():
    assert re.match(r"\d+ passed", run_checks())


POINTERS = {
    **dict.fromkeys(["order", "pairs", "starts"], "*i64"),
    "chosen": "*i32",
    "kept": "*i1",
    **dict.fromkeys(["weights", "products", "d_weights", "d_low", "d_gate_b", "d_up_b", "d_last_a"], "*fp32"),
    **dict.fromkeys(["gate", "up", "mixed", "d_mixed", "d_gate", "d_up"], "*bf16"),
}
OF_FACTORS = ["low", "gate_b", "up_b", "last_a", "d_products"]
NUMBERS = {"count": "i32", "width": "i32", "splits": "i32", "keep_scale": "fp32"}


@needs_triton
@compiled
def test_every_kernel_can_be_tuned():
    """The tuner itself needs a GPU; what it is told must be arguments of the kernels."""
    from moelora.ops.triton import launch

    for kernel in launch.TILES:
        tuner = launch._tuned(kernel, 4096)
        assert set(tuner.keys) <= set(kernel.arg_names)
        assert len({(one.kwargs["BLOCK_T"], one.num_warps) for one in tuner.configs}) == len(launch.TUNED)
        assert launch._tuned(kernel, 4096) is tuner and launch._tuned(kernel, 64) is not tuner


@needs_triton
@compiled
@pytest.mark.parametrize("dropped, factors", [(False, "bf16"), (True, "bf16"), (False, "fp32")])
def test_the_kernels_compile_for_an_h100_without_one(dropped, factors, monkeypatch, tmp_path):
    """With the tiles that are chosen without tuning no register is spilled, and bfloat16 goes to the tensor cores."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from moelora.ops.triton.launch import TILES

    pointers = {**POINTERS, **dict.fromkeys(OF_FACTORS, f"*{factors}")}
    for kernel, tile in TILES.items():
        constants = {
            "EXPERTS": 8, "SLOTS": 2, "RANK": 8, "RANKS": 16, "GATED": True, "ACTIVATION": "silu", "DROPPED": dropped,
            "PRECISION": "ieee", "BLOCK_T": tile.tokens, "BLOCK_F": tile.columns,
        }  # fmt: skip
        signature, aligned = {}, {}
        for place, name in enumerate(kernel.arg_names):
            signature[name] = pointers.get(name.removesuffix("_pointer"), NUMBERS.get(name, "constexpr"))
            if name == "width" or name.endswith("_pointer"):
                aligned[(place,)] = [["tt.divisibility", 16]]
        compiled = triton.compile(
            ASTSource(kernel, signature, constants, aligned),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": tile.warps},
        )
        assert ("mma.sync" in compiled.asm["ptx"]) == (factors == "bf16")
        (tmp_path / "kernel.cubin").write_bytes(compiled.asm["cubin"])
        usage = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", tmp_path / "kernel.cubin"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
        assert stack == 0, f"{kernel.__name__} spills"
        several = 3 if factors == "bf16" and not dropped else 2
        assert registers * 32 * tile.warps * several <= 65536, "so many tiles fit on a multiprocessor"
