"""Activations' adjoints, and the squared gradient norm in all its forms."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from moelora import ops
from moelora.ops.activations import GELU, GELU_TANH, RELU, SILU

KNOWN = [
    (functional.silu, SILU),
    (nn.SiLU(), SILU),
    (functional.gelu, GELU),
    (nn.GELU(), GELU),
    (nn.GELU("tanh"), GELU_TANH),
    (ACT2FN["silu"], SILU),
    (ACT2FN["gelu"], GELU),
    (ACT2FN["gelu_pytorch_tanh"], GELU_TANH),
    (nn.ReLU(), RELU),
]


@pytest.mark.parametrize(
    ("activation", "expected"), KNOWN, ids=[getattr(one, "__name__", str(one)) for one, _ in KNOWN]
)
def test_common_activations_are_recognised(activation, expected):
    assert ops.elementwise(activation) is expected


OTHERS = [ACT2FN["gelu_new"], torch.tanh, lambda x: x, ACT2FN["quick_gelu"]]


@pytest.mark.parametrize("activation", [one for one, _ in KNOWN] + OTHERS, ids=range(len(KNOWN) + len(OTHERS)))
def test_adjoint_equals_autograd(activation):
    torch.manual_seed(0)
    values = torch.randn(40, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(40, dtype=torch.float64)
    both = ops.elementwise(activation)
    result = activation(values)
    (expected,) = torch.autograd.grad(result, values, gradient)
    with torch.no_grad():
        assert torch.allclose(both.forward(values), result, rtol=1e-12, atol=1e-12)
        assert torch.allclose(both.backward(gradient, values), expected, rtol=1e-12, atol=1e-12)


def test_activation_with_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="trainable parameters"):
        ops.elementwise(nn.PReLU())


@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_norms_equal_the_formed_gradient(tokens):
    torch.manual_seed(0)
    x, g = torch.randn(3, tokens, 6, dtype=torch.float64), torch.randn(3, tokens, 5, dtype=torch.float64)
    expected = ops.squared_gradient_norm_reference(x, g)
    torch.testing.assert_close(ops.squared_gradient_norm(x, g), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(ops.squared_gradient_norm(x, g, ops.input_gram(x)), expected, rtol=1e-12, atol=0)


def test_norms_of_half_precision_are_float32():
    x, g = torch.randn(2, 3, 6).bfloat16(), torch.randn(2, 3, 5).bfloat16()
    norms = ops.squared_gradient_norm(x, g)
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms, ops.squared_gradient_norm_reference(x.float(), g.float()))


def test_taylor_equals_the_formed_gradient_times_the_weight():
    torch.manual_seed(0)
    x, g = torch.randn(3, 4, 6, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)
    weight = torch.randn(5, 6, dtype=torch.float64)
    before = weight.clone()
    expected = torch.stack([(weight * torch.einsum("to,ti->oi", b, a)).abs().sum() for a, b in zip(x, g, strict=True)])
    torch.testing.assert_close(ops.absolute_taylor(x, g, weight), expected, rtol=1e-12, atol=0)
    assert torch.equal(weight, before)
    assert ops.absolute_taylor(x.bfloat16(), g.bfloat16(), weight.bfloat16()).dtype == torch.float32


def test_grams_are_preferred_where_they_take_fewer_multiplications():
    for tokens, inputs, outputs in ((2, 6, 5), (3, 6, 5), (100, 300, 10), (9, 300, 10), (10, 300, 10)):
        grams, direct = tokens * tokens * (inputs + outputs), tokens * inputs * outputs
        assert ops.prefers_grams(tokens, inputs, outputs) == (grams < direct)
        assert ops.prefers_grams(tokens, inputs, outputs, shared=True) == (tokens * tokens * outputs < direct)
