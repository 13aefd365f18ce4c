"""Multiple-choice tasks of the built-in decoder, graded from lookup to two-step inference.

| task | what it takes | choices | not shared by train and test, beside the items |
|---|---|---|---|
| category | one learnt fact | 4 | the thing asked about |
| colour | lookup in the context, with distractors | 4 | the pair (object, colour) |
| negation | antonyms, and seeing whether there is a "not" | 4 | the pair of antonyms |
| whereabouts | two steps: who has it, where is that person | 4 | the pair (object, place) |
| seniority | one comparison in the context, which the question may invert | 3 | items only |
| parade-alder | learnt sizes of three animals; in Alder the largest leads | 3 | the set of animals |
| parade-birch | the same questions; in Birch the smallest leads | 3 | the set of animals |

The two parades contradict each other: item by item they ask the same question with the same choices, and only the
name of the village says which answer is right. Each position is the right one equally often, so that an answer which
is always the same scores chance.
"""

import itertools
import random
from collections.abc import Callable, Iterator

from moelora.tasks.builtin.grammar import ask, derive, divide, sentence, with_article
from moelora.tasks.builtin.lexicon import ANIMALS, ANTONYMS, COLOURS, NAMES, OBJECTS, PLACES, VILLAGES, kinds

SIZES = {"train": 480, "test": 240}

# A draft is (prompt, right choice, wrong choices); the position of the right one is decided later.
Draft = tuple[str, str, list[str]]


def category(seed: int, split: str, rng: random.Random) -> Iterator[Draft]:
    """Ask what kind of thing something is."""
    members = divide([(thing, kind) for kind, things in kinds().items() for thing in things], seed, "category")
    for thing, kind in _rounds(members[split], rng):
        others = rng.sample([other for other in kinds() if other != kind], 3)
        name = rng.choice(NAMES)
        context = rng.choice(
            (
                f"{name} saw {with_article(thing)}",
                f"{name} drew {with_article(thing)}",
                f"here is {with_article(thing)}",
            )
        )
        question = rng.choice((f"What kind of thing is the {thing}?", f"What is {with_article(thing)}?"))
        yield ask(sentence(context), question, f"{with_article(thing)} is a kind of"), kind, others


def colour(seed: int, split: str, rng: random.Random) -> Iterator[Draft]:
    """Ask for the colour of one of two things that the context shows."""
    pairs = divide(list(itertools.product(OBJECTS, COLOURS)), seed, "colour")
    for thing, hue in _rounds(pairs[split], rng):
        other = rng.choice([other for other in OBJECTS if other != thing])
        hues = rng.sample([other for other in COLOURS if other != hue], 3)
        shown = rng.sample([(thing, hue), (other, hues[0])], 2)
        first, second = rng.sample(NAMES, 2)
        said = [f"{with_article(its_hue)} {its_name}" for its_name, its_hue in shown]
        context = f"{first} has {said[0]}. {second} has {said[1]}."
        yield ask(context, f"What colour is the {thing}?", f"the {thing} is"), hue, hues


def negation(seed: int, split: str, rng: random.Random) -> Iterator[Draft]:
    """Ask how something is after saying how it is or is not."""
    pairs = divide(ANTONYMS, seed, "negation")[split]
    for pair in _rounds(pairs, rng):
        said, opposite = rng.sample(pair, 2)
        thing, negated = rng.choice(OBJECTS), rng.random() < 0.5
        others = [rng.choice(other) for other in rng.sample([other for other in pairs if other != pair], 2)]
        context = sentence(f"the {thing} in the {rng.choice(PLACES)} is {'not' if negated else 'very'} {said}")
        right, wrong = (opposite, said) if negated else (said, opposite)
        yield ask(context, f"How is the {thing}?", f"the {thing} is"), right, [wrong, *others]


def whereabouts(seed: int, split: str, rng: random.Random) -> Iterator[Draft]:
    """Ask where a thing is that somebody carried off, while somebody else carried off another."""
    pairs = divide(list(itertools.product(OBJECTS, PLACES)), seed, "whereabouts")
    for thing, place in _rounds(pairs[split], rng):
        other = rng.choice([candidate for candidate in OBJECTS if candidate != thing])
        places = rng.sample([candidate for candidate in PLACES if candidate != place], 3)
        first, second = rng.sample(NAMES, 2)
        takes = [f"{first} took the {thing}.", f"{second} took the {other}."]
        goes = [f"{first} went to the {place}.", f"{second} went to the {places[0]}."]
        rng.shuffle(takes)
        rng.shuffle(goes)
        yield ask(" ".join([*takes, *goes]), f"Where is the {thing}?", f"the {thing} is in the"), place, places


