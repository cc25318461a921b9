"""What is tried one at a time on a recipe, judged on held-out training images."""

SPLIT = ("--data.val_size", "5000")

RATE = "--model.optimizer.init_args.lr"
CHANGES: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "peak 0.1": (RATE, "0.1"),
    "peak 0.4": (RATE, "0.4"),
    "batch 512, peak 0.4": ("--data.batch_size", "512", RATE, "0.4"),
    "batch 1024, peak 0.8": ("--data.batch_size", "1024", RATE, "0.8"),
    "no label smoothing": ("--model.label_smoothing", "0"),
    "no mean of weights": ("--trainer.callbacks", "[]"),
    "weight decay everywhere": ("--model.norm_weight_decay", "null"),
    "norm biases 64 times as fast": ("--model.norm_bias_lr_mult", "64"),
    "last norms begin as 1": ("--model.zero_init_residual", "false"),
    "convolutions begin as He's": ("--model.init", "he"),
    "random flips": ("--data.flip_mode", "random"),
    "constant padding": ("--data.padding_mode", "constant"),
    "no cutout": ("--data.cutout_size", "0"),
    "cutout 12": ("--data.cutout_size", "12"),
    "cutout 16": ("--data.cutout_size", "16"),
    "cutout grows to 16 in 20 epochs": ("--data.cutout_size", "16", "--data.cutout_warmup_epochs", "20"),
}
