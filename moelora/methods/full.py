"""Full fine-tuning: every parameter of the base model and its head is trained.

Faithful to: the usual upper bound of a parameter-efficient table.
Differs from: it, in nothing; its learning rate is tuned apart, as for any variant.
"""

import dataclasses

from moelora.methods._contract import Abilities, Counts, Method


@dataclasses.dataclass(frozen=True)
class Settings:
    """No settings."""


def attach(model, settings, context):
    """Return the model with everything trainable."""
    model.requires_grad_(True)
    return model


def parameters(shapes, settings, context) -> Counts:
    """Return the whole model: closed formula is the base model's own count, which holds the head."""
    return Counts(head=shapes.total_parameters, active=shapes.total_parameters)


METHOD = Method(
    name="full",
    title="Full fine-tuning",
    settings=Settings,
    abilities=Abilities(adapter=False, quantised_base=False, merge_note="there is no adapter to merge"),
    attach=attach,
    parameters=parameters,
)
