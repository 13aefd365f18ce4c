import numpy
import pytest
from sklearn.metrics import normalized_mutual_info_score
from world import plan, task_document

from moelora.errors import ConfigError
from moelora.evaluation.metrics import item_interval, score
from moelora.evaluation.routing import mutual_information, routing_rows, watch_routing
from moelora.evaluation.score import constant_answer, routed_items
from moelora.tasks import load_task
from moelora.training.attach import attach


def test_metrics_on_known_answers():
    labels, predictions = [1, 1, 0, 0, 1], [1, 0, 0, 1, 1]
    assert score("accuracy", labels, predictions) == pytest.approx(0.6)
    assert score("f1", labels, predictions) == pytest.approx(2 / 3)
    assert score("macro_f1", labels, predictions) == pytest.approx((2 / 3 + 0.5) / 2)
    assert score("matthews", labels, predictions) == pytest.approx((2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5)
    assert score("pearson", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1)
    assert score("spearman", [1.0, 2.0, 3.0], [1.0, 10.0, 100.0]) == pytest.approx(1)
    assert score("pearson", [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) == 0.0
    with pytest.raises(ConfigError, match="unknown metric 'f2'; did you mean 'f1'"):
        score("f2", labels, predictions)


def test_a_majority_answer_on_mrpc_scores_as_published():
    labels = [1] * 279 + [0] * 129  # MRPC's validation split
    assert score("accuracy", labels, [1] * 408) == pytest.approx(0.6838, abs=5e-5)
    assert score("f1", labels, [1] * 408) == pytest.approx(0.8122, abs=5e-5)
    assert score("macro_f1", labels, [1] * 408) == pytest.approx(0.406, abs=5e-4)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
def test_interval_covers_what_it_says(metric):
    generator = numpy.random.default_rng(0)
    truth = None
    covered = 0
    rounds = 100
    for number in range(-1, rounds):
        count = 200_000 if number < 0 else 150
        labels = generator.integers(0, 2, count)
        predictions = numpy.where(generator.random(count) < 0.8, labels, 1 - labels)
        if number < 0:
            truth = score(metric, labels, predictions)
        else:
            low, high = item_interval(metric, labels, predictions, purpose=str(number))
            covered += low <= truth <= high
    assert 0.87 <= covered / rounds <= 1.0  # nominal 0.95; three standard errors of 100 rounds, and some bias


def test_mutual_information_equals_scikit_learn():
    generator = numpy.random.default_rng(1)
    tasks, experts = generator.integers(0, 3, 500), generator.integers(0, 4, 500)
    experts[tasks == 1] = 2
    table = numpy.zeros((3, 4))
    numpy.add.at(table, (tasks, experts), 1)
    assert mutual_information(table) == pytest.approx(normalized_mutual_info_score(tasks, experts))
    assert mutual_information(numpy.eye(3)) == pytest.approx(1)
    assert mutual_information(numpy.ones((3, 3))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("method", ["mixlora", "dense_moe_lora"])
@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
def test_routing_rows(world, architecture, method):
    names = ("mood", "odd") if architecture == "encoder" else ("pick",)
    kind = "classification" if architecture == "encoder" else "multiple_choice"
    documents = [task_document(name, kind) for name in names]
    document = plan(architecture, documents, method)
    tasks = [load_task(entry, world / "data") for entry in documents]
    attached = attach(document, tasks, world / architecture, "cpu")
    items = routed_items(tasks, attached.base.tokenizer, 32, None)
    recorder = watch_routing(attached.model, items, {t.name: t.kind for t in tasks}, 0, "cpu")
    rows = routing_rows(recorder, list(items), 0, diagnosed=False)
    feed_forward_linears = {"encoder": 2, "decoder": 3}[architecture]
    assert len(rows) == 2 * (1 if method == "mixlora" else feed_forward_linears)
    for row in rows:
        assert "entropy" not in row and "dead" not in row  # recorded only where the suite asks for diagnostics
        assert row["experts"] == document["settings"]["experts"]
        assert set(row["load"]) == {task.name for task in tasks}
        for load in row["load"].values():
            assert sum(load) == pytest.approx(1)
        assert (row["nmi"] is not None) == (len(tasks) > 1)


def test_padding_does_not_change_the_routing(world):
    document = plan("decoder", [task_document("pick", "multiple_choice")], "mixlora")
    task = load_task(document["tasks"][0], world / "data")
    attached = attach(document, [task], world / "decoder", "cpu")
    items = routed_items([task], attached.base.tokenizer, 32, None)
    long = max(items[task.name], key=lambda item: len(item.ids))
    short = min(items[task.name], key=lambda item: len(item.ids))

    def load(examples):
        recorder = watch_routing(attached.model, {task.name: examples}, {task.name: task.kind}, 0, "cpu")
        rows = routing_rows(recorder, [task.name], 0, diagnosed=False)
        return [numpy.array(row["load"][task.name]) * sum(len(x.ids) for x in examples) for row in rows]

    together, apart = load([short, long]), zip(load([short]), load([long]), strict=True)
    for both, (one, other) in zip(together, apart, strict=True):
        numpy.testing.assert_allclose(both, one + other, atol=1e-6)


def test_constant_answer_is_the_commonest_of_train(world):
    task = load_task(task_document("mood"), world / "data")
    labels = [example.label for example in task.train]
    assert constant_answer(task) == max((0, 1), key=labels.count)
    graded = load_task(task_document("grade", "regression"), world / "data")
    assert constant_answer(graded) == pytest.approx(numpy.mean([example.label for example in graded.train]))
