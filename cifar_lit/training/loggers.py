"""The default logger."""

from pytorch_lightning.loggers import TensorBoardLogger


class RunTensorBoardLogger(TensorBoardLogger):
    """TensorBoard events in the run's folder.

    Args:
        folder: The folder. Default: that of the run, once it is known.
        purge_step: Events of this step and later are hidden, because a resumed run logs them again.
    """

    def __init__(self, folder: str = "", purge_step: int | None = None) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False, purge_step=purge_step)
