"""Provenance of a run: options, command, commit, versions and hardware."""

import json
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_warn
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

from cifar_lit.report.provenance import Provenance
from cifar_lit.report.tables import FINAL_SCORES
from cifar_lit.training.run_folder import folder_of
from cifar_lit.utils import environment
from cifar_lit.utils.files import atomic_write_text

FIRST = ("model.optimizer.init_args.lr", "data.batch_size", "trainer.max_epochs")
HYPERPARAMETERS = (*FIRST, "seed_everything", "lr_find", "trainer.precision", "model.", "data.")  # prefixes of names


class SaveProvenance(SaveConfigCallback):
    """Writes `config.yaml` and `provenance.json` (command, commit, versions, hardware), and logs the options.

    A resumed part of a run writes `config_2.yaml` and `provenance_2.json`, and so on.
    """

    provenance: Provenance | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Collect the provenance."""
        self.folder = folder_of(trainer)
        gpus = trainer.device_ids if trainer.strategy.root_device.type == "cuda" else []
        part = {**environment.describe(gpus), "precision": trainer.precision, "processes": trainer.world_size}
        self.options = self.parser.dump(self.config, skip_unset=False)
        if (self.folder / "provenance.json").exists():  # resumed
            earlier = Provenance.load(self.folder)
            self.provenance = Provenance(earlier.config, (*earlier.parts, part))
        else:
            self.provenance = Provenance(self.options, (part,))
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write both files; called in the first process only."""
        assert self.provenance is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(self.provenance.parts)
        suffix = f"_{number}" if number > 1 else ""
        atomic_write_text(self.folder / f"config{suffix}.yaml", self.options)
        content = json.dumps(self.provenance.parts[-1], indent=2)
        atomic_write_text(self.folder / f"provenance{suffix}.json", content + "\n")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the options as hyperparameters; TensorBoard shows them beside the final scores in HParams."""
        options = {
            name: value if isinstance(value, int | float | str) else str(value)
            for prefix in HYPERPARAMETERS
            for name, value in vars(self.config.as_flat()).items()
            if name.startswith(prefix) and value is not None
        }
        for logger in trainer.loggers if trainer.is_global_zero else []:
            if isinstance(logger, TensorBoardLogger):
                for summary in _summaries(options):
                    logger.experiment.file_writer.add_summary(summary)
                continue
            try:
                logger.log_hyperparams(options)
            except Exception as error:  # the training is complete; only this logger lacks them
                rank_zero_warn(f"{type(logger).__name__} could not log the hyperparameters: {error}")


def _summaries(options: dict[str, Any]) -> list[Any]:
    """Return the summaries for TensorBoard's HParams; logger.log_hyperparams would log the final scores again."""
    scores = dict.fromkeys(FINAL_SCORES, 0.0)  # only the names matter
    experiment, start, end = hparams(options, scores)  # type: ignore[no-untyped-call]  # torch has no types here
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for column in content.experiment.hparam_infos:
        column.differs = column.name in FIRST  # these come first; TensorBoard sorts the others by name
    plugin.content = content.SerializeToString()
    return [experiment, start, end]
