// The page of one scan, the list of subjects, and the page of one subject.
"use strict";

const pages = {};
const LEGENDS = {
  scan: "in its own colours, or shaded",
  fit: "clay: the scan lies in front; blue: the linear fit does",
  registration: "the template's lines; folded triangles in red",
  landmarks: "blue: found; orange: found, of little weight; red: to the registration's",
  error: "distance to the scan; hatched: not seen by it, follows the prior",
};

pages.tile = function (row, k, name) {
  const columns = nphm.index.sheet.columns, n = nphm.index.sheet.tiles.length, rows = Math.ceil(n / columns);
  const x = columns > 1 ? (k % columns) / (columns - 1) : 0, y = rows > 1 ? Math.floor(k / columns) / (rows - 1) : 0;
  const tile = make("span", { class: "tile", role: "img", "aria-label": `${name} of ${row[0]}` });
  tile.style.cssText = `background-image:url("scans/${row[0]}/quality_tiles.webp");` +
    `background-size:${100 * columns}% ${100 * rows}%;background-position:${100 * x}% ${100 * y}%`;
  return tile;
};

pages.pictures = function (row) {
  if (row[COLUMN.pictures] & 2) {
    const groups = {};
    nphm.index.sheet.tiles.forEach((name, k) => (groups[name.split(",")[0]] ||= []).push([name, k]));
    return make("div", { class: "sheet" }, ...Object.entries(groups).map(([name, tiles]) =>
      make("figure", { class: `wide${tiles.length}` },
        make("figcaption", {}, make("strong", {}, name), ` ${LEGENDS[name]}`),
        make("div", { class: "tiles" }, ...tiles.map(([text, k]) => pages.tile(row, k, text))),
        name === "error" ? cards.bar() : "")));
  }
  if (row[COLUMN.pictures] & 1) {
    return make("div", { class: "sheet" }, make("figure", {}, make("figcaption", {}, "what there is of it"),
      make("img", { src: `scans/${row[0]}/quality_card.webp`, alt: `picture of ${row[0]}` })));
  }
  return make("p", { class: "empty" }, "No picture: it failed before one could be made.");
};

pages.table = (caption, head, lines) => make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
  make("table", {}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...lines.map((line) => make("tr", {}, make("th", { scope: "row" }, line[0]),
      ...line.slice(1).map((cell) => make("td", {}, cell)))))));

pages.tools = function (id) {
  const row = nphm.rows[nphm.byId.get(id)], said = hand.of(id);
  const button = (text, key, verdict) => make("button", { type: "button", class: `judge ${verdict}`,
    "aria-pressed": String(said.verdict === verdict),
    on: { click: () => hand.judge(id, said.verdict === verdict ? "" : verdict) } }, text, make("kbd", {}, key));
  const step = (text, by) => {
    const other = cards.neighbour(id, by);
    return other ? make("a", { class: "button", href: `#/scan/${other}` }, text) : "";
  };
  return make("div", { class: "tools" }, make("a", { class: "button", href: "#/" }, "All scans"),
    step("← previous", -1), step("next →", 1),
    button("Accept", "a", "accepted"), button("Reject", "x", "rejected"),
    make("button", { type: "button", on: { click: () => hand.askNote(id) } }, "Note", make("kbd", {}, "n")),
    row[COLUMN.pictures] & 4 ? make("a", { class: "button primary", href: `view.html#${id}` }, "3D view", make("kbd", {}, "v")) : "");
};

pages.scan = async function (id) {
  const [subject, expression] = id.split("/");
  const row = nphm.rows[nphm.byId.get(id)];
  await nphm.load(`data/subjects/${subject}.js`);
  const facts = nphm.subjects[subject][expression];
  const metrics = nphm.index.metrics.filter((metric) => !metric.file);
  const numbers = metrics.map((m) => [m.label, numberText(row[COLUMN[m.key]], m.unit)]);
  const stages = facts.stages.map((stage) => [stage.name, stage.status,
    [stage.reason, ...stage.warnings].filter(Boolean).join(" · ")]);
  const regions = facts.regions.map(([name, median, p95, share]) =>
    [name, numberText(median, "mm"), numberText(p95, "mm"), numberText(share, "share")]);
  const out = make("article", { class: "scan-page" },
    make("h2", {}, make("a", { href: `#/subject/${subject}` }, subject), `/${expression} `,
      make("span", { class: `badge ${row[COLUMN.verdict]}` }, row[COLUMN.verdict]), " ", cards.handBadge(row)),
    make("p", { class: "facts" }, [row[COLUMN.neutral] && `${row[COLUMN.neutral]} neutral`,
      row[COLUMN.unit] && row[COLUMN.unit] !== "auto" && `delivered in ${row[COLUMN.unit]}`].filter(Boolean).join(" · ")),
    pages.tools(id),
    facts.reasons.length ? make("ul", { class: "reasons" }, ...facts.reasons.map((text) =>
      make("li", {}, (row[COLUMN.stage] ? `${row[COLUMN.stage]}: ` : "") + text))) : "",
    pages.pictures(row));
  const tables = make("div", { class: "tables" });
  tables.append(pages.table("Measures", ["measure", "value"], numbers));
  if (regions.length) {
    tables.append(pages.table("Distance to the scan by region", ["region", "median", "95 % below", "on the scan"], regions));
  }
  tables.append(pages.table("Stages", ["stage", "status", "what it said"], stages));
  out.append(tables);
  return out;
};

pages.ofSubject = (subject) => nphm.rows.map((row, n) => [row, n]).filter(([row]) => row[0].split("/")[0] === subject);

pages.subject = function (subject) {
  const scans = pages.ofSubject(subject);
  if (!scans.length) return make("p", { class: "empty" }, `There is no subject ${subject}.`);
  return make("article", {}, make("h2", {}, `Subject ${subject}`),
    make("p", { class: "count" }, `${scans.length} scans, the worst first`),
    make("ul", { class: "cards" }, ...scans.map(([row, n]) => make("li", {}, cards.card(row, n)))));
};

pages.subjects = function () {
  const all = new Map();
  for (const row of nphm.rows) {
    const subject = row[0].split("/")[0];
    if (!all.has(subject)) all.set(subject, { n: 0, ok: 0, suspicious: 0, failed: 0, excluded: 0, worst: null });
    const of = all.get(subject), p95 = row[COLUMN.p95_mm];
    of.n += 1;
    of[row[COLUMN.verdict]] += 1;
    if (p95 !== null) of.worst = Math.max(of.worst || 0, p95);
  }
  const lines = [...all.entries()].sort((a, b) => a[0].localeCompare(b[0], "en", { numeric: true }))
    .map(([name, of]) => [make("a", { href: `#/subject/${name}` }, name), String(of.n), String(of.ok),
      String(of.suspicious), String(of.failed), String(of.excluded), numberText(of.worst, "mm")]);
  return make("article", {}, make("h2", {}, "Subjects"), pages.table(`${all.size.toLocaleString("en")} subjects`,
    ["subject", "scans", "ok", "suspicious", "failed", "excluded", "worst 95 % distance"], lines));
};
