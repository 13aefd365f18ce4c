"""A reproducible benchmark for LoRA-type fine-tuning with mixtures of experts.

Importing this package is light: torch is imported by ``moelora.tuners`` and by the commands that train.
"""

__version__ = "0.1.0"
