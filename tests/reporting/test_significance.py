import dataclasses

import pytest
import synthetic_records as made

from moelora import stats
from moelora.reporting import cells, collect
from moelora.reporting.runs import Suite
from moelora.reporting.significance import contrasts, ranks_table, significance_table

SKILL = {"lora": 0.75, "dora": 0.75, "mixlora": 0.93, "lora-match-mixlora": 0.76}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Four variants, five seeds at one setting and one at the other, on one task of 400 items."""
    root = tmp_path_factory.mktemp("significance")
    entries = [
        made.make_run(
            root, "s", "m", "mrpc", ["mrpc"], v, regime, seed, a, n_items=400, synthetic=False, regimes=2
        )
        for v, a in SKILL.items()
        for regime, seeds in (("published", 1), ("tuned", 5))
        for seed in range(seeds)
    ]  # fmt: skip
    return cells.panels(Suite.from_frame(collect.collect_records(made.finish(root, "s", entries))))


def test_every_contender_meets_lora_and_every_mixture_its_equal(found):
    tuned = [(c.variant, c.against) for c in contrasts(found) if c.regime == "tuned"]
    assert sorted(tuned) == [
        ("dora", "lora"),
        ("lora-match-mixlora", "lora"),
        ("mixlora", "lora"),
        ("mixlora", "lora-match-mixlora"),
    ]


def test_what_differs_is_told_apart_and_what_does_not_is_not(found):
    says = {(c.variant, c.against, c.regime): c.says for c in contrasts(found)}
    assert says["mixlora", "lora", "tuned"] == "higher"
    assert says["mixlora", "lora-match-mixlora", "tuned"] == "higher"
    assert says["dora", "lora", "tuned"] == "not distinguishable"
    assert {s for (_, _, regime), s in says.items() if regime == "published"} == {"one seed, no test"}


def test_p_values_are_corrected_within_a_panel_and_regime(found):
    tuned = [c for c in contrasts(found) if c.regime == "tuned"]
    assert {(c.variant, c.against): c.adjusted for c in tuned} == pytest.approx(
        stats.holm({(c.variant, c.against): c.test.p for c in tuned})
    )
    assert all(c.adjusted >= c.test.p for c in tuned)


def test_a_clear_lead_is_practical_and_could_have_been_found(found):
    (clear,) = [c for c in contrasts(found) if (c.variant, c.against, c.regime) == ("mixlora", "lora", "tuned")]
    assert clear.verdict.better > 0.99 and clear.verdict.worse < 0.01
    assert 0 < clear.finds < clear.test.difference
    lower = dataclasses.replace(clear, test=dataclasses.replace(clear.test, difference=-clear.test.difference))
    assert lower.says == "lower"


def test_the_table_shows_what_could_have_been_found(found):
    table = significance_table(contrasts(found))
    assert len(table.rows) == 8
    row = next(
        r for r in table.rows if [e.text for e in r.entries[:2]] == ["MixLoRA", "LoRA"] and r.entries[5].text == "5"
    )
    assert row.entries[-1].text == "higher"
    assert float(row.entries[-2].text) > 0
    assert "5 seeds" in table.note
    single = next(r for r in table.rows if r.entries[5].text == "1")
    assert "single" in single.entries[6].marks and single.entries[7].text == "–"


def test_ranks_need_several_tasks_and_warn_below_ten(found, tiny_suite):
    assert ranks_table(found).rows == []
    panels = cells.panels(Suite.from_frame(tiny_suite[0], tiny_suite[2]))
    table = ranks_table(panels)
    assert table.rows
    assert "of at least 10 tasks" in table.note
    first = [r for r in table.rows if r.entries[1].text == table.rows[0].entries[1].text]
    ranks = [float(r.entries[3].text) for r in first]
    assert ranks == sorted(ranks)
    assert sum(ranks) == pytest.approx(len(ranks) * (len(ranks) + 1) / 2, abs=0.05)
