// What a person says of the scans: kept in this browser, downloaded as the TSV that the config takes.
"use strict";

const hand = { own: {} };

hand.key = () => `nphm-verdicts-${nphm.index.report_id}`;

hand.start = function () {
  try {
    hand.own = JSON.parse(localStorage.getItem(hand.key()) || "{}");
  } catch {
    hand.own = {};
    say("This browser keeps no verdicts between visits: download them before you close it.");
  }
  hand.show();
};

// What was said here goes before what the last run was given.
hand.of = (id) => hand.own[id] || nphm.index.verdicts[id] || { verdict: "", note: "" };

hand.set = function (id, change) {
  const result = nphm.rows[nphm.byId.get(id)][COLUMN.result];
  hand.own[id] = { ...hand.of(id), ...change, result };
  hand.keep();
};

hand.keep = function () {
  try {
    localStorage.setItem(hand.key(), JSON.stringify(hand.own));
  } catch {
    say("This browser could not keep the verdict: download them before you close it.");
  }
  hand.show();
};

hand.all = function () {
  const ids = new Set([...Object.keys(nphm.index.verdicts), ...Object.keys(hand.own)]);
  return [...ids].sort().map((id) => [id, hand.of(id)]).filter(([, said]) => said.verdict || said.note);
};

hand.show = function () {
  const count = { accepted: 0, rejected: 0 };
  for (const [, said] of hand.all()) if (said.verdict) count[said.verdict] += 1;
  document.getElementById("judged").textContent =
    `by hand: ${count.accepted.toLocaleString("en")} accepted, ${count.rejected.toLocaleString("en")} rejected`;
};

hand.judge = function (id, verdict) {
  hand.set(id, { verdict });
  say(`${id}: ${verdict || "no verdict"}`);
  nphm.refresh(id);
};

hand.askNote = function (id) {
  const dialog = document.getElementById("note-dialog");
  const text = document.getElementById("note-text");
  const before = document.activeElement;
  document.getElementById("note-title").textContent = `Note on ${id}`;
  text.value = hand.of(id).note || "";
  dialog.returnValue = "cancel";
  dialog.onclose = () => {
    if (dialog.returnValue === "save") {
      hand.set(id, { note: text.value.replace(/\s+/g, " ").trim() });
      nphm.refresh(id);
    }
    if (before) before.focus();
  };
  text.onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      dialog.close("save");
    }
  };
  dialog.showModal();
  text.focus();
};

hand.tsv = function () {
  const cell = (text) => (/["\t\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
  const lines = hand.all().map(([id, said]) => [id, said.verdict, said.note || "", said.result || ""].map(cell));
  return [["scan", "verdict", "note", "result"], ...lines].map((line) => line.join("\t")).join("\n") + "\n";
};

hand.download = function () {
  const url = URL.createObjectURL(new Blob([hand.tsv()], { type: "text/tab-separated-values" }));
  const link = make("a", { href: url, download: "verdicts.tsv" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  say("verdicts.tsv is downloaded; name it in the config as verdicts: and run again");
};

hand.read = function (text) {
  const lines = text.replace(/^\uFEFF/, "").split(/\r?\n/).filter((line) => line.trim() && !line.startsWith("#"));
  const cells = lines.map((line) => line.split("\t").map((cell) => cell.replace(/^"(.*)"$/, "$1").replace(/""/g, '"')));
  const at = Object.fromEntries((cells.shift() || []).map((name, k) => [name.trim(), k]));
  if (!("scan" in at) || !("verdict" in at)) {
    say("This is no file of verdicts: it has no columns scan and verdict.");
    return;
  }
  for (const line of cells) {
    const value = (name) => (name in at ? (line[at[name]] || "").trim() : "");
    const verdict = ["accepted", "rejected"].includes(value("verdict")) ? value("verdict") : "";
    hand.own[value("scan")] = { verdict, note: value("note"), result: value("result") };
  }
  hand.keep();
  nphm.show();
  say(`${cells.length} verdicts read`);
};
