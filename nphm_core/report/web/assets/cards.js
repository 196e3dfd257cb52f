// The list of scans: search, sort, filters, and cards that are made as one scrolls.
"use strict";

const cards = { order: [], shown: 0, current: null, step: 60 };
const field = (name) => document.getElementById(name);

cards.start = function () {
  const index = nphm.index;
  const options = (select, choices) => select.replaceChildren(
    ...choices.map(([value, text]) => make("option", { value }, text)));
  const quality = index.metrics.filter((metric) => !metric.file);
  field("sort").append(make("option", { value: "worst" }, "worst first"), make("option", { value: "id" }, "scan"));
  const group = (label, metrics) => make("optgroup", { label },
    ...metrics.flatMap((metric) => [
      make("option", { value: `${metric.key}:worst` }, `${metric.label}, ${metric.low_is_bad ? "lowest" : "highest"} first`),
      make("option", { value: `${metric.key}:best` }, `${metric.label}, ${metric.low_is_bad ? "highest" : "lowest"} first`),
    ]));
  field("sort").append(group("quality", quality));
  for (const stage of index.stages) {
    const metrics = index.metrics.filter((metric) => metric.file && metric.stage === stage);
    if (metrics.length) field("sort").append(group(stage, metrics));
  }
  const count = (n) => n.toLocaleString("en");
  options(field("verdict"), [["", "all"],
    ...Object.entries(index.counts).filter(([, n]) => n).map(([name, n]) => [name, `${name} (${count(n)})`])]);
  options(field("stage"), [["", "all"], ...index.blamed.map(([name, n]) => [name, `${name} (${count(n)})`])]);
  options(field("reason"), [["", "all"], ...index.kinds.map(([text, n], k) => [String(k), `${text} (${count(n)})`])]);
  options(field("hand"), [["", "all"], ["accepted", "accepted"], ["rejected", "rejected"], ["none", "not judged"],
    ["note", "with a note"], ["changed", "result changed since"]]);
  for (const name of ["sort", "verdict", "stage", "reason", "hand"]) field(name).addEventListener("change", cards.update);
  field("search").addEventListener("input", cards.update);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  document.querySelector(".filters").addEventListener("reset", () => setTimeout(cards.update));
  new IntersectionObserver((entries) => { if (entries.some((e) => e.isIntersecting)) cards.grow(); },
    { rootMargin: "800px" }).observe(field("more"));
};

cards.changed = (row) => {
  const said = hand.of(row[0]);
  return Boolean(said.verdict && said.result && said.result !== row[COLUMN.result]);
};

cards.matches = function (row, words) {
  const verdict = field("verdict").value, stage = field("stage").value, kind = field("reason").value;
  if (verdict && row[COLUMN.verdict] !== verdict) return false;
  if (stage && row[COLUMN.stage] !== stage) return false;
  if (kind && !row[COLUMN.kinds].includes(Number(kind))) return false;
  const said = hand.of(row[0]), wanted = field("hand").value;
  if (wanted === "none" && said.verdict) return false;
  if (wanted === "note" && !said.note) return false;
  if (wanted === "changed" && !cards.changed(row)) return false;
  if ((wanted === "accepted" || wanted === "rejected") && said.verdict !== wanted) return false;
  if (!words.length) return true;
  const text = `${row[0]} ${row[COLUMN.reason]} ${row[COLUMN.neutral]} ${said.note || ""}`.toLowerCase();
  return words.every((word) => text.includes(word));
};

