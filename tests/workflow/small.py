"""A suite small enough to be run in a test."""

import re

import yaml


def shrink(checkout, variants: list[str], **changes) -> None:
    """Make the built-in suite of a checkout small: one encoder that has hardly been pretrained, one task, few steps."""
    path = checkout.path / "workflow/config/suites/tiny.yaml"
    suite = yaml.safe_load(path.read_text())
    suite["grid"] = [{"models": ["tiny-encoder"], "tasks": ["tiny-review-food"]}]
    suite |= {"variants": variants, "match": [], "training_by_variant": {}}
    suite["training"] |= {"epochs": None, "max_steps": 6, "batch_size": 8, "checkpoint_every_steps": 3}
    suite["costs"] = {"rounds": 1, "warmup": 1, "batch_size": 4, "sequence_length": 16}
    suite["sensitivity"]["examples"] = 8
    suite |= changes
    path.write_text(yaml.safe_dump(suite))
    builder = checkout.path / "moelora/tasks/builtin/encoder_base.py"
    text, found = re.subn(r'(ENCODER_TRAINING = \{"steps": )\d+', r"\g<1>40", builder.read_text())
    assert found == 1
    builder.write_text(text)
