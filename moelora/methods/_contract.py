"""What a method page states, and what it is handed.

Nothing here needs torch: shapes are numbers, and ``attach`` imports what it needs when it is called.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from moelora.errors import ConfigError, nearest
from moelora.methods._types import trouble_of


def setting(default: Any, origin: str, *, later: bool = False) -> Any:
    """Return a field of a page's ``Settings``: its default, and where that comes from, for the method's documentation.

    Args:
        default: a plain value that cannot be changed in place.
        origin: paper, code or "ours", in a few words; editing it changes no number.
        later: whether the page was published without this setting. At its default it then stays out of plans, so
            that plans from before keep their hash.
    """
    return dataclasses.field(default=default, metadata={"origin": origin, "later": later})


@dataclasses.dataclass(frozen=True)
class Linear:
    """One linear module of the base model that a method may adapt.

    ``name`` is the full module name, ``kind`` the name that the model file gives it (``query``, ``gate``, …),
    ``part`` is ``attention`` or ``feed_forward`` (``head`` for a linear of the head); widths are in features.
    """

    name: str
    kind: str
    part: str
    layer: int
    inputs: int
    outputs: int


@dataclasses.dataclass(frozen=True)
class ModelShapes:
    """The adaptable linears of a base model in layer order, and the layout of its feed-forward blocks."""

    linears: tuple[Linear, ...]
    feed_forward_layout: str  # "gated" (gate, up, down), "two_matrix" or "two_matrix_block" (inner, outer)
    hidden: int
    head_parameters: int = 0
    total_parameters: int = 0
    output_parameters: int = 0  # of a decoder's language-model head
    head_linears: tuple[Linear, ...] = ()  # of an encoder's head, those before its final projection

    def select(self, parts: "str | tuple[str, ...]") -> tuple[Linear, ...]:
        """Return the linears of the given parts, kinds or full names (``all`` for every one).

        Raises:
            ConfigError: a word is neither a part, a kind nor a linear of this model.
        """
        words = (parts,) if isinstance(parts, str) else tuple(parts)
        if words == ("all",):
            return self.linears
        known = {linear.part for linear in self.linears} | {linear.kind for linear in self.linears}
        full_names = {linear.name for linear in self.linears}
        for word in words:
            if word not in known and word not in full_names:
                raise ConfigError(f"unknown modules '{word}'{nearest(word, known | {'all'})}")
        return tuple(x for x in self.linears if x.part in words or x.kind in words or x.name in words)

    def layers(self) -> tuple[int, ...]:
        """Return the indices of the transformer blocks, ascending."""
        return tuple(sorted({linear.layer for linear in self.linears}))


@dataclasses.dataclass(frozen=True)
class Counts:
    """Parameters by part; ``head`` is what every method trains besides its own tensors.

    ``experts`` and ``router`` say what the adapter's parameters are; ``attention`` and ``feed_forward`` say where
    the experts sit, so that ``experts == attention + feed_forward``. ``active`` counts what one token uses, trained or
    not. ``frozen`` are random values that the adapter holds and never trains (a frozen router); ``router`` leaves them
    out.
    """

    experts: int = 0
    router: int = 0
    attention: int = 0
    feed_forward: int = 0
    head: int = 0
    active: int = 0
    frozen: int = 0

    @property
    def trainable(self) -> int:
        """Return all trainable parameters, the head included."""
        return self.experts + self.router + self.head


@dataclasses.dataclass(frozen=True)
class Abilities:
    """What a method can do; the battery tests hold each method to its word."""

    trains: bool = True
    deterministic: bool = False  # the score does not depend on the seed
    mergeable: bool = True
    merge_note: str = ""
    quantised_base: bool = True
    several_adapters: bool = True  # a second adapter of the method may stand beside the first
    several_note: str = ""
    feed_forward_layouts: tuple[str, ...] = ()  # those it fits; empty for all
    needs_allocation: bool = False
    balance_loss: bool = False
    routed: bool = False
    one_expert_is: str = "lora"  # the method that a mixture of one expert equals
    mixture: bool = False  # a suite can set controls beside it, such as a plain LoRA of equal trainable parameters
    adapter: bool = True  # leaves a PEFT adapter
    starts_as_base: bool = True  # the model computes what the base computes before the first step
    start_note: str = ""  # why not, where it does not
    reads_input: bool = True  # false only for constant answers
    trains_head: bool = True  # false: an encoder's new head keeps its random first values
    architectures: tuple[str, ...] = ("decoder", "encoder")  # what it can be attached to
    architecture_note: str = ""  # why not to the other


@dataclasses.dataclass(frozen=True)
class AttachContext:
    """What a method may use beside its settings when it is attached to a model."""

    shapes: ModelShapes
    head_modules: tuple[str, ...] = ()
    allocation: Mapping[str, int] | None = None
    total_steps: int = 0


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What a method adds to the training loop beside its balance loss; each part may be absent.

    Attributes:
        extra_loss: Model → a scalar to add to the task loss, or ``None``. Called after every micro-batch's forward
            pass; it enters as its share of the effective batch.
        before_batch: Model and micro-batch (examples with ``task`` and ``ids``), before its forward pass.
        after_step: Model, the steps done (from 1) and the total, after the optimiser's step while gradients are still
            there.
        state: Model → tensors, numbers and dicts of them that a killed run needs beside its parameters.
        load_state: Model and what ``state`` returned.
        declare: Trained model → sentences for the record's declarations.
    """

    extra_loss: "Callable[[Any], Any] | None" = None
    before_batch: "Callable[[Any, list], None] | None" = None
    after_step: "Callable[[Any, int, int], None] | None" = None
    state: "Callable[[Any], dict] | None" = None
    load_state: "Callable[[Any, dict], None] | None" = None
    declare: "Callable[[Any], list[str]] | None" = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A method: its settings, its abilities, how it is attached, and what it costs in closed form."""

    name: str
    title: str
    settings: type
    abilities: Abilities
    attach: Callable[[Any, Any, AttachContext], Any]
    parameters: Callable[[ModelShapes, Any, AttachContext], Counts]
    version: int = 1
    reference: str = ""
    linears: "Callable[[ModelShapes, Any, AttachContext], tuple[Linear, ...]] | None" = None
    hooks: "Callable[[Any], Hooks] | None" = None  # from the settings
    one_expert: "Mapping[str, Any] | None" = None  # settings under which a mixture has one expert where it has any

    def adapted(self, shapes: ModelShapes, settings: Any, context: AttachContext) -> tuple[Linear, ...]:
        """Return the linears that this method adapts; pages whose choice is not the setting ``modules`` say it."""
        if self.linears is not None:
            return self.linears(shapes, settings, context)
        return shapes.select(getattr(settings, "modules", "all"))

    def make_hooks(self, settings: Any) -> Hooks:
        """Return what the method adds to the training loop under these settings."""
        return Hooks() if self.hooks is None else self.hooks(settings)

    def make_settings(self, values: Mapping[str, Any]) -> Any:
        """Return the settings with defaults filled in.

        Raises:
            ConfigError: a key is unknown, a value is of another kind than the setting, or the method refuses it.
        """
        for key in values:
            if key not in self.setting_names:
                raise ConfigError(f"method '{self.name}' has no setting '{key}'{nearest(key, self.setting_names)}")
        if trouble := trouble_of(self.settings, values):
            raise ConfigError(f"settings of method '{self.name}': {trouble}")
        try:
            return self.settings(**values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"settings of method '{self.name}': {error}") from error

    def all_settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return every setting as plain data, defaults filled in, but for later ones that are at theirs."""
        filled, later = dataclasses.asdict(self.make_settings(values)), self.later_defaults
        return {name: value for name, value in filled.items() if name not in later or value != later[name]}

    @property
    def later_defaults(self) -> dict[str, Any]:
        """Return the defaults of the settings that the page was published without."""
        fields = dataclasses.fields(self.settings)
        return {field.name: field.default for field in fields if field.metadata.get("later")}

    @property
    def setting_names(self) -> set[str]:
        """Return the names of all settings."""
        return {field.name for field in dataclasses.fields(self.settings)}
