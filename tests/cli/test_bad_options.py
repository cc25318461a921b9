"""A mistake in the options gives one message with the option's name and the remedy, and writes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_lit import compare, evaluate, explain
from cifar_lit.cli.arguments import take
from cifar_lit.fit import main
from cifar_lit.utils.errors import UsageError
from tests.cli.refused import DEMO, FAILURE, files, refused

EARLY_STOPPING = "--trainer.callbacks+=pytorch_lightning.callbacks.EarlyStopping --trainer.callbacks.monitor=val/loss"
STOP_ON_TRAINING = "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=train/loss"
EMA = "--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"
SWA = "--trainer.callbacks+=StochasticWeightAveraging --trainer.callbacks.swa_lrs=0.01"

# Arguments; then what the message contains.
CASES = [
    # unknown options, and values of the wrong type
    ("--model.stemm=cifar", "--model.stemm", "did you mean --model.stem?", "--help"),
    ("--trainer.max_epoch=3", "--trainer.max_epoch", "did you mean --trainer.max_epochs?"),
    ("--lr=0.1", "did you mean --model.optimizer.init_args.lr?"),
    ("--epochs 5", "did you mean --trainer.max_epochs?"),
    ("--trainer.gpus=2", "did you mean --trainer.devices?"),
    ("--resume last", "did you mean --ckpt_path?"),
    ("--seed=1", "did you mean --seed_everything?"),
    ("--batch-size 64", "did you mean --data.batch_size?"),
    ("--dropout=0.1", "unrecognized arguments: --dropout=0.1\n"),
    ("--model.schedule=cosine", "did you mean --model.schedule.name?"),
    ("configs/demo.yaml", "--config configs/demo.yaml"),
    ("--config", "--config"),
    ("--trainer=3", "trainer"),
    ("--data.batch_size=many", "data.batch_size", "many"),
    ("--trainer.max_epochs=2.0", "trainer.max_epochs: Expected one of int, NoneType. Got value: 2.0"),
    ("--data.source=mnist", "data.source", "cifar10", "mnist"),
    ("--model.stem=cifr", "model.stem", "cifar", "imagenet"),
    ("--model.compile=maybe", "model.compile", "maybe"),
    ("--model.schedule.gamma=nan", "model.schedule.gamma", "nan"),
    ("--gradcam.layers=layer1", "gradcam.layers", "layer1"),
    ("--gradcam.layers=[layer9]", "gradcam.layers", "layer9"),
    ("--gradcam.method=Grad", "gradcam.method=Grad", "did you mean GradCAM?"),
    ("--gradcam.k=3", "gradcam.k", "misclassified.k"),
    ("--page.method=GradCAM", "page.method", "gradcam.method"),
    # recipes
    ("--config=nowhere.yaml", "nowhere.yaml", "the recipes are"),
    ("--config empty.yaml", "--config", "no options"),
    ("--config list.yaml", "--config", "no options"),
    ("--config folder.yaml", "folder.yaml"),
    ("--config bytes.yaml", "--config bytes.yaml", "UTF-8"),
    ("--config binary.yaml", "--config binary.yaml", "special characters"),
    ("--config broken.yaml", "--config broken.yaml: line 2"),
    ("--config tab.yaml", "--config tab.yaml: line 2", "indent with spaces"),
    ("--config twice.yaml", "--config twice.yaml: trainer.max_epochs is set twice, in lines 2 and 3"),
    ("--config list_twice.yaml", "trainer.callbacks.class_path is set twice, in lines 3 and 4"),
    ("--config level.yaml", "max_epochs", "did you mean --trainer.max_epochs?"),
    ("--config types.yaml", "data is a group of options"),
    ("--config key.yaml", "bach_size", "did you mean --data.batch_size?"),
    ("--config tag.yaml", "python/object/apply:os.mkdir"),
    # optimizers
    ("--model.optimizer=adam", "model.optimizer", "adam", "AdamW"),
    ("--model.optimizer.class_path=torch.optim.SDG", "model.optimizer", "SDG", "SGD"),
    ("--model.optimizer=torch.nn.Linear", "model.optimizer", "torch.nn.Linear"),
    ("--model.optimizer=torch.optim.LBFGS", "model.optimizer=LBFGS", "AdamW"),
    ("--model.optimizer=null", "model.optimizer"),
    ("--model.optimizer.init_args.learning_rate=1", "model.optimizer", "learning_rate"),
    ("--model.optimizer.init_args.lr=-1", "model.optimizer", "-1"),
    ("--model.optimizer.init_args.lr=.inf", "model.optimizer", "inf"),
    # ranges
    ("--seed_everything=-1", "seed_everything must be between 0 and 4294967295"),
    ("--seed_everything=99999999999", "seed_everything must be"),
    ("--process_timeout=0", "process_timeout must be"),
    ("--process_timeout=99999999999999999", "process_timeout must be"),
    ("--lr_find=-1", "lr_find (0 turns it off) must be 9 or more"),
    ("--lr_find=8", "lr_find (0 turns it off) must be 9 or more"),
    ("--data.batch_size=0", "data.batch_size must be 1 to"),
    ("--data.batch_size=999999999999999999999", "data.batch_size must be 1 to"),
    ("--data.image_size=-3", "data.image_size must be", "-3"),
    ("--data.val_size=-1", "data.val_size must be 0 or more"),
    ("--data.val_size=5000", "data.val_size=5000", "1437", "--data.val_size 143"),
    ("--data.val_size=1.5", "data.val_size must be 0 or more images, or a fraction below 1"),
    ("--data.num_workers=1000000", "data.num_workers must be"),
    ("--data.seed=-1", "data.seed must be"),
    ("--data.train_eval_size=0", "data.train_eval_size must be 1 or more"),
    ("--data.flip=.nan", "data.flip"),
    ("--data.flip=1.5", "data.flip must be between 0 and 1"),
    ("--data.rotate_degrees=360", "data.rotate_degrees must be between 0 and 180"),
    ("--data.cutout_size=9999999", "data.cutout_size must be", "64"),
    ("--data.crop_padding=9999999", "data.crop_padding must be", "32"),
    ("--model.label_smoothing=1.5", "model.label_smoothing"),
    ("--model.norm_weight_decay=-1", "model.norm_weight_decay must be 0 or more"),
    ("--model.norm_bias_lr_mult=0", "model.norm_bias_lr_mult must be above 0"),
    ("--model.backbone_lr_mult=0", "model.backbone_lr_mult must be above 0"),
    ("--model.freeze_epochs=-1", "model.freeze_epochs must be 0 or more"),
    ("--model.freeze_epochs=1", "model.freeze_epochs=1", "random weights", "--model.weights imagenet"),
    ("--model.freeze_epochs=3 --model.weights=imagenet", "must be less than trainer.max_epochs=3"),
    ("--model.weights=imagenet --model.stem=cifar", "model.weights=imagenet needs model.stem=imagenet"),
    ("--model.weights=imagenet --model.norm=layer", "model.weights=imagenet needs model.norm=batch"),
    ("--model.schedule.gamma=0", "model.schedule.gamma must be above 0"),
    ("--model.schedule.pct_start=1", "model.schedule.pct_start must be between 0 and 1"),
    ("--model.schedule.patience=-1", "model.schedule.patience must be 0 or more"),
    ("--checkpoint.every_n_train_steps=-1", "checkpoint.every_n_train_steps must be 0 or more"),
    ("--misclassified.k=0", "misclassified.k must be 1 or more"),
    ("--samples.k=0", "samples.k must be 1 or more"),
    ("--page.max_listed=-1", "page.max_listed must be 0 or more"),
    ("--page.num_cams=-1", "page.num_cams must be 0 or more"),
    ("--evidence.num_removed=-1", "evidence.num_removed must be 0 or more"),
    ("--page.num_road=0", "evidence.num_removed replaces it"),
    ("--projector.num_images=-1", "projector.num_images must be 0 or more"),
    # the Trainer
    ("--trainer.max_epochs=0", "trainer.max_epochs must be 1 or more (or -1 for no limit)"),
    ("--trainer.max_steps=0", "trainer.max_steps must be 1 or more (or -1 for no limit)"),
    ("--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be 1 or more"),
    ("--trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch must be 1 or more"),
    ("--trainer.log_every_n_steps=-1", "trainer.log_every_n_steps must be 1 or more"),
    ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val must be 0 or more"),
    ("--trainer.limit_test_batches=0", "trainer.limit_test_batches=0"),
    ("--trainer.limit_train_batches=1.5", "trainer:", "limit_train_batches"),
    ("--trainer.limit_train_batches=.nan", "trainer.limit_train_batches"),
    ("--trainer.val_check_interval=0", "trainer.val_check_interval=0", "data.val_size=0"),
    ("--trainer.val_check_interval=1000", "trainer.val_check_interval", "1000"),
    ("--trainer.overfit_batches=2", "trainer.overfit_batches", "data.val_size"),
    ("--trainer.barebones=true", "trainer.barebones"),
    ("--trainer.strategy=fsdp", "trainer.strategy=fsdp", "use ddp"),
    ("--trainer.strategy=ddp_spawn", "trainer.strategy=ddp_spawn", "use ddp"),
    ("--trainer.strategy=dpp", "trainer:", "dpp"),
    ("--trainer.accelerator=tpu", "trainer:", "use --trainer.accelerator auto"),
    ("--trainer.devices=0", "trainer:", "devices", "; change that trainer option"),
    ("--trainer.devices=100000", "trainer.devices=100000", "at most"),
    ("--trainer.num_nodes=0", "trainer:", "num_nodes"),
    ("--trainer.max_time=later", "trainer:", "later"),
    ("--trainer.gradient_clip_algorithm=x", "trainer:", "gradient_clip_algorithm"),
    (f"{EMA} {EMA}", "trainer:"),
    # classes
    ("--model.optimizer.init_args.lr=0,001", "model.optimizer: SGD: lr: Expected one of float", "Got value: 0,001\n"),
    ("--model.optimizer=AdamW --model.optimizer.betas=x", "model.optimizer: AdamW: betas: ", "Got value: x"),
    ("--model.optimizer.init_args.lrr=1", "model.optimizer: SGD: Option 'lrr' is not accepted\n"),
    ("--model.optimizer=Adamm", "model.optimizer: there is no class Adamm; use MODULE.CLASS", "such as SGD or AdamW"),
    ("--trainer.callbacks+=EarlyStopping", "trainer.callbacks: EarlyStopping: set --trainer.callbacks.monitor"),
    ("--trainer.logger+=CSVLogger", "trainer.logger: CSVLogger: set --trainer.logger.save_dir"),
    (f"{EARLY_STOPPING} --trainer.callbacks.patience=x", "trainer.callbacks: EarlyStopping:", "patience"),
    ("--trainer.callbacks+=tests.cli.refused.Missing", "trainer.callbacks: Missing:", "tests.cli.refused"),
    ("--trainer.logger=nowhere.Logger", "trainer.logger: Logger:", "nowhere"),
    ("--trainer.logger=lightning.pytorch.loggers.CSVLogger", "trainer.logger: use pytorch_lightning.loggers.CSVLogger"),
    ("--trainer.logger=Neptune", "trainer.logger: there is no class Neptune; use MODULE.CLASS"),
    ("--trainer.callbacks+=tests.cli.refused.Unavailable", "trainer.callbacks: Unavailable", "not_installed"),
    ("--trainer.callbacks+=ModelCheckpoint --trainer.callbacks.save_top_k=-2", "ModelCheckpoint", "save_top_k=-2"),
    ("--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val_loss", "monitor=val_loss", "val/loss"),
    ("--trainer.callbacks+=ModelCheckpoint --trainer.callbacks.monitor=acc", "monitor=acc", "val/accuracy"),
    ("--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val/accuracy", "add --trainer.callbacks.mode max"),
    ("--trainer.callbacks+=ModelCheckpoint --trainer.callbacks.monitor=train/accuracy", "callbacks.mode max"),
    (f"{EARLY_STOPPING} --trainer.callbacks.mode=max", "monitor=val/loss and mode=max", "callbacks.mode min"),
    ("--trainer.callbacks+=BatchSizeFinder", "BatchSizeFinder", "set data.batch_size"),
    ("--trainer.callbacks+=LearningRateFinder", "LearningRateFinder", "use lr_find"),
    ("--trainer.callbacks+=BackboneFinetuning", "BackboneFinetuning", "model.freeze_epochs"),
    (SWA, "StochasticWeightAveraging", "use EMAWeightAveraging"),
    ("--trainer.callbacks+=Timer", "Timer", "use trainer.max_time"),
    (
        "--trainer.callbacks+=ModelCheckpoint --trainer.callbacks.filename={epoch}-{val/accuracy:.3f}",
        "filename={epoch}-{val/accuracy:.3f}",
        "add --trainer.callbacks.auto_insert_metric_name false",
    ),
    ("--trainer.callbacks+=tests.cli.refused.Device", "Device cannot be recorded in config.yaml", "must be numbers"),
    ("--trainer.callbacks+=tests.cli.refused.Rate", "Rate cannot be recorded in config.yaml", "must be numbers"),
    (
        f"{STOP_ON_TRAINING} --trainer.val_check_interval=0.5",
        "EarlyStopping",
        "callbacks.check_on_train_epoch_end true",
    ),
    (f"{STOP_ON_TRAINING} --trainer.check_val_every_n_epoch=2", "EarlyStopping", "check_on_train_epoch_end true"),
    (f"{STOP_ON_TRAINING} --trainer.callbacks.check_on_train_epoch_end=false", "check_on_train_epoch_end true"),
    (
        "--trainer.callbacks+=ModelCheckpoint --trainer.callbacks.monitor=train/accuracy --trainer.callbacks.mode=max "
        "--trainer.val_check_interval=5 --trainer.check_val_every_n_epoch=null",
        "ModelCheckpoint with monitor=train/accuracy",
        "callbacks.save_on_train_epoch_end true",
    ),
    (
        "--trainer.callbacks+=ModelPruning --trainer.callbacks.pruning_fn=l1_unstructured",
        "ModelPruning",
        "nn.utils.prune",
    ),
    # options that exclude each other
    ("--data.crop_padding=32 --data.padding_mode=reflect", "data.padding_mode must be"),
    ("--data.progressive_crop=16 --data.progressive_epochs=3 --trainer.max_epochs=3", "data.progressive_epochs=3"),
    ("--data.progressive_crop=16", "data.progressive_epochs must be"),
    ("--data.progressive_crop=32 --data.progressive_epochs=2", "data.progressive_crop must be"),
    ("--data.cutout_size=0 --data.cutout_warmup_epochs=3", "data.cutout_warmup_epochs must be"),
    ("--data.flip=0 --data.flip_mode=alternate", "data.flip_mode must be random"),
    ("--data.val_size=0 --model.schedule.name=plateau", "data.val_size=0", "model.schedule.name=plateau"),
    (f"--data.val_size=0 {EARLY_STOPPING}", "data.val_size=0", "EarlyStopping with monitor=val/loss"),
    (f"--trainer.limit_val_batches=0 {EARLY_STOPPING}", "trainer.limit_val_batches=0", "monitor=val/loss"),
    (
        "--trainer.val_check_interval=00:00:01:00 --trainer.devices=2 --trainer.accelerator=cpu",
        "trainer.val_check_interval as a time",
        "use a number of steps",
    ),
    ("--data.batch_size=1", "data.batch_size=1", "BatchNorm", "--data.batch_size 2", "--model.norm layer"),
    # files
    ("--ckpt_path=nowhere", "--ckpt_path nowhere", "no such folder"),
    ("--ckpt_path=last", "--ckpt_path last", "start without"),
    ("--data.source=folder --data.root=nowhere", "data.root", "nowhere"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with unusable recipes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x81data")
    (tmp_path / "broken.yaml").write_text("data: {a: [\n")
    (tmp_path / "binary.yaml").write_bytes(b"data: \x00")
    (tmp_path / "tab.yaml").write_text("data:\n\tsource: digits\n")
    (tmp_path / "twice.yaml").write_text("trainer:\n  max_epochs: 1\n  max_epochs: 2\n")
    (tmp_path / "list_twice.yaml").write_text("trainer:\n  callbacks:\n  - class_path: A\n    class_path: B\n")
    (tmp_path / "level.yaml").write_text("max_epochs: 1\n")
    (tmp_path / "types.yaml").write_text("data: 3\n")
    (tmp_path / "key.yaml").write_text("data: {bach_size: 3}\n")
    (tmp_path / "tag.yaml").write_text("data: !!python/object/apply:os.mkdir [harm]\n")
    return tmp_path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0][:60])
def test_message_names_option_and_remedy(
    case: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(folder)
    message = refused(capsys, main, *DEMO, *case[0].split())
    for words in case[1:]:
        assert words in message
    assert files(folder) == before
    assert not list(folder.rglob("version_*"))


def test_package_that_a_callback_misses_in_the_training_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = "--trainer.callbacks+=tests.cli.refused.NeedsPackage"
    message = refused(capsys, main, *DEMO, callback, "--data.num_workers=0", code=FAILURE)
    assert "not_installed is missing" in message
    assert not list(folder.rglob("version_*"))


COMMANDS = [
    (evaluate.main, "", "required: run; usage: python -m cifar_lit.evaluate RUN"),
    (evaluate.main, "nowhere", "RUN nowhere: there is no such file"),
    (evaluate.main, "empty", "RUN empty: this folder contains no"),
    (evaluate.main, "text.ckpt", "RUN text.ckpt"),
    (evaluate.main, "empty --workers=0", "did you mean --data.num_workers?; usage"),
    (evaluate.main, "empty --epochs=3", "unrecognized arguments: --epochs=3; usage"),  # has no such option
    (explain.main, "nowhere x.png", "x.png: no such image"),
    (explain.main, "nowhere text.ckpt", "RUN nowhere: there is no such file"),
    (explain.main, "text.ckpt text.ckpt", "text.ckpt"),
    (explain.main, "text.ckpt empty", "empty: this folder contains no images"),
    (explain.main, "text.ckpt text.ckpt --out=full", "--out full"),
    (explain.main, "text.ckpt text.ckpt --top=0", "--top must be 1 or more"),
    (explain.main, "text.ckpt", "IMAGE_OR_FOLDER"),
    (compare.main, "empty", "at least two runs"),
    (compare.main, "empty nowhere", "empty"),
    (compare.main, "nowhere empty", "nowhere"),
    (compare.main, "empty empty --out", "--out"),
]


@pytest.mark.parametrize(("command", "args", "words"), COMMANDS, ids=lambda value: value if str(value) == value else "")
def test_other_commands(
    command: Callable[[list[str]], None], args: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "text").write_text("mine")
    (folder / "text.ckpt").write_text("hello")
    before = files(folder)
    assert words in refused(capsys, command, *args.split())
    assert files(folder) == before


def test_take_returns_values_in_any_form_and_the_other_arguments() -> None:
    args = ["-c", "a", "--x=-1", "--config=b", "--config", "c", "-2", "--configs=d"]
    assert take(args, "-c", "--config") == (["a", "b", "c"], ["--x=-1", "-2", "--configs=d"])
    with pytest.raises(UsageError, match="--config"):
        take(["--config"], "-c", "--config")
