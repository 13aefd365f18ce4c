"""Read and write MixLoRA adapters in the format of the packages mixlora and moe-peft."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from torch import nn

from moelora.errors import AdapterError
from moelora.files import atomic_write_bytes, atomic_write_json, read_json
from moelora.interchange.mixlora_config import FEED_FORWARD, ROUTERS, ForeignSettings, express, understand
from moelora.interchange.mixlora_tensors import (
    BINARY_FILE,
    LAYERS,
    SAFE_FILE,
    check_weights,
    find_parts,
    name_tensors,
    read_weights,
)
from moelora.strangers import check_place
from moelora.tuners import MixLoraConfig, MixLoraFeedForward, MixtureLinear

CONFIG_FILE = "adapter_config.json"


def load_mixlora(
    base_model: nn.Module,
    folder: "Path | str",
    adapter_name: str = "default",
    is_trainable: bool = False,
    any_base: bool = False,
) -> PeftModel:
    """Put a foreign MixLoRA adapter on a base model.

    Nothing is attached unless config and every tensor fit. The file's weights are read without running code from it.

    Args:
        base_model: A causal transformers model with Llama's module names (Llama, Mistral, Qwen2, Gemma).
        folder: Holds ``adapter_config.json`` and ``adapter_model.safetensors`` or ``adapter_model.bin``.
        adapter_name: Name of the adapter in the model.
        is_trainable: Whether to go on training; otherwise the model is put in evaluation mode.
        any_base: Accept a base model of another name than the adapter's config states. Shapes are checked anyway.

    Returns:
        The model with our MixLoRA tuner; save it with ``save_pretrained`` or `save_mixlora`.

    Raises:
        AdapterError: The adapter is of another kind, has missing, extra or wrong-shaped tensors, or belongs to
            another base model.
        RecordError: ``adapter_config.json`` is missing or not JSON.
    """
    if isinstance(base_model, PeftModel):
        raise AdapterError("the model already carries an adapter; pass the base model itself")
    if not re.fullmatch("[A-Za-z0-9_-]+", adapter_name):
        raise AdapterError(f"adapter_name is {adapter_name!r}; expected letters, digits, hyphens and underscores")
    folder = Path(folder)
    check_place(folder, CONFIG_FILE)
    settings = understand(read_json(folder / CONFIG_FILE, "adapter config"))
    blocks, attention = find_parts(base_model, settings.targets)
    _check_base(base_model, settings, any_base)
    places = dict(name_tensors(base_model, settings, attention))
    weights = read_weights(folder)
    check_weights(weights, places)
    config = MixLoraConfig(
        r=settings.r, alpha=settings.alpha, dropout=settings.dropout, num_experts=settings.experts,
        router=settings.router, experts_per_token=settings.experts_per_token, top_p=settings.top_p,
        expert_r=_own(settings, "r"), expert_alpha=_own(settings, "alpha"), expert_dropout=_own(settings, "dropout"),
        balance_coefficient=settings.balance_coefficient,
        init_router_std=settings.router_std, feed_forward_modules=blocks, task_type="CAUSAL_LM",
        target_modules=[f"self_attn.{name}" for name in attention] or None, inference_mode=not is_trainable,
    )  # fmt: skip
    model = get_peft_model(base_model, config, adapter_name=adapter_name)
    layers = dict(our_layers(model))
    with torch.no_grad():
        for name, place in places.items():
            whole = getattr(layers[place.module], place.parameter)[adapter_name]
            place.share(whole, settings.expert_r).copy_(weights[name])
    return model if is_trainable else model.eval()


def save_mixlora(model: PeftModel, folder: "Path | str", adapter: str = "default") -> Path:
    """Write one MixLoRA adapter so that mixlora and moe-peft can read it; return the folder.

    What acts in training only and has no place in the format (jitter, z-loss) is not written. An adapter with the
    router "top_p" is one for moe-peft; package mixlora refuses it.

    Raises:
        AdapterError: The adapter is not a MixLoRA the format can hold: it must cover every layer's gated block, and
            the same attention linears in every layer. Or the folder holds another adapter.
        OutputError: The folder cannot be written.
    """
    config = getattr(model, "peft_config", {}).get(adapter)
    if not isinstance(config, MixLoraConfig):
        raise AdapterError(f"adapter {adapter!r} is a {type(config).__name__}; expected one of MixLoraConfig")
    folder = Path(folder)
    if (folder / SAFE_FILE).exists():
        raise AdapterError(
            f"{folder} holds an adapter as {SAFE_FILE} already, perhaps PEFT's, whose config would be overwritten; "
            "write to another folder"
        )
    base = model.get_base_model()
    layers = {name: layer for name, layer in our_layers(model) if adapter in layer.experts}
    attention = _attention_names(base, config, layers)
    _check_expressible(config)
    expert = config.experts_settings
    settings = ForeignSettings(
        r=config.r,
        alpha=config.alpha,
        dropout=config.dropout,
        expert_r=expert.r,
        expert_alpha=expert.alpha,
        expert_dropout=expert.dropout,
        experts=config.num_experts,
        router=config.router,
        experts_per_token=config.experts_per_token,
        top_p=config.top_p,
        targets=(*attention, *FEED_FORWARD),
        activation=_activation(base),
        base_model=config.base_model_name_or_path,
        balance_coefficient=config.balance_coefficient,
        router_std=config.init_router_std,
    )
    document = express(settings)
    weights = {}
    for name, place in name_tensors(base, settings, attention):
        whole = getattr(layers[place.module], place.parameter)[adapter]
        # Cloned: a view would drag its whole stack into the file.
        weights[name] = place.share(whole.detach(), settings.expert_r).clone().cpu()
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    atomic_write_bytes(folder / BINARY_FILE, buffer.getvalue())
    atomic_write_json(folder / CONFIG_FILE, document)
    return folder


def _own(settings: ForeignSettings, name: str) -> "int | float | None":
    """Return a setting of the experts where it differs from the attention's, else None."""
    own = getattr(settings, f"expert_{name}")
    return None if own == getattr(settings, name) else own


