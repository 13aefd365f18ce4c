"""Cases of `bench.parallel` whose parameters are sharded over both processes."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

from bench.parallel_models import make_attached
from bench.parallel_trials import (
    HALF,
    accelerator,
    curve_distance,
    distance,
    gradients,
    shared_folder,
    train,
    values,
)
from moelora.errors import AdapterError
from moelora.training.attach import Attached, adapter_file, save_adapter
from moelora.training.launch import crew_of
from moelora.training.state import trainable_tensors
from moelora.tuners.sharding import shard


def mesh() -> Any:
    """Return the mesh of both processes."""
    return init_device_mesh("cpu", (torch.distributed.get_world_size(),))


@contextlib.contextmanager
def sharding() -> Iterator[None]:
    """Let the processes be such that hold a part of the parameters each."""
    crew = crew_of(accelerator())
    crew.sharded = True
    try:
        yield
    finally:
        crew.sharded = False


def sharded(kind: str, method: str, **settings: Any) -> dict[str, Any]:
    """Compare a sharded model's gradients, training, state and adapter with those of a whole one."""
    accelerator()
    make = partial(make_attached, kind, method, **settings)
    found: dict[str, Any] = {}
    with sharding(), shared_folder() as folder:
        ours = make()
        shard(ours.model, mesh())
        found["gradient"] = distance(gradients(ours, kind, True), gradients(make(), kind, False))
        alone, ours = make(), make()
        first = values(alone)
        shard(ours.model, mesh())
        own = Path(folder, f"alone-{torch.distributed.get_rank()}.pt")
        one = train(alone, kind, False, state_path=own, checkpoint_every_steps=HALF)
        two = train(ours, kind, True, state_path=Path(folder, "both.pt"), checkpoint_every_steps=HALF)
        found["loss curve"] = curve_distance(two.loss_curve, one.loss_curve)
        if any(value for _, value in one.balance_curve):
            found["balance curve"] = curve_distance(two.balance_curve, one.balance_curve)
        trained, expected = values(ours), values(alone)
        moved = {name: expected[name] - first[name] for name in first}
        found["parameters"] = distance(trained, expected, moved)
        # the state of two is taken up by one, and that of one by two
        torch.distributed.barrier()
        by_one, by_two = make(), make()
        later = train(by_one, kind, False, state_path=Path(folder, "both.pt"))
        found["resumed by one"] = distance(values(by_one), expected, moved)
        shard(by_two.model, mesh())
        train(by_two, kind, True, state_path=Path(folder, "alone-0.pt"))
        found["resumed by two"] = distance(values(by_two), expected, moved)
        found["resumed"] = later.resumed == 1
        found["adapter bytes"] = same_adapter(make, alone, folder)
    return found


def sharded_by_linear() -> dict[str, Any]:
    """Make each frozen linear a unit of its own: MixLoRA calls it as a module then, and MixDoRA refuses."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    def cut(attached: Attached) -> Attached:
        for module in list(attached.model.modules()):
            if type(module) is torch.nn.Linear and not module.weight.requires_grad:
                fully_shard(module, mesh=mesh())
        fully_shard(attached.model, mesh=mesh())
        for module in attached.model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        return attached

    accelerator()
    make = partial(make_attached, "llama", "mixlora")
    with sharding():
        ours, alone = gradients(cut(make()), "llama", True), gradients(make(), "llama", False)
        found: dict[str, Any] = {"gradient": distance(ours, alone)}
        refused = cut(make_attached("llama", "mixdora")).model
        try:
            refused(input_ids=torch.ones(1, 4, dtype=torch.long))
            found["refused when sharded"] = False
        except AdapterError as error:
            found["refused when sharded"] = "shard whole blocks" in str(error)
    return found


def same_adapter(make: Callable[[], Attached], trained: Attached, folder: str) -> bool:
    """Say whether a model that is sharded and made whole again leaves the adapter file that it leaves as it is."""
    before = saved_bytes(trained, folder)
    shard(trained.model, mesh())
    tensors, again = values(trained), make()
    with torch.no_grad():
        for name, parameter in trainable_tensors(again.model).items():
            parameter.copy_(tensors[name])
    return saved_bytes(again, folder) == before


def saved_bytes(attached: Attached, folder: str) -> bytes:
    """Return the bytes of a model's adapter file."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        save_adapter(attached, Path(place))
        return adapter_file(Path(place)).read_bytes()
