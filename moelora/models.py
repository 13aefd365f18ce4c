"""Base models: loading, heads, and the shapes that methods are told about."""

import contextlib
import copy
import dataclasses
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moelora import hub
from moelora.errors import ModelUnavailableError, TargetModulesError, first_line
from moelora.methods import Linear, ModelShapes
from moelora.quantised import check_widths, count_parameters, weight_options
from moelora.seeds import derive_seed
from moelora.sums import check_sums
from moelora.tasks import Task


class Selection:
    """Which task's head is in use; shared by the copies that PEFT makes of a module it saves."""

    task: "str | None" = None

    def __deepcopy__(self, memo: dict) -> "Selection":
        return self


class TaskHeads(nn.Module):
    """One head per task behind one encoder; ``selection.task`` says which one answers."""

    def __init__(self, heads: dict[str, nn.Module]):
        super().__init__()
        # module names cannot hold dots or hyphens safely across checkpoints, so heads are kept by position
        self.order = list(heads)
        self.heads = nn.ModuleList(heads.values())
        self.selection = Selection()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map what the model hands its head, (B, D) or (B, T, D), to the selected task's (B, outputs)."""
        if self.selection.task not in self.order:
            raise TargetModulesError(
                f"no head selected (task {self.selection.task!r}); heads: {', '.join(self.order)}; "
                "use moelora.models.select_head"
            )
        return self.heads[self.order.index(self.selection.task)](features)


_selections: "weakref.WeakKeyDictionary[nn.Module, list[Selection]]" = weakref.WeakKeyDictionary()


def _selections_of(model: nn.Module) -> list[Selection]:
    # walking all modules at every step would cost a tenth of a small model's step
    if model not in _selections:
        _selections[model] = [module.selection for module in model.modules() if isinstance(module, TaskHeads)]
    return _selections[model]


@contextlib.contextmanager
def select_head(model: nn.Module, task: str):
    """Let the head of ``task`` answer within the block; nothing to do for a model with a single head."""
    selections = _selections_of(model)
    before = [selection.task for selection in selections]
    for selection in selections:
        selection.task = task
    try:
        yield
    finally:
        for selection, task_before in zip(selections, before, strict=True):
            selection.task = task_before


@dataclasses.dataclass
class BaseModel:
    """A loaded base model with its tokenizer, the shapes for methods and the names of its head modules."""

    model: nn.Module
    tokenizer: Any
    shapes: ModelShapes
    head_modules: tuple[str, ...]
    identity: str  # hub commit, or the content of a built-in model


def adaptable_linears(model: nn.Module, document: dict[str, Any]) -> tuple[Linear, ...]:
    """Return the linears that the model file promises, in layer order.

    Raises:
        TargetModulesError: a promised module does not exist or is not linear; lists the linear modules there are.
    """
    modules = dict(model.named_modules())
    found = []
    for layer in range(document["layers"]):
        for part, kinds in document["modules"].items():
            for kind, path in kinds.items():
                suffix = f"{document['block'].format(layer=layer)}.{path}"
                names = [name for name in modules if name == suffix or name.endswith("." + suffix)]
                if len(names) != 1 or not hasattr(modules[names[0]], "in_features"):
                    there = sorted(name for name, module in modules.items() if isinstance(module, nn.Linear))
                    raise TargetModulesError(
                        f"model '{document['name']}' promises a linear '{suffix}' ({part}.{kind}), found {len(names)}; "
                        "correct 'block', 'layers' or 'modules' in its file. "
                        f"Linear modules: {', '.join(there[:40])}{' …' if len(there) > 40 else ''}"
                    )
                module = modules[names[0]]
                found.append(Linear(names[0], kind, part, layer, module.in_features, module.out_features))
    return tuple(found)


def load_base_model(document: dict[str, Any], tasks: list[Task], seed: int, base_dir: "Path | None") -> BaseModel:
    """Load a base model and give it the heads that the tasks need.

    The head's first values depend on the tasks and the seed, never on the method.

    Args:
        document: the model file's content.
        tasks: the run's tasks.
        seed: the run's seed.
        base_dir: where a built-in model was saved; not needed for hub models.

    Raises:
        ModelUnavailableError: the model cannot be had; names the id and how to use a local copy.
    """
    model, tokenizer = fetch_model(document, tasks[0].outputs if document["architecture"] == "encoder" else 0, base_dir)
    if document.get("quantisation") == "nf4":
        check_widths(model, document)
    if document["architecture"] == "encoder":
        give_heads(model, tasks, seed)
    return describe_model(model, tokenizer, document)


