"""Checkpoints by themselves: what is written is read back, what is damaged is noticed, what is old is dropped."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer
from torch import Tensor

from groundup import faults
from groundup.errors import UserError
from groundup.part import Part
from groundup.train import checkpoint, inventory, storage
from groundup.train.blocks import block
from groundup.train.manifest import CheckpointDamaged, Checkpoints, folder_of
from groundup.train.saver import reason
from groundup.train.storage import Storage, open_storage
from groundup.train.tensor_files import Writer
from tests.conftest import groundup, groundup_json

FACTS = {"best": None, "samples_consumed": 0, "layout": {}}


def some_tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(7, 5, generator=generator),
        "transposed": torch.randn(4, 3, generator=generator).t(),
        "half": torch.randn(6, generator=generator).bfloat16(),
        "flags": torch.tensor([True, False, True]),
        "step": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "count": torch.arange(9),
    }


def save(checkpoints: Checkpoints, step: int, keep_last: int = 2, **facts: object) -> dict[str, Tensor]:
    tensors = some_tensors(step)
    checkpoint.save(checkpoints, step, tensors, {**FACTS, **facts}, keep_last)
    return tensors


def loaded(checkpoints: Checkpoints, step: int) -> dict[str, Tensor]:
    empty = {name: torch.zeros_like(tensor) for name, tensor in some_tensors().items()}
    checkpoint.load(checkpoints, step, empty)
    return empty


@pytest.fixture
def local(tmp_path: Path) -> Checkpoints:
    return Checkpoints(open_storage(tmp_path / "checkpoints"))


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3's protocol; its address."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    from s3fs import S3FileSystem

    for key, value in credentials(s3).items():
        monkeypatch.setenv(key, value)
    S3FileSystem.clear_instance_cache()
    files = S3FileSystem()
    name = f"bucket-{len(files.ls(''))}"
    files.mkdir(name)
    return name


def credentials(address: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture(params=["folder", "s3"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    if request.param == "folder":
        return Checkpoints(open_storage(tmp_path / "checkpoints"))
    return Checkpoints(open_storage(f"s3://{request.getfixturevalue('bucket')}/run"))


def test_what_is_saved_is_loaded(checkpoints: Checkpoints) -> None:
    tensors = save(checkpoints, 3)
    assert checkpoints.complete() == [3]
    found = checkpoint.newest(checkpoints)
    assert found is not None
    assert found[1]["bytes"] > sum(t.numel() * t.element_size() for t in tensors.values())
    for name, tensor in loaded(checkpoints, 3).items():
        assert torch.equal(tensor, tensors[name]), name
        assert tensor.dtype == tensors[name].dtype


def test_old_ones_are_dropped_but_not_the_best_nor_those_to_keep(checkpoints: Checkpoints) -> None:
    best = {"step": 2, "metric": "loss", "value": 1.0}
    for step in range(1, 7):
        save(checkpoints, step, 2, best=best if step >= 2 else None, keep=step == 3)
    assert checkpoints.complete() == [2, 3, 5, 6]
    assert checkpoints.storage.names() == [folder_of(step) for step in (2, 3, 5, 6)]


def test_a_step_saved_again_replaces_what_was_there(checkpoints: Checkpoints) -> None:
    save(checkpoints, 4)
    other = some_tensors(99)
    checkpoint.save(checkpoints, 4, other, FACTS, 2)
    assert torch.equal(loaded(checkpoints, 4)["weight"], other["weight"])
    assert len(checkpoints.storage.names(folder_of(4))) == 2, "one data folder and the manifest"
    checkpoint.verify(checkpoints, 4)


def test_what_a_crash_left_is_cleaned_up_and_nothing_else(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    for path in ("step-00000002/data-aaaa/rank-0.bin", "step-00000001/data-bbbb/rank-0.bin"):
        with checkpoints.storage.create(path) as stream:
            stream.write(b"half")
    assert checkpoints.complete() == [1]
    assert checkpoints.clean_up() == ["step-00000001/data-bbbb", "step-00000002"]
    assert checkpoints.storage.names() == ["step-00000001"]
    checkpoint.verify(checkpoints, 1)


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "manifest", "index"])
def test_damage_is_noticed_and_the_one_before_used(
    local: Checkpoints, harm: str, capsys: pytest.CaptureFixture
) -> None:
    save(local, 1)
    save(local, 2)
    folder = Path(local.storage.place) / folder_of(2)
    (data,) = folder.glob("data-*/rank-0.bin")
    content = bytearray(data.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif harm == "cut":
        data.write_bytes(content[:-1])
    elif harm == "remove":
        data.unlink()
    elif harm == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        index = data.with_name("tensors.json")
        index.write_text(index.read_text().replace("float32", "float64", 1))
    found = checkpoint.take_up(local)
    assert found is not None
    assert found[0] == 1
    assert f"{folder} is damaged and not used" in capsys.readouterr().err
    assert local.complete() == [1], "so that it does not count among those kept"
    assert (folder.parent / "damaged-step-00000002").is_dir()


class Broken:
    """A storage that raises an error where `when` says so."""

    def __init__(self, storage: Storage, error: Exception, when: Callable[[str, str], bool]) -> None:
        self.storage, self.error, self.when = storage, error, when

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.storage, name)
        if not callable(found):
            return found

        def tried(path: str = "", *rest: Any) -> Any:
            if self.when(name, path):
                raise self.error
            return found(path, *rest)

        return tried


def broken(checkpoints: Checkpoints, error: Exception, when: Callable[[str, str], bool]) -> Checkpoints:
    return Checkpoints(cast(Storage, Broken(checkpoints.storage, error, when)))


EIO = OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("end", ["manifest.json", "rank-0.bin"])
def test_what_cannot_be_read_is_not_damaged(local: Checkpoints, end: str) -> None:
    save(local, 1)
    save(local, 2)
    unread = broken(local, EIO, lambda name, path: name == "open" and path.endswith(end))
    for use in (checkpoint.take_up, checkpoint.go_back_to, lambda found: inventory.prune(found, 1)):
        with pytest.raises(UserError, match="does not answer as it should: Input/output error"):
            use(unread)
    assert local.storage.names() == [folder_of(1), folder_of(2)]
    assert inventory.prune(local, 1)["dropped"] == [1]


def test_no_start_is_made_over_checkpoints_of_which_none_is_whole(local: Checkpoints) -> None:
    for step in (1, 2):
        save(local, step)
        next(Path(local.storage.place).glob(f"{folder_of(step)}/data-*/rank-0.bin")).unlink()
    with pytest.raises(UserError, match="no checkpoint here is whole"):
        checkpoint.take_up(local)
    with pytest.raises(UserError, match="none is removed"):
        inventory.prune(local, 1)
    assert local.complete() == [1, 2]


def test_a_folder_that_is_not_ours_is_left_alone(local: Checkpoints) -> None:
    save(local, 3)
    root = Path(local.storage.place)
    shutil.copytree(root / folder_of(3), root / "step-00000003-backup")
    assert local.complete() == [3]
    assert checkpoint.take_up(local) is not None
    assert [entry["step"] for entry in inventory.prune(local, 1)["checkpoints"]] == [3]
    assert (root / "step-00000003-backup" / "manifest.json").exists()


@pytest.mark.parametrize("fails", ["sync of the folder", "broadcast"])
def test_a_failure_after_the_commit_takes_nothing_back(
    local: Checkpoints, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest has its place, so its files stay, whatever becomes of the rest."""
    save(local, 1)
    save(local, 2)

    def failing(*_: object) -> None:
        if (Path(local.storage.place) / folder_of(2) / "manifest.json").stat().st_mtime_ns != before:
            raise EIO

    before = (Path(local.storage.place) / folder_of(2) / "manifest.json").stat().st_mtime_ns
    if fails == "broadcast":
        finish = Writer.finish
        monkeypatch.setattr(Writer, "finish", lambda self, **more: (finish(self, **more), failing()))
    else:
        monkeypatch.setattr(storage, "_sync_folder", failing)
    with pytest.raises(BaseException, match="Input/output error"):
        checkpoint.save(local, 2, some_tensors(9), FACTS, 2)
    assert torch.equal(loaded(local, 2)["weight"], some_tensors(9)["weight"])
    checkpoint.verify(local, 2)


