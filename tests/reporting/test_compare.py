import re

import pytest
import synthetic_records as made

from moelora import cli
from moelora.errors import ConfigError
from moelora.reporting import collect
from moelora.reporting.compare import Choice, compare_pairs, compare_text
from moelora.reporting.runs import Suite


@pytest.fixture(scope="module")
def glue(glue_suite):
    return Suite.from_frame(glue_suite[0], glue_suite[2])


@pytest.fixture(scope="module")
def tiny(tiny_suite):
    return Suite.from_frame(tiny_suite[0], tiny_suite[2])


def test_several_seeds_get_a_test_of_the_methods(glue):
    (pair,) = compare_pairs(glue, "mixlora", "lora", Choice(regime="tuned"))
    assert (pair.task, pair.test.n_seeds, pair.models) == ("mrpc", 3, None)
    values = [pair.first.scores.values[s] - pair.second.scores.values[s] for s in range(3)]
    assert pair.test.difference == pytest.approx(sum(values) / 3)


def test_one_seed_gets_a_test_of_the_trained_models_only(tiny):
    (pair,) = compare_pairs(tiny, "mixlora", "lora", Choice(model="tiny-decoder", task="negation"))[:1]
    assert pair.test.n_seeds == 1
    assert pair.models.test == "McNemar, exact"
    text = compare_text(tiny, "mixlora", "lora", Choice(model="tiny-decoder", task="negation"))
    assert re.search(r"\d\.\d{3} †", text)
    assert "two trained models" in text


def test_the_text_says_what_it_could_have_found(glue):
    text = compare_text(glue, "mixlora", "lora")
    head, row = (line for line in text.splitlines() if line.startswith(("task", "MRPC  Tuned")))
    assert head.split()[-1] == "finds"
    assert float(row.split()[-1]) > 0
    assert "p = 0.25" in " ".join(text.split())
    assert "ahead by more than 1.0 points with probability" in " ".join(text.split())


def test_a_wider_region_leaves_less_ahead(glue):
    def ahead(region):
        text = " ".join(compare_text(glue, "mixlora", "lora", Choice(regime="tuned", region=region)).split())
        return float(re.search(r"with probability (\d\.\d\d)", text)[1])

    assert ahead(0.001) > ahead(0.05)


def test_turning_the_pair_round_turns_the_sign(glue):
    (one,) = compare_pairs(glue, "mixlora", "lora", Choice(regime="tuned"))
    (other,) = compare_pairs(glue, "lora", "mixlora", Choice(regime="tuned"))
    assert one.test.difference == pytest.approx(-other.test.difference)
    assert one.test.p == pytest.approx(other.test.p)


def test_several_tasks_are_corrected_and_averaged(tiny):
    text = compare_text(tiny, "mixlora", "lora", Choice(model="tiny-decoder"))
    assert "on average over 6 tasks" in " ".join(text.split())
    assert "6 tasks are few" in " ".join(text.split())
    raw, adjusted = zip(*re.findall(r"(\d\.\d{3}) +(\d\.\d{3}) +–? ", text), strict=True)
    assert all(float(b) >= float(a) for a, b in zip(raw, adjusted, strict=True))


def test_misspelt_variants_and_empty_choices_are_refused(glue):
    with pytest.raises(ConfigError, match="mixlora"):
        compare_text(glue, "mixlorra", "lora")
    with pytest.raises(ConfigError, match="no task on which both"):
        compare_text(glue, "mixlora", "lora", Choice(task="cola"))


def test_published_records_without_items_can_be_compared(tmp_path):
    entries = [
        made.make_run(tmp_path, "s", "m", "mrpc", ["mrpc"], v, "published", 0, a, n_items=200, synthetic=False)
        for v, a in (("lora", 0.8), ("mixlora", 0.85))
    ]
    for folder in (tmp_path / "s").rglob("items.parquet"):
        folder.unlink()
    suite = Suite.from_frame(collect.collect_records(made.finish(tmp_path, "s", entries)))
    text = " ".join(compare_text(suite, "mixlora", "lora").split())
    assert "no items at hand can't be tested" in text


def test_the_verb_prints(glue_suite, tmp_path, capsys):
    collect.write_records(glue_suite[0], tmp_path / "records.parquet")
    assert cli.main(["compare", "mixlora", "lora", "--records", str(tmp_path / "records.parquet")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("MixLoRA minus LoRA")
    assert cli.main(["compare", "mixlora", "nothing", "--records", str(tmp_path / "records.parquet")]) == 2
