"""A block's numbers do not depend on how many tokens it works on at a time."""

import pytest
import torch
from operator_cases import assert_close, assert_same, choose, leaf, make
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from moelora import ops
from moelora.ops import Assignment, Frozen, LowRank, Settings, chunks

NAMES = ["mixlora_gated", "mixlora_two_matrix"]
SHAPES = [{}, {"unused": True, "bias": False}, {"experts": 8, "slots": 1, "tokens": 3}, {"experts": 1, "slots": 1}]


def small_defaults(monkeypatch, rows: int = 3) -> None:
    """Let nine tokens be several chunks by default."""
    monkeypatch.setattr(chunks, "PRODUCTS", 2 * rows)
    monkeypatch.setattr(chunks, "ROWS", rows)
    monkeypatch.setattr(chunks, "ROWS_WITHOUT_GRADIENT", 2)


def test_spans_cover_all_tokens_once():
    assert chunks.spans(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert chunks.spans(4, 9) == [slice(0, 4)]
    assert chunks.spans(0, 4) == chunks.spans(0, 0) == [slice(0, 0)]


def test_defaults_nest_so_that_both_passes_cut_the_same_spans():
    for on_cpu in (True, False):
        found = chunks.choose_chunks(None, on_cpu)
        assert found.products % found.rows == 0
        assert chunks.choose_chunks(None, on_cpu, keeps=False).rows <= found.rows
        assert chunks.choose_chunks(7, on_cpu) == (7, 7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["weight", "module"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_any_chunk_gives_the_same_numbers(name, form, shape, chunk):
    case = make(name, form=form, chunk=chunk, **shape)
    assert_same(case.fast, case.slow, case.leaves)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_several_chunks_by_default_give_the_same_numbers(name, grouped, shape, monkeypatch):
    small_defaults(monkeypatch)
    case = make(name, grouped=grouped, **shape)
    assert_same(case.fast, case.slow, case.leaves)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk", [None, 4])
def test_without_a_gradient_the_numbers_are_the_same(name, chunk, monkeypatch):
    small_defaults(monkeypatch)
    case = make(name, unused=True, chunk=chunk)
    with torch.no_grad():
        without = case.fast(*case.leaves)
    detached = case.fast(*(one.detach() for one in case.leaves))
    assert without.grad_fn is detached.grad_fn is None
    assert_close([without, detached], [case.slow(*case.leaves)] * 2)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recomputed_pass_draws_the_same_masks(chunk, reentrant, monkeypatch):
    """The first pass of reentrant checkpointing has no gradient, and must still drop the same elements."""
    small_defaults(monkeypatch)
    torch.manual_seed(0)
    frozen = [Frozen(torch.randn(shape, dtype=torch.float64)) for shape in ((7, 5), (7, 5), (5, 7))]
    chosen = choose(11, 3, 2, unused=False)
    leaves = [leaf(11, 5), leaf(11, 2), leaf(6, 5), leaf(7, 6), leaf(6, 5), leaf(7, 6), leaf(6, 7), leaf(5, 6)]

    def block(x, g, *tensors):
        pairs = tuple(LowRank(*tensors[n : n + 2]) for n in (0, 2, 4))
        settings = Settings(functional.silu, 1.3, 0.4, chunk)
        return ops.mixlora_gated(x, *frozen, pairs, Assignment(chosen, g, 3), settings)

    def seeded(function):
        def apply(*tensors):
            torch.manual_seed(3)
            return function(*tensors)

        return apply

    found = []
    for function in (block, lambda *tensors: checkpoint(block, *tensors, use_reentrant=reentrant)):
        output = seeded(function)(*leaves)
        output.square().sum().backward()
        found.append([output, *(one.grad for one in leaves)])
        for one in leaves:
            one.grad = None
    assert_close(found[1], found[0])


def test_identity_as_activation_does_not_overwrite_its_input():
    case = make("mixlora_gated", activation=torch.nn.Identity())
    assert_same(case.fast, case.slow, case.leaves)
