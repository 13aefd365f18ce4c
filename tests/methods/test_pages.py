import subprocess
import sys

import pytest
from world import plan, task_document

from moelora.errors import ConfigError
from moelora.methods import get_method, method_names
from moelora.tasks import load_task
from moelora.training.attach import attach


def test_pages_are_found_and_import_no_torch():
    code = (
        "import sys; from moelora.methods import get_method, method_names; "
        "[get_method(name) for name in method_names()]; "
        "sys.exit(','.join(m for m in ('torch', 'peft', 'transformers') if m in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    wanted = {"lora", "dora", "dense_moe_lora", "mixlora", "lora_smoe", "majority", "base", "full"}
    assert wanted <= set(method_names())


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown method 'mixlore'; did you mean 'mixlora'"):
        get_method("mixlore")
    with pytest.raises(ConfigError, match="method 'mixlora' has no setting 'expert'; did you mean 'experts'"):
        get_method("mixlora").make_settings({"expert": 4})
    with pytest.raises(ConfigError, match="experts_per_token must lie between 1 and experts"):
        get_method("mixlora").make_settings({"experts": 2, "experts_per_token": 3})
    with pytest.raises(ConfigError, match="frozen; its own training is that of their weighting"):
        get_method("x-lora")
    with pytest.raises(ConfigError, match="shape must be one of inverted_triangle"):
        get_method("mola").make_settings({"shape": "2-4-0"})
    with pytest.raises(ConfigError, match=r"init_r must be above target_r \(8\)"):
        get_method("adalora").make_settings({"init_r": 8})
    with pytest.raises(ConfigError, match=r"dropout must lie in \[0, 1\)"):
        get_method("lora").make_settings({"dropout": 1.0})


@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
@pytest.mark.parametrize("method", method_names())
def test_closed_formula_equals_the_count(world, architecture, method):
    if architecture not in get_method(method).abilities.architectures:
        pytest.skip(f"{method} is not made for a {architecture}: {get_method(method).abilities.architecture_note}")
    layouts = get_method(method).abilities.feed_forward_layouts
    layout = {"encoder": "two_matrix", "decoder": "gated"}[architecture]
    if layouts and layout not in layouts:
        pytest.skip(f"{method} does not fit feed-forward blocks of the layout {layout}")
    kind = "classification" if architecture == "encoder" else "multiple_choice"
    documents = [task_document("mood" if architecture == "encoder" else "pick", kind)]
    settings = {"layers": 1} if method == "dense_moe_lora_as_coded" else {}  # four layers by default; there are two
    document = plan(architecture, documents, method, settings)
    task = load_task(documents[0], world / "data")
    if get_method(method).abilities.needs_allocation:
        from moelora.models import load_base_model

        shapes = load_base_model(document["model"], [task], 0, world / architecture).shapes
        document["allocation"] = {linear.name: index % 4 for index, linear in enumerate(shapes.linears)}
    attached = attach(document, [task], world / architecture, "cpu")
    parameters = attached.parameters()  # raises where the page's formula and the count differ
    assert parameters["active"] <= parameters["trainable"]
    parts = parameters["parts"]
    assert parts["experts"] == parts["attention"] + parts["feed_forward"]


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("lora", {"r": 64}, 159_907_840),
        ("lora", {"r": 80}, 199_884_800),
        ("mixlora", {"r": 2}, 26_345_472),
        ("mixlora", {"r": 16}, 203_423_744),
        ("mixlora", {"r": 32}, 405_798_912),
        ("mola", {"shape": "8-8-8-8"}, 169_017_344),
        ("mola", {"shape": "square"}, 105_635_840),
        ("mola", {"shape": "inverted_triangle"}, 105_635_840),
        ("mola", {"shape": "triangle"}, 105_635_840),
        ("mola", {"shape": "hourglass"}, 105_635_840),
        ("mola", {"shape": "4-4-4-4"}, 84_508_672),
    ],
)
def test_published_counts_at_llama_2_7b(method, settings, expected):
    """The counts behind what MixLoRA (arXiv 2404.15159) and MoLA (2402.08562) print, from the true shapes."""
    from moelora.methods import AttachContext, Linear, ModelShapes

    linears = []
    for layer in range(32):
        for kind in ("q", "k", "v", "o"):
            linears.append(Linear(f"layers.{layer}.self_attn.{kind}_proj", kind, "attention", layer, 4096, 4096))
        for kind, inputs, outputs in (("gate", 4096, 11008), ("up", 4096, 11008), ("down", 11008, 4096)):
            linears.append(Linear(f"layers.{layer}.mlp.{kind}_proj", kind, "feed_forward", layer, inputs, outputs))
    shapes = ModelShapes(tuple(linears), "gated", 4096)
    page = get_method(method)
    counts = page.parameters(shapes, page.make_settings(settings), AttachContext(shapes))
    assert counts.trainable == expected


def test_mola_cuts_layers_into_groups_from_the_bottom():
    from moelora.methods import Linear, ModelShapes
    from moelora.methods.mola import Settings, allocated

    def experts(layers, shape):
        linears = tuple(Linear(f"layers.{i}.q", "q", "attention", i, 4, 4) for i in range(layers))
        return list(allocated(ModelShapes(linears, "gated", 4), Settings(shape=shape)).values())

    assert experts(8, "2-4-6-8") == [2, 2, 4, 4, 6, 6, 8, 8]
    assert experts(6, "triangle") == [8, 8, 6, 4, 4, 2]
    assert experts(2, "2-4-6-8") == [2, 6]
    assert experts(3, "5") == [5, 5, 5]
