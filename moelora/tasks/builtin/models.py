"""Build the base models of the built-in suite: a Llama-like decoder and a BERT-like encoder, trained from a seed.

Both are trained on one thread, whatever the machine offers, so that the same weights come out of every build on a
machine (sums are not split differently) and so that two models can be built side by side.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import functional

from moelora.errors import ConfigError, DataUnavailableError, nearest
from moelora.files import replace_folder
from moelora.seeds import derive_seed

logger = logging.getLogger(__name__)

WIDTH, LAYERS, HEADS, MAX_LENGTH = 64, 3, 4, 64
# Rows hold at most 64 words, so slow rotations would tell no positions apart.
ROPE_BASE = 100.0
# Wider than the libraries' 0.02, which is meant for models ten times as wide: training starts at once.
INITIAL_STD = 0.12
REPEAT_WEIGHT = 3.0
DECODER_SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
ENCODER_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DECODER_TRAINING = {"steps": 1800, "batch_size": 32, "learning_rate": 4e-3}
ENCODER_TRAINING = {"steps": 1500, "batch_size": 32, "learning_rate": 2e-3}


def build_model(model_doc: dict, data_dir: Path, out_dir: Path) -> None:
    """Train a base model on the corpus and save it with its tokenizer.

    Args:
        model_doc: Model file; ``source.builtin`` names the model, ``source.seed`` seeds it.
        data_dir: Folder that ``write_data`` filled.
        out_dir: Folder for ``from_pretrained``; replaced as a whole once the model is ready.

    Raises:
        ConfigError: no built-in model has that name.
        DataUnavailableError: the corpus is not in ``data_dir``.
    """
    source = model_doc["source"]
    builders = {"tiny-decoder": build_decoder, "tiny-encoder": build_encoder}
    if source["builtin"] not in builders:
        raise ConfigError(f"unknown built-in model '{source['builtin']}'{nearest(source['builtin'], set(builders))}")
    out_dir = Path(out_dir)
    temporary = out_dir.with_name(f".{out_dir.name}.building")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("built-in model", source["builtin"], source.get("seed", 0)))
        model, tokenizer = builders[source["builtin"]](Path(data_dir))
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    replace_folder(temporary, out_dir)


def build_decoder(data_dir: Path) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """Train a causal language model."""
    texts = [" ".join(document["sentences"]) for document in read_corpus(data_dir, "decoder")]
    words = word_tokenizer(texts, DECODER_SPECIALS, "<unk>")
    pad, start, end, unknown = DECODER_SPECIALS
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=pad,
        bos_token=start,
        eos_token=end,
        unk_token=unknown,
        model_max_length=MAX_LENGTH,
    )
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=MAX_LENGTH,
            initializer_range=INITIAL_STD,
            tie_word_embeddings=True,
            attention_bias=True,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    look_back(model)
    rows = [[*encoding.ids, tokenizer.eos_token_id] for encoding in words.encode_batch(texts)]

    def loss(batch: list[int]) -> torch.Tensor:
        ids = padded([rows[index] for index in batch], tokenizer.pad_token_id)
        # Padding is to the right and never a target, so a causal model needs no mask.
        logits = model(input_ids=ids).logits[:, :-1]
        return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=tokenizer.pad_token_id)

    train(model, loss, [len(row) for row in rows], **DECODER_TRAINING)
    return model, tokenizer


def build_encoder(data_dir: Path) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """Train a masked language model on stories cut in two.

    The pooled first position learns besides to tell which words were said and whether the two parts belong together:
    without the former a pooler that no method trains would hide the sentence from every head.
    """
    stories = read_corpus(data_dir, "encoder")
    words = word_tokenizer([" ".join(story["sentences"]) for story in stories], ENCODER_SPECIALS, "[UNK]")
    pad, unknown, start, end, mask = ENCODER_SPECIALS
    words.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(token, words.token_to_id(token)) for token in (start, end)],
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=pad,
        unk_token=unknown,
        cls_token=start,
        sep_token=end,
        mask_token=mask,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    model = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=MAX_LENGTH,
            initializer_range=INITIAL_STD,
            pad_token_id=tokenizer.pad_token_id,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    texts, together = halves(stories)
    encodings = words.encode_batch(texts)
    rows = [encoding.ids for encoding in encodings]
    segments = [encoding.type_ids for encoding in encodings]
    specials = len(ENCODER_SPECIALS)

    def loss(batch: list[int]) -> torch.Tensor:
        ids = padded([rows[index] for index in batch], tokenizer.pad_token_id)
        chosen = (torch.rand(ids.shape) < 0.2) & (ids >= specials)
        # As in BERT: of the words to guess, 80 % are masked, 10 % replaced, 10 % left as they are.
        fate = torch.rand(ids.shape)
        shown = ids.masked_fill(chosen & (fate < 0.8), tokenizer.mask_token_id)
        shown = torch.where(chosen & (fate > 0.9), torch.randint(specials, len(tokenizer), ids.shape), shown)
        output = model.bert(
            input_ids=shown,
            attention_mask=(ids != tokenizer.pad_token_id).long(),
            token_type_ids=padded([segments[index] for index in batch], 0),
        )
        guesses = model.cls.predictions(output.last_hidden_state[chosen])
        related = functional.cross_entropy(
            model.cls.seq_relationship(output.pooler_output), together[batch], reduction="sum"
        ) / (together[batch] >= 0).sum().clamp(min=1)
        said = torch.zeros(len(batch), len(tokenizer)).scatter_(1, ids, 1.0)
        said[:, :specials] = 0.0
        said = said / said.sum(1, keepdim=True)
        summary = functional.cross_entropy(model.cls.predictions(output.pooler_output), said)
        return functional.cross_entropy(guesses, ids[chosen]) + related + summary

    train(model, loss, [len(row) for row in rows], **ENCODER_TRAINING)
    return model, tokenizer


def halves(stories: list[dict]) -> tuple[list, torch.Tensor]:
    """Cut stories after their first sentence and give every second one the rest of another story of its kind.

    Returns:
        The texts, each a string or a pair of strings, and for each 0 if its parts belong together, 1 if they do not
        and -100 if there is one part only.
    """
    texts: list = [story["sentences"][0] for story in stories if len(story["sentences"]) == 1]
    together = [-100] * len(texts)
    for kind in sorted({story["kind"] for story in stories}):
        pairs = [
            (story["sentences"][0], " ".join(story["sentences"][1:]))
            for story in stories
            if story["kind"] == kind and len(story["sentences"]) > 1
        ]
        texts += [
            (first, pairs[index - 1][1] if index % 2 else second) for index, (first, second) in enumerate(pairs)
        ]
        together += [index % 2 for index in range(len(pairs))]
    return texts, torch.tensor(together)


def look_back(model: transformers.LlamaForCausalLM, strength: float = 4.0) -> None:
    """Let the heads of the first block start by attending to the words one, two, ... places back.

    Every model that finds words by what stood beside them has such heads; from random values most of a training as short
    as this one would go into finding them. Only biases are set, and training goes on to change them. With the
    query's bias q at frequency f and the key's turned by an angle of d·f, the rotary score is |q|² cos((m - n - d)·f): it
    is highest at distance m - n = d.

    Args:
        model: A model with attention biases.
        strength: |q| at each of the fastest frequencies.
    """
    attention = model.model.layers[0].self_attn
    width = attention.head_dim
    fastest = width // 4
    frequencies = ROPE_BASE ** (-2 * torch.arange(fastest) / width)
    with torch.no_grad():
        query = attention.q_proj.bias.view(-1, width)
        key = attention.k_proj.bias.view(-1, width)
        for head in range(query.shape[0]):
            angle = frequencies * (head // 2 + 1)
            query[head, :fastest] = strength
            key[head, :fastest] = strength * angle.cos()
            key[head, width // 2 : width // 2 + fastest] = strength * angle.sin()


def train(
    model: torch.nn.Module,
    loss: Callable[[list[int]], torch.Tensor],
    lengths: list[int],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> list[float]:
    """Train a model from scratch; return the loss of every step.

    Args:
        model: Model to train.
        loss: Maps a list of row numbers to a scalar tensor.
        lengths: Tokens of each row; rows of similar length share a batch, so little padding is computed.
        steps: Optimizer steps.
        batch_size: Rows a step.
        learning_rate: Peak of a one-cycle schedule.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps, pct_start=0.1)
    batches = bucketed(lengths, batch_size)
    curve = []
    model.train()
    for step in range(steps):
        value = loss(next(batches))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        curve.append(value.item())
        if step % 100 == 99:
            logger.info("step %d of %d: loss %.3f", step + 1, steps, sum(curve[-100:]) / 100)
    model.eval()
    return curve


