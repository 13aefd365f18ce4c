"""Makes PEFT know our methods.

PEFT's registry wants each method's name to be a member of its enum `PeftType`, which code outside peft
cannot declare. A member is therefore added at import; with a plain string instead, PEFT's refusal of
``mixed=True`` and its model card fail. Loading a saved adapter in a process that has not imported
`moelora.tuners` gives PEFT's bare ``KeyError: 'MOELORA_MIXTURE'``: import it first.
"""

from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

PREFIX = "moelora_"


def add_peft_type(name: str) -> PeftType:
    """Return the member ``name`` of `PeftType`, adding it when it is missing."""
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member._sort_order_ = len(PeftType.__members__)
    PeftType._member_map_[name] = member
    PeftType._member_names_.append(name)
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
    return member


MIXTURE = add_peft_type("MOELORA_MIXTURE")
MIXLORA = add_peft_type("MOELORA_MIXLORA")
BOTTLENECK = add_peft_type("MOELORA_BOTTLENECK")


def register(peft_type: PeftType, config_class: type, model_class: type) -> None:
    """Register a method with PEFT once; a second import of the package is harmless."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if peft_type not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(
            name=peft_type.value.lower(), config_cls=config_class, model_cls=model_class, prefix=PREFIX
        )
