import pytest

from moelora.claims.shapes import SIZES, shapes, total_parameters
from moelora.errors import ConfigError
from moelora.methods import AttachContext, get_method


def test_totals_are_those_of_the_published_models():
    known = {
        "llama-7b": 6_738_415_616, "llama-13b": 13_015_864_320, "llama-3-8b": 8_030_261_248,
        "mistral-7b": 7_241_732_096, "gemma-2b": 2_506_172_416, "qwen2.5-3b": 3_085_938_688,
    }  # fmt: skip
    assert {name: total_parameters(name) for name in known} == known


@pytest.mark.parametrize("name, per_rank", [("llama-2-7b", 2_498_560), ("llama-7b", 2_498_560)])
def test_a_rank_of_lora_on_all_linears(name, per_rank):
    form = shapes(name)
    method = get_method("lora")
    for r in (1, 64, 80):
        settings = method.make_settings({"r": r, "alpha": r})
        assert method.parameters(form, settings, AttachContext(form)).trainable == per_rank * r


def test_the_head_of_roberta_is_counted_apart():
    assert shapes("roberta-base", outputs=2).head_parameters == 592_130
    assert shapes("roberta-base").head_parameters == 0


def test_an_unknown_model_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="llama-2-7b"):
        shapes("llama2-7b")


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-3-8b", "gemma-2b", "qwen2.5-3b", "roberta-base"])
def test_shapes_are_those_that_transformers_builds_on_the_meta_device(name):
    torch = pytest.importorskip("torch")
    import transformers

    size = SIZES[name]
    common = {
        "vocab_size": size.vocabulary, "hidden_size": size.hidden, "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
    }  # fmt: skip
    family = name.split("-")[0]
    heads = {"llama": 128, "gemma": 256, "qwen2.5": 128, "roberta": 64}[family]
    common |= {"num_attention_heads": size.attention // heads}
    with torch.device("meta"):
        if family == "roberta":
            config = transformers.RobertaConfig(**common, max_position_embeddings=514, type_vocab_size=1)
            model = transformers.RobertaModel(config, add_pooling_layer=False)
        else:
            kinds = {"llama": "Llama", "gemma": "Gemma", "qwen2.5": "Qwen2"}
            common |= {"num_key_value_heads": size.key_value // heads, "tie_word_embeddings": size.tied}
            common |= {"head_dim": heads} if family == "gemma" else {}
            config = getattr(transformers, f"{kinds[family]}Config")(**common)
            model = getattr(transformers, f"{kinds[family]}ForCausalLM")(config)
    assert sum(p.numel() for p in model.parameters()) == total_parameters(name)
    modules = dict(model.named_modules())
    for linear in shapes(name).linears:
        module = modules[linear.name]
        assert (module.in_features, module.out_features) == (linear.inputs, linear.outputs), linear.name