def fetch_model(document: dict[str, Any], outputs: int, base_dir: "Path | None") -> tuple[nn.Module, Any]:
    """Return a model as it comes from the hub or a folder, an encoder with a head of some outputs, and its tokenizer.

    Raises:
        ModelUnavailableError: as :func:`load_base_model` says.
        RecordError: a built-in model was changed since it was built.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    source = document["source"]
    where = source.get("hub") if "hub" in source else base_dir
    if where is None:
        raise ModelUnavailableError(
            f"model '{document['name']}' is built in, but no folder was given; build it with "
            "'moelora base --out DIR' and pass --base DIR"
        )
    if "hub" not in source:
        check_sums(where)
    encoder = document["architecture"] == "encoder"
    kind = transformers.AutoModelForSequenceClassification if encoder else transformers.AutoModelForCausalLM
    options: dict[str, Any] = {"num_labels": outputs} if encoder else {}
    weights = weight_options(document)
    name, revision = str(where), source.get("revision")
    pinned = {"revision": revision} if revision else {}
    subject = f"model '{document['name']}' ({where}, revision {revision})"
    try:
        with _checked(name, revision), hub.reached("model", name, revision):
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, trust_remote_code=False, **pinned)
            # a checkpoint may carry a head of another width, which ours replaces
            model, report = kind.from_pretrained(
                where,
                trust_remote_code=False,
                ignore_mismatched_sizes=encoder,
                output_loading_info=True,
                **pinned,
                **options,
                **weights,
            )
    except hub.AlteredError as error:
        raise ModelUnavailableError(f"{subject} is not what its commit holds: {error}") from error
    except Exception as error:  # the clients raise many unrelated types; all mean that there is no model
        raise ModelUnavailableError(
            f"{subject} cannot be had: {type(error).__name__}: {first_line(error)[:300]}. "
            f"{hub.advice('the model file')}. A gated model needs 'hf auth login'"
        ) from error
    mismatched = sorted(
        str(key) for key in report.get("mismatched_keys", ()) if not (encoder and "classifier" in str(key))
    )
    if mismatched:
        raise ModelUnavailableError(
            f"model '{document['name']}' ({where}) has tensors of other shapes than its config says: {mismatched[:4]}"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


@contextlib.contextmanager
def _checked(where: str, revision: "str | None"):
    """See afterwards that what came from the hub is what its commit holds; altered files explain other errors too."""
    try:
        yield
    except Exception:
        hub.check_snapshot("model", where, resolved_commit(where, revision))
        raise
    hub.check_snapshot("model", where, resolved_commit(where, revision))


def give_heads(model: nn.Module, tasks: list[Task], seed: int) -> None:
    """Give an encoder's head its first values, or one head per task where there are several."""
    if len(tasks) > 1:
        model.classifier = TaskHeads({task.name: make_head(model, task.outputs) for task in tasks})
    generator = torch.Generator().manual_seed(derive_seed("head", *(task.name for task in tasks), seed))
    for module in model.classifier.modules():
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(0.0, model.config.initializer_range, generator=generator)
            module.bias.data.zero_()


def make_head(model: nn.Module, outputs: int) -> nn.Module:
    """Return a head of the kind that the model has: one linear (BERT), or what its class builds (RoBERTa)."""
    if isinstance(model.classifier, nn.Linear):
        return nn.Linear(model.config.hidden_size, outputs)
    config = copy.deepcopy(model.config)
    config.num_labels = outputs
    return type(model.classifier)(config)


def describe_model(model: nn.Module, tokenizer: Any, document: dict[str, Any]) -> BaseModel:
    """Return a model with the shapes that methods are told about."""
    head = ("classifier",) if document["architecture"] == "encoder" else ()
    source = document["source"]
    shapes = ModelShapes(
        linears=adaptable_linears(model, document),
        feed_forward_layout=document["feed_forward_layout"],
        hidden=model.config.hidden_size,
        head_parameters=sum(p.numel() for name in head for p in model.get_submodule(name).parameters()),
        total_parameters=count_parameters(model),
        output_parameters=0 if head else sum(p.numel() for p in model.get_output_embeddings().parameters()),
        head_linears=tuple(linear for name in head for linear in hidden_head_linears(model, name)),
    )
    commit = resolved_commit(source["hub"], source.get("revision")) if source.get("hub") else ""
    return BaseModel(model, tokenizer, shapes, head, commit)


def hidden_head_linears(model: nn.Module, head: str) -> list[Linear]:
    """Return the linears of a head before its final projection: RoBERTa's has one, BERT's and several heads none."""
    module = model.get_submodule(head)
    linears = [(name, part) for name, part in module.named_modules(prefix=head) if isinstance(part, nn.Linear)]
    if isinstance(module, TaskHeads):
        return []
    return [Linear(name, "dense", "head", -1, part.in_features, part.out_features) for name, part in linears[:-1]]


def resolved_commit(where: str, revision: "str | None") -> str:
    """Return the hub commit that a model id resolved to when it was loaded; empty for a local folder."""
    from huggingface_hub import try_to_load_from_cache

    if Path(where).is_dir():
        return ""
    path = try_to_load_from_cache(where, "config.json", revision=revision)
    parts = Path(path).parts if isinstance(path, str) else ()
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""
