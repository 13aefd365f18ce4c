"""A decoder whose answers are known: its next token follows from a table and not from weights.

It has the interface of a transformers model, generation included, so that protocols meet it as any other.
"""

import math

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationMixin, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutputWithPast

SPECIAL = ["[PAD]", "[UNK]", "<s>", "</s>"]
UNLIKELY = math.log(1e-9)


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows every word of some texts; a space belongs to the word behind it."""
    split = pre_tokenizers.Split(Regex(r" ?[^\s]+|\s"), "isolated")
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", bos_token="<s>", eos_token="</s>"
    )


class Oracle(PreTrainedModel, GenerationMixin):
    """A model whose distribution after a text is ``script(words)``: probabilities by word, others are unlikely.

    The script sees the words of one row up to and with the position that is asked, without padding.
    """

    config_class = LlamaConfig
    main_input_name = "input_ids"

    def __init__(self, tokenizer, script, positions: int = 4096):
        super().__init__(
            LlamaConfig(
                vocab_size=len(tokenizer), max_position_embeddings=positions, hidden_size=4, intermediate_size=4,
                num_hidden_layers=1, num_attention_heads=1, pad_token_id=0, bos_token_id=2, eos_token_id=3,
            )
        )  # fmt: skip
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.words, self.ids = tokenizer.convert_ids_to_tokens(range(len(tokenizer))), tokenizer.get_vocab()
        self.script = script
        self.batches = []  # shapes of what was asked, in order

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(self, input_ids, attention_mask=None, logits_to_keep=0, **_):
        self.batches.append(tuple(input_ids.shape))
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        positions = range(input_ids.shape[1])
        if isinstance(logits_to_keep, torch.Tensor):
            positions = logits_to_keep.tolist()
        elif logits_to_keep:
            positions = list(positions)[-logits_to_keep:]
        logits = torch.full((input_ids.shape[0], len(positions), len(self.words)), UNLIKELY)
        for row, (ids, seen) in enumerate(zip(input_ids.tolist(), mask.tolist(), strict=True)):
            for column, position in enumerate(positions):
                words = [self.words[i] for i, real in zip(ids[: position + 1], seen, strict=False) if real]
                for word, probability in self.script(words).items():
                    logits[row, column, self.ids[word]] = math.log(probability)
        return CausalLMOutputWithPast(logits=logits + 0 * self.unused)


class PlainOracle(Oracle):
    """An oracle that gives all logits, as models did before they could leave some out."""

    def forward(self, input_ids, attention_mask=None):
        return super().forward(input_ids, attention_mask)
