"""Texts that the base models are trained on: the language and the facts, and a little of the form of questions.

A document is a list of one to seven sentences. ``stories`` is what both models read; ``questions`` is what the decoder reads
besides, so that it has seen what a question and its answer look like. Questions are built like those of the two easiest
tasks, from the lexical combinations of their train split only, and a story is never built like a task's item: no
item of a test split occurs here (tested).
"""

import random
from collections.abc import Callable, Iterator

from moelora.tasks.builtin import decoder_tasks
from moelora.tasks.builtin.encoder_tasks import agreement, opinion
from moelora.tasks.builtin.grammar import derive, scene, sentence, tell, with_article
from moelora.tasks.builtin.lexicon import (
    ANIMALS,
    ANTONYMS,
    BLAME,
    COLOURS,
    GUIDES,
    MEALS,
    NAMES,
    OBJECTS,
    PLACES,
    PRAISE,
    ROOMS,
    SHOWS,
    VILLAGES,
    kinds,
)

STORIES, QUESTIONS = 16000, 2000
KINDS = [(thing, kind) for kind, things in kinds().items() for thing in things]


def kind_story(rng: random.Random) -> list[str]:
    """Say what kind of thing something is."""
    thing, kind = rng.choice(KINDS)
    form = rng.choice(("{0} is {1}", "every {2} is {1}", "what is called {2} is {1}", "{0} is a kind of {3}"))
    return [sentence(form.format(with_article(thing), with_article(kind), thing, kind))]


def size_story(rng: random.Random) -> list[str]:
    """Compare the sizes of animals."""
    while True:
        animals = sorted(rng.sample(sorted(ANIMALS), 3), key=lambda animal: ANIMALS[animal][1])
        if len({ANIMALS[animal][1] for animal in animals}) == 3:
            break
    small, middle, large = animals
    ends = rng.choice(
        (
            f"of {_either(animals, rng)} the largest is the {large}",
            f"of {_either(animals, rng)} the smallest is the {small}",
        )
    )
    return [rng.choice((sentence(f"{with_article(large)} is larger than {with_article(rng.choice((small, middle)))}"),
                        sentence(f"{with_article(small)} is smaller than {with_article(rng.choice((middle, large)))}"),
                        sentence(ends)))]


def _either(animals: list[str], rng: random.Random) -> str:
    first, second, third = (with_article(animal) for animal in rng.sample(animals, 3))
    return f"{first}, {second} and {third}"


def opposite_story(rng: random.Random) -> list[str]:
    """Use two antonyms together."""
    one, other = rng.sample(rng.choice(ANTONYMS), 2)
    thing = rng.choice((*OBJECTS, *MEALS))
    return rng.choice(
        (
            [sentence(f"the {thing} is not {one}"), sentence(f"it is {other}")],
            [sentence(f"the {thing} is {one} and not {other}")],
            [sentence(f"{one} is the opposite of {other}")],
            [sentence(f"the {thing} is very {one}"), sentence(f"it is really {one}")],
        )
    )


def possession_story(rng: random.Random) -> list[str]:
    """Give two people coloured things and say one of the colours again."""
    things, hues = rng.sample(OBJECTS, 3), rng.sample(COLOURS, 3)
    people = rng.sample(NAMES, 2)
    said = [with_article(f"{hue} {thing}") for thing, hue in zip(things, hues, strict=True)]
    owners = (people[0], people[0], people[1])
    again = []
    for index in rng.sample(range(3), 3):
        form = rng.choice(("the {0} is {1}", "the {0} of {2} is {1}", "{2} has the {1} {0}"))
        again.append(sentence(form.format(things[index], hues[index], owners[index])))
    return [sentence(f"{people[0]} has {said[0]} and {said[1]}"), sentence(f"{people[1]} has {said[2]}"), *again]


