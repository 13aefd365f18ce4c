"""How a process finds those that it was launched with, and what it refuses of launchers."""

import os
from typing import Any

from moelora.errors import ConfigError
from moelora.training.processes import ALONE, Alone, Several

UNSUPPORTED = ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")

_joined: "Several | None" = None


def join() -> Alone:
    """Return this process among those that were started together; the first call of all meets the others.

    Raises:
        ConfigError: the launcher asks for a way of sharding that is not supported.
    """
    global _joined
    sharded = asks_for_sharding(os.environ)
    os.environ["ACCELERATE_USE_FSDP"] = "false"  # accelerate itself would shard by its own rules, and never on a CPU
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    if _joined is None:
        from accelerate import PartialState

        from moelora.training.device import choose_device

        PartialState(cpu=choose_device().type == "cpu")
        _joined = Several(sharded)
    return _joined


def refuse_several(verb: str) -> None:
    """Refuse to be one of several processes.

    Raises:
        ConfigError: this process is one of several.
    """
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"'moelora {verb}' was started in {os.environ['WORLD_SIZE']} processes, which would each do all of it; "
            "only 'moelora train' and 'moelora evaluate' share their work, so start it plainly"
        )


def crew_of(accelerator: Any) -> Alone:
    """Return the processes that an accelerator belongs to."""
    global _joined
    if accelerator.num_processes == 1:
        return ALONE
    if _joined is None:
        _joined = Several()
    return _joined


def asks_for_sharding(environment: Any) -> bool:
    """Say whether the launcher asks for FSDP, as ``accelerate launch`` puts it into the environment.

    Raises:
        ConfigError: it asks for what is not supported: FSDP's first version, parameters kept in the memory of the CPU,
            or another way of splitting a model.
    """
    for name in UNSUPPORTED:
        if environment.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            kind = name.lower().replace("_", " ")
            raise ConfigError(
                f"the launcher asks for {kind}, which is not supported; launch with --multi_gpu (data parallelism) or "
                "--use_fsdp --fsdp_version 2"
            )
    if environment.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    version, offload = environment.get("FSDP_VERSION", "1"), environment.get("FSDP_OFFLOAD_PARAMS", "false")
    if version != "2":
        raise ConfigError(f"FSDP version {version} is not supported; launch with --fsdp_version 2")
    if offload.lower() == "true":
        raise ConfigError("FSDP with parameters offloaded to the CPU is not supported; leave --fsdp_offload_params out")
    return True
