"""`cifar_lit.load`: predictions and explanations of images in all supported forms."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cifar_lit
from cifar_lit import explain
from cifar_lit.analysis.bootstrap import Estimate
from cifar_lit.analysis.evidence import Evidence
from cifar_lit.analysis.gradcam import activation_maps, upscale
from cifar_lit.analysis.localization import Localization
from cifar_lit.data.decode import UnreadableError, read
from cifar_lit.inference.classifier import Classifier
from cifar_lit.inference.results import Predictions
from cifar_lit.models.temperature import Temperature, store
from cifar_lit.report.results import RunResults
from tests.conftest import copy_run


@pytest.fixture(scope="module")
def classifier(finished_run: Path) -> Classifier:
    return cifar_lit.load(finished_run, device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of noise in several sizes; their names are sorted."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    files = []
    for i, (height, width) in enumerate([(40, 40), (8, 8), (300, 500), (64, 20), (33, 32)]):
        files.append(str(folder / f"{i}.png"))
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(files[-1])
    return files


@pytest.fixture(scope="module")
def noise() -> Any:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def test_predictions_are_those_of_the_report(classifier: Classifier, finished_run: Path) -> None:
    results = RunResults.load(finished_run)
    predictions = classifier.predict(results.data.splits.test.images)
    assert classifier.classes == predictions.class_names == results.classes
    assert predictions.probabilities.dtype == np.float32
    np.testing.assert_allclose(predictions.probabilities, results.test.probabilities, atol=1e-5)
    assert (predictions.predicted == results.test.predicted).all()


def test_same_image_in_every_form_has_the_same_prediction(classifier: Classifier, photos: list[str]) -> None:
    expected = classifier.predict(photos)
    assert expected.files == tuple(photos) and len(expected) == len(photos)
    arrays = [np.asarray(Image.open(file)) for file in photos]
    forms: list[Any] = [
        str(Path(photos[0]).parent),
        [Path(file) for file in photos],
        (file for file in photos),
        [Image.open(file) for file in photos],
        arrays,
        [torch.tensor(array) for array in arrays],
        [photos[:2], arrays[2][None], Image.open(photos[3]), [[photos[4]]]],
    ]
    for form in forms:
        np.testing.assert_array_equal(classifier.predict(form).probabilities, expected.probabilities)
    assert classifier.predict(forms[-1]).files == (*photos[:2], None, None, photos[4])
    alone = classifier.predict(arrays[2])
    np.testing.assert_allclose(alone.probabilities, expected.probabilities[2:3], atol=1e-6)
    assert alone.files == (None,)


def test_images_are_resized_as_for_training(classifier: Classifier, photos: list[str]) -> None:
    seen = classifier.explain(photos).images
    for image, file in zip(seen, photos, strict=True):
        np.testing.assert_array_equal(image, read(file, classifier.image_size))


def test_pil_images_of_all_kinds_are_read_like_files(classifier: Classifier, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "rotated.png", exif=exif)
    Image.fromarray(rng.integers(0, 256, (40, 60, 4), dtype=np.uint8)).save(tmp_path / "transparent.png")
    Image.fromarray(rng.integers(0, 256, (40, 60), dtype=np.uint8)).save(tmp_path / "gray.png")
    Image.fromarray(rng.integers(0, 65536, (40, 60), dtype=np.uint16)).save(tmp_path / "16_bits.png")
    for file in tmp_path.iterdir():
        with Image.open(file) as image:
            seen = classifier.explain(image).images[0]
            assert image.size == (60, 40)  # unchanged
        np.testing.assert_array_equal(seen, read(str(file), classifier.image_size))


def test_results_are_sorted_and_named() -> None:
    table = np.array([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]], np.float32)
    predictions = Predictions(("ape", "bee", "cat"), table, ("x.png", None))
    assert predictions.labels == ("cat", "ape") and predictions.predicted.tolist() == [2, 0]
    np.testing.assert_allclose(predictions.confidences, [0.7, 0.5])
    np.testing.assert_allclose(predictions.margins, [0.5, 0.1], atol=1e-6)
    assert [[name for name, _ in row] for row in predictions.top(2)] == [["cat", "bee"], ["ape", "bee"]]
    assert predictions.top()[1][2] == ("cat", pytest.approx(0.1))


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ("images / np.float32(255)", "(images * 255.0).round().astype(np.uint8)"),
        ("images.astype(np.float64)", "images.round().astype(np.uint8)"),
        ("images.astype(np.int64)", "images.astype(np.uint8)"),
        ("images > 99", "(images * 255.0).round().astype(np.uint8)"),
        ("images.transpose(0, 3, 1, 2)", "images.transpose(0, 2, 3, 1)"),
        ("images[0].transpose(2, 0, 1)", "images.transpose(1, 2, 0)"),
        ("images[..., 0]", "np.stack([images] * 3, -1)"),
        ("images[0, ..., 0]", "np.stack([images] * 3, -1)"),
        ("images[..., :1]", "images.repeat(3, -1)"),
        ("images[:, None, ..., 0]", "images.repeat(3, 1).transpose(0, 2, 3, 1)"),
        ("np.concatenate([images, images], -1)[..., :4]", "images[..., :3]"),
        ("torch.tensor(images) / 255", "(images * 255.0).round().byte()"),
        ("torch.tensor(images).bfloat16() / 255", "(images * 255.0).round().byte()"),
        ("torch.tensor(images).long()", "images.byte()"),
        ("torch.tensor(images).permute(0, 3, 1, 2)", "images.movedim(-3, -1)"),
        ("torch.tensor(images)[..., 0]", "torch.stack([images] * 3, -1)"),
        ("torch.tensor(images)[:, None, ..., 0]", "images.expand(-1, 3, -1, -1).movedim(1, -1)"),
        ("torch.tensor(images)[..., :1]", "images.expand(*images.shape[:-1], 3)"),
    ],
)
def test_refused_array_is_accepted_after_its_remedy(
    classifier: Classifier, noise: Any, change: str, remedy: str
) -> None:
    refused = eval(change, {"images": noise[:2], "np": np, "torch": torch})
    with pytest.raises(ValueError, match=r"must be uint8, 0 to 255") as error:
        classifier.predict(refused)
    assert remedy in str(error.value)
    classifier.predict(eval(remedy, {"images": refused, "np": np, "torch": torch}))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 32, 3), np.uint8), "must be uint8"),
        (np.zeros((2, 2, 32, 32, 3), np.uint8), "in a list if their sizes differ"),
        (np.full((9, 9, 3), -1.5), "do not standardize"),
        (np.full((9, 9, 3), np.nan), "the values go from nan"),
        (np.full((9, 9, 3), 300), "scale them"),
        (np.zeros((9, 9, 3), object), "convert the values to uint8"),
        (np.zeros((9, 3, 9)) - 1, r"np\.stack.*do not standardize"),
        (3, "images: got int; use paths"),
        (None, "images: got NoneType"),
        (b"", "images: got bytes"),
        ([["nowhere.png"]], r"nowhere\.png: no such image"),
        (Image.new("F", (9, 9)), "mode F"),
    ],
)
def test_other_input_is_refused(classifier: Classifier, images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier.predict(images)


def test_no_images_and_black_images_are_allowed(classifier: Classifier) -> None:
    assert classifier.predict([]).probabilities.shape == (0, 10)
    assert classifier.predict(np.zeros((0, 9, 9, 3), np.uint8)).labels == ()
    dark = [np.full((9, 9, 3), value, np.uint8) for value in (0, 1)]
    assert len(classifier.predict(dark)) == len(classifier.predict(torch.tensor(dark[1]))) + 1 == 2
    with pytest.raises(ValueError, match="none to explain"):
        classifier.explain([])


def test_unreadable_file_is_named(classifier: Classifier, photos: list[str], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    for call in (classifier.predict, classifier.explain):
        with pytest.raises(UnreadableError, match=r"text\.png: not a PNG"):
            call([photos[0], tmp_path / "text.png"])


def test_workers_change_nothing(classifier: Classifier, photos: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar_lit.inference.classifier.eval_batch_size", lambda size: 2)
    state = torch.get_rng_state()
    expected, got = (classifier.predict([*photos, Image.open(photos[1])], workers) for workers in (0, 2))
    np.testing.assert_array_equal(got.probabilities, expected.probabilities)
    assert got.files == expected.files == (*photos, None)
    assert torch.equal(state, torch.get_rng_state())


def test_explanations_are_those_of_the_report(classifier: Classifier, noise: Any) -> None:
    explanations = classifier.explain(noise, layers=["layer2", "layer1"])
    labels = explanations.predictions.predicted
    assert explanations.explained == explanations.predictions.labels
    assert explanations.images.shape == noise.shape[:1] + explanations.cams.shape[2:] + (3,)
    maps = activation_maps(classifier.net, explanations.images, labels[:, None], ["layer1", "layer2"])
    for i in range(len(noise)):
        for j, layer in enumerate(explanations.layers):
            np.testing.assert_allclose(
                explanations.cams[i, j], upscale(maps[layer][i, 0], classifier.image_size), atol=1e-3
            )
    overlays = explanations.overlays()
    assert overlays.dtype == np.uint8 and overlays.shape[:2] == (3, 2) and overlays.shape[2] >= 160
    np.testing.assert_array_equal(np.asarray(explanations.overlay_images()[2][1]), overlays[2, 1])
    bare = explanations.overlays(opacity=0)
    np.testing.assert_array_equal(
        bare[0, 0, :: overlays.shape[2] // classifier.image_size][:, 0], explanations.images[0, :, 0]
    )


def test_images_are_explained_together_as_alone(
    classifier: Classifier, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["3", "0", "3"]
    monkeypatch.setattr("cifar_lit.inference.classifier.EXPLAINED_BATCH", 2)
    together = classifier.explain(noise, classes=names, layers="layer1", method="GradCAM++")
    assert together.explained == tuple(names) and together.method == "GradCAMPlusPlus"
    for i, image in enumerate(noise):
        alone = classifier.explain(image, classes=names[i], layers="layer1", method="GradCAM++")
        np.testing.assert_allclose(alone.cams[0], together.cams[i], atol=1e-3)


def test_cam_that_shows_no_place_is_flat_and_says_so(classifier: Classifier, noise: Any) -> None:
    explanations = classifier.explain(noise, layers=["layer1", "layer4"])
    assert {last for _, last in explanations.flat} <= {"1x1: not localized", "no evidence"}
    spread = np.ptp(explanations.cams, axis=(2, 3))
    assert spread.tolist() == [[0 if reason else 1 for reason in row] for row in explanations.flat]
    assert explanations.cams[1, 1, 0, 0] == (0 if explanations.flat[1][1] == "no evidence" else 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "cow"}, "classes=cow: the network's classes are 0, 1"),
        ({"classes": ["1", "2"]}, "got 2 names for 3 images"),
        ({"layers": "layer5"}, "layers=layer5: choose from layer1"),
        ({"method": "GradCan"}, "method=GradCan: no such method; did you mean GradCAM"),
    ],
)
def test_unknown_names_are_refused(classifier: Classifier, noise: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier.explain(noise, **options)


def test_load_refuses_what_it_cannot_use(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"load: .* no checkpoints/best\.ckpt"):
        cifar_lit.load(tmp_path)
    with pytest.raises(ValueError, match=r"device=gpu: .*; use "):
        cifar_lit.load(finished_run, device="gpu")


def test_calibrated_probabilities_are_scaled(finished_run: Path, tmp_path: Path, noise: Any) -> None:
    run = copy_run(finished_run, tmp_path)
    classifier = cifar_lit.load(run, device="cpu")
    store(run / "checkpoints", classifier.fingerprint, Temperature(2.5, 2.0, 3.0, 200))
    assert classifier.temperature == 2.5
    plain, scaled = classifier.predict(noise), classifier.predict(noise, calibrated=True)
    expected = torch.from_numpy(plain.probabilities).log().div(2.5).softmax(1)
    np.testing.assert_allclose(scaled.probabilities, expected.numpy(), atol=1e-5)
    explained = classifier.explain(noise, layers="layer1", calibrated=True).predictions
    np.testing.assert_array_equal(explained.probabilities, scaled.probabilities)
    assert (plain.predicted == scaled.predicted).all() and not np.allclose(plain.probabilities, expected, atol=1e-4)


def test_temperature_of_other_weights_is_not_used(finished_run: Path, noise: Any) -> None:
    other = cifar_lit.load(finished_run, device="cpu")
    with torch.no_grad():
        other.net.backbone.fc.bias += 1
    assert other.temperature is None
    with pytest.raises(ValueError, match=r"calibrated: no temperature .* cifar_lit\.evaluate CHECKPOINT fits one"):
        other.predict(noise, calibrated=True)


def test_default_layer_is_that_of_the_report(
    finished_run: Path, tmp_path: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(finished_run, tmp_path)
    report, evaluation = (run / name / "evidence.json" for name in ("report", "evaluation_1"))
    evaluation.parent.mkdir()

    def record(file: Path, weights: str, **means: float) -> None:
        scores: Any = {"GradCAM": {layer: Estimate(mean, 0, 1, 9) for layer, mean in means.items()}}
        localization = Localization(9, 36, scores, {"layer1": 16, "layer2": 8, "layer3": 4, "layer4": 2})
        found = Evidence(layer="layer2", localization=localization if means else None, weights=weights)
        file.write_text(json.dumps(found.to_dict()))

    weights = cifar_lit.load(run, "cpu").fingerprint
    record(report, weights, layer1=0.3, layer2=0.4, layer3=0.9)  # of layer3, too small for a score that counts
    record(evaluation, weights, layer1=0.4, layer2=0.3)
    assert cifar_lit.load(run, "cpu").layer_choice == ("layer2", f"best localization in {report}")
    assert cifar_lit.load(run, "cpu").explain(photos[0]).layers == (RunResults.load(run).default_layer,) == ("layer2",)
    explain.main([str(run), photos[0], "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.startswith(f"layer2: best localization in {report}\n")
    record(evaluation, weights, layer1=0.3, layer2=0.4)
    record(report, weights)
    assert cifar_lit.load(run / "checkpoints" / "last.ckpt", "cpu").layer_choice[1].endswith(str(evaluation))
    record(evaluation, "of others", layer1=0.3, layer2=0.4)
    layer, reason = cifar_lit.load(run, "cpu").layer_choice
    assert layer == "layer1" and "no localization scores" in reason


def test_fingerprint_is_that_of_the_weights(classifier: Classifier, finished_run: Path) -> None:
    same = cifar_lit.load(finished_run / "checkpoints" / "best.ckpt", device="cpu")
    assert same.fingerprint == classifier.fingerprint
    with torch.no_grad():
        same.net.backbone.fc.bias += 1
    vars(same).pop("fingerprint")
    assert same.fingerprint != classifier.fingerprint
