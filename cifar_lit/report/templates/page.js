"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 120; // images shown at once
const SIDE = 150; // pixels of a CAM
const percent = (fraction) => (100 * fraction).toFixed(1) + "%";
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const colors = bytes(data.colors), differences = bytes(data.difference);
const form = document.querySelector(".filters"), grid = document.getElementById("grid");
const more = document.getElementById("more"), dialog = document.getElementById("image");
let chosen = [], shown = 0, open = 0;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
const describe = (item) => `${data.classes[item.true]} predicted as ${data.classes[item.predicted]}, ${percent(item.p[item.predicted])}`;

function choose() {
  const { true: t, predicted: p, kind, order } = Object.fromEntries(new FormData(form));
  const issues = kind === "label_issues";
  chosen = (issues ? data.labelIssues : [...Array(data.numErrors).keys()]).filter((i) => {
    const item = data.items[i];
    return (t === "" || item.true === +t) && (p === "" || item.predicted === +p);
  });
  const key = { loss: (i) => -i.loss, confidence: (i) => -i.p[i.predicted], margin: (i) => Math.abs(i.margin) }[order];
  chosen.sort((a, b) => key(data.items[a]) - key(data.items[b]) || a - b);
  document.getElementById("about-label-issues").hidden = !issues;
  const unlisted = data.totalErrors - data.numErrors;
  document.getElementById("count").textContent = `${chosen.length} of ${issues ? data.labelIssues.length + " label issues" : data.numErrors + " misclassified images"}`
    + (unlisted && !issues ? ` with the highest loss; ${unlisted.toLocaleString("en")} others are not on this page (page.max_listed), misclassified.csv lists them` : "");
  grid.replaceChildren();
  shown = 0;
  showMore();
}

function showMore() {
  for (const position of [...chosen.keys()].slice(shown, shown + PAGE)) {
    const item = data.items[chosen[position]];
    const tile = element("button", { type: "button" },
      element("img", { src: item.image, alt: "", loading: "lazy" }),
      element("span", {}, `${data.classes[item.true]} → ${data.classes[item.predicted]}`), element("span", {}, percent(item.p[item.predicted])));
    tile.setAttribute("aria-label", `Image ${item.index}: ${describe(item)}`);
    tile.addEventListener("click", () => show(position));
    grid.append(element("li", {}, tile));
  }
  shown = Math.min(shown + PAGE, chosen.length);
  more.hidden = shown >= chosen.length;
}

// The values of a CAM at SIDE x SIDE, 0..1: bilinear, scaled as in the PNG files.
function enlarged([width, text]) {
  const values = bytes(text), height = values.length / width, large = new Float32Array(SIDE * SIDE);
  const at = (y, x) => values[Math.min(Math.max(y, 0), height - 1) * width + Math.min(Math.max(x, 0), width - 1)];
  for (let y = 0; y < SIDE; y++) for (let x = 0; x < SIDE; x++) {
    const v = ((y + 0.5) * height) / SIDE - 0.5, u = ((x + 0.5) * width) / SIDE - 0.5;
    const top = Math.floor(v), left = Math.floor(u), fy = v - top, fx = u - left;
    large[y * SIDE + x] = ((1 - fy) * ((1 - fx) * at(top, left) + fx * at(top, left + 1)) + fy * ((1 - fx) * at(top + 1, left) + fx * at(top + 1, left + 1))) / 255;
  }
  return large;
}

