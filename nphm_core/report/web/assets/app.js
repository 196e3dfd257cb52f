// Which page is shown, and what the keys do.
"use strict";

nphm.start = function () {
  const index = nphm.index;
  document.title = `Quality gallery: ${index.title}`;
  field("title").textContent = `Quality gallery: ${index.title}`;
  document.documentElement.style.setProperty("--error-map", `linear-gradient(to right, ${index.colours.join(",")})`);
  hand.start();
  cards.start();
  field("download").addEventListener("click", hand.download);
  field("upload").addEventListener("change", async (event) => {
    if (event.target.files.length) hand.read(await event.target.files[0].text());
    event.target.value = "";
  });
  field("help").addEventListener("click", () => field("help-dialog").showModal());
  window.addEventListener("hashchange", nphm.show);
  document.addEventListener("keydown", nphm.key);
  nphm.loadRows((k) => {
    if (k === 0) nphm.show();
    else if (k === index.n_chunks - 1) nphm.allRows();
  });
};

// The first chunk is on the screen already; the others may change order and counts only.
nphm.allRows = function () {
  nphm.complete = true;
  const [page] = nphm.route();
  if (page !== "scans") nphm.show();
  else if (cards.shown <= cards.step && !document.activeElement.dataset.id) cards.update();
  else { cards.update().then(() => nphm.opened && cards.focus(nphm.opened)); }
};

nphm.route = function () {
  const [, page, ...rest] = location.hash.split("/");
  return [page || "scans", rest.map(decodeURIComponent).join("/")];
};

nphm.show = async function () {
  const [page, what] = nphm.route();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  field("list").hidden = page !== "scans";
  field("page").hidden = page === "scans";
  if (page === "scans") {
    field("page").replaceChildren();
    await cards.update();
    if (nphm.opened) cards.focus(nphm.opened);
    return;
  }
  if (!cards.order.length) await cards.update();
  field("page").replaceChildren(await nphm.build(page, what));
  if (page === "scan") nphm.opened = what;
  window.scrollTo(0, 0);
};

nphm.build = function (page, what) {
  if (page === "subjects") return pages.subjects();
  if (page === "subject") return pages.subject(what);
  if (page === "distributions") return charts.page();
  if (page === "scan" && nphm.byId.has(what)) return pages.scan(what);
  const waits = nphm.rows.length < nphm.index.n;
  return make("p", { class: "empty" }, waits ? "Loading…" : "There is nothing here. ", make("a", { href: "#/" }, "All scans"));
};

nphm.refresh = async function (id) {
  cards.refresh(id);
  const [page, what] = nphm.route();
  if (page === "scan" && what === id) field("page").replaceChildren(await nphm.build(page, what));
};

// The scan that the keys act on: the open one, or the card in focus.
nphm.current = function () {
  const [page, what] = nphm.route();
  if (page === "scan") return what;
  const card = document.activeElement && document.activeElement.closest("[data-id]");
  return card ? card.dataset.id : null;
};

nphm.move = function (step) {
  const [page] = nphm.route(), id = nphm.current();
  if (page === "scan") {
    const other = cards.neighbour(id, Math.sign(step));
    if (other) location.hash = `#/scan/${other}`;
    return true;
  }
  if (page !== "scans") return false;
  const target = id ? cards.neighbour(id, step) : cards.order.length ? nphm.rows[cards.order[0]][0] : null;
  if (target) cards.focus(target);
  return true;
};

nphm.key = function (event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input:not([type=file]), select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const id = nphm.current(), [page] = nphm.route();
  const columns = page === "scans" ? cards.columns() : 1;
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  let done = true;
  if (page === "scan" && (event.key === "ArrowDown" || event.key === "ArrowUp")) return;
  if (event.key in moves) done = nphm.move(moves[event.key]);
  else if (event.key === "Escape" && page !== "scans") location.hash = "#/";
  else if (event.key === "/") { location.hash = "#/"; field("search").focus(); }
  else if (event.key === "?") field("help-dialog").showModal();
  else if (id && event.key === "a") hand.judge(id, "accepted");
  else if (id && event.key === "x") hand.judge(id, "rejected");
  else if (id && event.key === "u") hand.judge(id, "");
  else if (id && event.key === "n") hand.askNote(id);
  else if (id && event.key === "v" && nphm.rows[nphm.byId.get(id)][COLUMN.pictures] & 4) location.href = `view.html#${id}`;
  else done = false;
  if (done) event.preventDefault();
};