def seniority(seed: int, split: str, rng: random.Random) -> Iterator[Draft]:
    """Ask who is the oldest or the youngest after comparing two people; a third choice is not among them."""
    while True:
        old, young, absent = rng.sample(NAMES, 3)
        oldest = rng.random() < 0.5
        right, wrong = (old, young) if oldest else (young, old)
        which = "oldest" if oldest else "youngest"
        context = f"{compare_ages(old, young, rng)} Both live near the {rng.choice(PLACES)}."
        yield ask(context, f"Who is the {which}?", f"the {which} is"), right, [wrong, absent]


def compare_ages(older: str, younger: str, rng: random.Random) -> str:
    """Say that one person is older than another, one way round or the other."""
    if rng.random() < 0.5:
        return f"{older} is older than {younger}."
    return f"{younger} is younger than {older}."


def parade(seed: int, split: str) -> dict[str, list[dict]]:
    """Ask which of three animals leads the parade, in both villages; return the items of both tasks."""
    triples = [
        triple
        for triple in itertools.combinations(sorted(ANIMALS, key=lambda animal: ANIMALS[animal][1]), 3)
        if len({ANIMALS[animal][1] for animal in triple}) == 3
    ]
    chosen = derive(seed, "parade", split).sample(divide(triples, seed, "parade")[split], SIZES[split])
    rng = derive(seed, "parade", split, "order")
    tasks: dict[str, list[dict]] = {f"parade-{village.lower()}": [] for village in VILLAGES}
    for index, triple in enumerate(chosen):
        shown = [with_article(animal) for animal in rng.sample(triple, 3)]
        # All six orders equally often: the position of the largest and of the smallest are then both balanced.
        choices = list(list(itertools.permutations(triple))[index % 6])
        for village, answer in zip(VILLAGES, (triple[2], triple[0]), strict=True):
            context = f"In the village of {village} {shown[0]}, {shown[1]} and {shown[2]} walk in a parade."
            tasks[f"parade-{village.lower()}"].append(
                {
                    "id": f"parade-{split}-{index:04d}",
                    "question": ask(context, "Which animal goes first?", "first goes the"),
                    "choices": choices,
                    "answer": choices.index(answer),
                }
            )
    return tasks


DRAFTS: dict[str, Callable[[int, str, random.Random], Iterator[Draft]]] = {
    "category": category,
    "colour": colour,
    "negation": negation,
    "seniority": seniority,
    "whereabouts": whereabouts,
}
TASKS = (*DRAFTS, *(f"parade-{village.lower()}" for village in VILLAGES))


def generate(seed: int) -> dict[str, dict[str, list[dict]]]:
    """Return the items of every task and split: ``{task: {split: [item, ...]}}``, sorted by id."""
    items: dict[str, dict[str, list[dict]]] = {task: {} for task in sorted(TASKS)}
    for split, size in SIZES.items():
        for task, drafts in DRAFTS.items():
            rng = derive(seed, "decoder", task, split)
            seen = {row["question"] for row in items[task].get("train", ())}
            items[task][split] = _place(task, split, _distinct(drafts(seed, split, rng), size, seen), rng)
        for task, rows in parade(seed, split).items():
            items[task][split] = rows
    return items


def _rounds(members: list, rng: random.Random) -> Iterator:
    """Yield members for ever, each as often as the others, in a new order each round."""
    while True:
        yield from rng.sample(members, len(members))


def _distinct(drafts: Iterator[Draft], size: int, seen: set[str]) -> list[Draft]:
    """Take drafts until there are enough, leaving out every prompt that was seen before."""
    taken: list[Draft] = []
    while len(taken) < size:
        draft = next(drafts)
        if draft[0] not in seen:
            seen.add(draft[0])
            taken.append(draft)
    return taken


def _place(task: str, split: str, drafts: list[Draft], rng: random.Random) -> list[dict]:
    """Put the right choice of every draft at a position, all positions equally often."""
    rows = []
    for index, (question, right, wrong) in enumerate(drafts):
        choices = rng.sample(wrong, len(wrong))
        answer = index % (len(wrong) + 1)
        choices.insert(answer, right)
        rows.append({"id": f"{task}-{split}-{index:04d}", "question": question, "choices": choices, "answer": answer})
    return rows
