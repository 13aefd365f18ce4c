"""Majority: always the commonest answer of the training split (the mean, for graded tasks).

Faithful to: nothing; a floor. BoolQ's 62.2 % in a published table is this method's score.
Differs from: every method that reads its input.
"""

import dataclasses

from moelora.methods._contract import Abilities, Counts, Method


@dataclasses.dataclass(frozen=True)
class Settings:
    """No settings."""


def attach(model, settings, context):
    """Return the model as it is; the scorer never asks it."""
    return model


def parameters(shapes, settings, context) -> Counts:
    """Return zero counts: nothing is trained."""
    return Counts()


METHOD = Method(
    name="majority",
    title="Majority class",
    settings=Settings,
    abilities=Abilities(
        trains=False, deterministic=True, adapter=False, reads_input=False, merge_note="there is nothing to merge"
    ),
    attach=attach,
    parameters=parameters,
)
