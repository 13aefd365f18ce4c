"""Adapters from strangers: refused before a model or a folder is touched, with what was found and what was expected."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from world import plan, task_document, write_plan

from moelora import strangers
from moelora.cli import main
from moelora.errors import AdapterError, MoeloraError
from moelora.files import atomic_write_json, read_json
from moelora.training.attach import attach, load_adapter
from moelora.training.identity import open_run
from moelora.training.run import carry_out
from moelora.training.sources import load_tasks

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Bomb:
    """What a hostile pickle holds: it writes a file when it is read."""

    def __reduce__(self):
        return (os.mkdir, ("pwned",))


@pytest.fixture(scope="module")
def adapter(world, tmp_path_factory):
    """The folder of an honest adapter without its identity, as a stranger's is."""
    root = tmp_path_factory.mktemp("honest")
    document = plan("encoder", [task_document("mood")], max_steps=2)
    run = open_run(write_plan(root, document), "test", world / "data", world / "encoder")
    assert carry_out(run, evaluate=False) is None
    (run.folder / "adapter" / "identity.json").unlink()
    return run.folder / "adapter"


@pytest.fixture
def stranger(adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOELORA_TRACEBACK", raising=False)
    shutil.copytree(adapter, tmp_path / "stranger")
    return tmp_path / "stranger"


def edit_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def edit_config(folder, **changes):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def write_raw(folder, header, payload=b"\0" * 16, length=None):
    """Write a safetensors file with any header."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = (len(raw) if length is None else length).to_bytes(8, "little")
    (folder / WEIGHTS).write_bytes(prefix + raw + payload)


def entry(kind="F32", shape=(4,), offsets=(0, 16)):
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets)}


def first(tensors):
    return sorted(name for name in tensors if "lora_A" in name)[0]


def lose(tensors):
    del tensors[first(tensors)]


def put(value):
    def change(tensors):
        tensors[first(tensors)].view(-1)[3] = value

    return change


def cast(kind):
    def change(tensors):
        tensors[first(tensors)] = tensors[first(tensors)].to(kind)

    return change


def swap_file(folder, name, write):
    (folder / name).unlink()
    write(folder / name)


def only_pickle(folder, name):
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))


def outside(folder, name):
    target = folder.parent / f"elsewhere-{name}"
    shutil.move(folder / name, target)
    (folder / name).symlink_to(target)


CASES = {
    "only a .bin": (lambda f: only_pickle(f, "adapter_model.bin"), ("adapter_model.bin", "pickle", WEIGHTS)),
    "only a .pt": (lambda f: only_pickle(f, "weights.PT"), ("weights.PT", "pickle", WEIGHTS)),
    "a pickle called safetensors": (
        lambda f: swap_file(f, WEIGHTS, lambda p: p.write_bytes(pickle.dumps(Bomb()))),
        ("header", "expected at most"),
    ),
    "nothing": (lambda f: (f / WEIGHTS).unlink(), ("holds no adapter_model.safetensors",)),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), ("header", "truncated")),
    "truncated data": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-7]),
        ("bytes of tensors, expected",),
    ),
    "truncated header": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:50]),
        ("expected at most 42",),
    ),
    "huge header": (lambda f: write_raw(f, {}, length=2**63), ("9223372036854775808 bytes, expected at most",)),
    "header is no JSON": (lambda f: write_raw(f, b"\x80\x04pickle"), ("header is no JSON",)),
    "header is a list": (lambda f: write_raw(f, []), ("found a list, expected an object",)),
    "header names one twice": (
        lambda f: write_raw(
            f, b'{"a": ' + json.dumps(entry()).encode() + b', "a": ' + json.dumps(entry()).encode() + b"}"
        ),
        ("'a'", "twice"),
    ),
    "a tensor's name leads up": (lambda f: write_raw(f, {"../../etc/x": entry()}), ("'../../etc/x'", "expected names")),
    "a tensor's name is a path": (
        lambda f: write_raw(f, {"/etc/passwd": entry()}),
        ("'/etc/passwd'", "expected names"),
    ),
    "a tensor's name has a line break": (lambda f: write_raw(f, {"a\nb": entry()}), ("a\\nb", "expected names")),
    "a tensor beyond the file": (
        lambda f: write_raw(f, {"a": entry(offsets=(0, 999))}),
        ("bytes 0 to 999", "expected 16"),
    ),
    "tensors that overlap": (lambda f: write_raw(f, {"a": entry(), "b": entry()}), ("overlap",)),
    "a gap": (lambda f: write_raw(f, {"a": entry(offsets=(8, 24))}, b"\0" * 24), ("gaps",)),
    "a negative shape": (lambda f: write_raw(f, {"a": entry(shape=(-4,))}), ("shape [-4]",)),
    "a tensor without a shape": (
        lambda f: write_raw(f, {"a": {"dtype": "F32"}}),
        ("does not describe the tensor 'a'",),
    ),
    "whole numbers": (lambda f: edit_tensors(f, cast(torch.int32)), ("'I32'", "expected one of F64, F32")),
    "truth values": (lambda f: edit_tensors(f, cast(torch.bool)), ("'BOOL'", "expected one of")),
    "complex numbers": (lambda f: edit_tensors(f, cast(torch.complex64)), ("C64", "expected one of")),
    "a link out of the folder": (lambda f: outside(f, WEIGHTS), ("is a link to", "outside")),
    "a config out of the folder": (lambda f: outside(f, CONFIG), ("is a link to", "outside")),
    "a link to nothing": (lambda f: swap_file(f, WEIGHTS, lambda p: p.symlink_to("nowhere")), ("link to nothing",)),
    "a pipe": (lambda f: swap_file(f, WEIGHTS, os.mkfifo), ("is no file",)),
    "a folder for a file": (lambda f: swap_file(f, CONFIG, os.mkdir), ("is no file",)),
    "code by name": (lambda f: edit_config(f, auto_map={"AutoModel": "evil.Model"}), ("auto_map", "names code")),
    "remote code": (lambda f: edit_config(f, trust_remote_code=True), ("trust_remote_code", "names code")),
    "a module to import": (
        lambda f: edit_config(f, auto_mapping={"base_model_class": "X", "parent_library": "evil"}),
        ("parent_library", "'evil'"),
    ),
    "another core": (lambda f: edit_config(f, megatron_core="evil.core"), ("megatron_core", "'evil.core'")),
    "a config that is a list": (lambda f: (f / CONFIG).write_text("[]"), ("adapter config", "expected an object")),
    "a config with NaN": (lambda f: (f / CONFIG).write_text('{"r": NaN}'), ("adapter config", "NaN")),
    "an identity that is a list": (
        lambda f: (f / "identity.json").write_text("[]"),
        ("identity", "expected an object"),
    ),
    "an identity of other kinds": (
        lambda f: (f / "identity.json").write_text('{"source": 3, "method": "lora", "settings": {}}'),
        ("'source' is a int",),
    ),
    "another kind of adapter": (lambda f: edit_config(f, peft_type="IA3"), ("peft_type 'IA3'", "peft_type 'LORA'")),
    "another alpha": (lambda f: edit_config(f, lora_alpha=99), ("lora_alpha 99", "lora_alpha 16")),
    "DoRA": (lambda f: edit_config(f, use_dora=True), ("use_dora True", "use_dora False")),
    "a tensor less": (lambda f: edit_tensors(f, lose), ("1 missing: ", "lora_A")),
    "a tensor more": (lambda f: edit_tensors(f, lambda t: t.update(extra=torch.ones(2))), ("1 not expected: extra",)),
    "another shape": (
        lambda f: edit_tensors(f, lambda t: t.update({first(t): torch.ones(3, 5)})),
        ("is (3, 5), expected (8, ",),
    ),
    "NaN": (lambda f: edit_tensors(f, put(float("nan"))), ("1 of the 128 numbers", "NaN or infinite, expected none")),
    "infinity": (lambda f: edit_tensors(f, put(float("-inf"))), ("1 of the 128 numbers", "NaN or infinite")),
}


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("case", CASES)
def test_a_strangers_adapter_is_refused_and_leaves_nothing(world, stranger, tmp_path, case, capsys):
    spoil, words = CASES[case]
    spoil(stranger)
    path = write_plan(tmp_path, plan("encoder", [task_document("odd")]))
    before = files_below(tmp_path)
    for verb in ("evaluate", "train") if case in ("only a .bin", "NaN") else ("evaluate",):
        arguments = [verb, "--plans", path, "--adapter", stranger, "--fingerprint", "test", "--data", world / "data",
                     "--base", world / "encoder"]  # fmt: skip
        assert main([str(word) for word in arguments]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("moelora: error: ")]
        assert len(said) == 1
        for word in words:
            assert word in said[0]
        assert files_below(tmp_path) == before
    assert not os.path.exists("pwned")


def test_an_honest_strangers_adapter_is_taken_in_any_float(world, stranger, tmp_path):
    (stranger / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))  # beside the tensors it is never opened
    for kind in (torch.float32, torch.bfloat16, torch.float64):
        edit_tensors(stranger, lambda t, kind=kind: t.update({name: one.to(kind) for name, one in t.items()}))
        path = write_plan(tmp_path / str(kind), plan("encoder", [task_document("odd")]))
        run = open_run(path, "test", world / "data", world / "encoder", stranger, further=False)
        assert carry_out(run, evaluate=True)["status"] == "finished"
    assert not os.path.exists("pwned")


def test_the_hubs_cache_may_link_to_its_own_blobs(adapter, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in (WEIGHTS, CONFIG):
        shutil.copy(adapter / name, blobs / name)
        (snapshot / name).symlink_to(blobs / name)
    assert strangers.inspect(snapshot)["peft_type"] == "LORA"


@pytest.mark.parametrize("method", ["lora", "mixlora", "dense_moe_lora", "lora_as_coded", "base"])
def test_a_refused_adapter_leaves_every_parameter_as_it_was(world, tmp_path, method):
    document = plan("encoder", [task_document("mood")], method, max_steps=1)
    run = open_run(write_plan(tmp_path, document), "test", world / "data", world / "encoder")
    carry_out(run, evaluate=False)
    folder = run.folder / "adapter"
    attached = attach(run.plan, load_tasks(run.plan, world / "data"), world / "encoder", "cpu")
    before = {name: one.clone() for name, one in attached.model.state_dict().items()}
    files = sorted(folder.glob("*.safetensors"))
    honest = {path: path.read_bytes() for path in files}
    for path in files:
        for spoil in (
            lambda t: t.popitem(),
            lambda t: t.update(more=torch.ones(1)),
            lambda t: t[sorted(t)[-1]].fill_(torch.nan),
        ):
            tensors = load_file(path)
            spoil(tensors)
            save_file(tensors, path)
            with pytest.raises(AdapterError, match=path.name):
                load_adapter(attached, folder)
            path.write_bytes(honest[path])
            after = attached.model.state_dict()
            assert all(torch.equal(one, after[name]) for name, one in before.items())
    load_adapter(attached, folder)  # and the honest one still fits
    assert any(not torch.equal(one, attached.model.state_dict()[name]) for name, one in before.items())


def test_another_base_model_of_the_hub_is_noticed_by_its_name():
    model = {"source": {"hub": "meta-llama/Llama-2-7b-hf"}}
    for same in ("meta-llama/Llama-2-7b-hf", "mirror/llama-2-7B-hf", "/data/models/anything", None, "bare"):
        strangers.refuse_other_base({"base_model_name_or_path": same}, model, "x")
    with pytest.raises(AdapterError, match=r"it is of google/gemma-2b, this run is of meta-llama/Llama-2-7b-hf"):
        strangers.refuse_other_base({"base_model_name_or_path": "google/gemma-2b"}, model, "x")
    strangers.refuse_other_base({"base_model_name_or_path": "google/gemma-2b"}, {"source": {"builtin": "tiny"}}, "x")


def test_a_model_from_python_looks_at_a_folder_first(stranger, world):
    from moelora.dense import DenseMoELoRA

    edit_config(stranger, auto_map={"AutoModel": "evil.Model"})
    atomic_write_json(
        stranger / "identity.json", {"source": {"hub": "x"}, "method": "lora", "settings": {}, "num_labels": 2}
    )
    with pytest.raises(MoeloraError, match="names code"):
        DenseMoELoRA.from_pretrained(stranger, world / "encoder")
    assert read_json(stranger / "identity.json")["num_labels"] == 2
