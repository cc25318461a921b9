"""Data sets, augmentation, sampling, and the LightningDataModule."""