cards.update = async function () {
  const [key, way] = field("sort").value.split(":");
  const metric = nphm.index.metrics.find((m) => m.key === key);
  if (metric) await nphm.loadMetric(metric);
  const words = field("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const order = [];
  nphm.rows.forEach((row, n) => { if (cards.matches(row, words)) order.push(n); });
  if (key === "id") order.sort((a, b) => nphm.rows[a][0].localeCompare(nphm.rows[b][0], "en", { numeric: true }));
  if (metric) {
    const sign = (metric.low_is_bad ? 1 : -1) * (way === "worst" ? 1 : -1);
    const value = (n) => nphm.valueOf(n, metric);
    // Scans without the number come last either way.
    order.sort((a, b) => (value(a) === null) - (value(b) === null) || sign * (value(a) - value(b)) || a - b);
  }
  cards.order = order;
  cards.shown = 0;
  cards.metric = metric;
  field("cards").replaceChildren();
  cards.tell();
  cards.grow();
};

cards.tell = function () {
  const loaded = nphm.rows.length < nphm.index.n ? `, ${nphm.rows.length.toLocaleString("en")} loaded so far` : "";
  field("count").textContent =
    `${cards.order.length.toLocaleString("en")} of ${nphm.index.n.toLocaleString("en")} scans${loaded}`;
};

cards.grow = function () {
  const more = cards.order.slice(cards.shown, cards.shown + cards.step);
  field("cards").append(...more.map((n) => make("li", {}, cards.card(nphm.rows[n], n))));
  cards.shown += more.length;
};

cards.handBadge = function (row) {
  const said = hand.of(row[0]);
  if (!said.verdict && !said.note) return "";
  const changed = cards.changed(row) ? " (result changed since)" : "";
  const text = [said.verdict && said.verdict + changed, said.note].filter(Boolean).join(": ");
  return make("span", { class: `hand ${said.verdict}` }, text);
};

cards.picture = function (row) {
  if (!(row[COLUMN.pictures] & 1)) return make("span", { class: "picture none" }, "no picture");
  const tiled = row[COLUMN.pictures] & 2;
  return make("span", { class: tiled ? "picture tiled" : "picture" },
    make("img", { src: `scans/${row[0]}/quality_card.webp`, alt: "", loading: "lazy", decoding: "async" }),
    tiled ? make("span", { class: "bar-place" }, cards.bar()) : "");
};

cards.bar = () => make("span", { class: "bar" }, make("span", { class: "bar-colours" }),
  make("span", { class: "bar-text" }, make("span", {}, "0"), make("span", {}, `${nphm.index.colour_max_mm} mm`)));

cards.card = function (row, n) {
  const reason = row[COLUMN.reason];
  const shown = cards.metric && !["median_mm", "p95_mm"].includes(cards.metric.key)
    ? `${cards.metric.label}: ${numberText(nphm.valueOf(n, cards.metric), cards.metric.unit)}` : "";
  const numbers = row[COLUMN.median_mm] === null ? "" :
    `median ${numberText(row[COLUMN.median_mm], "mm")} · 95 % below ${numberText(row[COLUMN.p95_mm], "mm")}`;
  const said = hand.of(row[0]);
  return make("a", { class: `card ${said.verdict}`, href: `#/scan/${row[0]}`, "data-id": row[0] },
    make("span", { class: "head" }, make("strong", {}, row[0]),
      make("span", { class: `badge ${row[COLUMN.verdict]}` }, row[COLUMN.verdict])),
    cards.picture(row),
    make("span", { class: "numbers" }, numbers), shown ? make("span", { class: "numbers" }, shown) : "",
    reason ? make("span", { class: "reason" }, (row[COLUMN.stage] ? `${row[COLUMN.stage]}: ` : "") + reason) : "",
    cards.handBadge(row));
};

cards.refresh = function (id) {
  const old = field("cards").querySelector(`[data-id="${id}"]`);
  if (!old) return;
  const n = nphm.byId.get(id), focused = old === document.activeElement;
  const card = cards.card(nphm.rows[n], n);
  old.replaceWith(card);
  if (focused) card.focus();
};

cards.neighbour = function (id, step) {
  const at = cards.order.indexOf(nphm.byId.get(id));
  const next = cards.order[at + step];
  return next === undefined || at < 0 ? null : nphm.rows[next][0];
};

cards.focus = function (id) {
  const at = cards.order.indexOf(nphm.byId.get(id));
  while (at >= cards.shown && cards.shown < cards.order.length) cards.grow();
  const card = field("cards").querySelector(`[data-id="${id}"]`);
  if (card) card.focus();
};

cards.columns = function () {
  const all = [...field("cards").children];
  const second = all.findIndex((item) => item.offsetTop > all[0].offsetTop);
  return second < 0 ? Math.max(1, all.length) : second;
};
