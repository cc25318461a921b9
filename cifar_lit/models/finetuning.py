"""Fine-tuning: train only the last layer at first."""

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import DDPStrategy

from cifar_lit.models.resnet import ResNet18


class FreezeBackbone(Callback):
    """Trains only the last layer of `module.net` in the first epochs.

    A frozen parameter gets no gradient, so that momentum and weight decay do not change it either. The optimizer has
    all parameters from the start. Lightning's BaseFinetuning adds them later, to an optimizer whose schedule does not
    know of them, and does not let DDP average their gradients, so that the weights of the processes would differ.

    Args:
        epochs: In which the other layers are frozen.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze before DDP looks at the parameters; a checkpoint is loaded, and may unfreeze them, after it."""
        if stage == "fit":
            for name, parameter in _net(pl_module).backbone.named_parameters():
                parameter.requires_grad_(name.startswith("fc."))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze as the epoch requires, also in the middle of a resumed one, which does not start again."""
        self._freeze(trainer, pl_module, trainer.current_epoch < self.epochs)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze as the epoch requires."""
        self._freeze(trainer, pl_module, trainer.current_epoch < self.epochs)

    def _freeze(self, trainer: Trainer, module: LightningModule, frozen: bool) -> None:
        backbone, strategy = _net(module).backbone, trainer.strategy
        changed = backbone.conv1.weight.requires_grad == frozen
        for name, part in backbone.named_children():
            if name != "fc":
                part.train(not frozen).requires_grad_(not frozen)  # BatchNorm's statistics change in training mode only
        if changed and isinstance(strategy, DDPStrategy) and strategy.model is not module:
            strategy.model = module
            strategy.configure_ddp()  # wrap it again, to average the gradients of other parameters


def _net(module: LightningModule) -> ResNet18:
    assert isinstance(module.net, ResNet18)
    return module.net
