"""Records made up for the tests of the report: no model behind them, but the shapes of real ones."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from moelora import stats
from moelora.files import atomic_write_json, sha256_file

ENVIRONMENT = {
    "python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "accelerate": "1.15.0",
    "moelora": "0.1.0", "commit": "0123abc", "dirty": False, "platform": "Linux x86_64", "processor": "two cores",
    "threads": 1, "device": "cpu", "started": "2024-05-01T10:00:00Z", "finished": "2024-05-01T10:01:00Z",
}  # fmt: skip

SIZES = {
    "majority": 0, "base": 770, "lora": 40_000, "dora": 42_304, "mixlora": 166_912,
    "lora-match-mixlora": 165_600, "lora-smoe": 91_000, "full": 820_000, "dense-moe-lora": 128_000,
    "lora-match-dense-moe-lora": 127_200,
}  # fmt: skip
METHODS = {"lora-smoe": "lora_smoe", "lora-match-mixlora": "lora", "dense-moe-lora": "dense_moe_lora"}
METHODS["lora-match-dense-moe-lora"] = "lora"
ROUTED = ("mixlora", "dense-moe-lora", "lora-smoe")


def model(name: str, layers: int = 2) -> dict:
    return {
        "name": name,
        "title": name.replace("-", " ").capitalize(),
        "layers": layers,
        "block": "encoder.layer.{layer}",
        "modules": {
            "attention": {"query": "attention.self.query", "output": "attention.output.dense"},
            "feed_forward": {"intermediate": "intermediate.dense", "output": "output.dense"},
        },
    }


CONTRADICTS = {"left_answer": "right_answer", "right_answer": "left_answer"}


def task(name: str, synthetic: bool = True) -> dict:
    title = name.replace("_", " ").upper() if len(name) < 6 else name.replace("_", " ")
    return {"name": name, "title": title, "contradicts": CONTRADICTS.get(name)}


def make_items(accuracy: float, n_items: int, key: str, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    correct = (generator.random(n_items) < accuracy).astype(float)
    return np.where(correct == 1.0, labels, 1 - labels), correct


def score_of(accuracy: float, n_items: int, key: str, name: str, synthetic: bool) -> tuple[dict, pd.DataFrame]:
    labels = (np.arange(n_items) % 3 > 0).astype(float)  # two thirds of the answers are 1
    if accuracy < 0:  # the constant answer
        predictions, correct = np.ones(n_items), labels.copy()
    else:
        predictions, correct = make_items(accuracy, n_items, key, labels)
    value = float(correct.mean())
    low, high = np.quantile(stats.resampling_counts(n_items) @ correct / n_items, [0.025, 0.975])
    items = stats.Items(labels, predictions, correct)
    chance = float(labels.mean())
    score = {
        "metrics": {"accuracy": value, "macro_f1": stats.item_metric("macro_f1", items)},
        "main_metric": "accuracy", "n_items": n_items, "majority": {"accuracy": chance, "macro_f1": 0.4},
        "chance": chance, "interval": [float(low), float(high)],
        "within_chance": stats.within_chance(value, chance, n_items),
        "protocol": "glue", "split": "validation", "synthetic": synthetic,
    }  # fmt: skip
    frame = pd.DataFrame(
        {"task": name, "item": np.arange(n_items), "label": labels, "prediction": predictions, "correct": correct}
    )
    return score, frame


def routing(tasks: list[str], layers: int, key: str, experts: int = 4) -> list[dict]:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    found = []
    for layer in range(layers):
        for kind in ("intermediate.dense", "output.dense"):
            load = {t: (generator.dirichlet(np.ones(experts) * 1.5)).round(4).tolist() for t in tasks}
            if (layer, kind) == (0, "output.dense"):  # nobody uses the last expert here
                load = {t: [*(x / sum(all_[:-1]) for x in all_[:-1]), 0.0] for t, all_ in load.items()}
            many = len(tasks) > 1
            found.append(
                {
                    "module": f"encoder.layer.{layer}.{kind}", "layer": layer, "experts": experts, "load": load,
                    "nmi": round(0.1 + 0.3 * generator.random(), 4) if many else None,
                    "nmi_permuted_mean": 0.02 if many else None, "nmi_permuted_p95": 0.05 if many else None,
                }
            )  # fmt: skip
    return found


def diagnostics(rows: list[dict], folder: Path, key: str, seed: int) -> dict:
    """Add entropy and the like to routing rows, write choices, and return the record's diagnostics.

    Seeds choose alike for six tokens of ten, under other numbers.
    """
    from safetensors.numpy import save

    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    choices, similarity = {}, []
    for row in rows:
        experts, module = row["experts"], row["module"]
        share = {t: round(0.5 + 0.5 * generator.random(), 4) for t in row["load"]}
        overall = np.mean(list(row["load"].values()), axis=0)
        row |= {
            "entropy_share": share, "entropy": {t: x * float(np.log(experts)) for t, x in share.items()},
            "dead": int((overall < 0.01 / experts).sum()), "load_cv": float(overall.std() / overall.mean()),
        }  # fmt: skip
        common = np.random.Generator(np.random.PCG64(zlib.crc32(module.encode()))).integers(0, experts, 200)
        noisy = np.where(generator.random(200) < 0.8, common, generator.integers(0, experts, 200))
        choices[module] = ((noisy + seed) % experts).astype(np.uint8)
        low, high = sorted(generator.random(2) * 0.6)
        similarity.append(
            {"module": module, "role": "", "layer": row["layer"], "experts": experts, "mean": low, "max": high}
        )
    (folder / "routing.safetensors").write_bytes(save(choices))
    return {
        "dead_share": 0.01, "tokens": {"all": 200}, "similarity": similarity,
        "choices": {
            "file": "routing.safetensors", "sha256": sha256_file(folder / "routing.safetensors"), "tokens": 200,
            "items": "the same",
        },
    }  # fmt: skip


def forgetting(model_name: str, trained_on: list[str], others: list[str], variant: str, seed: int) -> dict:
    """Return what a run lost: text for a decoder, probes for an encoder; the more parameters, the more is lost."""
    size = SIZES[variant] / 1e6 + 0.01 * seed
    if "decoder" in model_name:
        text = {
            "source": "corpus, held out", "content": "a" * 64, "documents": 128, "tokens": 4000, "base": 1.25,
            "tuned": 1.25 + size, "rise": size, "interval": [0.8 * size, 1.2 * size],
        }  # fmt: skip
        return {"text": text, "probes": {}}
    probes = {}
    for place, name in enumerate(t for t in others if t not in trained_on):
        base = 0.5 if name == "similarity" else 0.8  # the one probe is no better than a constant answer
        drop = 0.0 if base == 0.5 else size / 4 + 0.01 * place
        probes[name] = {
            "metric": "accuracy", "content": "b" * 64, "examples": 256, "items": 200, "constant": 0.5, "base": base,
            "tuned": base - drop, "drop": drop, "interval": [drop - 0.03, drop + 0.03],
        }  # fmt: skip
    return {"text": None, "probes": probes}


def make_run(
    root: Path, suite: str, model_name: str, name: str, tasks: list[str], variant: str, regime: str, seed: int,
    accuracy: float, *, n_items: int = 120, status: str = "finished", reason: str | None = None, layers: int = 2,
    synthetic: bool = True, regimes: int = 1, probed: "list[str] | None" = None,
) -> dict:  # fmt: skip
    """Write one run's record and items; return its entry for a job manifest."""
    key = f"{suite}/{model_name}/{name}/{variant}/{regime}/{seed}"
    run_id = f"{zlib.crc32(key.encode()):08x}" * 2
    label = f"{variant}@{regime}" if regimes > 1 else variant
    folder = root / suite / model_name / name / label / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    scores, frames = {}, []
    if status == "finished":
        for t in tasks:
            score, frame = score_of(accuracy, n_items, f"{key}/{t}", t, synthetic)
            scores[t] = score
            frames.append(frame)
        pd.concat(frames).to_parquet(folder / "items.parquet", index=False)
    trains = variant not in ("majority",) and status in ("finished", "diverged")
    size = SIZES[variant]
    steps = list(range(10, 210, 10))
    curve = [[s, round(0.7 * np.exp(-s / 120) + 0.1 + 0.05 * ((s * 7 + seed) % 5) / 5, 5)] for s in steps]
    experts = {
        f"encoder.layer.{n}.{k}": 1 + (n + i) % 4
        for n in range(layers)
        for i, k in enumerate(("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"))
    }
    routed = routing(tasks, layers, key) if variant in ROUTED and status == "finished" else []
    # LoRA-SMoE's records are as those from before there were diagnostics.
    watched = diagnostics(routed, folder, key, seed) if routed and variant != "lora-smoe" else None
    # Single-task runs and mixtures alike, but for what trains nothing of the body and what lacks it.
    measured = probed is not None and trains and status == "finished" and variant != "base"
    lost = forgetting(model_name, tasks, probed, variant, seed) if measured else None
    record = {
        "schema": 1, "id": run_id, "status": status, "reason": reason, "suite": suite, "model": model_name,
        "task": name, "variant": variant, "method": METHODS.get(variant, variant), "regime": regime, "seed": seed,
        "plan": {
            "model": model(model_name, layers), "tasks": [task(t) for t in tasks], "settings": {"r": 8},
            "training": {"learning_rate": 2e-5 if regime == "published" else 1e-3},
        },
        "plan_hash": run_id, "fingerprint": "f" * 16,
        "attached": [{"type": "Linear", "count": 8, "dtype": "float32"}] if size else [],
        "parameters": None if status == "skipped" else {
            "trainable": size, "active": size // 2 if variant in ROUTED else size, "total": 900_000 + size,
            "parts": {
                "experts": int(size * 0.8) if variant in ROUTED else 0, "router": 512 if variant in ROUTED else 0,
                "attention": 0, "feed_forward": 0 if variant in ROUTED else size, "head": 770 if size else 0,
            },
        },
        "training": {
            "seconds": 12.5, "steps": 200, "tokens": 50_000, "examples": 3_200, "loss_curve": curve,
            "micro_batch_size": 16, "accumulation_steps": 1, "resumed": 0,
            "examples_by_task": {t: 100 + 50 * i for i, t in enumerate(tasks)},
        } if trains else None,
        "costs": {"peak_memory_bytes": 300_000_000, "adapter_bytes": 4 * size},
        "scores": scores, "items": "items.parquet" if scores else None,
        "routing": routed, **({"diagnostics": watched} if watched else {}),
        **({"forgetting": lost} if lost else {}),
        "allocation": {
            "experts": experts, "strategy": "smoe_percentile",
            "sensitivity": {t: {m: 0.1 * n + 0.01 for m, n in experts.items()} for t in tasks},
        } if variant == "lora-smoe" else None,
        "declarations": [], "match": None, "environment": ENVIRONMENT,
    }  # fmt: skip
    if variant.startswith("lora-match-"):
        target = variant.removeprefix("lora-match-")
        record["match"] = {"variant": target, "target": SIZES[target], "reached": size, "rank": 33}
    atomic_write_json(folder / "record.json", record)
    return {
        "folder": str(folder.relative_to(root / suite)), "plan_hash": run_id,
        "record_sha256": sha256_file(folder / "record.json"), "status": status,
    }  # fmt: skip


