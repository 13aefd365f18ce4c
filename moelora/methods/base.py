"""Base: the pretrained model without an adapter. A decoder is not trained at all; an encoder trains its head only.

Faithful to: the usual floor of a fine-tuning table (an encoder's head starts at random, so it must be trained).
Differs from: `full`, which trains everything.
"""

import dataclasses

from moelora.methods._contract import Abilities, Counts, Method


@dataclasses.dataclass(frozen=True)
class Settings:
    """No settings."""


def attach(model, settings, context):
    """Return the model with everything frozen except its head."""
    model.requires_grad_(False)
    for name in context.head_modules:
        model.get_submodule(name).requires_grad_(True)
    return model


def parameters(shapes, settings, context) -> Counts:
    """Return the head alone; closed formula: the head's own size."""
    return Counts(head=shapes.head_parameters, active=shapes.head_parameters)


METHOD = Method(
    name="base",
    title="Base model",
    settings=Settings,
    abilities=Abilities(adapter=False, merge_note="there is nothing to merge"),
    attach=attach,
    parameters=parameters,
)
