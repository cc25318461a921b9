"""The command line of `evaluate`: that of `fit`, begun with the configuration of a run."""

from collections.abc import Sequence

from pytorch_lightning.cli import LightningArgumentParser

from cifar_lit.callbacks.history import EpochHistory
from cifar_lit.callbacks.report import Reporter
from cifar_lit.cli.arguments import option_values
from cifar_lit.cli.options import FitCLI
from cifar_lit.cli.resume import Start
from cifar_lit.report.analysis import Analysis
from cifar_lit.report.writer import raise_if_failed
from cifar_lit.training import checkpoints
from cifar_lit.utils import hardware
from cifar_lit.utils.errors import UsageError
from cifar_lit.utils.files import atomic_write_text
from cifar_lit.utils.folders import new_folder


class EvaluateCLI(FitCLI):
    """Like FitCLI, but makes the report of a checkpoint, with the configuration of its run, without training."""

    prog = "python -m cifar_lit.evaluate"
    description = "Make figures and report again from a run or a checkpoint, on its own data or on others."
    ckpt_path_help = (
        "Folder of a run (lightning_logs/RECIPE/version_N), whose best weights and config.yaml are taken, or a .ckpt "
        "file. Needed. Loaded without running code from it."
    )

    def __init__(self, args: Sequence[str]) -> None:
        given = list(args)
        if paths := option_values(given, "--ckpt_path"):
            config = checkpoints.config_of(checkpoints.of_run(paths[-1]))
            if config:
                given = ["--config", str(config), *given]
        super().__init__(given)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of fit and where the report goes."""
        parser.add_argument(
            "--out",
            type=str | None,
            default=None,
            help="Folder for the report. Default: a new `evaluation_N` in the run's folder, or beside the file.",
        )
        super().add_core_arguments_to_parser(parser)

    def before_instantiate_classes(self) -> None:
        """Evaluate in one process, and log nothing."""
        self.config.lr_find = 0
        alone = {"devices": 1, "num_nodes": 1, "strategy": "auto", "sync_batchnorm": False}
        for option, value in {**alone, "logger": False, "enable_checkpointing": False}.items():
            self.config.trainer[option] = value
        super().before_instantiate_classes()

    def _find_start(self) -> Start:
        if not self.config.ckpt_path:
            raise UsageError("--ckpt_path is not given; give a run's folder (lightning_logs/RECIPE/version_N) or file")
        return Start(file=checkpoints.of_run(self.config.ckpt_path))

    def evaluate(self) -> None:
        """Make all parts of the report."""
        file, checkpoint = self.start.file, self.start.checkpoint
        assert file is not None
        self.datamodule.load_state_dict(checkpoint.get("ImageDataModule", {}))  # where its training augmented
        net = self.model.net
        net.load_state_dict(checkpoints.net_state(checkpoint["state_dict"]))
        weights = f"{file.stem} weights, epoch {checkpoint['epoch'] + 1}"
        history = checkpoint.get("callbacks", {}).get(EpochHistory.__qualname__, {}).get("rows", [])
        run = file.parent.parent if checkpoints.config_of(file) else file.parent
        analysis = Analysis(self.trainer, self.datamodule, net, weights, history, run)
        analysis.evaluated = hardware.command("evaluate")
        folder = new_folder(self.config.out, "evaluation", run)
        for part in getattr(self.trainer, "callbacks", []):
            if isinstance(part, Reporter):
                part.make(analysis, folder)
        atomic_write_text(folder / "config.yaml", self.parser.dump(self.config, skip_none=False))
        raise_if_failed(analysis, "the others are made")
