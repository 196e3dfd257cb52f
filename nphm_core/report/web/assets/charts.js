// Distributions of every number that the stages report, with the scans that lie far out.
"use strict";

const charts = {};
const SVG = "http://www.w3.org/2000/svg";

charts.shape = function (tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

charts.histogram = function (metric) {
  const width = 300, height = 74, base = 60;
  const svg = charts.shape("svg", { viewBox: `0 0 ${width} ${height}`, class: "histogram", "aria-hidden": "true" });
  const largest = Math.max(...metric.bins, 1), step = width / metric.bins.length;
  metric.bins.forEach((n, k) => {
    if (!n) return;
    // A bin of one scan among thousands must still be seen.
    const tall = Math.max(2, (base - 6) * n / largest);
    const far = metric.far_bins[k] ? "far" : "near";
    svg.append(charts.shape("rect", { x: k * step + 0.5, y: base - tall, width: Math.max(1, step - 1), height: tall, class: far }));
  });
  svg.append(charts.shape("line", { x1: 0, x2: width, y1: base + 0.5, y2: base + 0.5, class: "axis" }));
  for (const [x, value, anchor] of [[0, metric.low, "start"], [width, metric.high, "end"]]) {
    const text = charts.shape("text", { x, y: height - 2, "text-anchor": anchor });
    text.textContent = numberText(value, metric.unit);
    svg.append(text);
  }
  return svg;
};

charts.metric = function (metric) {
  const facts = `median ${numberText(metric.median, metric.unit)}, middle half ${numberText(metric.q1, metric.unit)} ` +
    `to ${numberText(metric.q3, metric.unit)}, ${metric.n.toLocaleString("en")} scans`;
  const box = make("section", { class: "metric" }, make("h4", {}, metric.label), charts.histogram(metric), make("p", {}, facts));
  if (metric.far.length) {
    const more = metric.n_far - metric.far.length;
    box.append(make("details", {}, make("summary", {}, `${metric.n_far.toLocaleString("en")} far out`),
      make("ul", {}, ...metric.far.map(([id, value]) => make("li", {}, make("a", { href: `#/scan/${id}` }, id),
        ` ${numberText(value, metric.unit)}`)), more > 0 ? make("li", {}, `and ${more.toLocaleString("en")} more`) : "")));
  }
  return box;
};

charts.page = async function () {
  await nphm.load("data/distributions.js");
  const out = make("article", {}, make("h2", {}, "Distributions"), make("p", { class: "count" },
    "Each number that a stage reports, over all scans. Orange: more than three times the width of the middle half away from it."));
  for (const stage of nphm.distributions) {
    const counts = Object.entries(stage.counts).filter(([, n]) => n).map(([name, n]) => `${n.toLocaleString("en")} ${name}`);
    out.append(make("section", { class: "stage" }, make("h3", {}, stage.name, make("small", {}, ` ${counts.join(", ")}`)),
      make("div", { class: "metrics" }, ...stage.metrics.map(charts.metric))));
  }
  return out;
};
