"""Classification and regression tasks of the built-in encoder, in the shapes of GLUE.

| task | shape | label | not shared by train and test, beside the items |
|---|---|---|---|
| acceptability | CoLA, one sentence | grammatical or not | items only |
| sentiment | SST-2, one sentence | after negation, "but"; one label in ten is wrong | the pair (noun, opinion word) |
| paraphrase | MRPC, two sentences | same event or not | the triple (agent, verb, patient) of the first sentence |
| similarity | STS-B, two sentences | 0 to 5, the number of shared parts of the event | items only |
| review-food | one review | what it says of the meal | the pair (noun, opinion word) |
| review-hotel | the same reviews | what it says of the room | the pair (noun, opinion word) |

The two review tasks contradict each other: item by item the review is the same, and only the guide it is written for
("food" or "hotel") says which half counts. Two thirds of the reviews praise one half and blame the other, so the
labels are opposite; in the rest both halves agree. Without that rest the labels of one task would be those of the
other turned round, and since every task has a head of its own the heads could undo the contradiction without any
context.
"""

import itertools
import random
from collections.abc import Callable, Iterator

from moelora.tasks.builtin.grammar import derive, divide, scene, sentence, tell
from moelora.tasks.builtin.lexicon import (
    ANTONYMS,
    BLAME,
    GUIDES,
    MANNERS,
    MEALS,
    PLACES,
    PRAISE,
    ROLES,
    ROOMS,
    SHOWS,
    VERBS,
)

SIZES = {"train": 504, "test": 240}
# Share of wrong labels in sentiment, as in any annotated set: nobody can score more than the rest.
MISTAKES = 0.1
# A draft is (text, second text or None, label).
Draft = tuple[str, str | None, int | float]


def acceptability(seed: int, split: str, rng: random.Random) -> Iterator[Draft]:
    """Draw a sentence and, every second time, break one rule of grammar in it."""
    for label in itertools.cycle((1, 0)):
        yield sentence(" ".join(agreement(rng, broken=not label))), None, label


def agreement(rng: random.Random, *, broken: bool = False) -> list[str]:
    """Return the words of a present-tense sentence with an attractor between subject and verb.

    A broken one has one of: the verb of the wrong number, subject and determiner in the wrong order, an inflected
    verb after "can", or no verb at all.
    """
    (subject, plural), (other, others) = (pair[0] for pair in rng.sample(ROLES, 2))
    verb = rng.choice(VERBS)[0]
    is_plural, near_plural, modal = rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.3
    noun, near = (plural if is_plural else subject), (others if near_plural else other)
    start = ["the", noun, "near", "the", near]
    if rng.random() < 0.3:
        start = ["the", rng.choice(rng.choice(ANTONYMS)), noun]
    end = ["the", rng.choice(ROLES)[0][0], "in", "the", rng.choice(PLACES)]
    form = verb[0] if is_plural else verb[1]
    if not broken:
        return [*start, "can", verb[0], *end] if modal else [*start, form, *end]
    fault = rng.choice(("number", "number", "number", "order", "modal", "missing"))
    if fault == "number":
        return [*start, verb[1] if is_plural else verb[0], *end]
    if fault == "modal":
        return [*start, "can", verb[1], *end]
    if fault == "order":
        return [*start, form, end[1], end[0], *end[2:]]
    return [*start, *end]


def opinion(noun: str, word: str, negated: bool, rng: random.Random) -> str:
    """Return a clause that calls the noun a word, or says that it is not."""
    if negated:
        form = rng.choice(("the {} was not {}", "the {} was never {}", "the {} was far from {}"))
    else:
        form = rng.choice(("the {} was {}", "the {} was very {}", "the {} was really {}"))
    return form.format(noun, word)


def sentiment(seed: int, split: str, rng: random.Random) -> Iterator[Draft]:
    """Draw one opinion, or two of which the one after "but" counts; some labels are an annotator's mistake."""
    pairs = opinion_pairs((*SHOWS, *MEALS), seed, "sentiment")[split]
    for label in itertools.cycle((1, 0)):
        verdict = _clause(rng.choice(pairs), label, rng, 0.3)
        given = 1 - label if rng.random() < MISTAKES else label
        if rng.random() < 0.5:
            yield sentence(verdict), None, given
        else:
            yield sentence(f"{_clause(rng.choice(pairs), 1 - label, rng, 0.3)} but {verdict}"), None, given


