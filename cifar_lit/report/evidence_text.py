"""The evidence for the CAMs in numbers and sentences, which say what follows from it and what does not."""

from collections.abc import Sequence

from cifar_lit.analysis.bootstrap import Estimate
from cifar_lit.analysis.evidence import Evidence
from cifar_lit.analysis.interventions import AREAS, FOR_PREDICTED, FOR_TRUE, SENTENCE_AREA
from cifar_lit.analysis.localization import CHANCE
from cifar_lit.analysis.removal import CAM, NULL_MAPS
from cifar_lit.models.resnet import LAYERS
from cifar_lit.report.figures import method_name
from cifar_lit.report.results import RunResults
from cifar_lit.utils.text import counted

AREA = AREAS.index(SENTENCE_AREA)
FEW = 20  # images or mosaics, below which nothing is concluded
CORRECTED = {"for_predicted": FOR_PREDICTED, "for_true": FOR_TRUE}
MINUS = dict(zip(("random", "centered_blob", "other_image", "other_class", "blurred"), NULL_MAPS, strict=True))
NAMES = {
    "pointing_game": "pointing game (chance 25%)",
    "road": "ROAD of the CAM",
    **{f"road_minus_{key}": f"ROAD of the CAM minus null map: {name}" for key, name in MINUS.items()},
    "emprt": "rise of complexity when randomized (eMPRT)",
    **{
        f"corrected_{key}{end}": f"errors corrected by blurring {kind} ({SENTENCE_AREA:.0%}){more}"
        for key, kind in CORRECTED.items()
        for end, more in (("", ""), ("_minus_random", ", minus random positions"))
    },
}


def scores(evidence: Evidence) -> dict[str, Estimate]:
    """Return the scores of the layer that the report explains, by the keys of NAMES."""
    found: dict[str, Estimate | None] = {}
    if game := evidence.localization:
        method = evidence.method if evidence.method in game.scores else "GradCAM"
        found["pointing_game"] = game.scores[method].get(evidence.layer or LAYERS[0])
    if removal := evidence.removal:
        found["road"] = removal.scores[CAM]
        found |= {f"road_minus_{key}": removal.differences[name] for key, name in MINUS.items()}
    if sanity := evidence.sanity:
        found["emprt"] = sanity.complexity_rise[sanity.layer]
    if acts := evidence.interventions:
        for key, kind in CORRECTED.items():
            found[f"corrected_{key}"] = acts.turned[kind][AREA]
            found[f"corrected_{key}_minus_random"] = acts.differences[kind][AREA]
    return {key: value for key, value in found.items() if value}


def table(runs: Sequence[RunResults]) -> list[list[str]]:
    """Return the scores of each run as text, one row each, its name first; empty if no run has any."""
    found = [scores(run.evidence) for run in runs]
    layers = ["layer of the CAMs", *(run.evidence.layer or "(none)" for run in runs)]
    rows = [
        [name, *(written(key, one[key]) if key in one else "(none)" for one in found)]
        for key, name in NAMES.items()
        if any(key in one for one in found)
    ]
    return [layers, *rows] if rows else []


def written(key: str, value: Estimate) -> str:
    """Return one of the scores with its interval as text: ROAD and eMPRT as numbers, the others as percentages."""
    if key.startswith(("road", "emprt")):
        return f"{value.value:+.3f} ({value.low:+.3f} to {value.high:+.3f})"
    return percent(value)


def percent(value: Estimate) -> str:
    """Return a fraction with its interval."""
    return f"{value.value:.1%} ({value.low:.1%} to {value.high:.1%})"


def localization(evidence: Evidence) -> str:
    """Say what the pointing game shows."""
    found = evidence.localization
    assert found
    method = evidence.method if evidence.method in found.scores else "GradCAM"
    layer = evidence.layer or LAYERS[0]
    score = found.scores[method].get(layer)
    if not score:
        return f"No CAM of {layer} was scored."
    found_there = f"{method_name(method)} of {layer} has {percent(score)} of its positive values in the correct cell"
    if score.count < FEW:
        return f"{found_there}; {_few(score)}"
    result = {
        1: "more than chance, 25%, and than a centered blob",
        0: "not distinguishable from chance, 25%, and from a centered blob",
        -1: "less than chance, 25%",
    }[score.against(CHANCE)]
    follows = {
        1: "So these CAMs localize the four classes. ",
        0: "So nothing shows that these CAMs localize a class. ",
        -1: "So these CAMs mark the locations of other classes. ",
    }[score.against(CHANCE)]
    return (
        f"{found_there}: {result}. "
        f"{follows}It does not follow that they show which part of an object is used: the cells are entire images, and "
        "the network was not trained on mosaics."
    )


def removal(evidence: Evidence) -> str:
    """Say what the comparison with null maps shows."""
    found = evidence.removal
    assert found
    score = found.scores[CAM]
    if score and score.count < FEW:
        return f"The ROAD score of the CAM is {written('road', score)}; {_few(score)}"
    verdicts = {name: one.against(0) for name, one in found.differences.items() if one}
    parts = []
    for verdict, text in ((1, "higher than"), (0, "not distinguishable from"), (-1, "lower than")):
        if names := [name for name in verdicts if verdicts[name] == verdict]:
            parts.append(f"{text} that of {_listed(names)}")
    if all(verdict == 1 for verdict in verdicts.values()):
        follows = "So the probability depends more on the pixels that the CAM marks than on those of every null map."
    elif verdicts.get(NULL_MAPS[0]) == verdicts.get(NULL_MAPS[1]) == 1:  # random, and the centered blob
        follows = (
            "So the probability depends more on the pixels that the CAM marks than on random or central ones; beyond "
            "the null maps that it does not exceed, its score is no evidence."
        )
    else:
        follows = "So its ROAD score is no evidence that the CAM marks what the prediction depends on."
    return (
        f"The ROAD score of the CAM is {'; '.join(parts)}. {follows} It does not follow that the marked pixels are the "
        "ones used: ROAD favors smooth heatmaps, and images with removed pixels are unlike the training images."
    )


def interventions(evidence: Evidence) -> str:
    """Say what replacing the evidence does."""
    found = evidence.interventions
    assert found
    turned, chance, more = (values[FOR_PREDICTED][AREA] for values in (found.turned, found.random, found.differences))
    reverse = found.turned[FOR_TRUE][AREA]
    assert turned and chance and more and reverse
    blurring = (
        f"Blurring the {100 * SENTENCE_AREA:.0f}% of an image with the most evidence for the predicted and the least "
        f"for the true class corrects {percent(turned)} of {counted(found.num_images, 'error')}"
    )
    if turned.count < FEW:
        return f"{blurring}; {_few(turned)}"
    result = {
        1: "so the predictions depend on the marked evidence more than on the same shape at other positions",
        0: "the difference could be due to chance, so nothing shows that the predictions depend on the marked evidence",
        -1: "so other positions matter more than the marked evidence",
    }[more.against(0)]
    return (
        f"{blurring}, the same shape at a random position "
        f"{percent(chance)}: {result}. Blurring the evidence for the true class corrects {percent(reverse)}. It does "
        "not follow that the marked evidence is what caused an error, nor that it is all of it."
    )


def _few(score: Estimate) -> str:
    return f"{score.count} are too few to conclude anything."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


SENTENCES = {"localization": localization, "removal": removal, "interventions": interventions}
