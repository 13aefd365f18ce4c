"""Configs of the two tuners, checked where they are made and sorted where they are saved."""

from dataclasses import asdict, dataclass, field

from peft import PeftConfig

from moelora.errors import ConfigError, nearest
from moelora.losses import BALANCE_LOSSES
from moelora.routers import ROUTERS, RouterSettings
from moelora.tuners.registration import MIXLORA, MIXTURE
from moelora.tuners.routing import Balance

BALANCE_SCOPES = ("module", "layer", "model")
BLOCK_ROUTERS = ("top_k", "top_p", "switch")
BLOCK_BALANCE_LOSSES = ("none", *(name for name, loss in BALANCE_LOSSES.items() if not loss.takes_delta))
ROUTER_INITS = ("normal", "kaiming_uniform")
FACTOR_INITS = ("kaiming_uniform", "gaussian")
FEED_FORWARD_NAMES = {
    "gated": {"gate": "gate_proj", "up": "up_proj", "down": "down_proj", "activation": "act_fn"},
    "two_matrix": {"inner": "dense", "activation": "intermediate_act_fn"},
    "two_matrix_block": {"inner": "fc1", "outer": "fc2", "activation": "activation_fn"},
}
FEED_FORWARD_LAYOUTS = tuple(FEED_FORWARD_NAMES)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}{nearest(str(value), known)}")


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} is {value!r}; expected an integer of at least {least}")


def _sorted_names(names: "list[str] | tuple[str, ...] | set[str] | str | None") -> "list[str] | str | None":
    return names if names is None or isinstance(names, str) else sorted(set(names))


@dataclass
class MoeloraConfig(PeftConfig):
    """What both tuners share.

    Args:
        r: Rank of every expert.
        alpha: Increments are scaled by alpha / r.
        dropout: On the input of the increments only, one mask for all experts.
        target_modules: Linear modules: a list of full names or name endings, or one regular expression.
        exclude_modules: Modules to leave out although a target matches them.
        modules_to_save: Modules trained in full and saved with the adapter, such as a new head.
        router_init: "normal", or "kaiming_uniform" with a = sqrt 5, which is what a linear layer starts from.
        init_router_std: Standard deviation of the normal one.
        train_router: Whether routers are trained. Untrained ones keep their random first values, which are saved with
            the adapter.
        factor_init: First values of A: "kaiming_uniform" with a = sqrt 5, or "gaussian" with standard deviation 1 / r,
            as PEFT calls them. B is zero.
        jitter_noise: In training the router's input is multiplied by uniform noise from 1 - this to 1 + this.
        top_p: p of the router "top_p".
        expert_capacity: Of the router "switch": tokens of a sequence that one expert takes in training.
        z_loss_coefficient: Factor of the z-loss over the same routers as the balance loss; 0 for none.
    """

    r: int = field(default=8)
    alpha: float = field(default=16)
    dropout: float = field(default=0.0)
    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)
    router_init: str = field(default="normal")
    init_router_std: float = field(default=0.02)
    train_router: bool = field(default=True)
    factor_init: str = field(default="kaiming_uniform")
    jitter_noise: float = field(default=0.0)
    top_p: float = field(default=0.8)
    expert_capacity: int | None = field(default=None)
    z_loss_coefficient: float = field(default=0.0)

    def __post_init__(self):
        super().__post_init__()
        _check_count("r", self.r, 1)
        _check_choice("router_init", self.router_init, ROUTER_INITS)
        _check_choice("factor_init", self.factor_init, FACTOR_INITS)
        if not isinstance(self.train_router, bool):
            raise ConfigError(f"train_router is {self.train_router!r}; expected true or false")
        if not 0 <= self.jitter_noise < 1:
            raise ConfigError(f"jitter_noise is {self.jitter_noise!r}; expected a number from 0 up to but not 1")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p!r}; expected a number above 0, at most 1")
        if self.expert_capacity is not None:
            _check_count("expert_capacity", self.expert_capacity, 1)
        if not self.z_loss_coefficient >= 0:
            raise ConfigError(f"z_loss_coefficient is {self.z_loss_coefficient!r}; expected 0 or more")
        if not self.alpha > 0:
            raise ConfigError(f"alpha is {self.alpha!r}; expected a positive number")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout!r}; expected a number from 0 up to but not 1")
        if not self.init_router_std >= 0:
            raise ConfigError(f"init_router_std is {self.init_router_std!r}; expected 0 or more")
        for name in ("target_modules", "exclude_modules"):
            setattr(self, name, _sorted_names(getattr(self, name)))

    @property
    def scaling(self) -> float:
        """The factor of every increment, alpha / r."""
        return self.alpha / self.r

    def router_settings(self, router: str, experts: int) -> RouterSettings:
        """Return the numbers of a module's router of ``experts`` experts."""
        return RouterSettings(
            router, min(self.experts_per_token, experts), self.top_p, self.expert_capacity, self.jitter_noise
        )

    def to_dict(self) -> dict:
        """Return the config with names sorted, so that its file does not vary between processes."""
        content = asdict(self)
        for key, value in content.items():
            if isinstance(value, set) or (key == "modules_to_save" and value):
                # PEFT appends the head's names to modules_to_save, once more after every load.
                content[key] = sorted(set(value))
            elif isinstance(value, dict):
                content[key] = {name: value[name] for name in sorted(value)}
        return content


