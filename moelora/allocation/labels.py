"""Labels sampled from the model itself: what makes the mean of squared gradients Fisher information.

Each example has random numbers of its own, named by task, item and seed, so that neither the order of examples nor the
micro-batch changes a label.
"""

import random
from collections.abc import Callable, Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from moelora.seeds import derive_seed
from moelora.training.encode import IGNORED, Encoded


def sampled_labels(examples: Sequence[Encoded], kind: str, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function from logits and true labels of these examples to labels drawn from the model.

    A class is drawn from the softmax; an answer's tokens each from the softmax after the true tokens before it; a grade
    from the normal distribution around the prediction under which the squared error is −log p up to a constant, that
    of variance 1/2.

    Args:
        examples: The micro-batch, in its order.
        kind: The task's kind.
        seed: Of the draw.
    """

    def relabel(logits: Tensor, labels: Tensor) -> Tensor:
        generators = [random.Random(derive_seed("sampled label", one.task, one.item, seed)) for one in examples]
        if kind == "regression":
            noise = [NormalDist(0.0, 0.5**0.5).inv_cdf(_inside(generator)) for generator in generators]
            return logits.squeeze(-1).detach() + torch.tensor(noise, dtype=logits.dtype, device=logits.device)
        if kind == "classification":
            return _draw(logits.detach(), [generator.random() for generator in generators])
        drawn = labels.clone()
        places = (labels[:, 1:] != IGNORED).nonzero()  # by example, then by token
        uniforms = [generators[row].random() for row in places[:, 0].tolist()]
        rows, tokens = places.unbind(1)
        drawn[rows, tokens + 1] = _draw(logits.detach()[rows, tokens], uniforms)
        return drawn

    return relabel


def _inside(generator: random.Random) -> float:
    """Return a number in (0, 1): the quantile of 0, which may be drawn, is minus infinity."""
    return generator.random() or 0.5


def _draw(logits: Tensor, uniforms: list[float]) -> Tensor:
    """Return a class for each row of logits (P, classes), where the distribution function passes the row's number."""
    levels = torch.tensor(uniforms, dtype=torch.float64, device=logits.device).unsqueeze(1)
    rising = logits.double().softmax(-1).cumsum(-1)
    return torch.searchsorted(rising, levels, right=True).squeeze(1).clamp_(max=logits.shape[-1] - 1)
