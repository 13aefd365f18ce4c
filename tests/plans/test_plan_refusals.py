"""Bad input: the message names the file, the key and the nearest valid spelling."""

import pytest
from plan_cases import CONFIG, edit, message

from moelora.config import load_yaml
from moelora.errors import ConfigError
from moelora.plans import expand


def test_unknown_key_of_a_suite(suite):
    suite["regime"] = suite.pop("regimes")
    assert message(suite) == "my-suite.yaml: unknown key 'regime'; did you mean 'regimes'?"


def test_unknown_nested_key(suite):
    suite["training"]["bath_size"] = 8
    assert message(suite) == "my-suite.yaml: unknown key 'bath_size' in 'training'; did you mean 'batch_size'?"


def test_unknown_key_in_a_cell_of_the_grid(suite):
    suite["grid"][0]["task"] = suite["grid"][0].pop("tasks")
    assert message(suite) == "my-suite.yaml: unknown key 'task' in 'grid.0'; did you mean 'tasks'?"


def test_unknown_key_of_a_file_that_the_suite_names(config_dir, suite):
    edit(config_dir / "tasks" / "mrpc.yaml", main_metrik="accuracy")
    path = config_dir / "tasks" / "mrpc.yaml"
    assert message(suite, config_dir) == f"{path}: unknown key 'main_metrik'; did you mean 'main_metric'?"


def test_unknown_key_of_a_source(config_dir, suite):
    edit(config_dir / "models" / "minilm.yaml", source={"hub": "some/model", "revison": None})
    assert "unknown key 'revison' in 'source'; did you mean 'revision'?" in message(suite, config_dir)


def test_unknown_method(suite):
    suite["variants"][3] = "lorra"
    assert message(suite) == "my-suite.yaml: unknown method or variant 'lorra' in 'variants'; did you mean 'lora'?"


def test_unknown_task(suite):
    suite["grid"][0]["tasks"][0] = "mrcp"
    assert message(suite).startswith("my-suite.yaml: unknown task 'mrcp'; did you mean 'mrpc'? (looked for ")


def test_unknown_model(suite):
    suite["grid"][0]["models"] = ["minilmm"]
    assert message(suite).startswith("my-suite.yaml: unknown model 'minilmm'; did you mean 'minilm'?")


def test_unknown_setting_of_a_variant(config_dir, suite):
    path = edit(config_dir / "methods" / "dora.yaml", variants={"dora": {"alhpa": 8}})
    assert message(suite, config_dir) == (
        f"{path}: variant 'dora': method 'dora' has no setting 'alhpa'; did you mean 'alpha'?"
    )


def test_method_file_without_a_page(config_dir, suite):
    (config_dir / "methods" / "mixlorra.yaml").write_text("method: mixlorra\nvariants: {mixlorra: {}}\n")
    assert "mixlorra.yaml: unknown method 'mixlorra'; did you mean 'mixlora'?" in message(suite, config_dir)


def test_unknown_variant_in_training_by_variant(suite):
    suite["training_by_variant"] = {"ful": {"learning_rate": 1e-4}}
    assert message(suite) == "my-suite.yaml: unknown variant 'ful' in 'training_by_variant'; did you mean 'full'?"


def test_filter_of_a_task_that_the_grid_does_not_have(suite):
    suite["tasks"] = ["mrpc", "colla"]
    assert message(suite) == "my-suite.yaml: 'tasks' names 'colla', which 'grid' does not have; did you mean 'cola'?"


def test_text_where_a_number_is_meant(suite):
    suite["training"]["learning_rate"] = "2e-5"
    assert message(suite) == (
        "my-suite.yaml: 'training.learning_rate' must be number, found '2e-5'; "
        "YAML reads this spelling as text, write it with a point, as in 2.0e-5"
    )


def test_missing_key(suite):
    del suite["variants"]
    assert message(suite) == "my-suite.yaml: key 'variants' is missing; add it"


def test_wrong_word(suite):
    suite["training"]["scheduler"] = "liner"
    assert message(suite) == "my-suite.yaml: 'training.scheduler' is 'liner'; did you mean 'linear'?"


def test_run_length_given_twice(suite):
    suite["training"]["max_steps"] = 10
    assert message(suite) == ("my-suite.yaml: 'training' gives epochs and max_steps; a run has one length, remove one")


def test_task_that_a_model_cannot_be_scored_on(suite):
    suite["grid"][0]["tasks"].append("piqa")
    assert "task 'piqa' (multiple_choice) needs a model with architecture 'decoder', found 'minilm'" in message(suite)


def test_variant_that_cannot_be_attached_to_a_model(suite):
    suite["grid"] = [{"models": ["stories260k"], "tasks": ["piqa"]}]
    suite |= {"variants": ["lora", "dense_moe_lora-as-coded"], "match": []}
    found = message(suite)
    assert found.startswith(
        "my-suite.yaml: variant 'dense_moe_lora-as-coded' can be attached to models of architecture 'encoder' only, "
        "found 'stories260k' (decoder): "
    )
    assert "residual stream bypasses the attention block" in found
    suite["grid"] = [{"models": ["minilm"], "tasks": ["mrpc"]}]
    assert {run.variant.name for run in expand(suite, CONFIG).runs} == {"lora", "dense_moe_lora-as-coded"}


def test_variant_that_does_not_fit_a_models_feed_forward_blocks(suite):
    suite["variants"].append("mixdora")
    assert message(suite).startswith(
        "my-suite.yaml: variant 'mixdora' fits feed-forward blocks of the layout 'gated' or 'two_matrix_block' only, "
        "found 'minilm' (two_matrix); take it out of 'variants'"
    )


def test_mixture_called_like_a_task(suite):
    suite["grid"][0]["mixtures"] = {"rte": ["mrpc", "cola"]}
    assert message(suite) == "my-suite.yaml: mixture 'rte' has the name of a task; choose another"


def test_key_given_twice(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\ntitle: b\nname: c\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml: key 'name' stands on line 1 and again on line 3"):
        load_yaml(path)


def test_suite_file_that_is_not_there():
    with pytest.raises(ConfigError, match=r"glue-minilmm\.yaml does not exist; did you mean 'glue-minilm'\?"):
        load_yaml(CONFIG / "suites" / "glue-minilmm.yaml")


def test_file_that_is_no_yaml(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("name: [a\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml cannot be read as YAML"):
        load_yaml(path)


def test_file_with_another_name(config_dir, suite):
    edit(config_dir / "models" / "minilm.yaml", name="other")
    assert "its name is 'other', expected 'minilm' as the file is called" in message(suite, config_dir)