def test_a_commit_that_fails_gives_its_room_back(local: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    save(local, 1)
    monkeypatch.setattr(faults, "_ASKED", {"points": [{"name": "commit.written", "action": "full"}]})
    with pytest.raises(BaseException, match="No space left"):
        checkpoint.save(local, 2, some_tensors(), FACTS, 2)
    assert local.storage.names() == [folder_of(1)]


def test_what_fails_after_a_checkpoint_is_complete_costs_nothing(local: Checkpoints) -> None:
    save(local, 1)
    gone = ConnectionRefusedError("the server is gone")
    checkpoints = broken(local, gone, lambda name, path: name == "remove")
    save(checkpoints, 2, keep_last=1)
    assert local.complete() == [1, 2]


def test_an_orphan_that_wakes_up_at_the_commit_changes_nothing(checkpoints: Checkpoints) -> None:
    """It passed the fence; before it commits, its heir starts and saves the same step."""
    save(checkpoints, 1)

    def freeze() -> None:
        checkpoint.take_up(checkpoints)
        checkpoint.save(checkpoints, 2, some_tensors(77), FACTS, 2)

    with pytest.raises(BaseException, match=r"No such file|another process has removed"):
        checkpoint.save(checkpoints, 2, some_tensors(5), FACTS, 2, check=freeze)
    checkpoint.verify(checkpoints, 2)
    assert torch.equal(loaded(checkpoints, 2)["weight"], some_tensors(77)["weight"])
    assert len(checkpoints.storage.names(folder_of(2))) == 2


def test_going_back_sets_newer_damaged_ones_aside(local: Checkpoints) -> None:
    for step in (3, 6):
        save(local, step)
    next(Path(local.storage.place).glob(f"{folder_of(6)}/data-*/rank-0.bin")).write_bytes(b"")
    found = checkpoint.go_back_to(local)
    assert found is not None
    assert found[0] == 3
    save(local, 4, keep_last=1)
    assert local.complete() == [4], "what is saved next is not dropped in favour of the damaged one"


def test_an_object_store_that_is_not_reached_is_told_in_a_sentence(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    S3FileSystem.clear_instance_cache()
    checkpoints = Checkpoints(open_storage(f"s3://{bucket}/run"))
    with pytest.raises(UserError, match="does not answer as it should: EndpointConnectionError"):
        checkpoints.complete()
    with pytest.raises(BaseException, match="EndpointConnectionError") as raised:
        save(checkpoints, 1)
    assert isinstance(reason(raised.value), OSError)
    S3FileSystem.clear_instance_cache()


def test_an_object_that_is_half_written_does_not_appear(bucket: str) -> None:
    place = open_storage(f"s3://{bucket}/run")

    def write() -> None:
        with place.create("step-00000001/data-aaaa/rank-0.bin") as stream:
            stream.write(memoryview(b"half"))
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert place.names("step-00000001/data-aaaa") == []


def test_a_check_that_fails_keeps_a_checkpoint_from_counting(local: Checkpoints) -> None:
    save(local, 1)

    def superseded() -> None:
        raise RuntimeError("another has taken over")

    with pytest.raises(BaseException, match="another has taken over"):
        checkpoint.save(local, 2, some_tensors(), FACTS, 2, check=superseded)
    assert local.storage.names() == ["step-00000001"]


@given(st.data())
def test_any_block_of_a_tensor_is_read_from_the_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    whole = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).view(shape)
    checkpoints = Checkpoints(open_storage(tmp_path_factory.mktemp("blocks")))
    checkpoint.save(checkpoints, 1, {"x": whole}, FACTS, 1)
    part = Part.whole(shape)
    for dim, size in enumerate(shape):
        start = data.draw(st.integers(0, size - 1))
        part = part.cut(dim, start, data.draw(st.integers(start + 1, size)))
    held = torch.zeros(part.size, dtype=torch.float64)
    checkpoint.load(checkpoints, 1, {"x": block(held, part)})
    assert torch.equal(held, part.of(whole))


def test_the_verbs_list_verify_and_prune(finished_run: tuple[Path, object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    listed = groundup_json("checkpoint", "list", run)["checkpoints"]
    assert [entry["step"] for entry in listed] == [11, 12]
    assert all(entry["complete"] and entry["verified"] is None and entry["bytes"] > 10_000 for entry in listed)
    assert [entry["samples_consumed"] for entry in listed] == [88, 96]
    assert all(entry["verified"] for entry in groundup_json("checkpoint", "verify", run)["checkpoints"])
    (data,) = (run / "checkpoints" / "step-00000012").glob("data-*/rank-0.bin")
    data.write_bytes(data.read_bytes()[:-1])
    done = groundup("checkpoint", "verify", run, "--json")
    assert done.returncode == 1
    wrong = json.loads(done.stdout)["checkpoints"][1]
    assert (wrong["complete"], wrong["verified"]) == (True, False)
    assert "rank-0.bin does not have the checksum" in wrong["problem"]
    (run / "checkpoints" / "step-00000099" / "data-aaaa").mkdir(parents=True)
    pruned = groundup_json("checkpoint", "prune", run, "--set", "checkpoint.keep_last=1")
    assert pruned["left_over"] == ["step-00000099", "damaged-step-00000012"]
    assert pruned["dropped"] == [], "the damaged one does not count, so the one before it is the last"
    assert [entry["step"] for entry in pruned["checkpoints"]] == [11]


@pytest.mark.slow
def test_a_run_keeps_its_checkpoints_in_an_object_store(
    recipe_file: Path, tmp_path: Path, s3: str, bucket: str
) -> None:
    run, place = tmp_path / "run", f"s3://{bucket}/run"
    settings = ("--set", f'checkpoint.place="{place}"', "--set", 'checkpoint.every="3 steps"')
    where = credentials(s3)
    first = groundup_json(
        "train", recipe_file, "--run-dir", run, *settings, "--set", 'train.duration="6 steps"', **where
    )
    assert first["step"] == 6
    assert not (run / "checkpoints").exists()
    result = groundup_json("train", run, "--set", 'train.duration="9 steps"', "--nproc", 2, **where)
    assert (result["step"], result["samples_consumed"]) == (9, 72)
    verified = groundup_json("checkpoint", "verify", run, **where)["checkpoints"]
    assert [(entry["step"], entry["verified"]) for entry in verified] == [(6, True), (9, True)]
    assert groundup_json("status", run, **where)["checkpoints"] == [6, 9]
    assert groundup_json("evaluate", run, **where)["loss"] > 0


def test_a_place_that_is_not_there_holds_no_checkpoints() -> None:
    checkpoints = Checkpoints(open_storage("/nonexistent/place"))
    assert checkpoints.complete() == []
    with pytest.raises(CheckpointDamaged, match="manifest is missing"):
        checkpoints.manifest(1)


def test_what_another_version_wrote_is_refused_and_stays(local: Checkpoints) -> None:
    folder = Path(local.storage.place) / folder_of(5)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"format": 2, "step": 5}))
    with pytest.raises(UserError, match="format is 2"):
        checkpoint.take_up(local)
    assert local.complete() == [5]