def make_costs(root: Path, suite: str, model_name: str, variants: list[str]) -> Path:
    path = root / suite / model_name / "costs.json"
    found = {}
    for i, v in enumerate(variants):
        if v == "dora":
            found[v] = {"status": "failed", "reason": "bfloat16 is not supported here"}
            continue
        ratio = 1.0 + 0.22 * i
        found[v] = {
            "step_seconds": 0.012 * ratio, "ratio": ratio, "ratio_spread": [ratio * 0.97, ratio * 1.04],
            "tokens_per_second": 20_000 / ratio, "peak_memory_bytes": 300_000_000 + 1_000_000 * i,
            "saved_bytes": 12_000_000 + 300_000 * i, "status": "finished", "reason": None,
        }  # fmt: skip
    atomic_write_json(
        path,
        {
            "schema": 1, "suite": suite, "model": model_name, "reference": "lora", "rounds": 12,
            "shape": {"batch": 8, "tokens": 64}, "environment": ENVIRONMENT, "variants": found,
        },
    )  # fmt: skip
    return path


def finish(root: Path, suite: str, entries: list[dict]) -> list[Path]:
    """Write job manifests of ten runs each; return them."""
    paths = []
    for i in range(0, len(entries), 10):
        path = root / suite / "jobs" / f"job{i // 10:02d}.json"
        atomic_write_json(path, {"schema": 1, "job": path.stem, "runs": entries[i : i + 10]})
        paths.append(path)
    return paths


