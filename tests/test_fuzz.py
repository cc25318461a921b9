"""Random recipes and corrupt files are refused with a message, or read correctly."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cifar_lit.data import decode
from cifar_lit.fit import main
from cifar_lit.models import weights
from cifar_lit.utils.errors import UsageError

FIXED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NAMES = ["seed_everything", "data", "model", "trainer", "flip", "batch_size", "optimizer", "class_path", "init_args"]
NAMES += ["lr", "schedule", "name", "gamma", "max_epochs", "precision", "callbacks", "k", "misclassified", "page", "x"]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(NAMES)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
)


@pytest.mark.parametrize("examples", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_random_recipe_is_refused_with_a_message(
    examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    @settings(FIXED, max_examples=examples)
    @given(content=st.dictionaries(st.sampled_from(NAMES), TREES, max_size=4))
    def check(content: Any) -> None:
        Path("random.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(SystemExit) as stopped:  # the last option is refused in any case
            main(["--config", "random.yaml", "--lr_find=-1"])
        assert stopped.value.code == 2

    check()


CHECKPOINT = {"state_dict": {"net.w": torch.arange(64.0), "net.b": torch.ones(3)}, "epoch": 3, "global_step": 7}


def packed() -> bytes:
    file = io.BytesIO()
    torch.save(CHECKPOINT, file)
    return file.getvalue()


def corrupt(content: bytes) -> Any:
    """Truncate, flip a bit, overwrite bytes, or replace everything."""
    position = st.integers(0, len(content) - 1)
    truncated = position.map(lambda end: content[:end])
    flipped = st.tuples(position, st.integers(0, 7)).map(
        lambda at: content[: at[0]] + bytes([content[at[0]] ^ (1 << at[1])]) + content[at[0] + 1 :]
    )
    overwritten = st.tuples(position, st.binary(min_size=1, max_size=40)).map(
        lambda at: content[: at[0]] + at[1] + content[at[0] + len(at[1]) :]
    )
    return st.one_of(truncated, flipped, overwritten, st.binary(max_size=200))


@pytest.mark.parametrize("examples", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_corrupt_checkpoint_is_refused_or_unchanged(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "some.ckpt"

    @settings(FIXED, max_examples=examples)
    @given(content=corrupt(packed()))
    def check(content: bytes) -> None:
        file.write_bytes(content)
        try:
            found = weights.read(file)
        except UsageError as error:
            assert "some.ckpt" in str(error)
            return
        assert found.keys() == CHECKPOINT.keys() and found["epoch"] == 3 and found["global_step"] == 7
        for name, weight in CHECKPOINT["state_dict"].items():
            assert torch.equal(found["state_dict"][name], weight)

    check()


def test_flipped_bits_of_weights_are_detected(tmp_path: Path) -> None:
    content = packed()
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        start = content.index(torch.arange(64.0).numpy().tobytes())
        assert parts.testzip() is None
    for position in range(start, start + 256, 7):
        (tmp_path / "some.ckpt").write_bytes(
            content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
        )
        with pytest.raises(UsageError, match="checksum"):
            weights.read(tmp_path / "some.ckpt")


def image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("examples", [30, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_corrupt_image_is_unreadable_or_an_image(kind: str, examples: int, tmp_path: Path) -> None:
    @settings(FIXED, max_examples=examples)
    @given(content=corrupt(image(kind)))
    def check(content: bytes) -> None:
        file = tmp_path / "some.png"
        file.write_bytes(content)
        try:
            found = decode.read(str(file), 8)
        except decode.UnreadableError as error:
            assert "some.png" in str(error)
            return
        assert found.shape == (8, 8, 3) and found.dtype == np.uint8

    check()
