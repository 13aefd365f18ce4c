"""Whole comparisons at tiny sizes."""

import dataclasses
import os

import pytest
import torch
from fake_clock import FakeStopwatch

from bench import contest, records, report, rivals, sensitivity
from bench.variants import REFERENCE, VARIANTS, Settings, WithKernels, build
from bench.workloads import PRESETS, Batch, build_base
from moelora.errors import ConfigError, RecordError
from moelora.records.speed import validate_speed

BLOCK, MODEL = PRESETS["tiny"]
SETTINGS = Settings(experts=4, rank=4)
TIMING = contest.Timing(rounds=3, warmup=1)
OURS = [name for name, variant in VARIANTS.items() if variant.package is None and variant.device is None]


def hold(workload=BLOCK, mode="training", chosen=OURS, settings=SETTINGS, **options):
    return contest.hold(workload, settings, mode, TIMING, chosen, FakeStopwatch(), **options)


def record_of(*groups, axis=None):
    return records.make("test", list(groups), "cpu", "2026-01-01T00:00:00+00:00", 0.5, axis)


@pytest.mark.parametrize("mode", ["training", "inference", "sensitivity"])
def test_with_a_clock_that_stands_still_every_ratio_is_exactly_one(mode):
    group = hold(MODEL, mode)
    assert all(row["ratio"] == 1 and row["ratio_quartiles"] == [1, 1] for row in group["rows"])
    assert [row["name"] for row in group["rows"]][0:2] != []
    validate_speed(record_of(group), "here")


@pytest.mark.parametrize("workload", [BLOCK, MODEL], ids=lambda workload: workload.kind)
@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_every_variant_of_ours_trains_all_its_parameters(workload, dropout):
    base = build_base(workload)
    batch = Batch(workload, base)
    settings = dataclasses.replace(SETTINGS, dropout=dropout)
    for name in OURS:
        model, trainable = build(name, base, workload, settings, training=True)
        batch.train(model)
        assert bool(trainable) == (name != "base")
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trainable), name
        assert all(p.grad is None for p in base.parameters())


def test_variants_share_the_frozen_weights_and_nothing_else():
    base = build_base(BLOCK)
    known = {p.data_ptr() for p in base.parameters()}
    first, one = build("mixlora", base, BLOCK, SETTINGS, training=True)
    _, other = build("mixlora", base, BLOCK, SETTINGS, training=True)
    assert known <= {p.data_ptr() for p in first.parameters()}
    assert not {p.data_ptr() for p in one} & {p.data_ptr() for p in other}
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_dora_by_our_operator_is_peft_s():
    base = build_base(BLOCK)
    batch = Batch(BLOCK, base)
    outputs = []
    for name in ("dora", "dora-peft"):
        model, _ = build(name, base, BLOCK, SETTINGS, training=True)
        outputs.append(batch.forward(model)[0])
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("package", ["moe_peft", "mixlora"])
def test_a_missing_package_is_a_row_that_says_how_to_install_it(package, monkeypatch):
    monkeypatch.setattr(rivals, "is_there", lambda name: False)
    names = [name for name, variant in VARIANTS.items() if variant.package == package]
    mode = VARIANTS[names[0]].modes[-1]
    group = hold(mode=mode, chosen=names)
    rows = {row["name"]: row for row in group["rows"]}
    assert rows[REFERENCE]["status"] == "measured"
    for name in set(names) & set(rows):
        assert rows[name]["status"] == "not installed"
        assert "pip install --no-deps -r bench/requirements.txt" in rows[name]["reason"]
    record = record_of(group)
    validate_speed(record, "here")
    assert rivals.INSTALL in report.markdown(record)


def fail(*_):
    raise RuntimeError("not with this torch")


