"""Changes of a recipe that are tried one at a time, compared by validation accuracy."""

VALIDATION = ("--data.val_size", "5000")

LR = "--model.optimizer.init_args.lr"
CHANGES: dict[str, tuple[str, ...]] = {
    "none": (),
    "peak lr 0.1": (LR, "0.1"),
    "peak lr 0.4": (LR, "0.4"),
    "batch 512, peak lr 0.4": ("--data.batch_size", "512", LR, "0.4"),
    "batch 1024, peak lr 0.8": ("--data.batch_size", "1024", LR, "0.8"),
    "no label smoothing": ("--model.label_smoothing", "0"),
    "no EMA of the weights": ("--trainer.callbacks", "[]"),
    "weight decay on all parameters": ("--model.norm_weight_decay", "null"),
    "norm bias lr times 64": ("--model.norm_bias_lr_mult", "64"),
    "no zero-initialized residuals": ("--model.zero_init_residual", "false"),
    "He initialization": ("--model.init", "he"),
    "random flips": ("--data.flip_mode", "random"),
    "constant padding": ("--data.padding_mode", "constant"),
    "no cutout": ("--data.cutout_size", "0"),
    "cutout 12": ("--data.cutout_size", "12"),
    "cutout 16": ("--data.cutout_size", "16"),
    "cutout 16, 20 warm-up epochs": ("--data.cutout_size", "16", "--data.cutout_warmup_epochs", "20"),
}
