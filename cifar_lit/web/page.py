"""The page: controls, and what they call."""

from typing import Any

import gradio as gr

from cifar_lit.analysis import cam_methods
from cifar_lit.models.resnet import LAYERS
from cifar_lit.report.drawing import CAM_OPACITY
from cifar_lit.web import html
from cifar_lit.web.content import read_card
from cifar_lit.web.views import ANY, MAX_CLASSES, Views

SHOWN, MAX_SHOWN = 24, 100  # misclassified images
KEPT_S = 600  # how long the files of uploaded images are kept
NETWORK: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1, "trigger_mode": "always_last"}
SET_OPACITY = "value => document.querySelector('#{}').style.setProperty('--opacity', value)"
SHOW_CLASSES = "n => document.querySelectorAll('#explained li').forEach((item, rank) => item.hidden = rank >= n)"


def build(views: Views) -> gr.Blocks:
    """Return the page, to be launched with the arguments of `style`."""
    content = views.content
    gr.set_static_paths([views.folder / name for name in ("examples", "errors")])
    page = gr.Blocks(title=content.title, analytics_enabled=False, delete_cache=(60, KEPT_S))
    with page:
        gr.Markdown(f"# {content.title}\n{content.summary}")
        calibrated = _calibrated_checkbox(views)
        with gr.Tab("Explain"):
            _explain(views, calibrated)
        with gr.Tab("Misclassified"):
            if content.errors:
                _errors(views, calibrated)
            else:
                gr.HTML(html.message(content.missing or "No test image is misclassified."))
        with gr.Tab("Model card"):
            gr.Markdown(read_card(views.folder) or content.missing, latex_delimiters=[], elem_id="card")
    return page


def style() -> dict[str, Any]:
    """Return the arguments of `launch` for the looks: fonts of the system, nothing that is loaded from elsewhere."""
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {"theme": gr.themes.Default(primary_hue="blue", **fonts), "css": html.CSS, "footer_links": []}


def _explain(views: Views, calibrated: gr.Checkbox) -> None:
    """Add the controls for an image of the user's."""
    examples = [views.path(example) for example in views.content.examples]
    most = min(MAX_CLASSES, len(views.classifier.classes))
    with gr.Row():
        with gr.Column():
            image = gr.Image(
                examples[0] if examples else None,
                sources=["upload", "clipboard"],
                type="filepath",
                image_mode=None,
                label="Image",
                height=280,
                buttons=[],
                placeholder="Drop a PNG, JPEG or WebP image here, or click to choose one",
                elem_id="image",
            )
            if examples:
                gr.Examples(examples, image, label="Examples", elem_id="examples")
            else:
                gr.HTML(html.message(views.content.missing))
        with gr.Column(elem_id="explained"):
            result = gr.HTML()
            with gr.Row():
                label = _class_dropdown(views, "Class to explain", "the predicted class")
                shown = gr.Slider(1, most, min(5, most), step=1, label="Classes to list")
            layer, method = _cam_controls(views, "explained")
            result.value = views.explain(examples[0] if examples else None, ANY, layer.value, method.value, shown.value)

    def explain(upload: dict[str, Any] | None, *chosen: Any) -> str:
        return views.explain(upload["path"] if upload else None, *chosen)

    shown.change(None, shown, js=SHOW_CLASSES)
    changes = [image.change, label.change, layer.change, method.change, calibrated.change]
    chosen = [image, label, layer, method, shown, calibrated]
    gr.on(changes, explain, chosen, result, preprocess=False, **NETWORK)  # gradio would decode without our guards


def _errors(views: Views, calibrated: gr.Checkbox) -> None:
    """Add the gallery of misclassified images."""
    stored = min(len(views.content.errors), MAX_SHOWN)

    def tiles(found: list[int]) -> list[tuple[str, str]]:
        images = [views.content.errors[position] for position in found]
        return [(views.path(image), f"{image.true} → {image.predicted}") for image in images]

    def show(*filters: int) -> tuple[gr.Gallery, str, int | None]:
        found = views.find_errors(*filters)
        gallery = gr.Gallery(tiles(found), visible=bool(found), selected_index=None)
        return gallery, views.describe_errors(*filters), found[0] if found else None

    def select(event: gr.SelectData, *filters: int) -> int:
        index: int = event.index
        return views.find_errors(*filters)[index]

    with gr.Row():
        true = _class_dropdown(views, "True class", "any")
        predicted = _class_dropdown(views, "Predicted class", "any")
        count = gr.Slider(1, stored, min(SHOWN, stored), step=1, label="Images to show")
    filters: list[Any] = [true, predicted, count]
    line = gr.Markdown(views.describe_errors(ANY, ANY, count.value))
    position = gr.State(0)
    with gr.Row():
        with gr.Column():
            gallery = gr.Gallery(
                tiles(views.find_errors(ANY, ANY, count.value)),
                columns=4,
                height="auto",
                allow_preview=False,
                show_label=False,
                elem_id="gallery",
                buttons=[],
                interactive=False,
            )
        with gr.Column(elem_id="opened"):
            opened = gr.HTML()
            layer, method = _cam_controls(views, "opened")
            opened.value = views.open_error(0, layer.value, method.value)
    changes = [control.change for control in filters]
    gr.on(changes, show, filters, [gallery, line, position], trigger_mode="always_last")
    gallery.select(select, filters, position)
    chosen: list[Any] = [position, layer, method, calibrated]
    gr.on([control.change for control in chosen], views.open_error, chosen, opened, **NETWORK)


def _calibrated_checkbox(views: Views) -> gr.Checkbox:
    """Add the checkbox for all probabilities of the page; it is hidden if there is no temperature."""
    temperature = views.classifier.temperature
    if temperature is None:
        return gr.Checkbox(visible=False)
    info = (
        f"Scaled by the temperature {temperature:.3g}, which was fitted to validation images: the predicted classes "
        "stay the same, their probabilities are closer to how often they are correct."
    )
    return gr.Checkbox(label="Calibrated probabilities", info=info)


def _class_dropdown(views: Views, label: str, default: str) -> gr.Dropdown:
    classes = [(name, number) for number, name in enumerate(views.classifier.classes)]
    return gr.Dropdown([(default, ANY), *classes], value=ANY, label=label, min_width=240)


def _cam_controls(views: Views, elem_id: str) -> tuple[gr.Radio, gr.Dropdown]:
    """Add the controls of the CAMs in an element: layer, method, and opacity, which acts in the browser."""
    notes = {LAYERS[0]: " (finest)", LAYERS[-1]: " (coarsest)"}
    methods = sorted(cam_methods.methods(), key=lambda name: (name != "GradCAM", name))
    layer = gr.Radio(
        [(f"{name}{notes.get(name, '')}", name) for name in LAYERS], value=views.content.layer, label="Layer"
    )
    with gr.Row():
        method = gr.Dropdown(methods, value="GradCAM", label="Method", min_width=240)
        opacity = gr.Slider(0, 1, CAM_OPACITY, step=0.05, label="Opacity")
    opacity.change(None, opacity, js=SET_OPACITY.format(elem_id))
    return layer, method