def tiny(root: Path) -> tuple[list[Path], list[Path], Path]:
    """Write a suite like the built-in one: two models, single-task and multi-task, failures of each kind."""
    variants = ["majority", "base", "lora", "dora", "mixlora", "lora-match-mixlora", "lora-smoe", "full"]
    skill = dict(zip(variants, (-1, 0.68, 0.78, 0.79, 0.86, 0.83, 0.82, 0.93), strict=True))
    names = {
        "tiny-decoder": ["lookup", "negation", "two_step", "left_answer", "right_answer", "order"],
        "tiny-encoder": ["acceptability", "sentiment", "paraphrase", "similarity"],
    }
    entries = []
    for model_name, tasks in names.items():
        for variant in variants:
            for i, t in enumerate(tasks):
                if variant in ("lora-smoe", "full") and i > 1:
                    continue
                status, reason = "finished", None
                if (variant, t) == ("dora", "two_step"):
                    status, reason = "diverged", "loss is NaN at step 40"
                if (variant, t) == ("mixlora", "paraphrase"):
                    status, reason = "out_of_memory", "4.1 GiB asked for with a batch of 1"
                entries.append(
                    make_run(
                        root, "tiny", model_name, t, [t], variant, "default", 0, skill[variant] - 0.02 * i * (
                            skill[variant] > 0), status=status, reason=reason, probed=tasks,
                    )
                )  # fmt: skip
            if variant not in ("majority", "full"):
                for seed in (0, 1):
                    entries.append(
                        make_run(
                            root, "tiny", model_name, "all", tasks, variant, "default", seed,
                            skill[variant] - 0.04 + 0.02 * seed, probed=[*tasks, "weather"],
                        )
                    )  # fmt: skip
    suite = root / "tiny" / "suite.json"
    atomic_write_json(
        suite,
        {
            "name": "tiny", "title": "The built-in suite",
            "description": "Two small models that the pipeline builds itself, on tasks that it makes itself.",
            "variants": ["majority", "base", "lora", "dora", "mixlora", "lora-smoe", "full"],
            "match": ["mixlora"], "regimes": {"default": {}},
            "grid": [{"models": [m], "tasks": t, "mixtures": {"all": t}} for m, t in names.items()],
        },
    )  # fmt: skip
    costs = [make_costs(root, "tiny", m, [v for v in variants if v != "majority"]) for m in names]
    return finish(root, "tiny", entries), costs, suite