@dataclass
class MixtureConfig(MoeloraConfig):
    """A mixture of LoRA experts on every target linear module, each with a router of its own.

    Args:
        experts: Experts of every target, or a dict from full module name to its count. A count of 0
            leaves the module alone, 1 is plain LoRA without a router. With a dict the targets
            are its names with a positive count; ``target_modules`` need not be given.
        router: "dense" (softmax), "top_k" (the k largest, renormalised), "top_p" (the most probable until they
            reach p), "switch" (the most probable while it has room) or "none" (weight 1 for
            all, which is a plain LoRA of rank r * experts and can be merged).
        experts_per_token: k of "top_k"; a module with fewer experts uses all it has.
        shared_a: One first factor for all experts of a module (HydraLoRA).
        balance_loss: "none" or a name in `moelora.losses.BALANCE_LOSSES`.
        balance_delta: How much more an expert is to take from samples of its own type; for "localised".
        balance_coefficient: Factor of the balance loss.
        balance_scope: Over what the loss is formed: each "module", each "layer" (modules of one block with
            equal counts taken together, as MoLA), or the whole "model"; the parts are summed.
    """

    experts: int | dict[str, int] = field(default=4)
    router: str = field(default="top_k")
    experts_per_token: int = field(default=2)
    shared_a: bool = field(default=False)
    balance_loss: str = field(default="none")
    balance_delta: float = field(default=0.1)
    balance_coefficient: float = field(default=0.01)
    balance_scope: str = field(default="module")

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = MIXTURE
        _check_choice("router", self.router, ROUTERS)
        _check_choice("balance_loss", self.balance_loss, ("none", *BALANCE_LOSSES))
        _check_choice("balance_scope", self.balance_scope, BALANCE_SCOPES)
        _check_count("experts_per_token", self.experts_per_token, 1)
        self._check_experts()
        self._check_balance()

    def experts_of(self, module_name: str) -> int:
        """Return the number of experts of a module by its full name."""
        return self.experts.get(module_name, 0) if isinstance(self.experts, dict) else self.experts

    def _check_experts(self) -> None:
        if isinstance(self.experts, dict):
            for name, count in self.experts.items():
                _check_count(f"experts[{name!r}]", count, 0)
            if not any(self.experts.values()):
                raise ConfigError("experts gives no module a positive count; expected at least one")
            return
        _check_count("experts", self.experts, 1)
        if self.router == "top_k" and 1 < self.experts < self.experts_per_token:
            raise ConfigError(
                f"experts_per_token is {self.experts_per_token} but there are {self.experts} experts; "
                "lower it or use router='dense'"
            )

    def _check_balance(self) -> None:
        if self.balance_loss == "none":
            return
        if self.router == "none":
            raise ConfigError(f"balance_loss is {self.balance_loss!r} but router is 'none'; expected 'none'")
        if self.router == "dense" and BALANCE_LOSSES[self.balance_loss].inert_when_dense:
            raise ConfigError(
                f"balance_loss {self.balance_loss!r} is a constant when every expert is used; "
                "with router='dense' use 'cv_squared' or 'mean_probability'"
            )
        if BALANCE_LOSSES[self.balance_loss].takes_delta and self.balance_scope != "module":
            raise ConfigError(
                f"balance_loss {self.balance_loss!r} is formed module by module; "
                f"balance_scope is {self.balance_scope!r}, expected 'module'"
            )

    @property
    def balance(self) -> Balance:
        """How the balance loss is formed."""
        return Balance(
            self.balance_loss,
            self.balance_coefficient,
            self.balance_scope,
            self.z_loss_coefficient,
            self.balance_delta,
        )


