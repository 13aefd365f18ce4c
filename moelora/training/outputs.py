"""What a run leaves in its folder: written so that it can be checked, checked before it is used."""

import shutil
from pathlib import Path
from typing import Any

from moelora.errors import RecordError
from moelora.files import atomic_file, replace_folder, unwritable
from moelora.progress import logger
from moelora.sums import folder_sums, refuse_changed
from moelora.training.identity import Run, base_digest

ITEMS_FILE = "items.parquet"
STATE_FOLDER = ".state"
# Whose unfinished halves a killed process of the run may have left; the plan's are its writer's.
WRITTEN = ("resolved.json", "train.json", "scores.json", "record.json", ITEMS_FILE, "routing.safetensors")


def clear_leftovers(folder: Path) -> None:
    """Delete what killed processes of a run left half-written; its lock is held, so nobody is writing there now."""
    found = [path for name in WRITTEN for path in folder.glob(f".{name}.*tmp")]
    found += [*(folder / STATE_FOLDER).glob(".*.tmp"), folder / ".adapter.tmp", folder / ".adapter.old"]
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def state_path(run: Run) -> Path:
    """Return where a run's training state is kept."""
    return run.folder / STATE_FOLDER / f"{run.key}.pt"


def drop_state(run: Run) -> None:
    """Delete the training state of a run that is trained."""
    shutil.rmtree(run.folder / STATE_FOLDER, ignore_errors=True)


def write_adapter(run: Run, attached: Any) -> dict[str, str]:
    """Write the trained adapter and what it says of itself; return the sums of its files.

    Raises:
        OutputError: it cannot be written; an older one stays.
    """
    from safetensors import SafetensorError

    from moelora.training.attach import save_adapter
    from moelora.training.parent import write_identity

    plan, temporary = run.plan, run.folder / ".adapter.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        save_adapter(attached, temporary)
        labels = {label: plan[label] for label in ("suite", "task", "variant", "seed")}
        base = attached.base.identity or base_digest(plan, run.base_dir)
        write_identity(temporary, attached, plan["model"], base, labels)
        sums = folder_sums(temporary)
        replace_folder(temporary, run.folder / "adapter")
    except (OSError, SafetensorError) as error:  # safetensors has a type of its own for a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise unwritable(run.folder / "adapter", error) from error
    return sums


def is_adapter_whole(run: Run, trained: dict[str, Any]) -> bool:
    """Return whether a trained run's adapter is what it left; what is missing or was changed is said."""
    from moelora.training.attach import adapter_file

    folder = run.folder / "adapter"
    # older runs noted the sum of the tensors alone
    sums = trained.get("adapter_files") or {adapter_file(folder).name: trained["adapter_sha256"]}
    try:
        refuse_changed(folder, sums, "training again")
    except RecordError as error:
        logger.warning("%s: %s", run.label, error)
        return False
    return True


def write_items(folder: Path, rows: list[tuple]) -> str:
    """Write the scored items as Parquet; return the file's name.

    Raises:
        OutputError: it cannot be written.
    """
    import pandas

    frame = pandas.DataFrame(rows, columns=["task", "item", "label", "prediction", "correct"])
    frame = frame.astype({"label": float, "prediction": float, "correct": float})
    content = frame.to_parquet(None, index=False)
    with atomic_file(folder / ITEMS_FILE) as handle:
        handle.write(content)
    return ITEMS_FILE
