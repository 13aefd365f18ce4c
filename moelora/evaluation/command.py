"""``moelora evaluate``: score trained runs from their adapters and write their records."""

import argparse

from moelora.errors import RecordError


def run(options: argparse.Namespace) -> int:
    """Score every plan's adapter, or on every plan's task the adapter that is given.

    Raises:
        RecordError: a plan has not been trained yet.
    """
    from moelora.training.command import carry_out_all

    for path in options.plans:
        if options.adapter is None and not path.with_name("train.json").is_file():
            raise RecordError(
                f"{path.parent} holds no train.json, so there is no adapter to score; run 'moelora train' first"
            )
    return carry_out_all(options, evaluate=True)
