"""``moelora allocate``: from sensitivity files to experts per module."""

import argparse
from collections import Counter

from moelora.allocation.strategies import POOLS, smoe_percentile, uniform
from moelora.errors import AllocationError, nearest
from moelora.files import atomic_write_json, read_json, sha256_file


def run(options: argparse.Namespace) -> int:
    """Read the sensitivities, allocate, and write ``allocation.json``.

    Raises:
        AllocationError: the strategy or pool is unknown, the files are of different models, or nothing gets an expert.
    """
    files = {str(path): read_json(path, "sensitivity") for path in sorted(options.sensitivity)}
    models = {document["model"] for document in files.values()}
    if len(models) != 1:
        raise AllocationError(f"sensitivities of different models cannot vote together: {sorted(models)}")
    if options.pool not in POOLS:
        raise AllocationError(f"unknown pool '{options.pool}'{nearest(options.pool, set(POOLS))}")
    documents = sorted(files.values(), key=lambda document: document["task"])
    modules = documents[0]["modules"]
    pools = {module["module"]: POOLS[options.pool](module) for module in modules}
    scores = {
        document["task"]: {module["module"]: module["score"] for module in document["modules"]}
        for document in documents
    }
    if options.strategy == "smoe_percentile":
        experts = smoe_percentile(scores, pools, options.percentile)
        settings = {"percentile": options.percentile, "pool": options.pool}
    elif options.strategy == "uniform":
        experts = uniform(scores, pools, len(scores))
        settings = {"experts": len(scores)}
    else:
        raise AllocationError(
            f"unknown strategy '{options.strategy}'{nearest(options.strategy, {'smoe_percentile', 'uniform'})}"
        )
    if not any(experts.values()):
        raise AllocationError(
            f"strategy '{options.strategy}' with {settings} gives no module an expert; lower the percentile"
        )
    atomic_write_json(
        options.out,
        {
            "schema": 1,
            "model": models.pop(),
            "strategy": options.strategy,
            "settings": settings,
            "experts": experts,
            "budget": sum(experts.values()),
            "types": {module["module"]: module["type"] for module in modules},
            "layers": {module["module"]: module["layer"] for module in modules},
            "sensitivity": scores,
            "from": [{"task": files[path]["task"], "sha256": sha256_file(path)} for path in sorted(files)],
        },
    )
    kinds = Counter()
    for module in modules:
        kinds[module["type"]] += experts[module["module"]]
    used = sum(map(bool, experts.values()))
    print(f"{sum(experts.values())} experts on {used} of {len(experts)} modules: {dict(sorted(kinds.items()))}")
    return 0
