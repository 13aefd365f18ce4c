"""Training one run, as every process that takes part in it does: from the plan to a trained model, without a file."""

import contextlib
import dataclasses
from typing import Any

from moelora.errors import ConfigError
from moelora.training.device import make_accelerator
from moelora.training.identity import Run
from moelora.training.outputs import state_path
from moelora.training.preemption import deferring
from moelora.training.sources import load_tasks, training_tasks


@dataclasses.dataclass
class Fitted:
    """A run's model after training.

    Attributes:
        attached: The model, whole in the main process.
        result: What the training loop left; of no steps where nothing was trained.
        parameters: Counts for the record.
        data: What was trained on, where it is not the tasks' own data.
        further: Whether it was trained at all.
    """

    attached: Any
    result: Any
    parameters: dict[str, Any]
    data: "dict[str, Any] | None"
    further: bool


def fit(run: Run, crew: Any, held: contextlib.ExitStack) -> Fitted:
    """Attach the run's method to its base model and train it.

    Args:
        run: the run.
        crew: the processes that train it together.
        held: gets what lasts from the first step until its caller has put away what was trained: signals wait.

    Raises:
        ConfigError: the model or the method cannot be sharded, and the launcher asks for it.
    """
    from moelora.methods import get_method
    from moelora.seeds import derive_seed
    from moelora.training.attach import attach, recompute_activations
    from moelora.training.encode import encode_training
    from moelora.training.loop import LoopResult, train_loop
    from moelora.training.order import all_steps
    from moelora.training.parent import load_parent
    from moelora.training.run import balance_of
    from moelora.training.state import seed_everything

    plan, training, parent = run.plan, run.plan["training"], run.plan.get("parent")
    if crew.sharded and plan["model"].get("quantisation"):
        raise ConfigError(
            f"model '{plan['model']['name']}' is quantised, and packed weights cannot be sharded; launch without FSDP "
            "(every process then holds the quantised base model), or take the model whole"
        )
    tasks, method = load_tasks(plan, run.data_dir), get_method(plan["method"])
    accelerator = make_accelerator(plan)
    # A model that will be sharded may be too large for one device.
    attached = attach(plan, tasks, run.base_dir, "cpu" if crew.sharded else accelerator.device)
    if parent:
        load_parent(attached, run)
    parameters = attached.parameters()
    result, data = LoopResult(), None
    further = bool(method.abilities.trains and parameters["trainable"] and (parent is None or parent["continue"]))
    if further:
        examples = []
        trained_on, data = training_tasks(plan, tasks)
        for task in trained_on:
            examples += encode_training(task, training.get("max_examples"), attached.base.tokenizer, training)
        steps = all_steps(
            examples,
            training["batch_size"],
            plan["seed"],
            epochs=training.get("epochs"),
            max_steps=training.get("max_steps"),
            by_task=tasks[0].kind != "multiple_choice",
            sampling=training.get("sampling"),
        )
        recompute_activations(attached.model, training)
        hooks = method.make_hooks(attached.settings)
        held.enter_context(deferring(", trained and its adapter saved"))
        if crew.sharded:
            shard_for(accelerator, attached, hooks)
        seed_everything(crew.seed(derive_seed("training", plan["seed"])))
        result = train_loop(
            attached.model,
            steps,
            {task.name: task.kind for task in trained_on},
            training,
            attached.base.tokenizer.pad_token_id,
            accelerator,
            balance=balance_of(method),
            hooks=hooks,
            state_path=state_path(run),
            label=run.label,
        )
        if crew.sharded:
            attached = gathered(attached, run, tasks, accelerator, crew.main)
    return Fitted(attached, result, parameters, data, further)


def shard_for(accelerator: Any, attached: Any, hooks: Any) -> None:
    """Shard a model over all processes before its training.

    Raises:
        ConfigError: the method looks at whole parameters in its loss or between steps.
    """
    from torch.distributed.device_mesh import init_device_mesh

    from moelora.tuners.sharding import shard

    if hooks.extra_loss is not None or hooks.after_step is not None or hooks.state is not None:
        raise ConfigError(
            f"method '{attached.method.name}' looks at whole parameters in its loss or between steps, so it cannot be "
            "sharded; launch without FSDP: data parallelism gives the same numbers"
        )
    shard(attached.model, init_device_mesh(accelerator.device.type, (accelerator.num_processes,)))


def gathered(attached: Any, run: Run, tasks: list, accelerator: Any, main: bool) -> Any:
    """Return the trained model whole, in the main process only; the others keep their parts of it."""
    import torch

    from moelora.training.attach import attach
    from moelora.training.parent import load_parent
    from moelora.tuners.sharding import WholeModel, trained

    tensors = dict(WholeModel(attached.model).named_parameters())
    if not main:
        return attached
    attached = attach(run.plan, tasks, run.base_dir, accelerator.device)
    if run.plan.get("parent"):
        load_parent(attached, run)
    with torch.no_grad():
        for name, parameter in trained(attached.model):
            parameter.copy_(tensors[name])
    accelerator.prepare_model(attached.model, evaluation_mode=True)  # scored in the precision that it was trained in
    return attached