function painted(image, values, table, label) {
  const canvas = element("canvas", { width: SIDE, height: SIDE });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  if (image) context.drawImage(image, 0, 0, SIDE, SIDE);
  const pixels = context.getImageData(0, 0, SIDE, SIDE), opacity = image ? 0.55 : 1;
  values.forEach((value, i) => {
    const color = 3 * Math.round(255 * Math.min(Math.max(value, 0), 1));
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = (1 - opacity) * pixels.data[4 * i + c] + opacity * table[color + c];
    pixels.data[4 * i + 3] = 255;
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function camTable(item, image) {
  const classes = [`for ${data.classes[item.true]} (true)`, `for ${data.classes[item.predicted]} (predicted)`];
  const cells = (layer, pair, method) => pair.map((cam, which) => element("td", {},
    painted(image, enlarged(cam), colors, `${method}, ${layer} ${classes[which]}`), element("span", { className: "score" }, cam[2])));
  const body = Object.entries(item.cams).map(([layer, pair]) => {
    const [a, b] = pair.map(enlarged), between = a.map((value, i) => 0.5 + (value - b[i]) / 2);
    const comparable = pair.every(([, , flat]) => !flat);
    return element("tr", {}, element("th", { scope: "row" }, layer), ...cells(layer, pair, data.method),
      element("td", {}, comparable ? painted(null, between, differences, `${layer}, true minus predicted`) : "–"),
      ...(item.hires ? cells(layer, item.hires[layer], "HiResCAM") : []));
  });
  const group = (text, columns) => element("th", { scope: "colgroup", colSpan: columns }, text), column = (text) => element("th", { scope: "col" }, text);
  const exact = item.hires ? " In layer4 Grad-CAM and HiResCAM are equal, and before the ReLU their sum is the logit without the bias; in earlier layers, Grad-CAM is an approximation, and HiResCAM highlights only locations on which the logit depends (arXiv 2011.08891)." : "";
  return element("table", { className: "cams" },
    element("caption", {}, `Bright areas are evidence for the class. Difference: purple where the true class has more, orange where the predicted class has more.${exact}`),
    element("thead", {}, element("tr", {}, element("td"), group(data.method, 3), ...(item.hires ? [group("HiResCAM", 2)] : [])),
      element("tr", {}, element("td"), ...[...classes, "difference", ...(item.hires ? classes : [])].map(column))),
    element("tbody", {}, ...body));
}

function neighborList(item) {
  const tiles = item.neighbors.map(([index, cosine]) => {
    const [label, source] = data.train[index];
    const name = element(label === item.true ? "span" : "strong", {}, data.classes[label]);
    return element("li", {}, element("img", { src: source, alt: `training image ${index}` }), name, element("br"), cosine.toFixed(3));
  });
  return element("div", { className: "neighbors" },
    element("p", {}, `The nearest of ${data.numKnown.toLocaleString("en")} training images, with their labels (in bold if not ${data.classes[item.true]}) and the cosine of the last layer's features:`),
    element("ul", { className: "grid" }, ...tiles));
}

async function show(position) {
  open = position;
  const item = data.items[chosen[position]], image = element("img", { src: item.image, alt: `test image ${item.index}` });
  document.getElementById("image-title").textContent = `Image ${item.index}: ${describe(item)}`;
  const order = Object.keys(item.p).map(Number).sort((a, b) => item.p[b] - item.p[a]);
  const rows = order.map((label) => {
    const fill = element("span");
    fill.style.width = percent(item.p[label]);
    const mark = label === item.true ? " (true)" : label === item.predicted ? " (predicted)" : "";
    return element("tr", {}, element("th", { scope: "row" }, data.classes[label] + mark), element("td", {}, element("span", { className: "bar" }, fill), element("span", { className: "figure" }, percent(item.p[label]))));
  });
  const facts = [`loss ${item.loss.toFixed(2)}, margin ${item.margin.toFixed(3)}`, ...(item.file ? [`file ${item.file}`] : [])];
  const about = element("div", { className: "about" }, image,
    element("div", {}, element("p", {}, facts.join("; ")), element("table", {}, element("caption", {}, "Probabilities of the classes"), element("tbody", {}, ...rows))));
  const body = document.getElementById("image-body");
  if (item.neighbors) about.append(neighborList(item));
  body.replaceChildren(about);
  document.getElementById("previous").disabled = position === 0;
  document.getElementById("next").disabled = position === chosen.length - 1;
  if (!dialog.open) dialog.showModal();
  if (!item.cams) body.append(element("p", {}, "No CAMs for this image: page.num_cams sets how many images have them."));
  else {
    await image.decode();
    if (open === position) body.append(element("div", { className: "scroll" }, camTable(item, image)));
  }
}

const step = (by) => { if (chosen[open + by] !== undefined) show(open + by); };
document.getElementById("previous").addEventListener("click", () => step(-1));
document.getElementById("next").addEventListener("click", () => step(1));
document.getElementById("close").addEventListener("click", () => dialog.close());
// Of the document: a button that gets disabled loses the focus to it.
const ARROWS = { ArrowLeft: -1, ArrowRight: 1 };
document.addEventListener("keydown", (event) => { if (dialog.open && event.key in ARROWS) step(ARROWS[event.key]); });
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
more.addEventListener("click", showMore);
form.addEventListener("change", choose);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(choose));
document.querySelectorAll("button[data-true]").forEach((button) => button.addEventListener("click", () => {
  Object.assign(form.elements.true, { value: button.dataset.true });
  Object.assign(form.elements.predicted, { value: button.dataset.predicted });
  form.elements.kind.value = "errors";
  choose();
  document.getElementById("all").scrollIntoView();
}));
document.querySelectorAll("table.sortable th button").forEach((button) => button.addEventListener("click", () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0], column = head.cellIndex;
  const upwards = head.getAttribute("aria-sort") === "descending" || (column === 0 && head.getAttribute("aria-sort") === "none");
  for (const other of head.parentElement.children) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", upwards ? "ascending" : "descending");
  const value = (row) => +row.children[column].dataset.value;
  body.append(...[...body.rows].sort((a, b) => (upwards ? 1 : -1) * (value(a) - value(b))));
}));
choose();
