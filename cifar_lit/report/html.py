"""`report/index.html`: a run on one page that needs no other file, and its short version `README.md`."""

from functools import cache
from typing import TYPE_CHECKING, Any

from cifar_lit.report import figures
from cifar_lit.report.inline import color_table
from cifar_lit.report.results import RunResults
from cifar_lit.report.sections import SECTIONS, Options
from cifar_lit.report.writer import ReportWriter

if TYPE_CHECKING:
    import jinja2

README_FIGURES = {
    "misclassified": "The misclassified test images with the highest loss",
    "gradcam_true": "Evidence for the true class",
    "gradcam_predicted": "Evidence for the predicted class",
    "confusion": "Confusion matrix",
    "curves": "Loss, accuracy and learning rate over epochs",
}


def build(results: RunResults, options: Options, writer: ReportWriter) -> tuple[str, str]:
    """Return the page and its short version in Markdown; a section that fails is replaced by the reason."""
    shared = {"results": results, "classes": results.classes, "method": figures.method_name(options.method)}
    made: dict[str, Any] = {}
    texts: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name, section in SECTIONS.items():
        try:
            made[name] = section.make(results, options)
            texts[name] = render(f"section_{name}.html", **{**made, **shared, name: made[name]})
        except Exception as error:
            made[name] = None
            failed[name] = writer.record_failure(f"HTMLReport ({name})", error)
    drawn = {name: text for name, text in README_FIGURES.items() if name in writer.figures}
    colors = {name: color_table(name) for name in ("inferno", "PuOr")}
    page = {"titles": {name: section.title for name, section in SECTIONS.items()}, "texts": texts, "colors": colors}
    page["errors"] = made["errors"]
    shared |= {"failed": failed, "failures": writer.failures}
    readme = render("readme.md", **shared, quality=made["quality"], figures=drawn)
    return render("page.html", **shared, **page), readme


def render(template: str, **context: Any) -> str:
    """Fill one of the templates; text that goes into HTML is escaped."""
    return str(_environment().get_template(template).render(**context))


@cache
def _environment() -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("cifar_lit.report"),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