def glue(root: Path, tasks: tuple[str, ...] = ("mrpc",), n_items: int = 408) -> tuple[list[Path], list[Path], Path]:
    """Write a suite like glue-minilm: one model, two regimes, one and three seeds."""
    variants = [
        "majority", "base", "lora", "dora", "dense-moe-lora", "lora-match-dense-moe-lora", "mixlora",
        "lora-match-mixlora", "lora-smoe",
    ]  # fmt: skip
    skill = dict(zip(variants, (-1, -1, 0.81, 0.815, 0.80, 0.805, 0.85, 0.825, 0.83), strict=True))
    entries = []
    for t in tasks:
        for variant in variants:
            for regime, seeds in (("published", (0,)), ("tuned", (0, 1, 2))):
                for seed in seeds if variant != "majority" else (0,):
                    failed = variant == "dora" and regime == "tuned" and seed == 2
                    entries.append(
                        make_run(
                            root, "glue-minilm", "minilm", t, [t], variant, regime, seed,
                            -1 if regime == "published" else skill[variant], n_items=n_items, layers=6,
                            synthetic=False, regimes=2, status="failed" if failed else "finished",
                            reason="the job was killed" if failed else None,
                        )
                    )  # fmt: skip
    suite = root / "glue-minilm" / "suite.json"
    atomic_write_json(
        suite,
        {
            "name": "glue-minilm", "title": "GLUE with MiniLM", "description": "Real data, a real encoder.",
            "variants": ["majority", "base", "lora", "dora", "dense-moe-lora", "mixlora", "lora-smoe"],
            "regimes": {"published": {}, "tuned": {}}, "grid": [{"models": ["minilm"], "tasks": list(tasks)}],
        },
    )  # fmt: skip
    costs = [make_costs(root, "glue-minilm", "minilm", [v for v in variants if v != "majority"])]
    return finish(root, "glue-minilm", entries), costs, suite
