"""Head only: the base model stays frozen; an encoder's classifier or a decoder's output embedding is trained.

Faithful to: the usual lower bound of a fine-tuning table (linear probing; for decoders the language-model head).
Differs from: `base`, which trains an encoder's head too but leaves a decoder alone. A head tied to the input embedding
    is untied first, so that the input stays what it was.
"""

import dataclasses

from moelora.methods._contract import Abilities, Counts, Method


@dataclasses.dataclass(frozen=True)
class Settings:
    """No settings."""


def attach(model, settings, context):
    """Return the model with everything frozen except its output layer."""
    import torch

    model.requires_grad_(False)
    if context.head_modules:
        for name in context.head_modules:
            model.get_submodule(name).requires_grad_(True)
        return model
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    head.requires_grad_(True)
    return model


def parameters(shapes, settings, context) -> Counts:
    """Return the classifier's own size, or vocabulary · hidden of a decoder's head."""
    head = shapes.head_parameters or shapes.output_parameters
    return Counts(head=head, active=head)


METHOD = Method(
    name="head_only",
    title="Head only",
    settings=Settings,
    abilities=Abilities(adapter=False, merge_note="there is nothing to merge"),
    attach=attach,
    parameters=parameters,
)
