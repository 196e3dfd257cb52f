// The gallery's data: scripts that call these functions, since a page from a disk may not fetch files.
"use strict";

const nphm = {
  index: null,
  rows: [],
  subjects: {},
  metrics: {},
  distributions: null,
  waiting: {},
};

// Rows come as arrays, to keep thousands of them small.
const COLUMN = {};

nphm.load = function (path) {
  if (!nphm.waiting[path]) {
    nphm.waiting[path] = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = path;
      script.onload = () => resolve();
      script.onerror = () => reject(new Error(`${path} is missing`));
      document.head.append(script);
    });
  }
  return nphm.waiting[path];
};

nphm.setIndex = function (index) {
  nphm.index = index;
  index.columns.forEach((name, k) => { COLUMN[name] = k; });
  nphm.start();
};

nphm.setRows = function (rows) {
  for (const row of rows) nphm.rows.push(row);
};

nphm.setSubject = function (name, scans) { nphm.subjects[name] = scans; };
nphm.setMetric = function (key, values) { nphm.metrics[key] = values; };
nphm.setDistributions = function (stages) { nphm.distributions = stages; };

// One after the other: the order of rows is that of the chunks, the worst first.
nphm.loadRows = async function (onChunk) {
  for (let k = 0; k < nphm.index.n_chunks; k++) {
    await nphm.load(`data/rows-${k}.js`);
    nphm.byId = new Map(nphm.rows.map((row, n) => [row[0], n]));
    onChunk(k);
  }
};

nphm.loadMetric = function (metric) {
  return metric.file ? nphm.load(`data/metrics/${metric.file}.js`) : Promise.resolve();
};

nphm.valueOf = function (n, metric) {
  return metric.file ? nphm.metrics[metric.key][n] : nphm.rows[n][COLUMN[metric.key]];
};

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "on") for (const [event, f] of Object.entries(value)) element.addEventListener(event, f);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

function numberText(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "share") return `${(100 * value).toFixed(1)} %`;
  const size = Math.abs(value);
  const digits = Number.isInteger(value) ? 0 : size < 0.1 ? 4 : size < 10 ? 3 : 1;
  const text = value.toLocaleString("en", { maximumFractionDigits: digits });
  return unit ? `${text} ${unit}` : text;
}

function say(text) { document.getElementById("said").textContent = text; }
