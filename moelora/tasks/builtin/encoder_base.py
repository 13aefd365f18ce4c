"""Pretrain the built-in encoder: a BERT of three layers that guesses masked words and tells its lessons' marks."""

import json
from pathlib import Path

import torch
import transformers
from tokenizers import processors
from torch.nn import functional

from moelora.errors import DataUnavailableError
from moelora.tasks.builtin.encoder_lessons import MARKS
from moelora.tasks.builtin.models import HEADS, LAYERS, MAX_LENGTH, WIDTH, padded, train, word_tokenizer

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ENCODER_TRAINING = {"steps": 1700, "batch_size": 32, "learning_rate": 3e-3}
# Words whose second appearance says nothing about the event.
FUNCTION_WORDS = ("the", "a", "in", "was", "by", ".")
UNKNOWN_MARK = -1.0


def build_encoder(data_dir: Path) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """Train the encoder on its lessons; the heads that tell marks are thrown away.

    Half of the texts are shown whole and half with masked words. Besides the masked words, the pooled first position
    learns the marks of the text, and every position the marks of its word: without the former a pooler that
    no method trains would hide the sentence from every head.

    Raises:
        DataUnavailableError: the lessons are not in ``data_dir``.
    """
    lessons = read_lessons(data_dir)
    tokenizer, encodings = tokenize(lessons)
    ids = [encoding.ids for encoding in encodings]
    segments = [encoding.type_ids for encoding in encodings]
    text_marks = torch.tensor(
        [[float(lesson["marks"].get(mark, UNKNOWN_MARK)) for mark in MARKS] for lesson in lessons]
    )
    functions = {tokenizer.convert_tokens_to_ids(word) for word in (*FUNCTION_WORDS, *SPECIALS)}
    said = [repeated_words(encoding, functions) for encoding in encodings]
    praised = [
        praised_words(encoding.ids, [(tokenizer.convert_tokens_to_ids(word), mark) for word, mark in lesson["words"]])
        for encoding, lesson in zip(encodings, lessons, strict=True)
    ]
    model = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=MAX_LENGTH,
            initializer_range=0.05,  # wider than the usual 0.02, which is meant for models ten times as wide
            pad_token_id=tokenizer.pad_token_id,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    look_for_the_same_word(model.bert)
    model.text_head, model.word_head = torch.nn.Linear(WIDTH, len(MARKS)), torch.nn.Linear(WIDTH, 2)
    marked = functional.binary_cross_entropy_with_logits

    def loss(batch: list[int]) -> torch.Tensor:
        words = padded([ids[index] for index in batch], tokenizer.pad_token_id)
        hidden = (torch.rand(words.shape) < 0.15) & (words >= len(SPECIALS)) & (torch.rand(len(batch), 1) < 0.5)
        output = model.bert(
            input_ids=words.masked_fill(hidden, tokenizer.mask_token_id),
            attention_mask=(words != tokenizer.pad_token_id).long(),
            token_type_ids=padded([segments[index] for index in batch], 0),
        )
        guesses = model.cls.predictions(output.last_hidden_state[hidden])
        total = 0.3 * functional.cross_entropy(guesses, words[hidden]) if hidden.any() else 0.0
        truth = text_marks[batch]
        known = truth != UNKNOWN_MARK
        if known.any():
            total = total + 4 * marked(model.text_head(output.pooler_output)[known], truth[known])
        told = model.word_head(output.last_hidden_state)
        for position, marks in enumerate((said, praised)):
            truth = padded([marks[index] for index in batch], UNKNOWN_MARK)
            known = (truth != UNKNOWN_MARK) & ~hidden
            if known.any():
                total = total + 2 * marked(told[..., position][known], truth[known])
        return total

    train(model, loss, [len(row) for row in ids], **ENCODER_TRAINING)
    del model.text_head, model.word_head
    return model, tokenizer


def read_lessons(data_dir: Path) -> list[dict]:
    """Return the lessons of the corpus.

    Raises:
        DataUnavailableError: they were not written there.
    """
    path = Path(data_dir) / "corpus" / "encoder.jsonl"
    if not path.is_file():
        raise DataUnavailableError(f"{path} does not exist; write it with 'moelora data --out {data_dir}'")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tokenize(lessons: list[dict]) -> tuple[transformers.PreTrainedTokenizerBase, list]:
    """Return a word tokenizer in BERT's form, and the encoded lessons."""
    words = word_tokenizer([f"{lesson['text']} {lesson['text_pair'] or ''}" for lesson in lessons], SPECIALS, "[UNK]")
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, words.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    texts = [(x["text"], x["text_pair"]) if x["text_pair"] else x["text"] for x in lessons]
    return tokenizer, words.encode_batch(texts)


def repeated_words(encoding, functions: set[int]) -> list[float]:
    """Mark each word of a second text: 1 if the first text has it too, 0 if not; nothing else is marked."""
    first = {word for word, segment in zip(encoding.ids, encoding.type_ids, strict=True) if segment == 0}
    return [
        float(word in first) if segment == 1 and word not in functions else UNKNOWN_MARK
        for word, segment in zip(encoding.ids, encoding.type_ids, strict=True)
    ]


def praised_words(ids: list[int], marks: list[tuple[int, int]]) -> list[float]:
    """Mark the words that a lesson marks, which come in their order."""
    found, rest = [], list(marks)
    for word in ids:
        found.append(float(rest.pop(0)[1]) if rest and word == rest[0][0] else UNKNOWN_MARK)
    return found


def look_for_the_same_word(bert: transformers.BertModel) -> None:
    """Let half of the first layer's heads start by attending to equal words.

    Every encoder that compares two sentences has such heads; from random values most of so short a training
    would go into finding them. Queries and keys start equal and wider, so that a word's key fits its own query best;
    training goes on to change both.
    """
    attention, half = bert.encoder.layer[0].attention.self, WIDTH // 2
    with torch.no_grad():
        attention.query.weight[:half].mul_(2.5)
        attention.key.weight[:half].copy_(attention.query.weight[:half])
        bert.embeddings.position_embeddings.weight.mul_(0.5)
