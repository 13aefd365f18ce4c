"""Texts that the decoder is trained on: the language and the facts, and a little of the form of questions.

A document is a list of one to six sentences: a story, or a question with its answer, so that the decoder has seen
what those look like. Questions are built like
those of two tasks, from the lexical combinations of their train splits only, and no story is built like an item: no
item of a test split occurs here (tested).

Small models learn in a minute only what is said densely. So a story says again, in another order, nearly all that
it has said: every word that can be found by looking back is a lesson in looking back.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator

from moelora.tasks.builtin import decoder_tasks
from moelora.tasks.builtin.grammar import derive, sentence, with_article
from moelora.tasks.builtin.lexicon import (
    ANIMALS,
    ANTONYMS,
    COLOURS,
    MEALS,
    NAMES,
    OBJECTS,
    PLACES,
    VILLAGES,
    kinds,
)

KINDS = [(thing, kind) for kind, things in kinds().items() for thing in things]


def kind_story(rng: random.Random) -> list[str]:
    """Say what kind of thing two things are."""
    said = []
    for thing, kind in rng.sample(KINDS, 2):
        form = rng.choice(("{0} is {1}", "every {2} is {1}", "what is called {2} is {1}", "{0} is a kind of {3}"))
        said.append(sentence(form.format(with_article(thing), with_article(kind), thing, kind)))
    return said


def size_story(rng: random.Random) -> list[str]:
    """Compare the sizes of three animals."""
    while True:
        small, middle, large = sorted(rng.sample(sorted(ANIMALS), 3), key=lambda animal: ANIMALS[animal][1])
        if len({ANIMALS[animal][1] for animal in (small, middle, large)}) == 3:
            break
    larger, smaller = rng.choice(((large, middle), (middle, small), (large, small)))
    first, second, third = (with_article(animal) for animal in rng.sample((small, middle, large), 3))
    everyone = f"of {first}, {second} and {third}"
    return rng.choice(
        (
            [sentence(f"{with_article(larger)} is larger than {with_article(smaller)}")],
            [sentence(f"{with_article(smaller)} is smaller than {with_article(larger)}")],
            [sentence(f"{everyone} the largest is the {large}")],
            [sentence(f"{everyone} the smallest is the {small}")],
        )
    )


def opposite_story(rng: random.Random) -> list[str]:
    """Say of two things what they are not, and what they are instead."""
    said = []
    for pair in rng.sample(ANTONYMS, 2):
        one, other = rng.sample(pair, 2)
        thing = rng.choice((*OBJECTS, *MEALS))
        form = rng.choice(
            (
                "the {0} is not {1} but {2}",
                "the {0} is {1} and not {2}",
                "{1} is the opposite of {2}",
                "the {0} is very {1}, really {1}",
            )
        )
        said.append(sentence(form.format(thing, one, other)))
    return said


def inventory_story(rng: random.Random) -> list[str]:
    """List coloured things and say their colours again in another order."""
    count = rng.randrange(2, 5)
    pairs = [(thing, rng.choice(COLOURS)) for thing in rng.sample(OBJECTS, count)]
    shown = [with_article(f"{hue} {thing}") for thing, hue in pairs]
    again = [f"the {thing} is {hue}" for thing, hue in rng.sample(pairs, count)]
    first, second = rng.sample(NAMES, 2)
    return [
        sentence(f"{first} has {_listed(shown[:-1])}"),
        sentence(f"{second} has {shown[-1]}"),
        sentence(_listed(again)),
    ]


def journey_story(rng: random.Random) -> list[str]:
    """Let people carry things to places and say where everyone and everything is."""
    count = 2 if rng.random() < 0.7 else 1
    things, places, people = rng.sample(OBJECTS, count), rng.sample(PLACES, count), rng.sample(NAMES, count)
    takes = [f"{person} took the {thing}" for person, thing in zip(people, things, strict=True)]
    goes = [f"{person} went to the {place}" for person, place in zip(people, places, strict=True)]
    ends = [f"{person} is in the {place}" for person, place in zip(people, places, strict=True)]
    found = [f"the {thing} is in the {place}" for thing, place in zip(things, places, strict=True)]
    parts = [rng.sample(part, count) for part in (takes, goes, ends, found)]
    return [sentence(said) for said in (*parts[0], *parts[1], _listed(parts[2]), _listed(parts[3]))]


def age_story(rng: random.Random) -> list[str]:
    """Compare the ages of two or three people and conclude."""
    people = rng.sample(NAMES, rng.randrange(2, 4))
    said = [decoder_tasks.compare_ages(*pair, rng) for pair in itertools.pairwise(people)]
    rng.shuffle(said)
    if len(people) == 2:
        said.append(f"Both live near the {rng.choice(PLACES)}.")
    ends = [f"the oldest is {people[0]}", f"the youngest is {people[-1]}"]
    return [*said, sentence(_listed(rng.sample(ends, 2)))]


def parade_story(rng: random.Random) -> list[str]:
    """Name a village and its animals without saying anything of their order."""
    animals = [with_article(animal) for animal in rng.sample(sorted(ANIMALS), rng.randrange(1, 4))]
    verb = "walk" if len(animals) > 1 else "walks"
    return [sentence(f"in the village of {rng.choice(VILLAGES)} {_listed(animals)} {verb} in a parade")]


def question_story(seed: int, rng: random.Random) -> Iterator[list[str]]:
    """Yield questions with their answers, from what train splits may hold."""
    drafts = [task(seed, "train", rng) for task in (decoder_tasks.category, decoder_tasks.colour)]
    while True:
        prompt, answer, _ = next(rng.choice(drafts))
        yield [f"{prompt} {answer}."]


Story = Callable[[random.Random], list[str]]
DOCUMENTS = 20000
# How often each kind of story comes.
SHARES: dict[Story, int] = {
    inventory_story: 10,
    journey_story: 8,
    age_story: 4,
    size_story: 3,
    kind_story: 2,
    opposite_story: 3,
    parade_story: 1,
}
QUESTION_SHARE = 0.06


def documents(seed: int) -> Iterator[dict]:
    """Yield the documents of the decoder's corpus: ``{"kind": "journey", "sentences": [...]}``.

    Args:
        seed: Seed of the data.
    """
    stories, weights = zip(*SHARES.items(), strict=True)
    rng = derive(seed, "corpus", "decoder")
    questions = question_story(seed, derive(seed, "corpus", "decoder", "questions"))
    for _ in range(DOCUMENTS):
        if rng.random() < QUESTION_SHARE:
            yield {"kind": "question", "sentences": next(questions)}
        else:
            story = rng.choices(stories, weights=weights)[0]
            yield {"kind": story.__name__.removesuffix("_story"), "sentences": story(rng)}


HELD_OUT = 256


def held_out(seed: int, shown: Iterable[dict]) -> Iterator[dict]:
    """Yield documents like those of the corpus, none of which stands there, and no questions.

    They are for measuring what a fine-tuned decoder still knows of the language; questions are left out because they
    are what it is fine-tuned on. Kinds of story with few possible texts are rare here: most of theirs were shown.

    Args:
        seed: Seed of the data.
        shown: The documents of the corpus.
    """
    stories, weights = zip(*SHARES.items(), strict=True)
    rng = derive(seed, "corpus", "decoder", "held out")
    known = {" ".join(document["sentences"]) for document in shown}
    count = 0
    while count < HELD_OUT:
        story = rng.choices(stories, weights=weights)[0]
        sentences = story(rng)
        if (text := " ".join(sentences)) not in known:
            known.add(text)
            count += 1
            yield {"kind": story.__name__.removesuffix("_story"), "sentences": sentences}


def _listed(parts: list[str]) -> str:
    """Join parts with commas and a last "and"."""
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)