@dataclass
class MixLoraConfig(MoeloraConfig):
    """MixLoRA: whole feed-forward experts around shared frozen weights, plain LoRA elsewhere.

    ``target_modules`` are the linears that get one plain LoRA each (attention); they may be absent.

    Args:
        num_experts: Experts of every feed-forward block.
        router: "top_k" (the k most probable, renormalised), "top_p" or "switch"; the last two are not renormalised,
            so the block starts scaled down.
        experts_per_token: k, the experts that serve one token under "top_k".
        expert_r: Rank of the experts where it differs from r, which then is that of ``target_modules`` alone.
        expert_alpha: The same for alpha.
        expert_dropout: The same for dropout.
        dora: Every LoRA is a DoRA (MixDoRA), whose rows are rescaled to magnitudes. Not for "two_matrix": BERT's outer
            half gets one mixed row a token, but its experts' row scales need a row an expert.
        train_magnitude: Whether the magnitudes are trained and saved, or stay the row norms of the frozen weights, as
            in MoE-PEFT's code.
        balance_loss: Form of the one balance loss over all layers' routers: "none" or a name in
            `moelora.losses.BALANCE_LOSSES` that asks for no types of samples. The package's is "switch_slots".
        balance_coefficient: Its factor; 0 for none. The published runs used 1e-3.
        feed_forward_layout: "gated" (gate, up and down in one module, as Llama), "two_matrix_block" (two
            linears and an activation in one module, as Phi and GPT-NeoX) or "two_matrix" (an inner module with its
            activation and an outer linear elsewhere, as BERT).
        feed_forward_modules: Full names or endings of the gated blocks, or of the inner modules.
        output_modules: For "two_matrix": full names of the outer linears, or their names below the
            parent of the inner module ("output.dense").
        chunk: Tokens that a feed-forward block works on at a time. Fewer need less memory and more time; the numbers do
            not depend on it, but with dropout the random ones do. The default (`moelora.ops.chunks`) keeps a step below
            the memory of a plain LoRA's. Not for ``dora``.
        feed_forward_names: Names of the parts (gate, up, down; inner, outer; activation) inside a block where they
            differ from ``gate_proj, up_proj, down_proj, act_fn``, ``fc1, fc2, activation_fn`` and ``dense,
            intermediate_act_fn``.
    """

    num_experts: int = field(default=8)
    router: str = field(default="top_k")
    experts_per_token: int = field(default=2)
    expert_r: int | None = field(default=None)
    expert_alpha: float | None = field(default=None)
    expert_dropout: float | None = field(default=None)
    dora: bool = field(default=False)
    train_magnitude: bool = field(default=True)
    balance_loss: str = field(default="switch_slots")
    balance_coefficient: float = field(default=1e-3)
    feed_forward_layout: str = field(default="gated")
    feed_forward_modules: list[str] | None = field(default=None)
    output_modules: list[str] | None = field(default=None)
    feed_forward_names: dict[str, str] | None = field(default=None)
    chunk: int | None = field(default=None)

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = MIXLORA
        _check_count("num_experts", self.num_experts, 1)
        _check_count("experts_per_token", self.experts_per_token, 1)
        _check_choice("router", self.router, BLOCK_ROUTERS)
        _check_choice("balance_loss", self.balance_loss, BLOCK_BALANCE_LOSSES)
        if self.expert_r is not None:
            _check_count("expert_r", self.expert_r, 1)
        if self.expert_alpha is not None and not self.expert_alpha > 0:
            raise ConfigError(f"expert_alpha is {self.expert_alpha!r}; expected a positive number")
        if self.expert_dropout is not None and not 0 <= self.expert_dropout < 1:
            raise ConfigError(f"expert_dropout is {self.expert_dropout!r}; expected a number from 0 up to but not 1")
        _check_choice("feed_forward_layout", self.feed_forward_layout, FEED_FORWARD_LAYOUTS)
        if self.router == "top_k" and self.experts_per_token > self.num_experts:
            raise ConfigError(f"experts_per_token is {self.experts_per_token} but num_experts is {self.num_experts}")
        if not self.feed_forward_modules:
            raise ConfigError("feed_forward_modules is empty; name the feed-forward blocks, e.g. ['mlp']")
        if (self.feed_forward_layout == "two_matrix") != bool(self.output_modules):
            raise ConfigError(
                f"feed_forward_layout is {self.feed_forward_layout!r} and output_modules is "
                f"{self.output_modules!r}; 'two_matrix' needs them and the others have none"
            )
        if self.dora and self.feed_forward_layout == "two_matrix":
            raise ConfigError(
                "dora is True, but feed_forward_layout is 'two_matrix', where a block's halves are apart; expected "
                "'gated' or 'two_matrix_block'"
            )
        if self.chunk is not None:
            _check_count("chunk", self.chunk, 1)
            if self.dora:
                raise ConfigError(f"chunk is {self.chunk}, but dora is True, whose blocks work on all tokens; drop one")
        known = FEED_FORWARD_NAMES[self.feed_forward_layout]
        for role in self.feed_forward_names or {}:
            _check_choice("a key of feed_forward_names", role, tuple(known))
        self.feed_forward_modules = _sorted_names(self.feed_forward_modules)
        self.output_modules = _sorted_names(self.output_modules)

    @property
    def experts_settings(self) -> "MoeloraConfig":
        """What an expert's factors are made from: rank, alpha, dropout and first values."""
        chosen = {
            "r": self.r if self.expert_r is None else self.expert_r,
            "alpha": self.alpha if self.expert_alpha is None else self.expert_alpha,
            "dropout": self.dropout if self.expert_dropout is None else self.expert_dropout,
            "factor_init": self.factor_init,
        }
        return MoeloraConfig(**chosen)

    @property
    def balance(self) -> Balance:
        """How the one balance loss over all routers is formed."""
        return Balance(self.balance_loss, self.balance_coefficient, "model", self.z_loss_coefficient)

    @property
    def part_names(self) -> dict[str, str]:
        """Names of a block's parts by role."""
        return {**FEED_FORWARD_NAMES[self.feed_forward_layout], **(self.feed_forward_names or {})}