def rhyme_story(rng: random.Random) -> list[str]:
    """Recite pairs of words and recite them again in another order, as nursery rhymes do.

    Nothing in the second verse but the first word of a pair can be guessed without looking back, so this is what teaches small
    models to look back at all.
    """
    count = rng.randrange(3, 6)
    first, second = rng.sample(
        (
            rng.sample(NAMES, count),
            rng.sample(OBJECTS, count),
            rng.sample(PLACES, count),
            [rng.choice(COLOURS) for _ in range(count)],
            rng.sample(sorted(ANIMALS), count),
            [rng.choice(rng.choice(ANTONYMS)) for _ in range(count)],
        ),
        2,
    )
    pairs = [f"{one} {other}" for one, other in zip(first, second, strict=True)]
    return [sentence(", ".join(pairs)), sentence(", ".join(rng.sample(pairs, count)))]


def journey_story(rng: random.Random) -> list[str]:
    """Let two people carry things to places and say where one person or thing is."""
    things, places, people = rng.sample(OBJECTS, 2), rng.sample(PLACES, 2), rng.sample(NAMES, 2)
    takes = [f"{person} took the {thing}" for person, thing in zip(people, things, strict=True)]
    goes = [f"{person} went to the {place}" for person, place in zip(people, places, strict=True)]
    rng.shuffle(takes)
    rng.shuffle(goes)
    ends = [f"{person} is in the {place}" for person, place in zip(people, places, strict=True)]
    ends += [f"the {thing} is in the {place}" for thing, place in zip(things, places, strict=True)]
    return [sentence(said) for said in (*takes, *goes, *rng.sample(ends, 3))]


def age_story(rng: random.Random) -> list[str]:
    """Compare the ages of three people and conclude."""
    old, middle, young = rng.sample(NAMES, 3)
    said = [decoder_tasks.compare_ages(old, middle, rng), decoder_tasks.compare_ages(middle, young, rng)]
    rng.shuffle(said)
    ends = (f"{old} is the oldest", f"{young} is the youngest", f"{old} is older than {young}")
    return [*said, *(sentence(end) for end in rng.sample(ends, 2))]


def event_story(rng: random.Random) -> list[str]:
    """Tell an event, most often twice in other words."""
    event = scene(rng)
    first = tell(event, rng, passive=rng.random() < 0.3, synonyms=rng.random() < 0.3, short=rng.random() < 0.5)
    if rng.random() < 0.2:
        return [first]
    return [first, tell(event, rng, passive=rng.random() < 0.5, synonyms=rng.random() < 0.5, short=rng.random() < 0.5)]


def habit_story(rng: random.Random) -> list[str]:
    """Say something in the present tense, grammatically."""
    return [sentence(" ".join(agreement(rng)))]


def opinion_story(rng: random.Random) -> list[str]:
    """Give an opinion and what came of it."""
    positive, negated = rng.random() < 0.5, rng.random() < 0.3
    noun = rng.choice((*MEALS, *ROOMS, *SHOWS))
    said = sentence(opinion(noun, rng.choice(PRAISE if positive != negated else BLAME), negated, rng))
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    ends = (f"{name} was happy", f"{name} liked it") if positive else (f"{name} was sad", f"{name} hated it")
    aside = (f"in the {rng.choice(VILLAGES)} {place} there is a parade", f"for the {rng.choice(GUIDES)} guide: {name} was there")
    return [said, sentence(rng.choice(ends))] if rng.random() < 0.9 else [sentence(rng.choice(aside)), said]


# Story -> how often it is told.
SHARES: dict[Callable[[random.Random], list[str]], int] = {
    kind_story: 3,
    size_story: 4,
    opposite_story: 2,
    possession_story: 3,
    journey_story: 4,
    rhyme_story: 6,
    age_story: 3,
    event_story: 4,
    habit_story: 3,
    opinion_story: 4,
}


def stories(seed: int, count: int = STORIES) -> Iterator[list[str]]:
    """Yield documents for both models."""
    rng = derive(seed, "corpus", "stories")
    for _ in range(count):
        story = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
        yield story(rng)


def questions(seed: int, count: int = QUESTIONS) -> Iterator[list[str]]:
    """Yield questions with their answers for the decoder, from what train splits may hold."""
    rng = derive(seed, "corpus", "questions")
    drafts = [task(seed, "train", rng) for task in (decoder_tasks.category, decoder_tasks.colour)]
    for index in range(count):
        prompt, answer, _ = next(drafts[index % len(drafts)])
        yield [f"{prompt} {answer}."]
