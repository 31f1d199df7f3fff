// Joins Bokeh's plot with the panel beside it. Texts of the data reach the page through textContent alone.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const facts = JSON.parse(byId("facts").textContent);
  const FAINT = 0xc3c9d440, OTHER = 0x9aa1ad00, LISTED = 100, CROWDED = 20000;
  const number = new Intl.NumberFormat("en");
  const rgb = (hex) => parseInt(hex.slice(1) + "00", 16); // as Bokeh packs it: 0xRRGGBBAA

  let points, plot, glyph, size, span;
  let hits = null; // 1 for each point that a search found; null: no search
  let off = new Set(); // categories that are not shown
  let colouring = null; // {codes, colours} of the column that colours the points
  let chosen = null;
  let haystack = null;

  const model = (name) => Bokeh.documents.at(-1).get_model_by_name(name);
  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  function isShown(i) {
    return (hits === null || hits[i] === 1) && !off.has(colouring.codes[i]);
  }

  function paint() {
    const colour = points.data.colour, { codes, colours } = colouring;
    for (let i = 0; i < colour.length; i++) {
      colour[i] = isShown(i) ? colours[codes[i]] + facts.alpha : FAINT;
    }
    points.change.emit();
  }

  // Categories by size; those beyond the palette share a grey.
  function byCategory(values) {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
    const order = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    const palette = facts.palettes.find((colours) => order.length <= colours.length) ?? facts.palettes.at(-1);
    const named = order.slice(0, palette.length);
    const places = new Map(named.map(([value], place) => [value, place]));
    const codes = Uint16Array.from(values, (value) => places.get(value) ?? named.length);
    const entries = named.map(([value, count], place) => ({ name: value || "(none)", count, hex: palette[place] }));
    if (named.length < order.length) {
      const rest = order.slice(named.length);
      const count = rest.reduce((sum, [, n]) => sum + n, 0);
      entries.push({ name: `${number.format(rest.length)} others`, count, hex: "#9aa1ad" });
    }
    const legend = entries.map(({ name, count, hex }, code) => {
      const row = element("button");
      const swatch = element("span", "swatch");
      swatch.style.background = hex;
      row.append(swatch, element("span", "name", name), element("span", "number", number.format(count)));
      row.title = `${name}: click to show or hide, double click to show it alone`;
      row.addEventListener("click", () => { off.has(code) ? off.delete(code) : off.add(code); refresh(); });
      row.addEventListener("dblclick", () => {
        off = new Set(entries.keys());
        off.delete(code);
        refresh();
      });
      return row;
    });
    return { codes, colours: entries.map(({ hex }) => rgb(hex)), legend };
  }

  // Numbers by a ramp from the 1st to the 99th percentile.
  function byNumber(values) {
    const sorted = Float64Array.from(values).filter((value) => !Number.isNaN(value)).sort();
    const low = sorted[Math.floor(0.01 * (sorted.length - 1))] ?? 0;
    const high = sorted[Math.ceil(0.99 * (sorted.length - 1))] ?? 0;
    const steps = facts.ramp.length;
    const codes = Uint16Array.from(values, (value) => {
      if (Number.isNaN(value)) return steps;
      return Math.max(0, Math.min(steps - 1, Math.floor(((value - low) / (high - low || 1)) * steps)));
    });
    const ramp = element("div", "ramp");
    ramp.style.background = `linear-gradient(to right, ${facts.ramp.filter((_, i) => i % 16 === 0).join(",")})`;
    const ends = element("div", "ends");
    const round = (value) => String(Number(value.toPrecision(4)));
    ends.append(element("span", "", `${round(low)} or less`), element("span", "", `${round(high)} or more`));
    return { codes, colours: [...facts.ramp.map(rgb), OTHER], legend: [ramp, ends] };
  }

  function colourBy(place) {
    off = new Set();
    const column = facts.columns[place];
    if (column === undefined) {
      colouring = { codes: new Uint16Array(points.data.x.length), colours: [rgb(facts.palettes[0][0])], legend: [] };
    } else {
      colouring = (column.numeric ? byNumber : byCategory)(points.data[column.key]);
    }
    byId("legend").replaceChildren(...colouring.legend);
    refresh();
  }

  function refresh() {
    [...byId("legend").querySelectorAll("button")].forEach((row, code) => row.classList.toggle("off", off.has(code)));
    paint();
    const found = [];
    let count = 0;
    if (hits !== null) {
      for (let i = 0; i < hits.length; i++) {
        if (!isShown(i)) continue;
        if (count < CROWDED) found.push(i);
        count++;
      }
    }
    byId("count").textContent = hits === null ? "" : `${number.format(count)} of ${number.format(hits.length)} points`;
    const at = (key) => found.map((i) => points.data[key][i]);
    model("found").data = count <= CROWDED ? { x: at("x"), y: at("y"), colour: found.map(cssColour) } : { x: [], y: [], colour: [] };
    byId("results").hidden = hits === null || count === 0;
    list(byId("found"), found, count);
  }

  function cssColour(i) {
    return "#" + (colouring.colours[colouring.codes[i]] >>> 8).toString(16).padStart(6, "0");
  }

  function list(place, numbers, count) {
    const rows = numbers.slice(0, LISTED).map((i) => {
      const row = element("li"), button = element("button", "", points.data.text[i]);
      button.style.borderLeftColor = cssColour(i);
      button.addEventListener("click", () => choose(i, true));
      row.append(button);
      return row;
    });
    if (count > rows.length) rows.push(element("li", "more", `and ${number.format(count - rows.length)} more`));
    place.replaceChildren(...rows);
  }

  function search(words) {
    const terms = words.toLowerCase().split(/\s+/).filter(Boolean);
    if (terms.length === 0) {
      hits = null;
    } else {
      haystack ??= lowered();
      hits = Uint8Array.from(haystack, (text) => (terms.every((term) => text.includes(term)) ? 1 : 0));
    }
    refresh();
  }

  function lowered() {
    const keys = ["text", ...facts.columns.filter((column) => !column.numeric).map((column) => column.key)];
    return points.data.text.map((_, i) => keys.map((key) => points.data[key][i]).join("\n").toLowerCase());
  }

  function linkedTo(i) {
    const [from, to] = facts.links, found = [];
    for (let k = 0; k < from.length; k++) {
      if (from[k] === i) found.push(to[k]);
      else if (to[k] === i) found.push(from[k]);
    }
    return found;
  }

  function choose(i, goThere) {
    chosen = i;
    const { x, y, text } = points.data;
    const linked = i === null ? [] : linkedTo(i);
    const ends = i === null ? [] : [i, ...linked];
    model("ring").data = { x: ends.map((k) => x[k]), y: ends.map((k) => y[k]) };
    model("links").data = {
      x0: linked.map(() => x[i]), y0: linked.map(() => y[i]), x1: linked.map((k) => x[k]), y1: linked.map((k) => y[k]),
    };
    byId("chosen").hidden = i === null;
    if (i === null) return;
    byId("text").textContent = text[i];
    const values = facts.columns.flatMap(({ name, key }) => {
      const value = points.data[key][i];
      const is = value !== "" && !Number.isNaN(value);
      return is ? [element("dt", "", name), element("dd", "", String(value))] : [];
    });
    byId("values").replaceChildren(...values);
    byId("linked-title").textContent = linked.length ? `Linked (${number.format(linked.length)})` : "";
    list(byId("linked"), linked, linked.length);
    byId("chosen").scrollIntoView({ block: "nearest" });
    if (goThere) centre(x[i], y[i]);
  }

  function centre(x, y) {
    for (const [range, value] of [[plot.x_range, x], [plot.y_range, y]]) {
      const margin = 0.02 * (range.end - range.start);
      if (value > range.start + margin && value < range.end - margin) continue;
      const half = (range.end - range.start) / 2;
      range.setv({ start: value - half, end: value + half });
    }
  }

  // Points grow as one looks closer, so that they can be hit.
  function resize() {
    const closer = span / (plot.x_range.end - plot.x_range.start);
    const wanted = Math.min(Math.max(facts.size * Math.sqrt(closer), facts.size), Math.max(facts.size, 11));
    if (Math.abs(wanted - size) > 0.1 * size) {
      size = wanted;
      glyph.size = { value: size };
    }
  }

  function start() {
    points = model("points");
    plot = model("plot");
    glyph = model("dots").glyph;
    size = facts.size;
    span = plot.x_range.end - plot.x_range.start;
    byId("waiting")?.remove();
    const select = byId("colour");
    facts.columns.forEach(({ name }, place) => select.append(new Option(name, String(place))));
    byId("colours").hidden = facts.columns.length === 0;
    select.addEventListener("change", () => colourBy(Number(select.value)));
    let waiting;
    byId("search").addEventListener("input", (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => search(event.target.value), 200);
    });
    byId("labels")?.addEventListener("change", (event) => { model("words").visible = event.target.checked; });
    byId("close").addEventListener("click", () => choose(null));
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") choose(null); });
    points.selected.properties.indices.change.connect(() => {
      const { indices } = points.selected;
      if (indices.length) choose(indices.find(isShown) ?? indices[0]);
      else if (chosen !== null) choose(null);
    });
    plot.x_range.properties.start.change.connect(() => requestAnimationFrame(resize));
    colourBy(0);
    document.body.dataset.ready = "true";
  }

  Bokeh.embed.embed_item(JSON.parse(byId("plot").textContent), "map").then(start);
})();