def paraphrase(seed: int, split: str, rng: random.Random) -> Iterator[Draft]:
    """Draw an event told twice in other words, or two events that differ in one respect."""
    events = [(a, v, p) for a in ROLES for v in VERBS for p in ROLES if a is not p]
    events = divide(events, seed, "paraphrase")[split]
    for label in itertools.cycle((1, 0)):
        event = scene(rng)
        event["agent"], event["verb"], event["patient"] = rng.choice(events)
        other = dict(event)
        if not label:
            change = rng.choice(("roles", "roles", "verb", "agent"))
            if change == "roles":
                other["agent"], other["patient"] = event["patient"], event["agent"]
            elif change == "verb":
                other["verb"] = rng.choice([verb for verb in VERBS if verb is not event["verb"]])
            else:
                absent = [role for role in ROLES if role is not event["agent"] and role is not event["patient"]]
                other["agent"] = rng.choice(absent)
        second = tell(other, rng, passive=rng.random() < 0.5, synonyms=rng.random() < 0.5, short=True)
        yield tell(event, rng, short=True), second, label


def similarity(seed: int, split: str, rng: random.Random) -> Iterator[Draft]:
    """Draw two events that share a number of their five parts; the number is the score."""
    for score in itertools.cycle(range(6)):
        event, other = scene(rng), {}
        kept = set(rng.sample(sorted(event), score))
        used = [event["agent"], event["patient"]]
        for part, choices in (("verb", VERBS), ("place", PLACES), ("manner", MANNERS)):
            other[part] = event[part] if part in kept else rng.choice([c for c in choices if c != event[part]])
        for part in ("agent", "patient"):
            if part not in kept:
                used.append(rng.choice([role for role in ROLES if role not in used]))
            other[part] = event[part] if part in kept else used[-1]
        second = tell(other, rng, passive=rng.random() < 0.3, synonyms=rng.random() < 0.3)
        yield tell(event, rng), second, float(score)


def reviews(seed: int, split: str) -> dict[str, list[dict]]:
    """Draw reviews of a meal and a room and judge each for both guides; return the items of both tasks."""
    rng = derive(seed, "encoder", "reviews", split)
    pairs = [
        opinion_pairs(nouns, seed, f"review-{guide}")[split]
        for nouns, guide in zip((MEALS, ROOMS), GUIDES, strict=True)
    ]
    # (meal, room): opposite in four of six, and each label equally often in each task.
    verdicts = itertools.cycle(((1, 0), (0, 1), (1, 1), (1, 0), (0, 1), (0, 0)))
    tasks: dict[str, list[dict]] = {f"review-{guide}": [] for guide in GUIDES}
    seen: set[str] = set()
    while len(seen) < SIZES[split]:
        labels = next(verdicts)
        while True:
            halves = [_clause(rng.choice(own), label, rng, 0.1) for own, label in zip(pairs, labels, strict=True)]
            rng.shuffle(halves)
            body = f"{halves[0]} and {halves[1]}"
            if body not in seen:
                break
        for guide, label in zip(GUIDES, labels, strict=True):
            tasks[f"review-{guide}"].append(
                {
                    "id": f"review-{split}-{len(seen):04d}",
                    "text": sentence(f"for the {guide} guide: {body}"),
                    "text_pair": None,
                    "label": label,
                }
            )
        seen.add(body)
    return tasks


DRAFTS: dict[str, Callable[[int, str, random.Random], Iterator[Draft]]] = {
    "acceptability": acceptability,
    "paraphrase": paraphrase,
    "sentiment": sentiment,
    "similarity": similarity,
}
TASKS = (*DRAFTS, *(f"review-{guide}" for guide in GUIDES))


def generate(seed: int) -> dict[str, dict[str, list[dict]]]:
    """Return the items of every task and split: ``{task: {split: [item, ...]}}``, sorted by id."""
    items: dict[str, dict[str, list[dict]]] = {task: {} for task in sorted(TASKS)}
    for split, size in SIZES.items():
        for task, drafts in DRAFTS.items():
            seen = {(row["text"], row["text_pair"]) for row in items[task].get("train", ())}
            rows = items[task].setdefault(split, [])
            # Every label equally often, whatever is drawn twice and left out.
            labels = range(6) if task == "similarity" else range(2)
            room = dict.fromkeys(labels, size // len(labels))
            for text, text_pair, label in drafts(seed, split, derive(seed, "encoder", task, split)):
                if (text, text_pair) in seen or not room[int(label)]:
                    continue
                seen.add((text, text_pair))
                room[int(label)] -= 1
                identity = f"{task}-{split}-{len(rows):04d}"
                rows.append({"id": identity, "text": text, "text_pair": text_pair, "label": label})
                if not any(room.values()):
                    break
        for task, rows in reviews(seed, split).items():
            items[task][split] = rows
    return items


def opinion_pairs(nouns: tuple[str, ...], seed: int, label: str) -> list[tuple[str, int]]:
    """Divide the pairs of a noun and an index into ``PRAISE`` and ``BLAME``."""
    return divide([(noun, word) for noun in nouns for word in range(len(PRAISE))], seed, label)


def _clause(pair: tuple[str, int], label: int, rng: random.Random, negations: float) -> str:
    """Return a clause of the given sentiment with the noun and the opinion word of a pair."""
    noun, word = pair
    negated = rng.random() < negations
    return opinion(noun, (PRAISE if bool(label) != negated else BLAME)[word], negated, rng)
