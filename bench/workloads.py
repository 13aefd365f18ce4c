"""What is computed: frozen models with random weights, and the steps that are timed on them.

Every variant of a comparison gets a model of its own around the same frozen weights, which are in memory once.
"""

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
VOCABULARY = 1000  # small, so that the head does not thin out what the layers cost
KINDS = ("block", "model")


@dataclasses.dataclass(frozen=True)
class Workload:
    """One gated feed-forward block, or a Llama of a few layers, with one batch.

    Args:
        name: What tables call it.
        kind: "block" or "model".
        hidden: Width of the residual stream.
        inner: Width of the feed-forward.
        layers: Decoder layers; 1 for a block.
        heads: Attention heads; a block has none.
        batch: Sequences.
        length: Tokens of a sequence.
        dtype: Name of the frozen weights' torch dtype.
        device: "cpu" or "cuda".
    """

    name: str
    kind: str
    hidden: int
    inner: int
    layers: int = 1
    heads: int = 1
    batch: int = 1
    length: int = 512
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.length

    @property
    def targets(self) -> list[str]:
        """Names of all linear layers that an adapter may have."""
        return list(FEED_FORWARD if self.kind == "block" else ATTENTION + FEED_FORWARD)

    @property
    def attention(self) -> list[str]:
        """Names of the attention's linear layers: none in a block."""
        return [] if self.kind == "block" else list(ATTENTION)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        return getattr(torch, self.dtype)


PRESETS = {
    "cpu": (
        Workload("block", "block", 2048, 5632, batch=1, length=512),
        Workload("model", "model", 768, 2048, layers=4, heads=12, batch=2, length=128),
    ),
    # Llama-2-7B's shapes. Never run by its authors: no GPU was at hand.
    "gpu": (
        Workload("block", "block", 4096, 11008, batch=2, length=2048, dtype="bfloat16", device="cuda"),
        Workload("model", "model", 4096, 11008, 2, 32, batch=2, length=2048, dtype="bfloat16", device="cuda"),
    ),
    "tiny": (
        Workload("block", "block", 32, 48, batch=2, length=8),
        Workload("model", "model", 32, 48, layers=2, heads=4, batch=2, length=8),
    ),
}


class _Block(nn.Module):
    """A decoder's feed-forward block alone, under the name that it has in a model."""

    def __init__(self, feed_forward: nn.Module):
        super().__init__()
        self.mlp = feed_forward

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


def build_base(workload: Workload) -> nn.Module:
    """Return the frozen model with random weights from a fixed seed."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaMLP

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=workload.hidden,
        intermediate_size=workload.inner,
        num_hidden_layers=workload.layers,
        num_attention_heads=workload.heads,
        num_key_value_heads=workload.heads,
        max_position_embeddings=max(512, workload.length),
        use_cache=False,
    )
    with torch.device(workload.device):
        model = _Block(LlamaMLP(config)) if workload.kind == "block" else LlamaForCausalLM(config)
    return model.to(workload.torch_dtype).requires_grad_(False)


def share(base: nn.Module) -> nn.Module:
    """Return a copy of the model's modules around the same weights."""
    kept = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    return copy.deepcopy(base, kept)


class Batch:
    """The input of a step, the same for all variants.

    Its first layer's input requires a gradient, as in the middle of a deeper model: so every variant, the frozen
    base included, runs the whole backward pass.
    """

    def __init__(self, workload: Workload, base: nn.Module):
        generator = torch.Generator().manual_seed(5)
        shape = (workload.batch, workload.length)
        self.ids = torch.randint(0, VOCABULARY, shape, generator=generator).to(workload.device)
        wide = torch.randn(2, *shape, workload.hidden, generator=generator).to(workload.device, workload.torch_dtype)
        self.kind, self.cotangent = workload.kind, wide[1]
        self.input = wide[0] if workload.kind == "block" else base.get_input_embeddings()(self.ids).detach()
        self.input = self.input.clone().requires_grad_(True)

    def forward(self, model: Any) -> tuple[Tensor, Tensor | None]:
        """Return the output to go back from and its gradient (None for a loss)."""
        if self.kind == "block":
            return model(self.input), self.cotangent
        return model(inputs_embeds=self.input, labels=self.ids).loss, None

    def train(self, model: Any) -> None:
        """Run forward and backward."""
        self.input.grad = None
        output, gradient = self.forward(model)
        output.backward(gradient)

    def infer(self, model: Any) -> None:
        """Run forward without recording anything for a backward pass."""
        with torch.no_grad():
            if self.kind == "block":
                model(self.input)
            else:
                model(inputs_embeds=self.input)
