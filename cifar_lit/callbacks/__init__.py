"""Thin adapters of analysis and report to Lightning, one per file."""

from cifar_lit.callbacks.curves import Curves
from cifar_lit.callbacks.evidence import Evidence
from cifar_lit.callbacks.gradcam import GradCAMGrid
from cifar_lit.callbacks.history import EpochHistory
from cifar_lit.callbacks.html_report import HTMLReport
from cifar_lit.callbacks.misclassified import MisclassifiedImages
from cifar_lit.callbacks.progress import ProgressBar
from cifar_lit.callbacks.projector import Projector
from cifar_lit.callbacks.provenance import SaveProvenance
from cifar_lit.callbacks.report import Report, ReportCallback
from cifar_lit.callbacks.samples import SampleImages
from cifar_lit.callbacks.scores import Scores
from cifar_lit.callbacks.summary import Summary

__all__ = [
    "Curves",
    "EpochHistory",
    "Evidence",
    "GradCAMGrid",
    "HTMLReport",
    "MisclassifiedImages",
    "ProgressBar",
    "Projector",
    "Report",
    "ReportCallback",
    "SampleImages",
    "SaveProvenance",
    "Scores",
    "Summary",
]
