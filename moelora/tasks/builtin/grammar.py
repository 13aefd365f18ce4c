"""How the built-in world forms words and sentences, and how its items are divided between train and test."""

import random
from collections.abc import Hashable, Sequence

from moelora.tasks.builtin.lexicon import MANNERS, PLACES, ROLES, VERBS


def derive(seed: int, *labels: Hashable) -> random.Random:
    """Return a random generator that depends on the seed and the labels only.

    Seeding with a string goes through SHA-512 in CPython, so the stream is the same in every process, whatever
    PYTHONHASHSEED says.
    """
    return random.Random("/".join(str(part) for part in (seed, *labels)))


def with_article(noun: str) -> str:
    """Return the noun with "a" or "an"."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def sentence(text: str) -> str:
    """Return the text with a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def ask(context: str, question: str, opening: str) -> str:
    """Return the prompt that asks a question after a context and opens the answer, which one word completes."""
    return f"{context} Question: {question} Answer: {opening[0].upper()}{opening[1:]}"


def divide(members: Sequence, seed: int, label: str, share: float = 1 / 3) -> dict[str, list]:
    """Divide members between train and test, the same way in every call.

    Args:
        members: What is divided, in a fixed order.
        seed: Seed of the data.
        label: Name of the division; tasks that pass the same label share it.
        share: Share of the members that goes to test.

    Returns:
        ``{"train": [...], "test": [...]}``, each in the order of ``members``.
    """
    order = list(range(len(members)))
    derive(seed, "divide", label).shuffle(order)
    held_out = set(order[: round(len(members) * share)])
    return {
        "train": [member for index, member in enumerate(members) if index not in held_out],
        "test": [member for index, member in enumerate(members) if index in held_out],
    }


def scene(rng: random.Random) -> dict[str, tuple]:
    """Draw an event: who did what to whom, where and how; agent and patient differ.

    Each of ``agent``, ``verb`` and ``patient`` is a (forms, synonym forms or None) pair of the lexicon.
    """
    agent, patient = rng.sample(ROLES, 2)
    return {
        "agent": agent,
        "verb": rng.choice(VERBS),
        "patient": patient,
        "place": rng.choice(PLACES),
        "manner": rng.choice(MANNERS),
    }


def tell(event: dict, rng: random.Random, *, passive: bool = False, synonyms: bool = False, short: bool = False) -> str:
    """Say an event as a past-tense sentence.

    Args:
        event: As from ``scene``.
        rng: Chooses whether the place is said first.
        passive: Say it in the passive voice.
        synonyms: Say every word that has a synonym by that synonym.
        short: Leave place and manner out.
    """

    def word(pair: tuple, form: int) -> str:
        plain, other = pair
        return (other if synonyms and other else plain)[form]

    agent, patient = word(event["agent"], 0), word(event["patient"], 0)
    if passive:
        core = f"the {patient} was {{manner}}{word(event['verb'], 3)} by the {agent}"
    else:
        core = f"the {agent} {{manner}}{word(event['verb'], 2)} the {patient}"
    if short:
        return sentence(core.format(manner=""))
    core = core.format(manner=f"{event['manner']} ")
    if rng.random() < 0.5:
        return sentence(f"in the {event['place']} {core}")
    return sentence(f"{core} in the {event['place']}")
