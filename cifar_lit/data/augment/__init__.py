"""Augmentation on the CPU (albumentations) and on the device (batched)."""
