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
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch.nn import functional

from moelora.errors import ConfigError, DataUnavailableError, nearest
from moelora.files import replace_folder
from moelora.seeds import derive_seed
from moelora.sums import check_sums, write_sums

logger = logging.getLogger(__name__)

WIDTH, LAYERS, HEADS, MAX_LENGTH = 64, 3, 4, 64
ROPE_BASE = 10000.0
# Wider than the libraries' 0.02, which is meant for models ten times as wide: training starts at once.
INITIAL_STD = 0.12
DECODER_SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
DECODER_TRAINING = {"steps": 1800, "batch_size": 32, "learning_rate": 4e-3}


def build_model(model_doc: dict, data_dir: Path, out_dir: Path) -> None:
    """Train a base model on the corpus and save it with its tokenizer.

    Args:
        model_doc: Model file; ``source.builtin`` names the model, ``source.seed`` seeds it.
        data_dir: Folder that ``write_data`` filled.
        out_dir: Folder for ``from_pretrained``; replaced as a whole once the model is ready.

    Raises:
        ConfigError: no built-in model has that name.
        DataUnavailableError: the corpus is not in ``data_dir``.
        RecordError: the data were changed since they were written.
    """
    source = model_doc["source"]
    from moelora.tasks.builtin.encoder_base import build_encoder

    builders = {"tiny-decoder": build_decoder, "tiny-encoder": build_encoder}
    if source["builtin"] not in builders:
        raise ConfigError(f"unknown built-in model '{source['builtin']}'{nearest(source['builtin'], set(builders))}")
    check_sums(data_dir)
    out_dir = Path(out_dir)
    temporary = out_dir.with_name(f".{out_dir.name}.building")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("built-in model", source["builtin"], source.get("seed", 0)))
        model, tokenizer = builders[source["builtin"]](Path(data_dir))
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    write_sums(temporary)
    replace_folder(temporary, out_dir)


def build_decoder(data_dir: Path) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """Train a causal language model."""
    texts = [" ".join(document["sentences"]) for document in read_corpus(data_dir, "decoder")]
    # Some words of questions come in no story; they get an entry too, or "who" and "where" would be one word.
    words = word_tokenizer([*texts, *read_prompts(data_dir)], DECODER_SPECIALS, "<unk>")
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


def look_back(model: transformers.LlamaForCausalLM, strength: float = 4.0) -> None:
    """Start a decoder with heads that look back: the first block at the word before, the second at words it saw before.

    Every language model that finds words by what stood beside them has such heads (a word before, then a
    comparison); from random values most of a training as short as this one goes into finding them. Training goes on
    to change them.

    In the first block the query's bias q and the key's, turned by the angle f at each frequency f, give the rotary
    score |q|² cos((m - n - 1)·f), highest at distance m - n = 1. Values and outputs of that block write the word
    before through a projection P into directions Q of the residual stream. In the second block, head by head, query
    and key read the own word (P) or the word before (Qᵀ), in all four combinations, so that a score is high where
    words are the same.

    Args:
        model: A model of at least two blocks with attention biases.
        strength: |q| at each of the fastest frequencies, and the scale of the comparison.
    """
    first, second = (model.model.layers[index].self_attn for index in (0, 1))
    width, hidden = first.head_dim, model.config.hidden_size
    fastest = width // 4
    frequencies = ROPE_BASE ** (-2 * torch.arange(fastest) / width)
    basis = torch.linalg.qr(torch.randn(hidden, hidden)).Q
    read, write = basis[:width], torch.linalg.qr(torch.randn(hidden, hidden)).Q[:width]
    with torch.no_grad():
        first.q_proj.bias.view(-1, width)[0, :fastest] = strength
        first.k_proj.bias.view(-1, width)[0, :fastest] = strength * frequencies.cos()
        first.k_proj.bias.view(-1, width)[0, width // 2 : width // 2 + fastest] = strength * frequencies.sin()
        first.v_proj.weight[:width] = read
        first.o_proj.weight[:, :width] = write.T
        for block in model.model.layers[1:]:
            block.self_attn.v_proj.weight.copy_(torch.eye(hidden))
            block.self_attn.o_proj.weight.copy_(torch.eye(hidden) / 4)
        for head, (query, key) in enumerate(((read, write), (write, read), (read, read), (write, write))):
            rows = slice(head * width, (head + 1) * width)
            second.q_proj.weight[rows] = query * strength / 2
            second.k_proj.weight[rows] = key * strength / 2


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
    """Yield batches of row numbers for ever.

    Each epoch shuffles the rows, sorts pools of fifty batches by length and shuffles the batches.
    """
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


def read_prompts(data_dir: Path) -> list[str]:
    """Return the prompts of the decoder tasks' train splits.

    Raises:
        DataUnavailableError: there are none.
    """
    paths = sorted((data_dir / "decoder").glob("*/train.jsonl"))
    if not paths:
        raise DataUnavailableError(
            f"{data_dir / 'decoder'} holds no tasks; write them with 'moelora data --out {data_dir}'"
        )
    return [json.loads(line)["question"] for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
