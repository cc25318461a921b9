"""Predictions, scores and Grad-CAM: arrays in, arrays out."""
