import xml.etree.ElementTree as ElementTree

import pytest

from moelora.reporting import cells, figures
from moelora.reporting.figures import allocation, load, pareto
from moelora.reporting.runs import Run, Suite


@pytest.fixture(scope="module")
def drawn(tiny_suite):
    frame, costs, document, _root = tiny_suite
    suite = Suite.from_frame(frame, document)
    panels = cells.panels(suite)
    return figures.draw_all(suite, panels, cells.interference(panels), costs)


def test_several_workers_draw_what_one_draws_in_its_order(drawn, tiny_suite):
    frame, costs, document, _root = tiny_suite
    suite = Suite.from_frame(frame, document)
    panels = cells.panels(suite)
    assert figures.draw_all(suite, panels, cells.interference(panels), costs, workers=3) == drawn


def test_there_is_a_figure_of_each_family(drawn):
    families = {f.family for f in drawn}
    routed = {"routing", "overlap", "routers", "experts", "load"}
    assert families == routed | {"pareto", "tasks", "interference", "forgetting", "allocation", "curves"}
    assert len({f.name for f in drawn}) == len(drawn)


def test_figures_are_svg_without_a_date_and_with_text(drawn):
    for figure in drawn:
        ElementTree.fromstring(figure.svg)
        assert "<dc:date>" not in figure.svg
        assert "<text" in figure.svg
        assert figure.caption.endswith(".")


def test_the_front_is_what_no_other_beats():
    points = {"cheap": (1.0, 60.0), "worse": (2.0, 55.0), "good": (2.0, 70.0), "dear": (3.0, 70.0), "best": (9.0, 71.0)}
    assert pareto.front(points) == ["cheap", "good", "best"]


def test_experts_are_ordered_by_load_before_modules_are_averaged():
    def module(name, first, second):
        return {"module": name, "layer": 0, "experts": 2, "load": {"a": first, "b": second}}

    record = {"routing": [module("x", [0.9, 0.1], [0.7, 0.3]), module("y", [0.2, 0.8], [0.4, 0.6])]}
    layers, values = load.loads([Run(record)], "a")
    assert layers == [0]
    assert values[0] == pytest.approx([0.85, 0.15])  # y's busiest expert is its second


def test_modules_with_different_numbers_of_experts_are_averaged_where_they_have_them():
    record = {
        "routing": [
            {"module": "x", "layer": 1, "experts": 1, "load": {"a": [1.0]}},
            {"module": "y", "layer": 1, "experts": 2, "load": {"a": [0.6, 0.4]}},
        ]
    }
    assert load.loads([Run(record)], "a") == ([1], [pytest.approx([0.8, 0.4])])


def test_module_paths_become_layers_and_the_model_files_types():
    document = {
        "modules": {
            "attention": {"query": "attention.self.query", "output": "attention.output.dense"},
            "feed_forward": {"output": "output.dense"},
        }
    }
    values = {
        "encoder.layer.0.attention.self.query": 1,
        "encoder.layer.0.attention.output.dense": 2,
        "encoder.layer.11.output.dense": 3,
    }
    layers, kinds, found = allocation.grid_of(values, document)
    assert layers == [0, 11]
    assert kinds == ["attention query", "attention output", "feed-forward output"]
    assert found[11, "feed-forward output"] == 3


def test_module_paths_without_a_model_file_keep_their_own_names():
    layers, kinds, _ = allocation.grid_of({"model.layers.2.mlp.gate_proj": 4})
    assert (layers, kinds) == ([2], ["mlp.gate_proj"])
