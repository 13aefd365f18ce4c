"""Where the reference numbers lie and how they are read."""

import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent
DATA = FOLDER / "data"
MANIFEST = DATA / "manifest.json"
PACKAGES = ("mixlora", "moe-peft", "peft", "torch", "transformers")
SCRIPTS = (
    "regenerate.py", "packages_in_double.py", "foreign_inputs.py", "foreign_mixlora.py", "foreign_mixtures.py",
    "foreign_peft.py",
)  # fmt: skip


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Reference:
    """One case: ``weight("gate_proj")`` and the like are tensors, ``facts`` is the rest."""

    def __init__(self, name: str, folder: Path = DATA):
        self.tensors = load_file(folder / f"{name}.safetensors")
        self.facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))[name]

    def group(self, kind: str) -> dict[str, Tensor]:
        """Return the tensors of one kind (input, weight, output, gradient) by name."""
        return {name.removeprefix(f"{kind}."): one for name, one in self.tensors.items() if name.startswith(f"{kind}.")}

    def input(self, name: str) -> Tensor:
        """Return an input."""
        return self.tensors[f"input.{name}"]

    def weight(self, name: str) -> Tensor:
        """Return a weight."""
        return self.tensors[f"weight.{name}"]

    def output(self, name: str) -> Tensor:
        """Return a result."""
        return self.tensors[f"output.{name}"]

    def gradient(self, name: str) -> Tensor:
        """Return the gradient of sum(output * cotangent) for an input or weight."""
        return self.tensors[f"gradient.{name}"]
