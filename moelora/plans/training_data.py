"""Training data other than the tasks' own train splits, written out so that the plan names every source."""

from collections.abc import Mapping
from typing import Any

from moelora.config import ConfigDir
from moelora.errors import ConfigError
from moelora.tasks.instructions import RECIPES


def plan_data(data: Mapping[str, Any], config_dir: ConfigDir, model: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the suite's ``data`` as the plan carries it: a recipe with its parts, or a file or data set as given.

    Args:
        data: ``training.data`` of the suite.
        config_dir: where the task files of a recipe's parts lie.
        model: the model's document.
        source: the suite, for the message.

    Raises:
        ConfigError: the model is no decoder, which alone can be trained on instructions.
    """
    if model["architecture"] != "decoder":
        raise ConfigError(
            f"{source}: 'training.data' holds instructions for decoders, found model '{model['name']}' "
            f"({model['architecture']}); give its cell a suite of its own"
        )
    if "recipe" not in data:
        return {"split": "train", **data} if "hub" in data else dict(data)
    recipe = RECIPES[data["recipe"]]
    parts = []
    for name, configs in recipe.parts:
        document = config_dir.load("task", name, source)
        hub = document["hub"]
        parts += [
            {
                "task": name,
                "hub": hub["id"],
                "config": config,
                "revision": hub["revision"],
                "split": document["splits"]["train"],
                "prompts": document["prompts"],
            }
            for config in configs or [hub["config"]]
        ]
    drawn = {"rows": recipe.rows, "seed": data.get("seed", 0)} if recipe.rows else {}
    return {"recipe": data["recipe"], "version": recipe.version, "parts": parts, **drawn}
