"""Thin adapters of analysis and report to Lightning."""

from cifar_lit.callbacks.curves import Curves
from cifar_lit.callbacks.gradcam import GradCAMGrid
from cifar_lit.callbacks.html_report import Page
from cifar_lit.callbacks.misclassified import MisclassifiedImages
from cifar_lit.callbacks.projector import Projector
from cifar_lit.callbacks.samples import SampleImages
from cifar_lit.callbacks.scores import Scores
from cifar_lit.callbacks.summary import Summary

__all__ = ["Curves", "GradCAMGrid", "MisclassifiedImages", "Page", "Projector", "SampleImages", "Scores", "Summary"]
