"""One page a method.

A page is a module of this package that defines ``METHOD``. Pages are found by file name; nothing
central lists them. A page imports neither torch nor PEFT at its top, so that plans and the workflow
can read its settings in no time.
"""

import importlib
import pkgutil
from functools import cache, lru_cache

from moelora.errors import ConfigError, nearest
from moelora.methods._contract import Abilities, AttachContext, Counts, Hooks, Linear, Method, ModelShapes

__all__ = [
    "Abilities",
    "AttachContext",
    "Counts",
    "Hooks",
    "Linear",
    "Method",
    "ModelShapes",
    "get_method",
    "method_names",
]


# What people look for here and will not find, with the reason.
LEFT_OUT = {
    "x_lora": "X-LoRA weighs LoRA adapters that were trained before and are frozen; its own training is that of their "
    "weighting alone. A run here starts from the base model with one budget of examples, so it would need other runs' "
    "adapters and their examples, and would compare with nothing in the table. PEFT has it: peft.XLoraConfig"
}


@lru_cache(maxsize=1)
def method_names() -> tuple[str, ...]:
    """Return the names of all methods, sorted: the modules of this package that do not begin with ``_``."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


@cache
def get_method(name: str) -> Method:
    """Return the page of a method.

    Raises:
        ConfigError: there is no page of this name, or the page defines no ``METHOD`` of this name.
    """
    if (asked := name.replace("-", "_")) in LEFT_OUT or asked == "xlora":
        raise ConfigError(f"there is no method '{name}': {LEFT_OUT['x_lora' if asked == 'xlora' else asked]}")
    if name not in method_names():
        raise ConfigError(f"unknown method '{name}'{nearest(name, method_names())}")
    page = importlib.import_module(f"{__name__}.{name}")
    method = getattr(page, "METHOD", None)
    if not isinstance(method, Method) or method.name != name:
        raise ConfigError(f"{page.__file__} must define METHOD = Method(name='{name}', …); found {method!r}")
    return method