def bucketed(lengths: list[int], batch_size: int) -> Iterator[list[int]]:
    """Yield batches of row numbers for ever; each epoch shuffles rows, sorts pools of batches by length, shuffles batches."""
    pool = batch_size * 50
    while True:
        order = torch.randperm(len(lengths)).tolist()
        order = [
            row
            for first in range(0, len(order), pool)
            for row in sorted(order[first : first + pool], key=lengths.__getitem__)
        ]
        batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
        for index in torch.randperm(len(batches)).tolist():
            yield batches[index]


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    """Return rows of different length as one (B, T) tensor, filled up on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def word_tokenizer(texts: list[str], specials: tuple[str, ...], unknown: str) -> Tokenizer:
    """Return a tokenizer of lower-cased words and marks, numbered in alphabetical order after the specials."""
    normalizer, splitter = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    vocabulary = {word: index for index, word in enumerate((*specials, *sorted(words)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def read_corpus(data_dir: Path, name: str) -> list[dict]:
    """Return the documents of one corpus file.

    Raises:
        DataUnavailableError: the file is not there.
    """
    path = data_dir / "corpus" / f"{name}.jsonl"
    if not path.is_file():
        raise DataUnavailableError(f"{path} does not exist; write it with 'moelora data --out {data_dir}'")
    with open(path, encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
