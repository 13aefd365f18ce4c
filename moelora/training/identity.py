"""Which run this is: its plan, its key, and what of it is already done.

The key is the hash of the resolved plan, the fingerprint of the code behind it, and a digest of what the suite built
for it. A file of another key counts as absent.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from moelora.errors import AdapterError, RecordError
from moelora.files import read_object, sha256_file
from moelora.plans import plan_hash, resolve
from moelora.plans.reading import read_plan
from moelora.progress import logger
from moelora.records import check_attached, read_record
from moelora.sums import SUMS_FILE


@dataclasses.dataclass
class Run:
    """A plan with its folder, and where its sources lie; ``sources`` is a digest of built-in data and base model.

    ``adapter_dir`` holds the adapter that the run starts from, if it starts from one; its content is in the plan.
    """

    folder: Path
    plan: dict[str, Any]
    pending: dict[str, Any]
    fingerprint: str
    sources: str
    data_dir: "Path | None"
    base_dir: "Path | None"
    adapter_dir: "Path | None" = None
    made: bool = False

    @property
    def label(self) -> str:
        """Return a short name for log lines."""
        return f"{self.plan['model']['name']} {self.plan['task']} {self.folder.parent.name} seed {self.plan['seed']}"

    @property
    def key(self) -> str:
        """Return what the run's number depends on: the plan, the code, and what was built for it."""
        return run_key(self.hash, self.fingerprint, self.sources)

    @property
    def hash(self) -> str:
        """Return the hash of the resolved plan."""
        return plan_hash(self.plan)

    def done(self, name: str) -> "dict[str, Any] | None":
        """Return ``train.json`` or ``record.json`` when it is there, whole, and of this key; say which is damaged."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            if name == "record.json":
                document = read_record(path)
                check_attached(self.folder, document)
            else:
                document = read_object(path, "training", {})
        except RecordError as error:
            logger.warning("%s: not used, and made again: %s", self.label, error)
            return None
        key = document.get("key") or run_key(*(str(document.get(x)) for x in ("plan_hash", "fingerprint", "sources")))
        return document if key == self.key else None

    def suite_file(self, path: str) -> Path:
        """Return a file that the plan names relative to the suite's folder."""
        return suite_root(self.folder / "plan.json") / path


def run_key(plan_hash: str, fingerprint: str, sources: str) -> str:
    """Return the key of a run's state, adapter and record."""
    return f"{plan_hash}-{fingerprint}-{sources}"


def source_digest(plan: dict[str, Any], data_dir: "Path | None", base_dir: "Path | None") -> str:
    """Return a digest of the built-in data and base model of a run, which its plan names by seed only.

    Sources of the hub are identified by commit in the record; they do not change beneath a suite.
    """
    digest = hashlib.sha256()
    folders = [Path(base_dir)] if base_dir is not None and "builtin" in plan["model"]["source"] else []
    if data_dir is not None:
        used = [task.get("data", task["name"]) for task in plan["tasks"] if "builtin" in task["source"]]
        names = [name.removeprefix("tiny-") for name in used]
        folders += [Path(data_dir) / half / name for name in names for half in ("encoder", "decoder")]
    for folder in folders:
        for path in sorted(path for path in folder.glob("*") if path.name != SUMS_FILE):
            digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()[:16]


def base_digest(plan: dict[str, Any], base_dir: "Path | None") -> str:
    """Return a digest of a base model that the suite built; empty for one of the hub, which has a commit."""
    return source_digest({**plan, "tasks": []}, None, base_dir) if "builtin" in plan["model"]["source"] else ""


def suite_root(plan_path: Path) -> Path:
    """Return the suite's folder of a plan: <root>/<model>/<task>/<variant>/seed<N>/plan.json."""
    return plan_path.resolve().parents[4]


def open_run(
    plan_path: Path,
    fingerprint: str,
    data_dir: "Path | None",
    base_dir: "Path | None",
    adapter: "Path | None" = None,
    *,
    further: bool = True,
) -> Run:
    """Read and resolve a plan.

    Args:
        plan_path: the plan.
        fingerprint: of the code behind it.
        data_dir: built-in data.
        base_dir: a base model that the suite built.
        adapter: an adapter to start from. Such a run is another one than the plan's own, so it has a folder of its
            own beside it, named for the adapter's content.
        further: whether the adapter is trained further or only scored.

    Raises:
        AdapterError: the adapter is missing, or belongs to another base model or method.
    """
    from moelora.training.parent import adapter_folder, read_parent

    plan = read_plan(plan_path)
    pending = plan.get("pending", {})
    root, folder = suite_root(plan_path), plan_path.parent
    resolved = resolve(plan, root)
    adapter_dir = root / pending["parent"]["run"] / "adapter" if "parent" in pending else None
    if adapter is not None:
        if adapter_dir is not None:
            raise AdapterError(f"{plan_path} already says which run it starts from; leave --adapter out")
        adapter_dir = adapter_folder(adapter)
        resolved["parent"] = read_parent(adapter, resolved, further)
        word = "continued" if further else "from"
        folder = folder.with_name(f"{folder.name}-{word}-{resolved['parent']['adapter_sha256'][:12]}")
    made = not folder.exists()
    sources = source_digest(resolved, data_dir, base_dir)
    return Run(folder, resolved, pending, fingerprint, sources, data_dir, base_dir, adapter_dir, made)