@pytest.mark.parametrize("name", ["mola-moe-peft", "mixlora"])
def test_a_variant_that_fails_is_a_row_with_its_reason(name, monkeypatch):
    monkeypatch.setattr(rivals, "check_installed", lambda package: None)
    monkeypatch.setitem(VARIANTS, name, dataclasses.replace(VARIANTS[name], build=fail))
    group = hold(chosen=[name])
    row = group["rows"][-1]
    assert (row["status"], row["reason"]) == ("failed", "RuntimeError: not with this torch")
    assert contest.own_failures(group) == ([name] if name == "mixlora" else [])


def test_nothing_can_be_compared_without_the_reference(monkeypatch):
    monkeypatch.setitem(VARIANTS, REFERENCE, dataclasses.replace(VARIANTS[REFERENCE], build=fail))
    with pytest.raises(RuntimeError, match="not with this torch"):
        hold(chosen=["base"])


@pytest.mark.parametrize("in_float32", [True, False])
@pytest.mark.parametrize("workload", [BLOCK, MODEL], ids=lambda workload: workload.kind)
def test_half_precision_works_as_the_gpu_preset_needs_it(workload, in_float32):
    settings = dataclasses.replace(SETTINGS, adapters_in_float32=in_float32)
    workload = dataclasses.replace(workload, dtype="bfloat16")
    for mode in ("training", "inference", "sensitivity"):
        if contest.names_of(mode, workload):
            group = hold(workload, mode, settings=settings)
            assert [row["reason"] for row in group["rows"] if row["status"] != "measured"] == []


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.package])
@pytest.mark.parametrize("workload", [BLOCK, MODEL], ids=lambda workload: workload.kind)
def test_the_packages_layers_take_part(name, workload):
    variant = VARIANTS[name]
    pytest.importorskip(variant.package, reason=f"compares with {variant.package}: {rivals.INSTALL}")
    base = build_base(workload)
    batch = Batch(workload, base)
    for mode in variant.modes:
        model, trainable = build(name, base, workload, SETTINGS, training=mode == "training")
        frozen = batch.forward(base)[0]
        assert not torch.allclose(batch.forward(model)[0], frozen)
        if mode == "training":
            batch.train(model)
            assert any(p.grad is not None and p.grad.any() for p in trainable)


def test_both_sensitivities_agree_where_they_are_the_same_number():
    workload = dataclasses.replace(MODEL, batch=1)  # of one example the batch's gradient is its own
    base = build_base(workload)
    batch = Batch(workload, base)
    ours, theirs = (sensitivity.make_step(name, base, workload, batch)() for name in sensitivity.TITLES)
    assert set(ours) == set(theirs) and len(ours) == 7 * workload.layers
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-4)
    assert not any(p.requires_grad for p in base.parameters())


def test_the_reference_is_always_in_and_a_block_has_no_sensitivity():
    assert contest.names_of("training", BLOCK, ["base"]) == ["base", REFERENCE]
    assert contest.names_of("sensitivity", BLOCK) == []
    with pytest.raises(RecordError, match="groups/0/mode"):
        validate_speed(record_of({**hold(chosen=["base"]), "mode": "guessing"}), "here")


def test_the_kernels_have_a_row_on_a_gpu_and_the_switch_is_theirs_alone(monkeypatch):
    monkeypatch.delenv("MOELORA_TRITON", raising=False)
    on_gpu = dataclasses.replace(BLOCK, device="cuda")
    assert set(contest.names_of("training", on_gpu)) - set(contest.names_of("training", BLOCK)) == {"mixlora-triton"}

    class Model(torch.nn.Module):
        def forward(self):
            return os.environ["MOELORA_TRITON"]

    assert WithKernels(Model())() == "1"
    assert "MOELORA_TRITON" not in os.environ
    model, _ = build("mixlora-triton", build_base(BLOCK), BLOCK, Settings(), training=True)
    with pytest.raises(ConfigError, match="MOELORA_TRITON is 1 but"):
        model(torch.ones(1, 2, BLOCK.hidden))
