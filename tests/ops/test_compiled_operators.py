"""torch.compile traces every operator into one graph, and what comes out are the same numbers."""

import pytest
import torch
from operator_cases import BLOCKS, CASES, assert_close, gradients, make

from moelora.ops import shares


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", CASES)
def test_one_graph_forward_and_backward(name):
    case = make(name, unused=True)
    compiled = torch.compile(case.fast, backend="aot_eager", fullgraph=True)
    output, found = gradients(compiled, case.leaves)
    wanted, expected = gradients(case.fast, case.leaves)
    assert_close([output, *found], [wanted, *expected])


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_group_rows_only_where_nothing_is_traced(name, monkeypatch):
    """Groups have sizes that a graph cannot know; asked for by name, they break it."""
    called = []
    original = shares._grouped
    monkeypatch.setattr(shares, "_grouped", lambda *arguments: called.append(1) or original(*arguments))
    case = make(name)
    torch.compile(case.fast, backend="eager", fullgraph=True)(*case.leaves)
    assert not called
    case.fast(*case.leaves)
    assert called
    torch._dynamo.reset()
    asked = make(name, grouped=True)
    with torch.no_grad(), pytest.raises(Exception, match="bincount"):
        torch.compile(asked.fast, backend="eager", fullgraph=True)(*asked.leaves)


@pytest.mark.parametrize("name", [one for one in BLOCKS if "dora" in one])
def test_mixdora_with_dropout_is_called_from_the_graph_and_not_traced(name):
    """Expert by expert, on the rows of its tokens, whose number only the data tell.

    That leaves three graphs: before it, behind it in the operator, and behind the operator.
    """
    case = make(name, dropout=0.2)
    found = torch._dynamo.explain(case.fast)(*case.leaves)
    assert found.graph_break_count == 2
    assert "torch.compiler.disable" in found.break_reasons[0].reason
