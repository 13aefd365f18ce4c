"""What the checks share: a method on a base model, batches, losses and steps as the training loop makes them."""

import copy
import dataclasses
from functools import cached_property
from typing import Any

import bases
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from moelora.errors import ConfigError, TargetModulesError
from moelora.methods import AttachContext, get_method
from moelora.seeds import derive_seed
from moelora.training.attach import Attached
from moelora.training.device import make_accelerator
from moelora.training.encode import Encoded, collate
from moelora.training.loop import one_step, train_loop
from moelora.training.run import balance_of
from moelora.training.state import seed_everything, trainable_tensors

STEPS = 8
TRAINING = {
    "learning_rate": 1e-2, "batch_size": 8, "micro_batch_size": 8, "scheduler": "linear", "warmup_ratio": 0.0,
    "weight_decay": 0.01, "max_grad_norm": 1.0, "precision": "fp32", "checkpoint_every_steps": None,
    "log_every_steps": 4,
}  # fmt: skip


CHECKS: dict[str, list[str]] = {}  # every check of the files that were imported, and its base models


def check(title: str, kinds: tuple[str, ...] = bases.KINDS):
    """Make a test function a check of the battery: what the matrix calls it, and on which base models it runs."""

    def mark(function):
        function.battery = (title, kinds)
        CHECKS[title] = list(kinds)
        return function

    return mark


def not_applicable(reason: str) -> None:
    """End a check that does not apply to the method, by one of its abilities or settings."""
    pytest.skip(f"n/a: {reason}")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A method on a kind of base model."""

    name: str
    kind: str

    @cached_property
    def method(self) -> Any:
        return get_method(self.name)

    @property
    def abilities(self) -> Any:
        return self.method.abilities

    @property
    def task_kind(self) -> str:
        return "classification" if bases.ARCHITECTURES[self.kind] == "encoder" else "multiple_choice"

    @cached_property
    def setting_names(self) -> set[str]:
        return {field.name for field in dataclasses.fields(self.method.settings)}

    def needs_training(self) -> None:
        """End the check for a method that trains nothing here."""
        if not self.abilities.trains:
            not_applicable("trains nothing")

    def needs_adapter(self) -> None:
        """End the check for a method without a PEFT adapter."""
        if not self.abilities.adapter:
            not_applicable("leaves no adapter")

    def needs_ability(self, ability: str, reason: str) -> None:
        """End the check for a method without an ability."""
        if not getattr(self.abilities, ability):
            not_applicable(reason)

    def attach(
        self,
        seed: int = 0,
        base: "torch.nn.Module | None" = None,
        dtype: torch.dtype = torch.float32,
        allocation: "dict[str, int] | None" = None,
        **settings: Any,
    ) -> Attached:
        """Return the method attached to a fresh base model, as `moelora train` does it.

        A refusal is a skip with the reason where the page declares the feed-forward layouts or architectures it fits;
        it is a failure where it does not.
        """
        described = bases.describe(self.kind, bases.make_base(self.kind, dtype) if base is None else base)
        if self.abilities.needs_allocation and allocation is None:
            allocation = {linear.name: (1 + index) % 4 for index, linear in enumerate(described.shapes.linears)}
        context = AttachContext(described.shapes, described.head_modules, allocation, STEPS)
        if "layers" in self.setting_names:
            settings = {"layers": 1, **settings}  # the base models have two
        chosen = self.method.make_settings({k: v for k, v in settings.items() if k in self.setting_names})
        seed_everything(derive_seed("adapter", seed))
        try:
            model = self.method.attach(described.model, chosen, context)
        except (ConfigError, TargetModulesError) as error:
            self._refused(error, described.shapes.feed_forward_layout)
        return Attached(model, described, self.method, chosen, context, None)

    def _refused(self, error: Exception, layout: str) -> None:
        reason = " ".join(str(error).split())
        layouts, architecture = self.abilities.feed_forward_layouts, bases.ARCHITECTURES[self.kind]
        if (not layouts or layout in layouts) and architecture in self.abilities.architectures:
            pytest.fail(f"refuses {self.kind} ({layout}), which its abilities do not declare: {reason}")
        pytest.skip(f"refused: {reason}")

    def batch(self, rows: int = 8, seed: int = 1, lengths: "tuple[int, ...]" = (9, 12, 6, 11, 8, 12, 10, 7)):
        """Return encoded examples of several lengths; enough tokens that every expert gets some."""
        generator = torch.Generator().manual_seed(seed)
        examples = []
        for row in range(rows):
            length = lengths[row % len(lengths)]
            ids = torch.randint(3, bases.VOCABULARY, (length,), generator=generator).tolist()
            label = row % 2 if self.task_kind == "classification" else length // 2
            examples.append(Encoded("battery", row, tuple(ids), (), label))
        return examples

    def tensors(self, batch: list[Encoded]) -> dict[str, torch.Tensor]:
        """Return the padded batch without its labels."""
        collated = collate(batch, bases.PAD, self.task_kind)
        return {name: tensor for name, tensor in collated.items() if name != "labels"}

    def step(self, attached: Attached, batch: list[Encoded], micro: "int | None" = None, balance: bool = True) -> Any:
        """Accumulate the gradients of one effective batch with the training loop's own function."""
        hooks = self.method.make_hooks(attached.settings)
        accelerator = make_accelerator({"training": TRAINING})
        return one_step(
            attached.model, batch, self.task_kind, micro or len(batch), bases.PAD, accelerator,
            balance_of(self.method) if balance else None, hooks,
        )  # fmt: skip

    def train(self, attached: Attached, steps: int = STEPS, hooks: Any = None, state_path: Any = None, **training: Any):
        """Train with the training loop."""
        batches = [self.batch(seed=10 + step) for step in range(steps)]
        return train_loop(
            attached.model, batches, {"battery": self.task_kind}, {**TRAINING, **training}, bases.PAD,
            make_accelerator({"training": TRAINING}), balance=balance_of(self.method),
            hooks=self.method.make_hooks(attached.settings) if hooks is None else hooks, state_path=state_path,
        )  # fmt: skip

    def moved(self, head: bool = True, **options: Any) -> Attached:
        """Return the attached method in evaluation mode, its trained tensors moved as if by training."""
        attached = self.attach(**options)
        move(attached, head=head)
        attached.model.eval()
        return attached


