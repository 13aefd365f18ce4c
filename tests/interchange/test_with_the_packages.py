"""Adapters go to the real packages and come back: the same logits on a tiny Llama.

Needs ``tests/reference/requirements.txt``; skipped without it.
"""

import json

import pytest
import torch
from tiny_llama import NAME, foreign_config, foreign_weights, logits, make_base, make_ours, write_foreign

from moelora.interchange import load_mixlora, save_mixlora

WHY = "is not installed; tests/reference/requirements.txt says how to have it apart"


def by_package(folder) -> torch.Tensor:
    """Return the logits that package mixlora computes for an adapter folder, in float64."""
    model = pytest.importorskip("mixlora.model", reason=f"mixlora {WHY}")
    config, weights = model.load_adapter_weights(str(folder), device="cpu", dtype=torch.float64)
    base = make_base()
    model.inject_adapter_in_model(base, config, weights)
    return logits(base.eval())


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    found = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    print(f"largest difference {found:.1e} of the largest logit")
    return found


@pytest.mark.parametrize("changes", [{}, {"alpha": 6 * 3**0.5}, {"target_modules": None}], ids=str)
def test_what_we_write_the_package_computes(tmp_path, changes):
    ours = make_ours(**changes)
    theirs = by_package(save_mixlora(ours, tmp_path / "adapter"))
    assert difference(logits(ours), theirs) < 1e-12
    assert difference(logits(make_base()), theirs) > 1e-2


def test_what_the_package_describes_we_compute(tmp_path):
    """The config is the package's own export of a config, the tensors are those its injection asks for."""
    package = pytest.importorskip("mixlora.config", reason=f"mixlora {WHY}")
    exported = package.MixLoraConfig.from_config(foreign_config(lora_dropout=1e-300)).check().export()
    write_foreign(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(exported))
    ours = load_mixlora(make_base(), tmp_path)
    assert difference(logits(ours), by_package(tmp_path)) < 1e-12


def test_the_package_keeps_dropping_in_evaluation(tmp_path):
    """Its experts are in a plain dict that ``.eval()`` does not reach; docs/interchange.md warns of it."""
    folder = save_mixlora(make_ours(dropout=0.5), tmp_path / "adapter")
    assert difference(logits(make_ours(dropout=0.5)), by_package(folder)) > 1e-3
    assert torch.equal(logits(load_mixlora(make_base(), folder)), logits(make_ours(dropout=0.5)))


def test_the_package_ignores_its_own_setting_for_experts(tmp_path):
    """It reads ``expert_lora`` but scales the experts with the attention's alpha."""
    plain = write_foreign(tmp_path / "plain", lora_dropout=1e-30)
    own = write_foreign(tmp_path / "own", lora_dropout=1e-30, expert_lora={"lora_alpha": 60})
    assert torch.equal(by_package(own), by_package(plain))


def test_the_package_needs_the_activation_that_we_write(tmp_path):
    folder = write_foreign(tmp_path, act_fn=None)
    with pytest.raises(TypeError, match="not callable"):
        by_package(folder)


@pytest.mark.parametrize(
    "changes",
    [{}, {"routing_strategy": "mixlora-dynamic", "top_p": 0.6}, {"expert_lora": {"lora_alpha": 12}}],
    ids=["mixlora", "dynamic", "expert_lora"],
)
def test_what_moe_peft_trains_and_saves_we_compute(tmp_path, monkeypatch, changes):
    """moe-peft makes the adapter with its own model and writer; it and we agree, package mixlora where it can."""
    moe_peft = pytest.importorskip("moe_peft", reason=f"moe-peft {WHY}")
    from types import SimpleNamespace

    from transformers import LlamaConfig

    # It reads a setting that newer transformers keep elsewhere.
    monkeypatch.setattr(LlamaConfig, "rope_theta", 10000.0, raising=False)
    from moe_peft.trainer import save_adapter_weight

    base = make_base().float()
    base.save_pretrained(tmp_path / "tiny-llama")
    foreign = moe_peft.LLMModel.from_pretrained(str(tmp_path / "tiny-llama"), "cpu", load_dtype=torch.float32)
    settings = foreign_config(lora_dropout=1e-30, **changes)
    config = moe_peft.adapter_factory(**{**settings, "adapter_name": "mine"})
    foreign.init_adapter(config)
    drawn = foreign_weights()
    made = foreign.get_adapter_weight_dict("mine")
    assert made.keys() == drawn.keys()
    with torch.no_grad():
        for name, parameter in made.items():
            parameter.copy_(drawn[name])
    task = SimpleNamespace(peft_task_type="QUESTION_ANS")
    save_adapter_weight(foreign, SimpleNamespace(adapter_name="mine", task_=task), str(tmp_path / "saved"))
    saved = json.loads((tmp_path / "saved" / "mine" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"].endswith(NAME.rpartition("/")[2])
    ours = logits(load_mixlora(make_base(), tmp_path / "saved" / "mine"))
    if not changes:
        assert difference(ours, by_package(tmp_path / "saved" / "mine")) < 1e-12
    torch.manual_seed(1)
    ids = torch.randint(3, 32, (3, 9))
    batch = moe_peft.LLMModelInput(
        batch_configs_=[moe_peft.LLMBatchConfig("mine", 0, 3)], batch_tokens_=ids.tolist(),
        batch_masks_=torch.ones_like(ids).tolist(), inference_mode_=True,
    )  # fmt: skip
    with torch.no_grad():
        (output,) = foreign.forward(batch)
    # Its model runs in float32.
    assert difference(ours, output.logits.double()) < 1e-5
