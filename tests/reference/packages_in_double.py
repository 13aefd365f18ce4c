"""Import the foreign packages with their hard-coded float32 replaced by float64.

Both packages write ``torch.float32`` and ``.float()`` into their routers, adapters and losses, so nothing can be
compared beyond seven digits. While this importer is installed, the text of their modules is changed in memory as
it is loaded: ``torch.float32`` becomes ``torch.float64`` and ``.float()`` becomes ``.double()``. Nothing else is
touched and nothing is written to the disk; a bug of the original stays a bug.
"""

import importlib.machinery
import importlib.util
import sys
from types import CodeType

PACKAGES = ("mixlora", "moe_peft")
REPLACED = (("torch.float32", "torch.float64"), (".float()", ".double()"))


class _DoubleLoader(importlib.machinery.SourceFileLoader):
    """Compiles the changed text and never the cached bytecode."""

    def get_code(self, fullname: str) -> CodeType:
        text = self.get_data(self.get_filename(fullname)).decode("utf-8")
        for old, new in REPLACED:
            text = text.replace(old, new)
        return compile(text, self.get_filename(fullname), "exec", dont_inherit=True)


class _DoubleFinder:
    """Hands modules of the foreign packages to `_DoubleLoader`."""

    @staticmethod
    def find_spec(fullname: str, path=None, target=None):
        if fullname.split(".")[0] not in PACKAGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            spec.loader = _DoubleLoader(spec.name, spec.origin)
        return spec


def install() -> None:
    """Make later imports of the packages double.

    Raises:
        RuntimeError: One of them has been imported before, in single precision.
    """
    imported = [name for name in PACKAGES if name in sys.modules and _DoubleFinder not in sys.meta_path]
    if imported:
        raise RuntimeError(f"{imported} are imported already, in single precision; install() must come first")
    if _DoubleFinder not in sys.meta_path:
        sys.meta_path.insert(0, _DoubleFinder)
