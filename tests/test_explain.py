"""`python -m cifar_lit.explain`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_lit import explain
from cifar_lit.data.decode import read
from cifar_lit.inference import explanation
from cifar_lit.inference.images import expand
from cifar_lit.models.resnet import ResNet18

CLASSES = ["ape", "bee", "cat", "dog", "eel", "fox"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of an untrained network, as written by fit."""
    torch.manual_seed(0)
    built = {"num_classes": 6, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "stem": "imagenet", "norm": "batch"}
    weights = {f"net.{key}": value for key, value in ResNet18(**built).state_dict().items()}
    file = tmp_path_factory.mktemp("run") / "some.ckpt"
    data = {"classes": CLASSES, "image_size": 32}
    torch.save({"state_dict": weights, "hyper_parameters": built, "ImageDataModule": data, "epoch": 0}, file)
    return str(file)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images of many formats and sizes."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)

    def noise(width: int, height: int, *channels: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (height, width, *channels), dtype=np.uint8))

    noise(800, 600, 3).save(folder / "large.jpg")
    noise(32, 32, 3).save(folder / "same_size.jpg")
    noise(50, 50).save(folder / "grey.png")
    noise(64, 64, 4).save(folder / "clear.png")
    noise(16, 16, 3).save(folder / "more" / "tiny.webp")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(60, 40, 3).save(folder / "more" / "grey.jpg", exif=exif)
    (folder / ".ipynb_checkpoints").mkdir()
    noise(32, 32, 3).save(folder / ".ipynb_checkpoints" / "same_size-checkpoint.png")
    noise(32, 32, 3).save(folder / "old.gif")
    noise(32, 32, 3).save(folder / "scan.tiff")
    return folder


def test_folder_of_images(
    checkpoint: str, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles, grid = [], explanation.drawing.grid
    monkeypatch.setattr(
        explanation.drawing, "grid", lambda *args, **kw: (titles.append(args[1:]), grid(*args, **kw))[1]
    )
    explain.main([checkpoint, str(images), "--layers", "layer1", "layer3", "--out", "out"])
    written = {file.name for file in Path("out").iterdir()}
    assert written == {"clear.png", "grey.png", "grey_2.png", "large.png", "same_size.png", "tiny.png"} | {
        "contact_sheet.png",
        "explain.json",
    }
    results = json.loads(Path("out/explain.json").read_text())
    assert results["unreadable"] == []
    by_file = {Path(result["file"]).name: result for result in results["images"]}
    assert len(by_file) == 6
    for result in by_file.values():
        probabilities = [entry["probability"] for entry in result["top"]]
        assert len(probabilities) == 5 and probabilities == sorted(probabilities, reverse=True)
        assert result["explained"] == result["top"][0]["class"] and result["layers"] == ["layer1", "layer3"]
    assert any("reduced to 32" in note for note in by_file["large.jpg"]["notes"])
    assert any("central 75%" in note for note in by_file["large.jpg"]["notes"])
    assert any("enlarged to 32" in note for note in by_file["tiny.webp"]["notes"])
    assert by_file["clear.png"]["notes"] == by_file["same_size.jpg"]["notes"] == []
    assert not any("not localized" in note for note in by_file["large.jpg"]["notes"])
    squares = {file: title[0] for file, (title, _) in zip(by_file, titles, strict=False)}
    assert squares["large.jpg"] == squares["grey.jpg"] == "the central square of the image"
    assert squares["clear.png"] == "the image"
    best = by_file["grey.png"]["top"][0]
    heading = titles[list(by_file).index("grey.png")][1]
    assert f"prediction: {best['class']} ({best['probability']:.0%}), " in heading
    assert f"\nGrad-CAM for class {best['class']} (" in heading
    with Image.open("out/large.png") as image:
        assert image.width > 4 * 300  # the image, what the network sees, two layers
    printed = capsys.readouterr()
    assert by_file["grey.png"]["top"][0]["class"] in printed.out
    assert "ignoring 2 files, not PNG, JPEG or WebP (old.gif, scan.tiff)" in printed.err
    with Image.open("out/contact_sheet.png") as sheet:  # two rows of pairs: the image and its heatmap
        assert sheet.width > 1.5 * sheet.height


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 6), (4, [3, 3])])
def test_files_and_images_stay_together(
    images: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(explanation, "EXPLAINED_BATCH", batch_size)
    (images / "b.png").write_text("no image")
    unreadable: list[str] = []
    files = [str(file) for file in expand(images)]
    batches = list(explanation._read_batches(files, 32, unreadable))
    assert [len(pixels) for _, pixels in batches] == sizes
    assert len(unreadable) == 1 and "b.png" in unreadable[0]
    for drawn, pixels in batches:
        for (file, _), image in zip(drawn, pixels, strict=True):
            assert (read(file, 32) == image).all()


def test_probabilities_are_those_of_the_network(checkpoint: str, images: Path) -> None:
    explain.main([checkpoint, "--class", "eel", "--top", "2", str(images / "grey.png")])
    (result,) = json.loads(Path("explain_1/explain.json").read_text())["images"]
    loaded = torch.load(checkpoint, weights_only=True)
    net = ResNet18(**loaded["hyper_parameters"]).eval()
    net.load_state_dict({key.removeprefix("net."): value for key, value in loaded["state_dict"].items()})
    with Image.open(images / "grey.png") as image:
        small = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS))
    with torch.no_grad():
        expected = net(torch.from_numpy(small.copy())[None])[0].softmax(0)
    top = expected.argsort(descending=True)[:2].tolist()
    assert [entry["class"] for entry in result["top"]] == [CLASSES[i] for i in top]
    assert [entry["probability"] for entry in result["top"]] == pytest.approx(expected[top].tolist(), abs=1e-4)
    assert result["explained"] == "eel"


def test_cam_of_a_single_pixel_is_reported_as_showing_no_place(checkpoint: str, images: Path) -> None:
    explain.main([checkpoint, str(images / "grey.png"), "--layers", "layer1", "layer4"])
    (result,) = json.loads(Path("explain_1/explain.json").read_text())["images"]
    assert "layer4: 1x1: not localized" in result["notes"]


def test_unreadable_image_is_named_and_the_others_explained(
    checkpoint: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "text.png").write_text("no image")
    Image.fromarray(np.full((32, 32), 4095, np.uint16)).save(images / "more" / "dark.png")
    with pytest.raises(SystemExit) as exit_:
        explain.main([checkpoint, str(images)])
    assert exit_.value.code == 1
    assert "text.png" in capsys.readouterr().err
    results = json.loads(Path("explain_1/explain.json").read_text())
    assert len(results["images"]) == 7 and len(results["unreadable"]) == 1
    notes = {Path(result["file"]).name: " ".join(result["notes"]) for result in results["images"]}
    assert "dark, up to 16 of 255; 12-bit values" in notes["dark.png"] and "dark" not in notes["clear.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "cow"], "--class cow: the network's classes are ape, bee"),
        (["--method", "GradCam"], "did you mean GradCAM?"),
        (["--out", "mine"], "--out mine"),
        (["--out", "mine/grey.png/out"], "--out mine/grey.png/out: part of this path is a file"),
        (["--top", "0"], "--top must be 1 or more"),
        (["none.png"], "none.png: no such image"),
        (["--layers", "layer5"], "--layers layer5: choose from layer1"),
    ],
)
def test_bad_options(
    options: list[str], message: str, checkpoint: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        explain.main([checkpoint, str(images), *options])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob("explain_*"))
