"""What a run notes about itself: its options, and what ran them on what."""

import json
from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from cifar_lit.callbacks.scores import Scores
from cifar_lit.utils import hardware
from cifar_lit.utils.files import atomic_write_text

HYPERPARAMETERS = ("model.", "data.", "seed_everything", "trainer.max_epochs", "trainer.precision", "lr_find")


class SaveRun(SaveConfigCallback):
    """Writes `config.yaml` and, beside it, `provenance.json`: what ran, on what; tells TensorBoard."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run's folder, which all processes must ask for together: save_config runs in one of them."""
        self.folder = Path(trainer.log_dir or trainer.default_root_dir)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write both."""
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.folder / self.config_filename, self.parser.dump(self.config, skip_none=False))
        name = self.config_filename.replace("config", "provenance").replace(".yaml", ".json")
        gpus = trainer.device_ids if trainer.strategy.root_device.type == "cuda" else []
        notes = {**hardware.describe(gpus), "precision": trainer.precision, "processes": trainer.world_size}
        atomic_write_text(self.folder / name, json.dumps(notes, indent=2) + "\n")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell TensorBoard's HParams, by the options' names, what led to the final figures."""
        options = {
            name: value if isinstance(value, int | float | str) else str(value)
            for prefix in HYPERPARAMETERS  # their order is that of the columns
            for name, value in vars(self.config.as_flat()).items()
            if name.startswith(prefix) and value is not None
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                metrics = dict.fromkeys(Scores.FINAL, 0.0)  # only the names count
                for summary in hparams(options, metrics):  # type: ignore[no-untyped-call]  # torch has no types here
                    logger.experiment.file_writer.add_summary(summary)