def move(attached: Attached, seed: int = 11, head: bool = True) -> None:
    """Add noise to all trained tensors, so that no factor is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in trainable_tensors(attached.model).items():
            if head or "modules_to_save" not in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_((noise * 0.1).to(parameter.dtype))


def logits(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the model's logits without gradient."""
    with torch.no_grad():
        return model(**tensors).logits


def values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the trainable tensors by name."""
    return {name: parameter.detach().clone() for name, parameter in trainable_tensors(model).items()}


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the gradients of trainable tensors, and forget them."""
    found = {name: parameter.grad.clone() for name, parameter in trainable_tensors(model).items()}
    model.zero_grad(set_to_none=True)
    return found


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Assert that two sets of tensors agree bit for bit."""
    assert first.keys() == second.keys(), sorted(first.keys() ^ second.keys())
    unequal = [name for name in first if not torch.equal(first[name], second[name])]
    assert not unequal, unequal  # pytest explains asserts of test files only, so these say it themselves


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float) -> None:
    """Assert that two sets of tensors agree up to a part of the largest entry of each.

    Below a thousandth of the largest of all, what is left of sums that cancel (a key's bias has no gradient) is noise.
    """
    assert first.keys() == second.keys(), sorted(first.keys() ^ second.keys())
    far = {}
    floor = 1e-3 * max(tensor.abs().max().item() for tensor in first.values())
    for name in first:
        scale = max(first[name].abs().max().item(), floor)
        distance = (first[name] - second[name]).abs().max().item()
        if not distance <= tolerance * scale:
            far[name] = (distance, scale)
    assert not far, far


def tuner_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the adapter's layers."""
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def copy_config(model: torch.nn.Module) -> Any:
    """Return a copy of the config of the first adapter."""
    return copy.deepcopy(model.peft_config["default"])
