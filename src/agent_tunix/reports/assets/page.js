"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  document.documentElement.classList.add("js");

  // Tables: a click on a head sorts by its column, a second one turns the order round.
  for (const table of all("table[data-sortable]")) {
    all("th button", table).forEach((button) => button.addEventListener("click", () => {
      const head = button.closest("th"), column = head.cellIndex;
      const down = head.getAttribute("aria-sort") === "ascending";
      all("th", table).forEach((cell) => cell.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const order = (a, b) => (a !== "" && b !== "" && !isNaN(a) && !isNaN(b) ? a - b : a.localeCompare(b));
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => (down ? -1 : 1) * order(key(a), key(b))));
    }));
  }

  // Samples: by kind and by text.
  const kind = document.getElementById("kind"), words = document.getElementById("words");
  const samples = all(".sample");
  const filter = () => {
    const wanted = words.value.toLowerCase();
    let shown = 0;
    for (const sample of samples) {
      const fits = (!kind.value || sample.dataset.kinds.split(" ").includes(kind.value)) &&
        (!wanted || sample.textContent.toLowerCase().includes(wanted));
      sample.hidden = !fits;
      shown += fits;
    }
    document.getElementById("count").textContent = `${shown} of ${samples.length} shown`;
  };
  if (kind) {
    kind.addEventListener("change", filter);
    words.addEventListener("input", filter);
    all("a[data-kind]").forEach((link) => link.addEventListener("click", () => {
      kind.value = link.dataset.kind;
      words.value = "";
      filter();
    }));
    filter();
  }

  // Charts: the values at the pointer, or at the place the arrow keys have moved to.
  const shown = (value) => (value === null ? "–" : Number(value.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 8 }));
  const nearest = (places, wanted) => {
    let best = 0;
    places.forEach((place, index) => { if (Math.abs(place - wanted) < Math.abs(places[best] - wanted)) best = index; });
    return best;
  };
  for (const figure of all("figure[data-chart]")) {
    const lines = data.charts[figure.dataset.chart], readout = figure.querySelector(".readout");
    if (!lines || !lines.length) continue;
    const steps = (line) => data.axes[line.x];
    let at = null;
    const show = (wanted) => {
      at = steps(lines[0])[nearest(steps(lines[0]), wanted)];
      const values = lines.map((line) => `${line.label} ${shown(line.y[nearest(steps(line), at)])}`);
      readout.textContent = `step ${at}: ${values.join(", ")}`;
      for (const picture of all("svg[data-box]", figure)) {
        const [left, right, top, bottom, low, high] = picture.dataset.box.split(" ").map(Number);
        const x = left + ((at - low) / (high - low)) * (right - left);
        let guide = picture.querySelector(".guide");
        if (!guide) {
          guide = document.createElementNS("http://www.w3.org/2000/svg", "line");
          guide.setAttribute("class", "guide");
          picture.append(guide);
        }
        Object.entries({ x1: x, x2: x, y1: top, y2: bottom }).forEach(([name, value]) => guide.setAttribute(name, value));
      }
    };
    const hide = () => { readout.textContent = ""; all(".guide", figure).forEach((guide) => guide.remove()); };
    for (const picture of all("svg[data-box]", figure)) {
      picture.addEventListener("pointermove", (event) => {
        const [left, right, , , low, high] = picture.dataset.box.split(" ").map(Number);
        const box = picture.getBoundingClientRect(), width = picture.viewBox.baseVal.width;
        const place = ((event.clientX - box.left) / box.width) * width;
        show(low + ((place - left) / (right - left)) * (high - low));
      });
      picture.addEventListener("pointerleave", hide);
    }
    figure.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move || event.target !== figure) return;
      event.preventDefault();
      const places = steps(lines[0]);
      const index = at === null ? 0 : nearest(places, at) + move;
      show(places[Math.min(Math.max(index, 0), places.length - 1)]);
    });
    figure.addEventListener("blur", hide);
  }

  // Downloads: the rows that stand in the page.
  const save = (text, type, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const rows = (run) => {
    const table = new Map();
    for (const [name, column] of Object.entries(run.columns)) {
      column.values.forEach((value, index) => {
        const step = data.axes[column.steps][index];
        if (!table.has(step)) table.set(step, { step });
        table.get(step)[name] = value;
      });
    }
    return [...table.values()].sort((a, b) => a.step - b.step);
  };
  // A leading =, +, - or @ of a name would be a formula to a spreadsheet.
  const cell = (value) => (typeof value === "string" ? `"${value.replace(/^[=+\-@\t\r]/, "'$&").replace(/"/g, '""')}"` : value ?? "");
  const csv = (run) => {
    const names = ["step", ...Object.keys(run.columns)];
    return [names.map(cell), ...rows(run).map((row) => names.map((name) => cell(row[name])))].map((line) => line.join(",")).join("\n") + "\n";
  };
  all("button[data-save]").forEach((button) => button.addEventListener("click", () => {
    const run = data.runs[Number(button.dataset.run)], name = run.name.replace(/[^\w.-]+/g, "_") || "run";
    if (button.dataset.save === "csv") save(csv(run), "text/csv", `${name}.csv`);
    else save(JSON.stringify({ name: run.name, findings: run.findings, rows: rows(run) }, null, 1), "application/json", `${name}.json`);
  }));
})();
