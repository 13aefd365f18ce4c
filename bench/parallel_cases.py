"""What `bench.parallel` compares: each case trains alone and with the other process, and returns differences."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import moelora.routers
import moelora.training.loop
from bench.parallel_models import make_attached, make_base, make_steps
from bench.parallel_sharding import mesh, sharded, sharded_by_linear
from bench.parallel_trials import (
    HALF,
    accelerator,
    curve_distance,
    distance,
    gradients,
    same_in_all,
    shared_folder,
    train,
    values,
)
from moelora.errors import ConfigError
from moelora.training.attach import Attached
from moelora.training.processes import OtherProcessError, ProcessError
from moelora.tuners.sharding import shard


def compare_training(
    kind: str,
    method: str,
    tasks: int = 1,
    dtype: torch.dtype = torch.float64,
    make: "Callable | None" = None,
    **settings,
) -> dict[str, Any]:
    """Compare gradients, curves and trained parameters of two processes with those of one."""
    make = make or partial(make_attached, kind, method, tasks, dtype, **settings)
    accelerator()
    first = values(make())
    found: dict[str, Any] = {}
    results, trained = [], []
    if tasks == 1:
        found["gradient"] = distance(gradients(make(), kind, True), gradients(make(), kind, False))
    for with_others in (False, True):
        attached = make()
        results.append(train(attached, kind, with_others, tasks))
        trained.append(values(attached))
    alone, ours = results
    found["loss curve"] = curve_distance(ours.loss_curve, alone.loss_curve)
    if any(value for _, value in alone.balance_curve):
        found["balance curve"] = curve_distance(ours.balance_curve, alone.balance_curve)
    moved = {name: trained[0][name] - first[name] for name in first}
    found["parameters"] = distance(trained[1], trained[0], moved)
    found["same in both"] = same_in_all(trained[1])
    return found


def starved() -> dict[str, Any]:
    """Compare MixLoRA where no token of every second row, hence of the second process, goes to the first expert."""
    plain = moelora.routers.router_logits
    together = False

    def leaning(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        given = plain(x, weight)
        odd = torch.full((len(x),), torch.distributed.get_rank()) if together else torch.arange(len(x)) % 2
        bias = torch.zeros_like(given)
        bias[..., 0] = -1e4 * odd.to(given.dtype).view(-1, *[1] * (given.dim() - 2))
        return given + bias

    accelerator()
    make = partial(make_attached, "llama", "mixlora")
    steps = [batch for batch in make_steps("llama") if len(batch) == 8]
    moelora.routers.router_logits = leaning
    try:
        alone, ours = make(), make()
        first = values(alone)
        one = train(alone, "llama", False, steps=steps)
        together = True
        two = train(ours, "llama", True, steps=steps)
    finally:
        moelora.routers.router_logits = plain
    own, other = values(ours), values(alone)
    return {
        "loss curve": curve_distance(two.loss_curve, one.loss_curve),
        "balance curve": curve_distance(two.balance_curve, one.balance_curve),
        "parameters": distance(own, other, {name: other[name] - first[name] for name in first}),
        "same in both": same_in_all(own),
    }


def make_quantised(method: str) -> Attached:
    """Return a method on a small decoder whose linears are held in four bits."""
    import bitsandbytes

    base = make_base("llama", dtype=torch.float32, width=64)
    for name in [linear.name for linear in base.shapes.linears]:
        module = base.model.get_submodule(name)
        new = bitsandbytes.nn.Linear4bit(module.in_features, module.out_features, bias=False, quant_type="nf4")
        new.weight = bitsandbytes.nn.Params4bit(module.weight.data.clone(), quant_type="nf4", requires_grad=False)
        base.model.set_submodule(name, new.to("cpu"))
    return make_attached("llama", method, dtype=torch.float32, base=base)


def quantised(method: str) -> dict[str, Any]:
    """Compare on a four-bit base model; sharding one must be refused."""
    accelerator()
    found = compare_training("llama", method, make=partial(make_quantised, method))
    try:
        shard(make_quantised(method).model, mesh())
        found["refused when sharded"] = False
    except ConfigError:
        found["refused when sharded"] = True
    return found


def resumed(method: str = "mixlora") -> dict[str, Any]:
    """Compare runs stopped half way and taken up by one and by two processes with one that was not stopped."""
    accelerator()
    make = partial(make_attached, "llama", method)
    found: dict[str, Any] = {}
    with shared_folder() as folder:
        whole_run, first = make(), values(make())
        rank = torch.distributed.get_rank()
        train(whole_run, "llama", False, state_path=Path(folder, f"alone-{rank}.pt"), checkpoint_every_steps=HALF)
        expected = values(whole_run)
        moved = {name: expected[name] - first[name] for name in first}
        train(make(), "llama", True, state_path=Path(folder, "both.pt"), checkpoint_every_steps=HALF)
        torch.distributed.barrier()
        by_one, by_two = make(), make()
        later = train(by_one, "llama", False, state_path=Path(folder, "both.pt"))
        found["resumed by one"] = distance(values(by_one), expected, moved)
        again = train(by_two, "llama", True, state_path=Path(folder, "alone-0.pt"))
        found["resumed by two"] = distance(values(by_two), expected, moved)
        said = any("1 process from step 4" in one for one in later.declarations)
        found["resumed"] = said and any("2 processes from step 4" in one for one in again.declarations)
        found |= resumed_with_dropout(folder)
    return found


def resumed_with_dropout(folder: str) -> dict[str, Any]:
    """See that a run of two processes with dropout ends with the same bits when it was stopped and taken up again."""
    make = partial(make_attached, "llama", "lora", dropout=0.2)
    place = Path(folder, "dropout.pt")
    straight, again = make(), make()
    train(straight, "llama", True, state_path=place, checkpoint_every_steps=HALF)
    result = train(again, "llama", True, state_path=place)
    own, theirs = values(straight), values(again)
    return {
        "same bits": result.resumed == 1 and all(torch.equal(own[name], theirs[name]) for name in own),
        "same in both": same_in_all(own),
    }


@contextlib.contextmanager
def failing(what: Callable[[int], None]) -> Iterator[None]:
    """Let ``what`` happen before each loss is computed; it gets the number of examples."""
    plain = moelora.training.loop.summed_loss

    def loss(model: Any, tensors: dict, kind: str) -> torch.Tensor:
        value = plain(model, tensors, kind)
        change = what(len(tensors["labels"]))
        return value if change is None else value * change

    moelora.training.loop.summed_loss = loss
    try:
        yield
    finally:
        moelora.training.loop.summed_loss = plain


def faults() -> dict[str, Any]:
    """See that what fails in the second process is met by both: too little memory, NaN, errors of both kinds."""
    accelerator()
    second = torch.distributed.get_rank() == 1
    found: dict[str, Any] = {}
    calls = []

    def memory(rows: int) -> None:
        calls.append(rows)
        if second and rows > 1 and len(calls) > 2:
            raise torch.OutOfMemoryError("pretended")

    for method in ("lora", "mixlora"):
        calls.clear()
        halved, alone = make_attached("llama", method), make_attached("llama", method)
        first = values(alone)
        with failing(memory):
            result = train(halved, "llama", True)
        smaller = result.micro_batch_size == 2 and any("halved to 2" in one for one in result.declarations)
        found["memory"] = found.get("memory", True) and smaller and result.status == "finished"
        if method == "lora":  # a balance loss depends on the micro-batch
            train(alone, "llama", False)
            own, other = values(halved), values(alone)
            found["parameters"] = distance(own, other, {name: other[name] - first[name] for name in first})
        found["same in both"] = found.get("same in both", True) and same_in_all(values(halved))

    def never(rows: int) -> None:
        if second:
            raise torch.OutOfMemoryError("pretended")

    with failing(never):
        found["memory for good"] = train(make_attached("llama", "mixlora"), "llama", True).status == "out_of_memory"
    with failing(lambda rows: float("nan") if second else None):
        found["nan"] = train(make_attached("llama", "lora"), "llama", True).status == "diverged"
    for error, expected in ((ValueError, OtherProcessError), (ConfigError, ProcessError)):

        def stop(rows: int, error: type = error) -> None:
            if second:
                raise error("pretended")

        try:
            with failing(stop):
                train(make_attached("llama", "mixlora"), "llama", True)
            found["errors"] = False
        except (error, expected) as raised:
            told = "pretended" in str(raised) and type(raised) is (error if second else expected)
            found["errors"] = found.get("errors", True) and told
    return found


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    **{
        f"{method}, {kind}": partial(compare_training, kind, method)
        for kind, methods in {
            "llama": (
                "lora", "dora", "adalora", "loramoe", "mola", "lora_smoe", "hydralora", "mixlora", "mixlora_top_p",
                "mixlora_switch", "mixdora", "full",
            ),
            "bert": ("dense_moe_lora", "mixlora"),
        }.items()
        for method in methods
    },
    "mixlora, llama, float32": partial(compare_training, "llama", "mixlora", dtype=torch.float32),
    "lora, bert, two heads": partial(compare_training, "bert", "lora", tasks=2),
    "mixlora, a starved expert": starved,
    "lora, nf4": partial(quantised, "lora"),
    "mixlora, nf4": partial(quantised, "mixlora"),
    "stopped and resumed": resumed,
    "sharded by linear: mixlora": sharded_by_linear,
    "faults": faults,
    **{
        f"sharded: {method}, {kind}": partial(sharded, kind, method)
        for kind, methods in {
            "llama": ("lora", "dora", "mola", "loramoe", "mixlora", "mixdora", "full"),
            "bert": ("lora", "dora", "mola", "mixlora"),
        }.items()
        for method in methods
    },
}  # fmt: skip
