"""Use a trained network, without Trainer and datamodule."""