def our_layers(model: PeftModel) -> Iterator[tuple[str, nn.Module]]:
    """Yield our layers by their full names in the base model."""
    for module in model.modules():
        if isinstance(module, MixtureLinear | MixLoraFeedForward):
            yield module.module_name, module


def _check_base(base: nn.Module, settings: ForeignSettings, any_base: bool) -> None:
    """Compare names, of which only the last part counts: a model is often loaded from a folder of its own."""
    found = getattr(base.config, "_name_or_path", None)
    wanted = settings.base_model
    if not any_base and found and wanted and Path(found).name != Path(wanted).name:
        raise AdapterError(
            f"the adapter was trained on {wanted!r} but the base model is {found!r}; load that one, or pass "
            "any_base=True when they are the same weights under two names"
        )
    own = _activation(base)
    if settings.activation and own and settings.activation != own:
        raise AdapterError(
            f"the adapter's experts use the activation {settings.activation!r} but the base model's blocks have "
            f"{own!r}; our experts use the block's own"
        )


def _activation(base: nn.Module) -> str | None:
    """Return the name of the feed-forward blocks' activation."""
    names = [getattr(base.config, key, None) for key in ("hidden_activation", "hidden_act")]
    return next((name for name in names if name), None)


def _attention_names(base: nn.Module, config: MixLoraConfig, layers: dict[str, nn.Module]) -> list[str]:
    """Return the attention linears an adapter has, if they are the same in all layers and nothing is left over."""
    last = {name.rpartition(".")[2] for name in layers} - {"mlp"}
    blocks, attention = find_parts(base, tuple(sorted(last)))
    expected = {*blocks}
    for block in blocks:
        expected |= {f"{block.removesuffix('mlp')}self_attn.{name}" for name in attention}
    odd = sorted(expected ^ layers.keys())
    if odd:
        raise AdapterError(
            f"the format has the same modules in every layer: all blocks at {LAYERS}.<i>.mlp and, for each attention "
            f"linear, that of every layer. Here these are missing or too many: {odd[:5]}"
        )
    return attention


def _check_expressible(config: MixLoraConfig) -> None:
    """Refuse settings for which the format has no word."""
    if config.router not in ROUTERS.values():
        raise AdapterError(
            f"router is {config.router!r}; expected one of {list(ROUTERS.values())}: moe-peft computes its switch "
            "router's block in training only"
        )
    if config.modules_to_save:
        raise AdapterError(f"modules_to_save is {config.modules_to_save}; the format has no place for whole modules")
    if config.part_names["activation"] != "act_fn" or config.num_experts < 2:
        raise AdapterError(
            f"num_experts is {config.num_experts} and the parts of a block are {config.part_names}; expected at least "
            "2 experts, since the format always has a router, and Llama's names"
        )
