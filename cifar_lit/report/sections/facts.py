"""What exactly ran."""

from cifar_lit.data.sources import SOURCES
from cifar_lit.models.flops import training_flops
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections.options import Options


def section(results: RunResults, options: Options) -> dict[str, object]:
    """Return the provenance; of a resumed part, its command and what differs from the earlier parts."""
    data, provenance = results.data, results.provenance
    shown: dict[str, object] = {"recipe": results.name.split("/")[0], "seed": provenance.options.get("seed_everything")}
    shown |= {"weights": results.weights, "parameters": f"{results.parameters:,}"}
    shown["data"] = f"{data.source}, {data.root}" if SOURCES[data.source].uses_root else data.source
    shown |= {"classes": len(results.classes), "image size": f"{data.image_size} px"}
    if not data.test_only:
        shown["training images"] = f"{len(data.train_dataset):,} of {len(data.splits.train):,}"
        shown["validation images"] = f"{len(data.val_dataset):,}"
        if flops := _training_flops(results):
            shown["floating-point operations of the training"] = f"{flops:.1e}, in convolutions and linear layers"
        shown["fingerprint of the training set"] = results.fingerprints["train"]
    shown |= {
        "test images": f"{len(results.test):,} of {len(data.splits.test):,}",
        "fingerprint of the test set": results.fingerprints["test"],
        "device of this report": results.network.normalize.mean.device,
        "command of this report": provenance.report_command,
    }
    known = dict(provenance.parts[0])
    for number, part in enumerate(provenance.parts[1:], 2):
        news = {name: value for name, value in part.items() if name == "command" or value != known.get(name)}
        known |= {f"resumed, part {number}, {name}": value for name, value in news.items()}
    return {name: value for name, value in (shown | known).items() if value is not None}


def _training_flops(results: RunResults) -> int | None:
    """Return the operations of the training; None if they are not known."""
    limited = results.provenance.options.get("trainer", {}).get("limit_train_batches")
    if limited is not None:
        return None
    sizes = [results.data.augment.size_at(row.epoch - 1) for row in results.epochs]
    return training_flops(results.network, sizes, len(results.data.train_dataset))
